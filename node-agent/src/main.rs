//! node agent
mod compose;
mod probe;

fn main() {}
