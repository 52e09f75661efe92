//! Ours and a real etcd, asked the same: what they answer is equal, and what many clients at once saw of either is
//! what one after the other would have seen.
//!
//! ```text
//!  scripts/*.txt ─▶ [`script::run`] ──┬─▶ etcd 3.5.1 ─▶ transcript ─┐
//!                   [`show::Show`]    └─▶ our doors  ─▶ transcript ─┴─▶ equal, and as the script's file says
//!
//!  [`clients::record`]: puts, deletes, txns, reads and watches at once ─▶ [`history::History`] ─▶ [`check::check`]
//! ```
//!
//! Ours is the face over mutual TLS with an operator's certificate, on an engine in an empty directory: the process
//! writes records of its own (lineage, heartbeat), and revisions could not be equal then. etcd is a process with an
//! empty directory of its own, on a loopback port that the kernel chooses.
//!
//! Invariants
//! - what may differ is the closed list in [`show`], and a test holds that it is closed;
//! - every answer is waited for, never slept for: an answer that does not come is a line of the transcript.

pub mod api;
pub mod check;
pub mod clients;
pub mod history;
pub mod model;
pub mod random;
pub mod script;
pub mod server;
pub mod show;
pub mod watches;
