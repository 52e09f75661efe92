//! meshctl
mod facts;
mod preflight;
mod status;

fn main() {}
