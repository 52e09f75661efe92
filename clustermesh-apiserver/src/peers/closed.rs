//! Prefixes of peers that were disconnected: nothing goes there, in plain or otherwise, until somebody says `forget` or
//! a peering claims them again. No source can rebuild them, so they live in a synced file.

use anyhow::Context;
use api::{name::ClusterName, peer::overlap};
use ipnet::IpNet;
use std::{collections::BTreeMap, io, path::Path};

/// Where they are kept in the data directory.
pub const FILE: &str = "closed.json";

/// The closed prefixes by the peer they belonged to.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ClosedPrefixes(BTreeMap<ClusterName, Vec<IpNet>>);

impl ClosedPrefixes {
    /// Reads the file; a missing one is an empty list.
    ///
    /// # Errors
    /// When it cannot be read or is not ours: going on without it would open what should stay closed.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| {
                format!(
                    "cannot understand {}: restore it, or move it away to open all prefixes",
                    path.display()
                )
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// As the file's content.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("closed prefixes are plain data")
    }

    /// A peer went: its prefixes close.
    pub fn close(&mut self, peer: &ClusterName, prefixes: &[IpNet]) {
        let closed = self.0.entry(peer.clone()).or_default();
        closed.extend(prefixes);
        closed.sort();
        closed.dedup();
    }

    /// Peerings claim these: whatever overlaps them is theirs to decide, and no longer closed.
    pub fn claim<'a>(&mut self, claimed: impl IntoIterator<Item = &'a IpNet> + Clone) {
        self.0.retain(|_, prefixes| {
            prefixes.retain(|prefix| !claimed.clone().into_iter().any(|claim| claim.contains(prefix)));
            !prefixes.is_empty()
        });
    }

    /// Opens the prefixes of a peer; gives those that were closed.
    pub fn forget(&mut self, peer: &ClusterName) -> Vec<IpNet> {
        self.0.remove(peer).unwrap_or_default()
    }

    /// By peer.
    pub fn iter(&self) -> impl Iterator<Item = (&ClusterName, &Vec<IpNet>)> {
        self.0.iter()
    }

    /// Whose prefixes a range overlaps.
    #[must_use]
    pub fn overlapping(&self, range: &IpNet) -> Option<&ClusterName> {
        self.0.iter().find(|(_, prefixes)| prefixes.iter().any(|p| overlap(p, range))).map(|(peer, _)| peer)
    }
}
