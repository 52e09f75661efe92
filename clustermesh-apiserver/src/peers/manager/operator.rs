//! What an operator asks of the peerings, and is answered.

use super::Manager;
use crate::{
    admin::{Description, Meant, PeerError, Removed},
    peers::{
        check::{Surroundings, check},
        home, sweep,
    },
    publish::writes,
    source::driver::unix_s,
};
use api::{key::Key, name::ClusterName, peer::MeshPeer, record::Phase};
use ipnet::IpNet;
use std::collections::BTreeMap;
use tokio::sync::oneshot;
use tracing::info;

/// What an operator asks.
pub(in crate::peers) enum Request {
    Describe(oneshot::Sender<Result<Description, PeerError>>),
    Apply(Box<Apply>, oneshot::Sender<Result<bool, PeerError>>),
    Remove(ClusterName, Meant, oneshot::Sender<Result<Removed, PeerError>>),
    Forget(ClusterName, oneshot::Sender<Result<Vec<IpNet>, PeerError>>),
}

/// An object that is to be written.
pub(in crate::peers) struct Apply {
    pub(in crate::peers) peer: MeshPeer,
    /// What the operator looked at.
    pub(in crate::peers) judged: Option<MeshPeer>,
    pub(in crate::peers) dry_run: bool,
}

impl Manager {
    pub(super) async fn answer(&mut self, request: Request) {
        // Who asked and went away does not want the answer.
        match request {
            Request::Describe(to) => drop(to.send(self.describe().await)),
            Request::Apply(wish, to) => drop(to.send(self.apply(*wish).await)),
            Request::Remove(name, meant, to) => drop(to.send(self.remove(&name, &meant).await)),
            Request::Forget(name, to) => drop(to.send(self.forget(&name).await)),
        }
    }

    async fn describe(&mut self) -> Result<Description, PeerError> {
        let objects = self.objects().ok_or_else(not_read)?;
        let mut counts = BTreeMap::new();
        let prefix = api::key::cluster_prefix(&self.config.own.name);
        let counted = writes::list(&self.engine, &prefix, |key, _| {
            if let Key::Mesh(_, key) = key {
                *counts.entry(key.kind().to_string()).or_insert(0) += 1;
            }
        });
        counted.await.map_err(|error| PeerError::Home(error.into()))?;
        let own = &self.config.own;
        let nodes =
            self.source.borrow().as_ref().map(|state| state.node_addresses.to_vec()).unwrap_or_default();
        Ok(Description {
            name: own.name.clone(),
            uuid: own.uuid,
            pod_cidrs: own.pod_cidrs.clone(),
            service_cidrs: own.service_cidrs.clone(),
            mesh_cidrs: own.mesh_cidrs.clone(),
            node_addresses: nodes,
            endpoints: self.config.endpoints.clone(),
            trust_bundle: self.tls.identity().bundle_pem().to_owned(),
            peers: objects.into_values().collect(),
            counts,
            revision: u64::try_from(self.engine.revision()).unwrap_or(0),
        })
    }

    async fn apply(&mut self, wish: Apply) -> Result<bool, PeerError> {
        let Apply { peer, judged: looked_at, dry_run } = &wish;
        let objects = self.objects().ok_or_else(not_read)?;
        let name = &peer.metadata.name;
        let held = objects.get(name);
        if looked_at.is_some() && looked_at.as_ref() != held {
            return Err(PeerError::Refused(home::Changed::Edited(name.clone()).to_string()));
        }
        let again = |held: &MeshPeer| {
            // The same connect told again does not take an active peering back to prepared.
            held == peer || *held == home::active(peer) && held.phase() == Phase::Active
        };
        if held.is_some_and(again) && self.roster.peers.contains_key(name) {
            return Ok(false);
        }
        let nodes =
            self.source.borrow().as_ref().map(|state| state.node_addresses.clone()).unwrap_or_default();
        let around =
            Surroundings { own: &self.config.own, node_addresses: &nodes, others: &self.roster.peers };
        check(peer, around).map_err(|conflict| PeerError::Refused(conflict.to_string()))?;
        let judged = self.object(name);
        if let Some(judged) = &judged {
            self.config.home.may_change(name, &judged.place).map_err(PeerError::Refused)?;
        }
        if !*dry_run {
            let peer = &home::by_our_clock(peer, unix_s());
            let written = self.config.home.write(peer, judged.as_ref()).await.map_err(not_written)?;
            self.note(name, Some(written));
            info!(peer = %name, phase = ?peer.phase(), "MeshPeer written");
            self.look().await;
        }
        Ok(true)
    }

    async fn remove(&mut self, name: &ClusterName, meant: &Meant) -> Result<Removed, PeerError> {
        self.objects().ok_or_else(not_read)?;
        let Some(judged) = self.object(name) else { return Ok(Removed::default()) };
        if meant.nonce.is_some() && judged.peer.nonce() != meant.nonce {
            return Ok(Removed::default());
        }
        let is = judged.peer.spec.uuid;
        if let Some(uuid) = meant.uuid.filter(|uuid| *uuid != is) {
            let why = format!(
                "its peer {name} is another cluster of that name: {is}, not {uuid}; disconnect from that one with --force"
            );
            return Err(PeerError::Refused(why));
        }
        let home = |error| PeerError::Home(error);
        let records = sweep::counts(&self.engine, name).await.map_err(home)?;
        let removed = self.config.home.remove(&judged).await;
        removed.map_err(|error| PeerError::Refused(format!("{error:#}")))?;
        self.note(name, None);
        info!(peer = %name, "MeshPeer removed");
        self.look().await;
        let closed = self.closed.beside(&self.claimed()).remove(name).unwrap_or_default();
        Ok(Removed { removed: true, records, closed })
    }

    async fn forget(&mut self, name: &ClusterName) -> Result<Vec<IpNet>, PeerError> {
        let objects = self.objects().ok_or_else(not_read)?;
        let mut closed = self.closed.clone();
        // Of a peer that is still there it is what its earlier terms contained.
        let opened = closed.forget(name, &self.claimed());
        if objects.contains_key(name) && opened.is_empty() {
            return Err(PeerError::Refused(format!("`{name}` is still a peer: disconnect first")));
        }
        self.set_closed(closed).await.map_err(PeerError::Home)?;
        self.write_closed().await.map_err(PeerError::Home)?;
        Ok(opened)
    }
}

/// Who writes over what he has not seen is refused: it is for him to look again.
fn not_written(error: anyhow::Error) -> PeerError {
    match error.downcast_ref::<home::Changed>() {
        Some(changed) => PeerError::Refused(changed.to_string()),
        None => PeerError::Home(error),
    }
}

fn not_read() -> PeerError {
    PeerError::Refused(
        "the source of MeshPeer objects has not been read yet; see the apiserver's log".to_owned(),
    )
}
