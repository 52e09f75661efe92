//! Enrolment: a pod proves by its service-account token on which node it runs, and gets that node's certificate; a person
//! proves by a token of the operators' service account to be one of them, and gets an operator's; a VM redeems the token
//! that was made for it; and the administrator of another cluster connects it by one.
//!
//! ```text
//!  agent:   key, certificate request, token ──▶ TokenReview (audience, service account, node of the pod) ──▶ /node/<name>
//!  meshctl: key, certificate request, token ──▶ TokenReview (audience, service account)             ──▶ /operator/<account>
//!  VM:      key, certificate request, token, or a key that has redeemed one ──▶ Register                  ──▶ /vm/<name>
//!  meshctl: token, its cluster's UUID, MeshPeer ──▶ Register ──▶ the peerings, as an operator's connect
//! ```
//!
//! A node's token is projected: bound to the pod, short-lived, for the audience [`TOKEN_AUDIENCE`] only; the API server says
//! on which node its pod runs (KEP-4193, since Kubernetes 1.30). An operator's comes of a TokenRequest, and who may ask for
//! it is Kubernetes' to decide (RBAC), and to write down (its audit log).
//!
//! Invariants
//! - what a certificate says follows from the token's review, never from the request; a VM's key is the request's, which
//!   is signed by it;
//! - a token of another audience or another service account enrols nobody;
//! - tokens stand in no log.

use crate::{
    admin::{PeerAdmin, mesh_peer},
    args::ServiceAccount,
    pki::{self, Authority, Layout},
    vms::{EnrolError, Register},
};
use api::{
    bytes::{ClusterUuid, Secret},
    name::{BadName, NodeName},
};
use daemon::{
    context::TOKEN_AUDIENCE,
    spiffe::{Role, SpiffeId},
    tls::{Origin, StrangerInfo},
};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use rpc::mesh::enrolment::v1::{
    EnrolNodeRequest, EnrolNodeResponse, EnrolOperatorRequest, EnrolOperatorResponse, EnrolVmRequest,
    EnrolVmResponse, JoinPeerRequest, JoinPeerResponse, MeetPeerRequest, MeetPeerResponse,
    enrolment_server::Enrolment,
};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::time::timeout;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

/// A node's certificate lives a week and is renewed when a third of that is left: an API server that is away for two days
/// costs nobody anything.
pub const NODE_CERTIFICATE: Duration = Duration::from_secs(7 * 86_400);

/// An operator's certificate lives as long as the work that it was asked for: `meshctl` asks anew each time. An hour is
/// longer than any of its commands waits.
pub const OPERATOR_CERTIFICATE: Duration = Duration::from_secs(3_600);

/// A VM's certificate lives a day: for its key it gets another one at any time, until it is removed.
pub const VM_CERTIFICATE: Duration = Duration::from_secs(86_400);

/// How long the API server may take over a review.
const REVIEW_MAX: Duration = Duration::from_secs(5);

/// Where a review says on which node the token's pod runs, and which pod that is: a token may be bound to a node alone.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

/// The service.
pub struct Enrol {
    layout: Layout,
    uuid: ClusterUuid,
    endpoints: Vec<String>,
    vms: Register,
    peers: Arc<dyn PeerAdmin>,
    kubernetes: Option<(Client, Accounts)>,
}

/// Whose tokens make what. Where there is no account, nobody is enrolled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Of agents' pods.
    pub node: Option<ServiceAccount>,
    /// Of operators; no pod runs as it.
    pub operator: Option<ServiceAccount>,
}

impl Enrol {
    /// Enrols VMs, and takes in peers, in the cluster whose CA the layout holds; `endpoints` are where its apiserver is.
    #[must_use]
    pub fn new(
        layout: Layout,
        uuid: ClusterUuid,
        endpoints: Vec<String>,
        vms: Register,
        peers: Arc<dyn PeerAdmin>,
    ) -> Self {
        Self { layout, uuid, endpoints, vms, peers, kubernetes: None }
    }

    /// And holders of these accounts' tokens.
    #[must_use]
    pub fn with_accounts(self, client: Client, accounts: Accounts) -> Self {
        Self { kubernetes: Some((client, accounts)), ..self }
    }

    /// Whose tokens enrol, and who reviews them.
    fn account(
        &self,
        of: impl Fn(&Accounts) -> Option<&ServiceAccount>,
        refusal: impl Fn() -> Status,
    ) -> Result<(&Client, &ServiceAccount), Status> {
        let (client, accounts) = self.kubernetes.as_ref().ok_or_else(&refusal)?;
        Ok((client, of(accounts).ok_or_else(&refusal)?))
    }

