//! Following a store: list, watch, resume, sweep, import, and the view that comes of it.
//!
//! ```text
//!  any etcd v3 store ──answers──▶ follower ──events──▶ view ──▶ service::choose        (agents, meshctl)
//!                    ◀─requests──          ──events──▶ import ──writes──▶ our own store (apiserver, one a peer)
//!                                                      freshness, peering: what of it is published as verdict
//! ```
//!
//! Everything here is a plain value that takes facts and time and hands out wishes; the crate `follow` is the loop
//! that carries a follower's requests over gRPC, and the apiserver is the one around an import.
//!
//! Invariants
//! - no IO, no clock, no async, no randomness: time comes in as [`Now`], jitter as a seed;
//! - a follower never guesses: it resumes where the store's lineage says it may, else it lists again;
//! - nothing is removed before the list that lacks it is complete, and its kind is synced in that store's boot;
//! - an answer of an older session changes nothing;
//! - one bad record spoils only itself, and never removes what was known under its key;
//! - what was kept on disk is never complete: a list replaces it, as it replaces every older view;
//! - what a peer announces reaches our store only through [`import::Import`], re-encoded from what was parsed.

pub mod follower;
pub mod freshness;
pub mod import;
pub mod kept;
pub mod peering;
pub mod rate;
pub mod service;
mod time;
pub mod view;

pub use time::Now;
