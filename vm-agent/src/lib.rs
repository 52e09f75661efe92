//! `mesh-vm-agent`: what a host outside Kubernetes needs to be part of the mesh.
//!
//! ```text
//!  view ─▶ dns::zone ─▶ dns::server ◀── the host's programs
//!                          │  ▲            │ ask
//!     everything else ◀────┘  └─ resolv ───┘ points the host's resolver at the server, and puts it back
//! ```
//!
//! Invariants
//! - the host's names go where they went before: a mesh name that is not known is never asked for elsewhere, and
//!   every other name is never answered by us;
//! - when names cannot be served, the host's resolver is as it was, and the status says why.

pub mod dns;
pub mod names;
pub mod resolv;
