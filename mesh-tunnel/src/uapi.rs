//! The WireGuard cross-platform userspace interface: `get=1` and `set=1` as text over a Unix socket.
//!
//! Our own server, because the library's removes and adds a peer on every set, which ends its session.

pub mod reply;
pub mod request;
pub(crate) mod server;
