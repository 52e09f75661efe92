//! The programs and their loader on this kernel. Needs root; each test has its own network and mount namespace, BPF
//! file system and cgroup, and leaves nothing behind.

mod btf;
mod devices;
mod layouts;
mod mss;
mod packets;
mod pins;
mod rig;
mod sockets;
mod too_big;
mod tunnel;
