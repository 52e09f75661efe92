//! What only one node can have: an address range, a public key. Who holds it keeps it.

use super::Reason;
use api::{
    bytes::PublicKey,
    key::MeshKey,
    name::NodeName,
    peer::overlap,
    record::{Node, Record},
};
use ipnet::IpNet;
use std::collections::BTreeMap;

/// The claims of one peer's nodes that we hold.
#[derive(Debug, Clone, Default)]
pub(super) struct Claims {
    /// Disjoint, so that only its two neighbours can overlap a new one.
    prefixes: BTreeMap<IpNet, NodeName>,
    keys: BTreeMap<PublicKey, NodeName>,
}

impl Claims {
    /// Claims what the record needs. The claims of the record that it replaces must have been released.
    pub(super) fn claim(&mut self, key: &MeshKey, record: &Record) -> Result<(), Reason> {
        match (key, record) {
            (MeshKey::Node(node), Record::Node(record)) => self.claim_prefixes(node, record),
            (MeshKey::Key(node), Record::TunnelKey(record)) => match self.keys.get(&record.public_key) {
                Some(_) => Err(Reason::KeyTaken),
                None => {
                    self.keys.insert(record.public_key, node.clone());
                    Ok(())
                }
            },
            (_, _) => Ok(()), // Other kinds claim nothing.
        }
    }

    fn claim_prefixes(&mut self, node: &NodeName, record: &Node) -> Result<(), Reason> {
        let prefixes = disjoint(record);
        if prefixes.iter().any(|prefix| self.is_taken(prefix)) {
            return Err(Reason::PrefixTaken);
        }
        self.prefixes.extend(prefixes.into_iter().map(|prefix| (prefix, node.clone())));
        Ok(())
    }

    fn is_taken(&self, prefix: &IpNet) -> bool {
        let before = self.prefixes.range(..=prefix).next_back();
        let after = self.prefixes.range(prefix..).next();
        before.into_iter().chain(after).any(|(held, _)| overlap(held, prefix))
    }

    /// Lets go what the record claimed.
    pub(super) fn release(&mut self, record: &Record) {
        match record {
            Record::Node(record) => {
                for prefix in disjoint(record) {
                    self.prefixes.remove(&prefix);
                }
            }
            Record::TunnelKey(record) => drop(self.keys.remove(&record.public_key)),
            Record::Cluster(_)
            | Record::Heartbeat(_)
            | Record::Lineage(_)
            | Record::Synced(_)
            | Record::Peering(_)
            | Record::Namespace(_)
            | Record::Identity(_)
            | Record::Endpoint(_)
            | Record::Service(_)
            | Record::Backend(_)
            | Record::Applied(_)
            | Record::PeerState(_)
            | Record::ImportState(_)
            | Record::Closed(_)
            | Record::Vm(_)
            | Record::Presence(_) => {}
        }
    }

    /// The public keys that are claimed.
    pub(super) fn keys(&self) -> impl Iterator<Item = &PublicKey> {
        self.keys.keys()
    }
}

/// What a node claims, each address once: its mesh addresses may lie in its prefixes.
fn disjoint(record: &Node) -> Vec<IpNet> {
    let addresses = record.mesh_addresses.iter().map(|&ip| IpNet::from(ip));
    IpNet::aggregate(&record.prefixes.iter().copied().chain(addresses).collect())
}
