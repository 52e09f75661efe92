//! A cluster of its own for each test: CA, store, doors, and clients of every role.

use crate::{
    admin::{AdminService, Description, Meant, PeerAdmin, PeerError, Removed},
    authz::Own,
    backend::Engine,
    face::{Doors, bind},
    init::{self, ClusterConfig},
    pipes::Reach,
    pki::{Layout, identity},
    vms::{Members, admin::VmAdmin},
};
use api::{bytes::ClusterUuid, name::ClusterName, peer::MeshPeer};
use daemon::{
    spiffe::Role,
    tls::{Connection, Expected, Identity, IdentityPaths, Tls, connect},
};
use etcd_client::Client;
use ipnet::IpNet;
use std::{collections::BTreeMap, path::Path, sync::Arc, time::SystemTime};
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Channel;

pub(super) const WEST: ClusterUuid = ClusterUuid([0x11; 16]);
pub(super) const EAST: ClusterUuid = ClusterUuid([0x22; 16]);

pub(super) struct Cluster {
    pub(super) at: String,
    pub(super) tls: Tls,
    pub(super) engine: Engine,
    pub(super) shutdown: CancellationToken,
    pub(super) dir: TempDir,
    _end: DropGuard,
}

impl Cluster {
    /// `west`, served on a port of its own.
    pub(super) async fn start() -> Self {
        let dir = TempDir::new().expect("a directory");
        init::init(dir.path(), &config("west", WEST), SystemTime::now()).expect("initialised");
        let tls = load(&Layout::new(dir.path()).server(), Role::Cluster);
        let engine = Engine::open(dir.path()).await.expect("a store");
        let shutdown = CancellationToken::new();
        let own = Own { uuid: WEST, name: name("west") };
        let doors = Doors::new(own, tls.clone(), Members::nobody(), engine.clone(), shutdown.clone());
        let port = bind("127.0.0.1:0".parse().expect("loopback")).await.expect("bound");
        let at = port.address().to_string();
        let admin = AdminService::new(Arc::new(NoPeers), VmAdmin::idle(dir.path()));
        tokio::spawn(port.serve(doors, admin, None, Reach::new(tls.clone())));
        Self { at, tls, engine, _end: shutdown.clone().drop_guard(), shutdown, dir }
    }

    /// Where a certificate of this cluster is, issued now.
    pub(super) fn issue(&self, role: Role, name: &str) -> IdentityPaths {
        let out = self.dir.path().join("issued").join(role.as_str()).join(name);
        init::issue(self.dir.path(), role, name, 30, &out, SystemTime::now()).expect("issued");
        identity(&out)
    }

    pub(super) fn tls_of(&self, role: Role, name: &str) -> Tls {
        load(&self.issue(role, name), role)
    }

    pub(super) async fn channel(&self, role: Role, name: &str) -> Channel {
        let tls = self.tls_of(role, name);
        connect(&tls, &self.at, &Expected::cluster_of(WEST)).await.expect("connected").channel
    }

    /// An etcd client that is not ours, over our own channel.
    pub(super) async fn etcd(&self, role: Role, name: &str) -> Client {
        let channel = etcd_client::Channel::Tonic(self.channel(role, name).await);
        Client::from_channel(channel, None).await.expect("a client")
    }

    /// A connection of a peer with a CA of its own, whom this cluster believes from now on.
    pub(super) async fn peer(&self, called: &str) -> Connection {
        let tls = self.peer_tls(called);
        connect(&tls, &self.at, &Expected::cluster(WEST, name("west"))).await.expect("connected")
    }

    /// What such a peer connects with.
    pub(super) fn peer_tls(&self, called: &str) -> Tls {
        let dir = self.dir.path().join(called);
        init::init(&dir, &config(called, EAST), SystemTime::now()).expect("initialised");
        let tls = load(&Layout::new(&dir).server(), Role::Cluster);
        self.tls.trust().add_peer(EAST, name(called), tls.identity().bundle_pem()).expect("a bundle");
        tls.trust().add_peer(WEST, name("west"), self.tls.identity().bundle_pem()).expect("a bundle");
        tls
    }
}

fn load(paths: &IdentityPaths, role: Role) -> Tls {
    Tls::new(Identity::load(paths, role).expect("an identity"))
}

fn name(text: &str) -> ClusterName {
    text.parse().expect("a name")
}

fn config(cluster: &str, uuid: ClusterUuid) -> ClusterConfig {
    let prefix = |text: &str| vec![text.parse::<IpNet>().expect("a prefix")];
    ClusterConfig {
        name: name(cluster),
        uuid,
        pod_cidrs: prefix("10.1.0.0/16"),
        service_cidrs: prefix("10.96.0.0/16"),
        mesh_cidrs: prefix("100.64.1.0/24"),
        encryption_scope: Default::default(),
        advertise: vec!["127.0.0.1:2379".to_owned()],
        dial_out: false,
    }
}

/// A file's path as text, for a command line.
pub(super) fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Peerings are the peers' module's story.
pub(crate) struct NoPeers;

#[tonic::async_trait]
impl PeerAdmin for NoPeers {
    async fn describe(&self) -> Result<Description, PeerError> {
        let config = config("west", WEST);
        Ok(Description {
            name: config.name,
            uuid: config.uuid,
            pod_cidrs: config.pod_cidrs,
            service_cidrs: config.service_cidrs,
            mesh_cidrs: config.mesh_cidrs,
            node_addresses: vec![],
            endpoints: config.advertise,
            trust_bundle: String::new(),
            peers: vec![],
            counts: BTreeMap::new(),
            revision: 1,
        })
    }

    async fn apply_peer(
        &self,
        peer: MeshPeer,
        _judged: Option<MeshPeer>,
        _dry_run: bool,
    ) -> Result<bool, PeerError> {
        Err(PeerError::Refused(format!("{} conflicts", peer.metadata.name)))
    }

    async fn remove_peer(&self, name: &ClusterName, _meant: Meant) -> Result<Removed, PeerError> {
        Err(PeerError::Unknown(name.clone()))
    }

    async fn forget(&self, name: &ClusterName) -> Result<Vec<IpNet>, PeerError> {
        Err(PeerError::Unknown(name.clone()))
    }
}
