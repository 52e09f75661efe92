//! Names of the mesh, served to this host.
//!
//! ```text
//!  bytes ─▶ query ──▶ respond ──▶ zone        mesh names: answered here, or SERVFAIL, and never forwarded
//!                        │
//!                        └─▶ cache ─▶ upstream   the others: the servers that the host had before
//! ```
//!
//! `zone`, `respond`, `cache` and `heard` are pure; `upstream` and `server` do the IO. Encoding is `hickory-proto`'s.

pub mod cache;
pub mod heard;
pub mod respond;
pub mod server;
pub mod upstream;
pub mod zone;

#[cfg(test)]
pub(crate) mod scene;
