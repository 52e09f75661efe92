//! What the store holds because of a peer, and its end.

use crate::{
    backend::Engine,
    publish::{Op, diff, txns, writes},
};
use api::{
    key::{Key, LOCAL, LocalKey, MESH, MeshKey, cluster_prefix},
    name::ClusterName,
    record::{Closed, PeerState, Phase},
};
use bytes::Bytes;
use ipnet::IpNet;
use std::collections::BTreeMap;
use store::{DeleteRangeRequest, KeyRange, TxnRequest};

/// What an earlier process left of a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// What its contract contained, if it was active.
    pub(super) prefixes: Option<Vec<IpNet>>,
}

/// Every peer of which the store holds anything.
pub(super) async fn left(engine: &Engine, own: &ClusterName) -> anyhow::Result<BTreeMap<ClusterName, Left>> {
    let mut left: BTreeMap<ClusterName, Left> = BTreeMap::new();
    for prefix in [MESH, LOCAL] {
        let take = |key, value: Vec<u8>| match key {
            Key::Mesh(cluster, MeshKey::Peering(peer)) if cluster == *own => {
                left.entry(peer).or_default();
            }
            Key::Mesh(cluster, _) if cluster != *own => {
                left.entry(cluster).or_default();
            }
            Key::Local(LocalKey::Import(peer)) => {
                left.entry(peer).or_default();
            }
            Key::Local(LocalKey::Peer(peer)) => {
                let state = PeerState::decode(&value).ok().filter(|state| state.phase == Phase::Active);
                left.entry(peer).or_default().prefixes = state.map(|state| state.prefixes);
            }
            Key::Mesh(..) | Key::Local(_) => {}
        };
        writes::list(engine, prefix, take).await?;
    }
    Ok(left)
}

/// Records of a peer by kind, as they are now.
pub(super) async fn counts(engine: &Engine, peer: &ClusterName) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    writes::list(engine, &cluster_prefix(peer), |key, _| {
        if let Key::Mesh(_, key) = key
            && !matches!(key, MeshKey::Synced(_))
        {
            *counts.entry(key.kind().to_string()).or_insert(0) += 1;
        }
    })
    .await?;
    Ok(counts)
}

/// Deletes all that is there because of a peer, but what is closed: one revision, so that nobody sees half of it.
pub(super) async fn sweep(engine: &Engine, own: &ClusterName, peer: &ClusterName) -> anyhow::Result<()> {
    let range = KeyRange::prefix(cluster_prefix(peer));
    let all =
        DeleteRangeRequest { key: range.key().clone(), range_end: range.range_end(), ..Default::default() };
    let one = |key: Key| DeleteRangeRequest { key: Bytes::from(key.to_string()), ..Default::default() };
    let keys = [
        MeshKey::Peering(peer.clone()).of(own),
        LocalKey::Peer(peer.clone()).into(),
        LocalKey::Import(peer.clone()).into(),
    ];
    let ops = keys.into_iter().map(one).chain([all]).map(store::Op::DeleteRange);
    engine.txn(TxnRequest { success: ops.collect(), ..TxnRequest::default() }).await?;
    Ok(())
}

/// Makes `mesh-local/v1/closed/…` say what is closed.
pub(super) async fn write_closed(
    engine: &Engine,
    closed: &BTreeMap<ClusterName, Vec<IpNet>>,
) -> anyhow::Result<()> {
    let record = |(peer, prefixes): (&ClusterName, &Vec<IpNet>)| {
        (Key::from(LocalKey::Closed(peer.clone())), Closed { prefixes: prefixes.clone() }.encode())
    };
    let desired: BTreeMap<Key, Vec<u8>> = closed.iter().map(record).collect();
    let mut held = BTreeMap::new();
    writes::list(engine, &format!("{LOCAL}closed/"), |key, value| drop(held.insert(key, value))).await?;
    let ops: Vec<Op> = diff(&desired, &held);
    for txn in txns(ops) {
        writes::write(engine, &txn).await?;
    }
    Ok(())
}
