//! clustermesh-apiserver

fn main() {}
