//! Our admin service: what an operator does to a cluster, and what a connect looks at first.
//!
//! The decisions about peers are whoever implements [`PeerAdmin`]'s; here the messages are parsed and answered.

use crate::vms::admin::{VmAdmin, WORKLOAD_BYTES_MAX};
use api::{
    bytes::{ClusterUuid, Nonce},
    name::{BadName, ClusterName},
    peer::MeshPeer,
};
use ipnet::IpNet;
use rpc::mesh::admin::v1::{self as pb, admin_server::Admin};
use serde::de::DeserializeOwned;
use std::{collections::BTreeMap, net::IpAddr, str::FromStr, sync::Arc};
use tonic::{Request, Response, Status};

/// Largest MeshPeer object we read, in bytes: a bundle of 16 certificates of 2 KiB, and names and prefixes.
pub const PEER_BYTES_MAX: usize = 256 * 1024;

/// What we say of ourselves to an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Our name.
    pub name: ClusterName,
    /// Our trust domain.
    pub uuid: ClusterUuid,
    /// Our pods' ranges.
    pub pod_cidrs: Vec<IpNet>,
    /// Our ClusterIPs' ranges.
    pub service_cidrs: Vec<IpNet>,
    /// Our mesh addresses' ranges.
    pub mesh_cidrs: Vec<IpNet>,
    /// Tunnel endpoints: never mesh destinations.
    pub node_addresses: Vec<IpAddr>,
    /// `host:port` by which peers reach us.
    pub endpoints: Vec<String>,
    /// Our CA certificates, PEM.
    pub trust_bundle: String,
    /// The peers we have.
    pub peers: Vec<MeshPeer>,
    /// Records by kind that a peer would see.
    pub counts: BTreeMap<String, u64>,
    /// The store's revision.
    pub revision: u64,
}

impl Description {
    /// As the wire has it.
    pub(crate) fn told(self) -> Result<pb::DescribeResponse, Status> {
        let text = |cidrs: &[IpNet]| cidrs.iter().map(IpNet::to_string).collect();
        let peers = self.peers.iter().map(serde_json::to_string).collect::<Result<_, _>>();
        Ok(pb::DescribeResponse {
            name: self.name.to_string(),
            uuid: self.uuid.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pod_cidrs: text(&self.pod_cidrs),
            service_cidrs: text(&self.service_cidrs),
            mesh_cidrs: text(&self.mesh_cidrs),
            node_addresses: self.node_addresses.iter().map(IpAddr::to_string).collect(),
            endpoints: self.endpoints,
            trust_bundle: self.trust_bundle,
            peers: peers.map_err(|error| Status::internal(format!("a MeshPeer has no JSON: {error}")))?,
            counts: self.counts,
            revision: self.revision,
        })
    }
}

/// What a removal did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Whether there was such a peer.
    pub removed: bool,
    /// Imported records that go, by kind.
    pub records: BTreeMap<String, u64>,
    /// Prefixes that stay closed.
    pub closed: Vec<IpNet>,
}

/// Why an operator's wish is not fulfilled.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The object conflicts with us, with another peer, or with itself; the text says with what.
    #[error("{0}")]
    Refused(String),
    /// There is no such peer.
    #[error("there is no peer called `{0}`")]
    Unknown(ClusterName),
    /// The object's home cannot be read or written.
    #[error("the home of the MeshPeer objects fails")]
    Home(#[source] anyhow::Error),
}

/// Which peering is meant, of those that there were with a peer of its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meant {
    /// Only one that this connect made; another one is nothing to remove.
    pub nonce: Option<Nonce>,
    /// Only one with this cluster; another one is refused.
    pub uuid: Option<ClusterUuid>,
}

/// The logic of peers: implemented by the peers' module over the objects' home.
#[tonic::async_trait]
pub trait PeerAdmin: Send + Sync + 'static {
    /// Who we are and which peers we have.
    ///
    /// # Errors
    /// [`PeerError::Home`].
    async fn describe(&self) -> Result<Description, PeerError>;

    /// Checks a MeshPeer and, unless `dry_run`, writes it to its home: over any other, or only over the one that was
    /// judged. Returns whether anything changed (or would).
    ///
    /// # Errors
    /// [`PeerError::Refused`] says what it conflicts with.
    async fn apply_peer(
        &self,
        peer: MeshPeer,
        judged: Option<MeshPeer>,
        dry_run: bool,
    ) -> Result<bool, PeerError>;

    /// Removes the peer that is meant.
    ///
    /// # Errors
    /// [`PeerError`]; a peer that is not there is no error.
    async fn remove_peer(&self, name: &ClusterName, meant: Meant) -> Result<Removed, PeerError>;

    /// Opens the prefixes of a removed peer; returns them.
    ///
    /// # Errors
    /// [`PeerError::Refused`] while the peer is still there.
    async fn forget(&self, name: &ClusterName) -> Result<Vec<IpNet>, PeerError>;
}

/// The gRPC service over it.
#[derive(Clone)]
pub struct AdminService {
    peers: Arc<dyn PeerAdmin>,
    vms: Arc<VmAdmin>,
}

impl AdminService {
    /// Serves what `peers` and `vms` decide.
    #[must_use]
    pub fn new(peers: Arc<dyn PeerAdmin>, vms: Arc<VmAdmin>) -> Self {
        Self { peers, vms }
    }
}