    async fn review(&self, client: &Client, token: String) -> Result<TokenReviewStatus, Status> {
        let spec = TokenReviewSpec { token, audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]) };
        let review = TokenReview { metadata: ObjectMeta::default(), spec, status: None };
        let api: Api<TokenReview> = Api::all(client.clone());
        match timeout(REVIEW_MAX, api.create(&PostParams::default(), &review)).await {
            Ok(Ok(review)) => Ok(review.status.unwrap_or_default()),
            Ok(Err(error)) => {
                warn!(%error, "Cannot review a token");
                Err(Status::unavailable("the Kubernetes API does not review the token; try again"))
            }
            Err(_) => Err(Status::unavailable("the Kubernetes API does not answer; try again")),
        }
    }

    fn certificate(&self, role: Role, name: &str, life: Duration, request: &str) -> Result<String, Status> {
        let id = SpiffeId::new(self.uuid, role, name)
            .map_err(|error| Status::invalid_argument(format!("`{name}` cannot be a {role}: {error}")))?;
        let now = SystemTime::now();
        let authority = Authority::load(&self.layout).map_err(|error| {
            warn!(error = format!("{:#}", anyhow::Error::new(error)), "Cannot use our own CA");
            Status::internal("the apiserver cannot use its CA; see its log")
        })?;
        authority
            .issue_for(request, &id, life, now)
            .map_err(|error| Status::invalid_argument(format!("{:#}", anyhow::Error::new(error))))
    }
}

/// Whether a token is this account's and for us, or why it enrols nobody.
fn is_of(status: &TokenReviewStatus, account: &ServiceAccount, what: &str) -> Result<(), String> {
    if status.authenticated != Some(true) {
        let why = status.error.as_deref().unwrap_or("it is expired, or of another cluster");
        return Err(format!("the token is not valid: {why}"));
    }
    let audiences = status.audiences.as_deref().unwrap_or_default();
    if !audiences.iter().any(|audience| audience == TOKEN_AUDIENCE) {
        return Err(format!("the token is not for the audience `{TOKEN_AUDIENCE}`"));
    }
    let wanted = account.username();
    let is = status.user.as_ref().and_then(|user| user.username.as_deref()).unwrap_or_default();
    if is != wanted {
        return Err(format!("the token is {is}'s, and only {wanted} may enrol {what}"));
    }
    Ok(())
}

/// On which node the pod of this token runs, or why that is nobody's business here.
fn node(status: &TokenReviewStatus, account: &ServiceAccount) -> Result<String, String> {
    is_of(status, account, "nodes")?;
    let extra = status.user.as_ref().and_then(|user| user.extra.as_ref());
    let nodes = extra.filter(|extra| extra.contains_key(POD_NAME)).and_then(|extra| extra.get(NODE_NAME));
    match nodes.map(Vec::as_slice) {
        Some([node]) if !node.is_empty() => Ok(node.clone()),
        Some(_) | None => {
            Err("the token is bound to no pod on a node: it has to be a projected volume, and Kubernetes \
                               1.30 or newer"
                .to_owned())
        }
    }
}

fn nobody(what: &str, argument: &str) -> Status {
    Status::permission_denied(format!("this apiserver enrols no {what}: it was started without {argument}"))
}

/// Where a stranger came from.
fn from<T>(request: &Request<T>) -> Option<Origin> {
    request.extensions().get::<StrangerInfo>().map(|info| info.from.clone())
}

