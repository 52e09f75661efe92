//! Where facts about our own cluster come from, and what they mean.
//!
//! ```text
//!  directory ──read──▶ documents ──parse──▶ objects ──▶ Index ──▶ desired records (BTreeMap<Key, Record>)
//!  (manifests)         file:line:field                    ▲
//!                                            Memory: first seen, mesh addresses (synced file)
//! ```
//!
//! [`manifests`] is the source for a site without Kubernetes: a watched directory of the same YAML. Every source
//! ends in the same [`object::Object`]s, and the [`index`] does not know which source it was.
//!
//! Invariants
//! - a document that cannot be used is reported with file, line and field, and spoils only itself; what it said when
//!   it was last good stays in force;
//! - the index is a pure function of its objects: the same objects give the same records, in whatever order they came;
//! - nothing is withdrawn before the source's first complete list.

pub mod driver;
pub mod index;
pub mod manifests;
pub mod memory;
pub mod object;
pub mod parse;
pub mod watch;
