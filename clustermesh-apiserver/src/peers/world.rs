//! Tunnel endpoints and public keys that are somebody's already: what no peer may announce as its own.

use crate::{
    backend::{Engine, WatchResponse},
    publish::writes,
};
use api::{
    bytes::PublicKey,
    key::{Key, MESH, MeshKey},
    name::{ClusterName, NodeName},
    record::{Node, TunnelKey},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};
use store::{EventKind, KeyRange, WatchRequest};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Time between attempts at a store that refuses.
const RETRY: Duration = Duration::from_secs(1);

type Of<T> = BTreeMap<(ClusterName, NodeName), T>;

/// All nodes of all clusters that our store knows, as far as a peer's import has to respect them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct World {
    endpoints: Of<Vec<IpAddr>>,
    keys: Of<PublicKey>,
}

impl World {
    /// Where tunnels of everybody but `peer` are dialled.
    #[must_use]
    pub fn tunnel_endpoints(&self, peer: &ClusterName) -> BTreeSet<IpAddr> {
        let others = self.endpoints.iter().filter(|((cluster, _), _)| cluster != peer);
        others.flat_map(|(_, endpoints)| endpoints.iter().copied()).collect()
    }

    /// Public keys of everybody but `peer`.
    #[must_use]
    pub fn keys(&self, peer: &ClusterName) -> BTreeSet<PublicKey> {
        let others = self.keys.iter().filter(|((cluster, _), _)| cluster != peer);
        others.map(|(_, key)| *key).collect()
    }

    /// Takes a record of the store; a value that does not parse says nothing.
    pub fn apply(&mut self, key: Key, value: &[u8]) {
        match key {
            Key::Mesh(cluster, MeshKey::Node(node)) => match Node::decode(value) {
                Ok(record) => drop(self.endpoints.insert((cluster, node), record.endpoints)),
                Err(_) => drop(self.endpoints.remove(&(cluster, node))),
            },
            Key::Mesh(cluster, MeshKey::Key(node)) => match TunnelKey::decode(value) {
                Ok(record) => drop(self.keys.insert((cluster, node), record.public_key)),
                Err(_) => drop(self.keys.remove(&(cluster, node))),
            },
            Key::Mesh(..) | Key::Local(_) => {}
        }
    }

    /// A record is gone.
    pub fn delete(&mut self, key: Key) {
        match key {
            Key::Mesh(cluster, MeshKey::Node(node)) => drop(self.endpoints.remove(&(cluster, node))),
            Key::Mesh(cluster, MeshKey::Key(node)) => drop(self.keys.remove(&(cluster, node))),
            Key::Mesh(..) | Key::Local(_) => {}
        }
    }
}

/// Follows the store until cancelled. The first value is complete.
pub(super) async fn follow(engine: Engine, cancel: CancellationToken) -> watch::Receiver<World> {
    let (world, from) = list(&engine).await;
    let (worlds, receiver) = watch::channel(world);
    tokio::spawn(async move {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = watch_from(&engine, from, &worlds) => {}
        }
    });
    receiver
}

/// Subscribe, then list: what is written while we list is delivered by the watch.
async fn list(engine: &Engine) -> (World, i64) {
    loop {
        let from = engine.revision() + 1;
        let mut world = World::default();
        match writes::list(engine, MESH, |key, value| world.apply(key, &value)).await {
            Ok(()) => return (world, from),
            Err(error) => {
                warn!(%error, "Cannot read which tunnel endpoints and keys are taken; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn watch_from(engine: &Engine, mut from: i64, worlds: &watch::Sender<World>) {
    let range = KeyRange::prefix(MESH);
    loop {
        let request = WatchRequest {
            key: range.key().clone(),
            range_end: range.range_end(),
            start_revision: from,
            ..WatchRequest::default()
        };
        match engine.watch(&request) {
            Ok(mut stream) => {
                while let Some(response) = stream.next().await {
                    match response {
                        WatchResponse::Events { events, .. } => {
                            worlds.send_if_modified(|world| take(world, &events));
                        }
                        WatchResponse::Progress { .. } | WatchResponse::Canceled { .. } => {}
                    }
                }
            }
            Err(store::Error::Stopped) => return,
            Err(error) => {
                warn!(%error, "Cannot watch which tunnel endpoints and keys are taken; trying again");
            }
        }
        tokio::time::sleep(RETRY).await;
        let (world, next) = list(engine).await;
        from = next;
        worlds.send_if_modified(|current| {
            let changed = *current != world;
            *current = world;
            changed
        });
    }
}

/// Whether anything changed. Most events are heartbeats and backends, which concern nobody here.
fn take(world: &mut World, events: &[store::Event]) -> bool {
    let mut before = None;
    for event in events {
        let Ok(key @ Key::Mesh(_, MeshKey::Node(_) | MeshKey::Key(_))) = Key::parse(&event.kv.key) else {
            continue;
        };
        before.get_or_insert_with(|| world.clone());
        match event.kind {
            EventKind::Put => world.apply(key, &event.kv.value),
            EventKind::Delete => world.delete(key),
        }
    }
    before.is_some_and(|before| before != *world)
}
