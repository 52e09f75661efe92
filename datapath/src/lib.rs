//! The data path of one Linux host: from an image, said whole, to BPF maps, routes, nftables and WireGuard.
//!
//! ```text
//!  agent ─▶ Image ──┐
//!                   ├─▶ plan ─▶ [Step] ─▶ apply ─▶ Host ─▶ BPF · netlink · nft · sysctl · WireGuard
//!  host ─▶ Observed ┘                                │
//!    ▲                                               │
//!    └───────────────────────────────────────────────┘  a host that holds the image gets no step
//! ```
//!
//! Invariants: [`plan`] and everything it uses is pure; `unsafe` is found in [`backend`] only; no step, and no order of
//! failures, lets a packet of the encrypted scope leave in plain.

pub mod apply;
pub mod backend;
pub mod bindings;
pub mod cgroups;
pub mod dismantle;
pub mod host;
pub mod image;
pub mod observe;
pub mod plan;
pub mod step;
pub mod uplinks;
