//! The VMs of this cluster: who may join, who has joined, who is there.
//!
//! ```text
//!  ExternalWorkload ─▶ index ─▶ who may join, and what it may read ─┐
//!  InviteVm ─▶ token ─▶ EnrolVm ─▶ enrolments (name ─▶ key) ────────┼─▶ Members ─▶ doors: each call, each stream
//!  presence/<vm> ─▶ Watcher ─▶ index ─▶ whether its backends are ready
//! ```
//!
//! Invariants
//! - a name stands for one key at a time: who has the name and another key is refused, whatever its certificate says;
//! - a token counts once, for its name, until it expires; of two that redeem it at the same time one is enrolled;
//! - who is removed, or gets another key, loses its open streams at once.

pub mod admin;
mod enrolments;
mod home;
pub mod presence;
mod register;

pub use enrolments::{FILE, Refusal, TOKEN_LIVES};
pub use register::{Members, Register};

use crate::source::object::ObjectKey;
use api::{bytes::Uid, name::NodeName, record::Vm};
use std::{collections::BTreeMap, net::IpAddr};

/// A VM that takes part, as the source's objects say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrollable {
    /// The object.
    pub object: ObjectKey,
    /// Of the object: one that is made anew is another VM.
    pub uid: Uid,
    /// Its mesh addresses.
    pub addresses: Vec<IpAddr>,
    /// What it may read, and what it serves.
    pub grant: Vm,
}

/// By name, which is unique among the nodes and VMs of the cluster.
pub type Enrollables = BTreeMap<NodeName, Enrollable>;
