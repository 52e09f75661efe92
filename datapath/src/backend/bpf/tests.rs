//! The programs and their loader on this kernel. Needs root; each test has its own network and mount namespace, BPF
//! file system and cgroup, and leaves nothing behind.

mod btf;
mod clsact;
mod devices;
mod layouts;
mod mss;
mod packets;
mod pins;
mod replace;
mod rig;
mod rivals;
mod sockets;
mod succession;
mod tcx;
mod tenants;
mod too_big;
mod tunnel;
