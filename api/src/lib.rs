//! What travels in the mesh: keys, records, and what makes them valid.
//!
//! ```text
//!  bytes ──parse──▶ Key + Record (always valid) ──encode──▶ bytes
//! ```
//!
//! A record is one small fact under one key (`key.rs`). Keys and values are parsed here, at the boundary, and are valid
//! inside: whoever holds a [`key::Key`] or a [`record::Record`] need not check it again. Imported values are encoded
//! again from what was parsed, so a field nobody knows is never passed on.
//!
//! Invariants
//! - no IO, no clock, no tokio, no tonic: everything here is a pure function of its arguments;
//! - parsing never panics and never allocates more than a small multiple of its input;
//! - the same record always encodes to the same bytes (maps are ordered, addresses have one form);
//! - published golden vectors (`record/tests.rs`) stay as they are: fields are only added.

pub mod bytes;
pub mod digest;
pub mod external_workload;
pub mod identity;
pub mod key;
pub mod name;
pub mod peer;
pub mod record;
pub mod token;

/// Protocol Buffers messages of the records, as they travel. Use [`record`] instead: its types are valid.
#[allow(missing_docs, reason = "generated from proto/mesh/v1/records.proto, which carries the comments")]
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/mesh.v1.rs"));
}

/// Largest encoded record we write or accept, in bytes. A record is one fact; the largest legitimate one (an identity
/// with the 63 labels Kubernetes users reach in practice, 316 bytes each) needs under 20 KiB, and sled keeps values of
/// this size in its log instead of in blob files that it does not sync.
pub const RECORD_MAX_BYTES: usize = 64 * 1024;

/// Largest key we write or accept, in bytes: two names of 253, the cluster's 63 and the fixed parts.
pub const KEY_MAX_BYTES: usize = 1024;
