//! clustermesh-apiserver: source → publish → store, and the doors to it.

pub mod args;
pub mod backend;
pub mod init;
pub mod pki;
pub mod publish;
pub mod source;
