//! Where facts about our own cluster come from, and what they mean.
//!
//! ```text
//!  directory ──read──▶ documents ─┐ parse
//!  (manifests)         file:line  ├──────▶ Snapshot ─▶ objects ─▶ Index ─▶ desired records (BTreeMap<Key, Record>)
//!  Kubernetes ──watch─▶ events ───┘ field                ▲
//!                                          Memory: first seen, mesh addresses (synced file)
//! ```
//!
//! [`kubernetes`] is the source in a cluster; [`manifests`], a watched directory of the same YAML, is the one for a
//! site without Kubernetes. Both end in a [`snapshot::Snapshot`], and the [`index`] does not know which it was.
//!
//! Invariants
//! - an object that cannot be used is reported by where it stands and by its field, and spoils only itself; what it said when
//!   it was last good stays in force;
//! - the index is a pure function of its objects: the same objects give the same records, in whatever order they came;
//! - nothing is withdrawn before the source's first complete list.

pub mod driver;
pub mod index;
pub mod kubernetes;
pub mod manifests;
pub mod memory;
pub mod object;
pub mod parse;
pub mod snapshot;
