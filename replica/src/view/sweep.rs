//! What a list that lacks a record means.
//!
//! A store that lost its content, or was restored, fills again while its followers already list it. `synced/<kind>`
//! in its running boot is its word that a kind is complete; until then a missing record is only unconfirmed.
//!
//! | missing | its absence counts when |
//! |---|---|
//! | a record of a source | `synced/<kind>` of its cluster names the own store's running boot |
//! | an imported record | the same: the importer writes the peer's `synced/<kind>` when its own list is complete |
//! | a record of a cluster that is no peer | the own `synced/peerings`: nobody else will ever vouch for it |
//! | `keys/<node>` | its node is gone: only the node itself can write it again |
//! | `mesh-local` services, backends | the own `synced/services`, `synced/backends` |
//! | `peers`, `closed` | the own `synced/peerings` |
//! | `cluster`, `heartbeat`, `lineage`, `synced`, `peerings`, `applied`, `imports` | at once: they describe the present |

use super::{boot, tables::Tables};
use api::{
    key::{Key, Kind, LocalKey, MeshKey},
    name::ClusterName,
};
use std::collections::{BTreeMap, BTreeSet};

/// Fewer backends than this vanish without a word: half of a handful is an ordinary roll-out.
const MASS_MIN: usize = 4;

/// What a completed list did to each cluster's backends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relisted {
    /// Records that vanished with this list.
    pub swept: usize,
    /// Records that it lacked, and that stay until their kind is synced.
    pub unconfirmed: usize,
    /// Clusters that lost more than half of their backends at once, with how many they had and lost. Design, decision
    /// 7, keeps these demoted for at most a minute; here it is only seen and told.
    pub mass_removals: BTreeMap<ClusterName, (usize, usize)>,
}

impl Relisted {
    pub(crate) fn note_mass_removal(&mut self, cluster: &ClusterName, had: usize, lost: usize) {
        if lost >= MASS_MIN && lost * 2 > had {
            self.mass_removals.insert(cluster.clone(), (had, lost));
        }
    }
}

/// Records that are held though the last list lacked them.
#[derive(Debug, Clone, Default)]
pub(super) struct Unconfirmed(BTreeSet<Key>);

impl Unconfirmed {
    /// The store spoke of this key itself.
    pub(super) fn forget(&mut self, key: &Key) {
        self.0.remove(key);
    }

    /// Whether this one is held without the store's word.
    pub(super) fn contains(&self, key: &Key) -> bool {
        self.0.contains(key)
    }

    /// Takes over into the list what it lacks and cannot vouch for.
    pub(super) fn carry_over(&mut self, before: &Tables, list: &mut Tables, own: &ClusterName) -> Relisted {
        self.0.clear();
        let mut relisted = Relisted::default();
        let mut lost: BTreeMap<ClusterName, usize> = BTreeMap::new();
        let missing: Vec<Key> =
            before.keys().map(|(key, _)| key).filter(|key| !list.contains(key)).cloned().collect();
        for key in missing {
            if absence_counts(list, own, &key) {
                relisted.swept += 1;
                if let Key::Mesh(cluster, MeshKey::Backend(..)) = key {
                    *lost.entry(cluster).or_default() += 1;
                }
            } else if let Some((record, _)) = before.get(&key) {
                relisted.unconfirmed += 1;
                // Its revision was another history's; whatever this one says of the key is newer.
                list.put(key.clone(), record, 0);
                self.0.insert(key);
            }
        }
        for (cluster, lost) in lost {
            let had =
                before.clusters.get(&cluster).map_or(0, |c| c.backends.values().map(BTreeMap::len).sum());
            if lost >= MASS_MIN && lost * 2 > had {
                relisted.mass_removals.insert(cluster, (had, lost));
            }
        }
        relisted
    }

    /// Lets go what the store vouches for by now; says whether that was anything.
    pub(super) fn sweep(&mut self, tables: &mut Tables, own: &ClusterName, mod_revision: u64) -> bool {
        let mut swept = false;
        loop {
            let gone: Vec<Key> =
                self.0.iter().filter(|key| absence_counts(tables, own, key)).cloned().collect();
            if gone.is_empty() {
                return swept;
            }
            swept = true;
            for key in gone {
                tables.remove(&key, mod_revision);
                self.0.remove(&key);
            }
            // A node that went takes its key with it in the next round.
        }
    }
}

fn absence_counts(tables: &Tables, own: &ClusterName, key: &Key) -> bool {
    match key {
        Key::Mesh(cluster, key) => match key {
            MeshKey::Cluster
            | MeshKey::Heartbeat
            | MeshKey::Lineage
            | MeshKey::Synced(_)
            | MeshKey::Peering(_) => true,
            MeshKey::Key(node) => tables.clusters.get(cluster).is_none_or(|c| !c.nodes.contains_key(node)),
            MeshKey::Node(_)
            | MeshKey::Namespace(_)
            | MeshKey::Identity(..)
            | MeshKey::Endpoint(..)
            | MeshKey::Service(..)
            | MeshKey::Backend(..) => is_synced(tables, own, cluster, key.kind()),
        },
        Key::Local(key) => match key {
            LocalKey::Service(..) => is_synced(tables, own, own, Kind::Services),
            LocalKey::Backend(..) => is_synced(tables, own, own, Kind::Backends),
            LocalKey::Peer(_) | LocalKey::Closed(_) => is_synced(tables, own, own, Kind::Peerings),
            LocalKey::Vm(_) => is_synced(tables, own, own, Kind::Nodes),
            LocalKey::Applied(_) | LocalKey::Import(_) | LocalKey::Presence(_) => true,
        },
    }
}

fn is_synced(tables: &Tables, own: &ClusterName, cluster: &ClusterName, kind: Kind) -> bool {
    let vouches = |cluster: &ClusterName, kind| {
        let synced = tables.clusters.get(cluster).and_then(|c| c.synced.get(&kind));
        synced.is_some_and(|synced| boot(tables, own) == Some(synced.boot))
    };
    let no_peer = cluster != own && vouches(own, Kind::Peerings) && !tables.local.peers.contains_key(cluster);
    vouches(cluster, kind) || no_peer
}
