//! clustermesh-apiserver: source → publish → store, and the doors to it.

pub mod backend;
pub mod publish;
pub mod source;
