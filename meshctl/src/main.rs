//! meshctl

fn main() {}