fn bad(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

/// What whoever came is told, and our log as well.
fn refused(error: EnrolError, from: Option<&Origin>, what: &str) -> Status {
    let status = Status::from(error);
    warn!(?from, why = status.message(), "{what}");
    status
}

#[tonic::async_trait]
impl Enrolment for Enrol {
    async fn enrol_node(
        &self,
        request: Request<EnrolNodeRequest>,
    ) -> Result<Response<EnrolNodeResponse>, Status> {
        let from = from(&request);
        let EnrolNodeRequest { token, certificate_request } = request.into_inner();
        let nobody = || nobody("nodes", "--enrol-service-account");
        let (client, account) = self.account(|accounts| accounts.node.as_ref(), nobody)?;
        let status = self.review(client, token).await?;
        let node = node(&status, account).map_err(|why| {
            warn!(?from, why, "Refused to enrol a node");
            Status::permission_denied(why)
        })?;
        let certificate = self.certificate(Role::Node, &node, NODE_CERTIFICATE, &certificate_request)?;
        info!(?from, node, life = ?NODE_CERTIFICATE, "Enrolled a node");
        Ok(Response::new(EnrolNodeResponse { certificate }))
    }

    async fn enrol_operator(
        &self,
        request: Request<EnrolOperatorRequest>,
    ) -> Result<Response<EnrolOperatorResponse>, Status> {
        let from = from(&request);
        let EnrolOperatorRequest { token, certificate_request } = request.into_inner();
        let nobody = || nobody("operators", "--operator-service-account");
        let (client, account) = self.account(|accounts| accounts.operator.as_ref(), nobody)?;
        let status = self.review(client, token).await?;
        is_of(&status, account, "operators").map_err(|why| {
            warn!(?from, why, "Refused to enrol an operator");
            Status::permission_denied(why)
        })?;
        let certificate =
            self.certificate(Role::Operator, &account.name, OPERATOR_CERTIFICATE, &certificate_request)?;
        info!(?from, operator = account.name, life = ?OPERATOR_CERTIFICATE, "Enrolled an operator");
        Ok(Response::new(EnrolOperatorResponse { certificate }))
    }

    async fn enrol_vm(&self, request: Request<EnrolVmRequest>) -> Result<Response<EnrolVmResponse>, Status> {
        let from = from(&request);
        let EnrolVmRequest { name, secret, certificate_request } = request.into_inner();
        let name: NodeName = name.parse().map_err(|error: BadName| bad(error))?;
        let secret = match secret.as_ref() {
            [] => None,
            bytes => Some(Secret::from_slice(bytes).map_err(bad)?),
        };
        let key = pki::key_of(&certificate_request);
        let key = key.map_err(|error| bad(format!("{:#}", anyhow::Error::new(error))))?;
        let enrolled = self.vms.enrol(&name, secret.as_ref(), key).await;
        enrolled.map_err(|error| refused(error, from.as_ref(), &format!("Refused to enrol VM {name}")))?;
        let certificate = self.certificate(Role::Vm, name.as_str(), VM_CERTIFICATE, &certificate_request)?;
        info!(?from, vm = %name, life = ?VM_CERTIFICATE, "Gave a VM its certificate");
        Ok(Response::new(EnrolVmResponse { certificate, endpoints: self.endpoints.clone() }))
    }

    async fn meet_peer(
        &self,
        request: Request<MeetPeerRequest>,
    ) -> Result<Response<MeetPeerResponse>, Status> {
        let from = from(&request);
        let MeetPeerRequest { secret, uuid } = request.into_inner();
        let uuid = ClusterUuid::from_slice(&uuid).map_err(bad)?;
        let checked = self.vms.check_peer(&Secret::from_slice(&secret).map_err(bad)?, uuid).await;
        checked.map_err(|error| refused(error, from.as_ref(), "Refused the administrator of a cluster"))?;
        // Of our other peers a token tells nothing.
        let us = self.peers.describe().await?.told()?;
        Ok(Response::new(MeetPeerResponse {
            name: us.name,
            uuid: us.uuid,
            pod_cidrs: us.pod_cidrs,
            service_cidrs: us.service_cidrs,
            mesh_cidrs: us.mesh_cidrs,
            node_addresses: us.node_addresses,
            endpoints: us.endpoints,
            trust_bundle: us.trust_bundle,
            counts: us.counts,
        }))
    }

    async fn join_peer(
        &self,
        request: Request<JoinPeerRequest>,
    ) -> Result<Response<JoinPeerResponse>, Status> {
        let from = from(&request);
        let JoinPeerRequest { secret, peer, dry_run } = request.into_inner();
        let (secret, peer) = (Secret::from_slice(&secret).map_err(bad)?, mesh_peer(&peer)?);
        let (name, uuid) = (peer.metadata.name.clone(), peer.spec.uuid);
        if peer.spec.connect.is_none() {
            return Err(Status::invalid_argument("a MeshPeer that comes by a token is of a connect"));
        }
        let told = |error| refused(error, from.as_ref(), "Refused the administrator of a cluster");
        self.vms.check_peer(&secret, uuid).await.map_err(told)?;
        // What conflicts does not cost the token; who has been bound to it may try again.
        self.peers.apply_peer(peer.clone(), None, true).await?;
        if !dry_run {
            self.vms.redeem_peer(&secret, uuid).await.map_err(told)?;
            self.peers.apply_peer(peer, None, false).await?;
            info!(?from, peer = %name, %uuid, "A cluster has come by a token");
        }
        Ok(Response::new(JoinPeerResponse {}))
    }
}

#[cfg(test)]
mod tests;
