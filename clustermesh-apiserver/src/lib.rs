//! clustermesh-apiserver: source → publish → store, and the doors to it.

pub mod admin;
pub mod args;
pub mod authz;
pub mod backend;
pub mod enrol;
pub mod face;
pub mod health;
pub mod init;
pub mod keep;
pub mod kubernetes;
pub mod peers;
pub mod pipes;
pub mod pki;
pub mod propagation;
pub mod publish;
pub mod readiness_gate;
pub mod run;
pub mod source;
#[cfg(test)]
mod stand_in;
pub mod vms;
