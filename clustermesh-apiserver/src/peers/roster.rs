//! Which of the MeshPeer objects are in force: objects come by `connect`, by hand and by Git, and may conflict.

use super::check::{Conflict, Surroundings, check};
use crate::publish::Own;
use api::{name::ClusterName, peer::MeshPeer};
use std::{collections::BTreeMap, net::IpAddr};

/// The peerings of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    /// In force, on these terms.
    pub peers: BTreeMap<ClusterName, MeshPeer>,
    /// Objects that are not in force as they stand, and why. Their last good terms may be.
    pub conflicts: BTreeMap<ClusterName, Conflict>,
}

/// Who was in force before, and on which terms: none are known of one that an earlier process left in the store.
pub type InForce = BTreeMap<ClusterName, Option<MeshPeer>>;

/// First come, first served: unchanged peerings stay, whatever the world around them became (their imports are checked
/// record by record); then the changed ones, which fall back to their last good terms; then new ones, by name, so that
/// it does not depend on which file was read first.
#[must_use]
pub fn roster(
    objects: &BTreeMap<ClusterName, MeshPeer>,
    in_force: &InForce,
    own: &Own,
    node_addresses: &[IpAddr],
) -> Roster {
    let mut roster = Roster::default();
    let (unchanged, rest): (Vec<_>, Vec<_>) = objects.iter().partition(|(name, object)| {
        let before = in_force.get(*name).and_then(Option::as_ref);
        before.is_some_and(|before| same_terms(before, object))
    });
    for (name, object) in unchanged {
        roster.peers.insert(name.clone(), object.clone());
    }
    let (known, new): (Vec<_>, Vec<_>) = rest.into_iter().partition(|(name, _)| in_force.contains_key(*name));
    for (name, object) in known.into_iter().chain(new) {
        let around = Surroundings { own, node_addresses, others: &roster.peers };
        let conflict = match check(object, around) {
            Ok(()) => {
                roster.peers.insert(name.clone(), object.clone());
                continue;
            }
            Err(conflict) => conflict,
        };
        let last = in_force.get(name).cloned().flatten().filter(|last| check(last, around).is_ok());
        roster.peers.extend(last.map(|last| (name.clone(), last)));
        roster.conflicts.insert(name.clone(), conflict);
    }
    roster
}

/// How far a connect is does not change what was agreed.
fn same_terms(a: &MeshPeer, b: &MeshPeer) -> bool {
    let without = |peer: &MeshPeer| {
        let mut peer = peer.clone();
        peer.spec.connect = None;
        peer
    };
    without(a) == without(b)
}