// The doorman has checked the caller's role by the table: none of these methods touches keys of the caller's choice.
#[tonic::async_trait]
impl Admin for AdminService {
    async fn describe(
        &self,
        _: Request<pb::DescribeRequest>,
    ) -> Result<Response<pb::DescribeResponse>, Status> {
        Ok(Response::new(self.peers.describe().await?.told()?))
    }

    async fn apply_peer(
        &self,
        request: Request<pb::ApplyPeerRequest>,
    ) -> Result<Response<pb::ApplyPeerResponse>, Status> {
        let pb::ApplyPeerRequest { peer, dry_run, judged } = request.into_inner();
        let judged = judged.as_deref().map(mesh_peer).transpose()?;
        let changed = self.peers.apply_peer(mesh_peer(&peer)?, judged, dry_run).await?;
        Ok(Response::new(pb::ApplyPeerResponse { changed }))
    }

    async fn remove_peer(
        &self,
        request: Request<pb::RemovePeerRequest>,
    ) -> Result<Response<pb::RemovePeerResponse>, Status> {
        let pb::RemovePeerRequest { name, nonce, uuid } = request.into_inner();
        let uuid = match uuid.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| Status::invalid_argument(format!("`{text}` is no UUID")))?),
        };
        let nonce = match nonce.as_ref() {
            [] => None,
            bytes => {
                Some(Nonce::from_slice(bytes).map_err(|error| Status::invalid_argument(error.to_string()))?)
            }
        };
        let done = self.peers.remove_peer(&parse(&name)?, Meant { nonce, uuid }).await?;
        let closed = done.closed.iter().map(IpNet::to_string).collect();
        Ok(Response::new(pb::RemovePeerResponse { removed: done.removed, records: done.records, closed }))
    }

    async fn forget(
        &self,
        request: Request<pb::ForgetRequest>,
    ) -> Result<Response<pb::ForgetResponse>, Status> {
        let opened = self.peers.forget(&parse(&request.into_inner().name)?).await?;
        Ok(Response::new(pb::ForgetResponse { opened: opened.iter().map(IpNet::to_string).collect() }))
    }

    async fn invite_peer(
        &self,
        _: Request<pb::InvitePeerRequest>,
    ) -> Result<Response<pb::InviteResponse>, Status> {
        let (token, expires_s) = self.vms.invite_peer().await?;
        Ok(Response::new(pb::InviteResponse { token, expires_s }))
    }

    async fn add_vm(
        &self,
        request: Request<pb::AddVmRequest>,
    ) -> Result<Response<pb::AddVmResponse>, Status> {
        let workload = request.into_inner().workload;
        if workload.len() > WORKLOAD_BYTES_MAX {
            let text = format!("an ExternalWorkload has at most {WORKLOAD_BYTES_MAX} bytes");
            return Err(Status::invalid_argument(text));
        }
        self.vms.add(&object("ExternalWorkload", &workload)?).await?;
        Ok(Response::new(pb::AddVmResponse {}))
    }

    async fn remove_vm(
        &self,
        request: Request<pb::RemoveVmRequest>,
    ) -> Result<Response<pb::RemoveVmResponse>, Status> {
        let removed = self.vms.remove(&parse(&request.into_inner().name)?).await?;
        Ok(Response::new(pb::RemoveVmResponse { removed }))
    }

    async fn invite_vm(
        &self,
        request: Request<pb::InviteVmRequest>,
    ) -> Result<Response<pb::InviteResponse>, Status> {
        let (token, expires_s) = self.vms.invite(&parse(&request.into_inner().name)?).await?;
        Ok(Response::new(pb::InviteResponse { token, expires_s }))
    }

    async fn list_vms(
        &self,
        _: Request<pb::ListVmsRequest>,
    ) -> Result<Response<pb::ListVmsResponse>, Status> {
        Ok(Response::new(pb::ListVmsResponse { vms: self.vms.list().await? }))
    }
}

fn parse<N: FromStr<Err = BadName>>(name: &str) -> Result<N, Status> {
    name.parse().map_err(|error: BadName| Status::invalid_argument(error.to_string()))
}

/// Reads a MeshPeer object.
pub(crate) fn mesh_peer(json: &str) -> Result<MeshPeer, Status> {
    if json.len() > PEER_BYTES_MAX {
        return Err(Status::invalid_argument(format!("a MeshPeer has at most {PEER_BYTES_MAX} bytes")));
    }
    object("MeshPeer", json)
}

/// Reads an object; what is wrong is named by its field.
fn object<T: DeserializeOwned>(kind: &str, json: &str) -> Result<T, Status> {
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(json)).map_err(|error| {
        Status::invalid_argument(format!("not a {kind}: {}: {}", error.path(), error.inner()))
    })
}

impl From<PeerError> for Status {
    fn from(error: PeerError) -> Self {
        match error {
            PeerError::Refused(why) => Self::failed_precondition(why),
            PeerError::Unknown(_) => Self::not_found(error.to_string()),
            PeerError::Home(source) => {
                tracing::error!(error = format!("{source:#}"), "The home of the MeshPeer objects fails");
                Self::internal(format!("the home of the MeshPeer objects fails: {source:#}"))
            }
        }
    }
}
