//! The shells: everything that talks to the kernel, to nft or to `mesh-tunnel`. Nothing here decides.
//!
//! The types of BPF rows and attachments are those of [`bpf`]; the pure core ([`crate::observe`], [`crate::step`]) uses
//! them as they are.

#![allow(unsafe_code)]

pub mod bpf;
pub mod conntrack;
mod exchange;
pub mod netlink;
pub mod nft;
pub mod relay;
pub mod sockets;
pub mod sysctl;
pub mod wireguard;
