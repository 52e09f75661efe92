//! mesh-lab

fn main() {}
