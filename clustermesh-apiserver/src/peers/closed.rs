//! Prefixes of peers that were disconnected: nothing goes there, in plain or otherwise, until somebody says `forget` or
//! a peering claims them again.
//!
//! They are kept from the activation of a peering on, and closed as long as no active peering claims them: so that they
//! close also when the peer goes while nobody looks, and the store with it. No source can rebuild them, so they live in
//! a synced file.

use crate::keep;
use api::name::ClusterName;
use ipnet::IpNet;
use std::{collections::BTreeMap, path::Path};

/// Where they are kept in the data directory.
pub const FILE: &str = "closed.json";

/// What is, or was, encrypted, by the peer it belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ClosedPrefixes(BTreeMap<ClusterName, Vec<IpNet>>);

impl ClosedPrefixes {
    /// Reads the file; a missing one is an empty list.
    ///
    /// # Errors
    /// When it cannot be read or is not ours: going on without it would open what should stay closed.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        keep::load(path, "to open all prefixes")
    }

    /// As the file's content.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("closed prefixes are plain data")
    }

    /// A peer's prefixes are encrypted from now on, or were: they stay closed without it.
    pub fn keep(&mut self, peer: &ClusterName, prefixes: &[IpNet]) {
        let kept = self.0.entry(peer.clone()).or_default();
        kept.extend(prefixes);
        kept.sort();
        kept.dedup();
    }

    /// A peering is active on these terms. What other peers left of them is its to decide; what its own earlier terms
    /// contained stays.
    pub fn activate(&mut self, peer: &ClusterName, prefixes: &[IpNet]) {
        self.0.retain(|of, kept| {
            kept.retain(|kept| of == peer || !prefixes.iter().any(|claim| claim.contains(kept)));
            !kept.is_empty()
        });
        self.keep(peer, prefixes);
    }

    /// Whether a peer that goes now leaves these closed.
    #[must_use]
    pub fn keeps(&self, peer: &ClusterName, prefixes: &[IpNet]) -> bool {
        self.0.get(peer).is_some_and(|kept| prefixes.iter().all(|prefix| kept.contains(prefix)))
    }

    /// What is closed while these are claimed by active peerings.
    #[must_use]
    pub fn beside(&self, claimed: &[IpNet]) -> BTreeMap<ClusterName, Vec<IpNet>> {
        let is_free = |prefix: &&IpNet| !claimed.iter().any(|claim| claim.contains(*prefix));
        let of = |(peer, kept): (&ClusterName, &Vec<IpNet>)| {
            (peer.clone(), kept.iter().filter(is_free).copied().collect::<Vec<_>>())
        };
        self.0.iter().map(of).filter(|(_, closed)| !closed.is_empty()).collect()
    }

    /// All that is kept, by peer.
    pub fn iter(&self) -> impl Iterator<Item = (&ClusterName, &Vec<IpNet>)> {
        self.0.iter()
    }

    /// Opens what of a peer's is closed while these are claimed; gives it.
    pub fn forget(&mut self, peer: &ClusterName, claimed: &[IpNet]) -> Vec<IpNet> {
        let opened = self.beside(claimed).remove(peer).unwrap_or_default();
        if let Some(kept) = self.0.get_mut(peer) {
            kept.retain(|prefix| !opened.contains(prefix));
        }
        self.0.retain(|_, kept| !kept.is_empty());
        opened
    }
}
