//! From what should be in the store to what has to be done: a pure diff, and a loop around it.
//!
//! ```text
//!  desired records ─┐
//!                   ├─ diff ─▶ operations, in an order that never shows a use before its definition ─▶ bounded txns
//!  held records ────┘
//! ```
//!
//! Invariants
//! - only keys whose author is the source's publisher are touched: never a node's, never a peer's;
//! - nothing is written when nothing changed: `diff(x, x)` is empty;
//! - nothing is withdrawn before the source's first complete list.

mod authors;
mod diff;
mod linger;
mod own;
mod run;
#[cfg(test)]
mod tests;
pub mod writes;

pub use authors::{Author, author};
pub use diff::{Op, TXN_OPS, diff, txns};
pub use linger::{IDENTITY_LINGERS, Linger};
pub use own::Own;
pub use run::{HEARTBEAT, Published, begin, spawn};
