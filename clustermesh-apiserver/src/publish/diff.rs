//! `diff(desired, held)`: the operations that make the store say what it should.

use api::key::{Key, LocalKey, MeshKey};
use std::collections::BTreeMap;

/// Operations of one txn: the store refuses more than 128, and one is left for a compare's companion.
pub const TXN_OPS: usize = 127;

/// Bytes of keys and values in one txn: the store refuses a request above 1.5 MiB; a record is at most 64 KiB, so this
/// leaves a wide margin for the framing of 127 of them.
const TXN_BYTES: usize = 1024 * 1024;

/// One change of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// The key gets this value.
    Put {
        /// Which.
        key: Key,
        /// The encoded record.
        value: Vec<u8>,
    },
    /// The key goes.
    Delete {
        /// Which.
        key: Key,
    },
}

impl Op {
    fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    fn bytes(&self) -> usize {
        let value = match self {
            Self::Put { value, .. } => value.len(),
            Self::Delete { .. } => 0,
        };
        self.key().to_string().len() + value
    }
}

/// What makes `held` equal `desired`. Definitions are put before their uses and deleted after them, so that a reader
/// between two txns sees no endpoint without its identity and no backend without its Service.
#[must_use]
pub fn diff(desired: &BTreeMap<Key, Vec<u8>>, held: &BTreeMap<Key, Vec<u8>>) -> Vec<Op> {
    let differs = |(key, value): &(&Key, &Vec<u8>)| held.get(*key) != Some(*value);
    let mut puts: Vec<&Key> = desired.iter().filter(differs).map(|(key, _)| key).collect();
    puts.sort_by_key(|key| rank(key));
    let mut deletes: Vec<&Key> = held.keys().filter(|key| !desired.contains_key(*key)).collect();
    deletes.sort_by_key(|key| std::cmp::Reverse(rank(key)));
    let put = |key: &Key| Op::Put { key: key.clone(), value: desired[key].clone() };
    let delete = |key: &Key| Op::Delete { key: key.clone() };
    puts.into_iter().map(put).chain(deletes.into_iter().map(delete)).collect()
}

/// Definitions have lower ranks than their uses.
fn rank(key: &Key) -> u8 {
    match key {
        Key::Mesh(_, key) => match key {
            MeshKey::Cluster | MeshKey::Lineage => 0,
            MeshKey::Namespace(_) => 1,
            MeshKey::Identity(..) => 2,
            MeshKey::Node(_) | MeshKey::Key(_) => 3,
            MeshKey::Endpoint(..) => 4,
            MeshKey::Service(..) => 5,
            MeshKey::Backend(..) => 6,
            // Says that all the others are there.
            MeshKey::Synced(_) | MeshKey::Peering(_) | MeshKey::Heartbeat => 7,
        },
        Key::Local(key) => match key {
            LocalKey::Peer(_) | LocalKey::Closed(_) => 0,
            LocalKey::Service(..) => 5,
            LocalKey::Backend(..) => 6,
            // What a VM that is no more wrote is found by its presence: that goes last of it.
            LocalKey::Vm(_) | LocalKey::Presence(_) => 3,
            LocalKey::Applied(_) | LocalKey::Import(_) => 7,
        },
    }
}

/// Cuts operations, in their order, into txns that the store takes.
#[must_use]
pub fn txns(ops: Vec<Op>) -> Vec<Vec<Op>> {
    let mut txns: Vec<Vec<Op>> = Vec::new();
    let mut bytes = 0;
    for op in ops {
        match txns.last_mut() {
            Some(txn) if txn.len() < TXN_OPS && bytes + op.bytes() <= TXN_BYTES => {
                bytes += op.bytes();
                txn.push(op);
            }
            Some(_) | None => {
                bytes = op.bytes();
                txns.push(vec![op]);
            }
        }
    }
    txns
}
