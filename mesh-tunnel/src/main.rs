//! mesh-tunnel

fn main() {}
