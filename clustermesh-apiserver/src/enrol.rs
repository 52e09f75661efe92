//! Enrolment: a pod proves by its service-account token on which node it runs, and gets that node's certificate.
//!
//! ```text
//!  agent: key, certificate request, token ──▶ TokenReview (audience, service account, node of the pod) ──▶ /node/<name>
//! ```
//!
//! The token is projected: bound to the pod, short-lived, for the audience [`AUDIENCE`] only; the API server says on which
//! node its pod runs (KEP-4193, since Kubernetes 1.30).
//!
//! Invariants
//! - what a certificate says follows from the token's review, never from the request;
//! - a token of another audience or another service account enrols nobody;
//! - tokens stand in no log.

use crate::{
    args::ServiceAccount,
    pki::{Authority, Layout},
};
use api::bytes::ClusterUuid;
use daemon::{
    spiffe::{Role, SpiffeId},
    tls::StrangerInfo,
};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use rpc::mesh::enrolment::v1::{EnrolNodeRequest, EnrolNodeResponse, enrolment_server::Enrolment};
use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};
use tokio::time::timeout;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

/// Whom a token has to be for.
pub const AUDIENCE: &str = "clustermesh";

/// A node's certificate lives a week and is renewed when a third of that is left: an API server that is away for two days
/// costs nobody anything.
pub const NODE_CERTIFICATE_DAYS: u32 = 7;

/// How long the API server may take over a review.
const REVIEW_MAX: Duration = Duration::from_secs(5);

/// Where a review says on which node the token's pod runs, and which pod that is: a token may be bound to a node alone.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

/// The service.
pub struct Enrol {
    client: Client,
    layout: Layout,
    uuid: ClusterUuid,
    account: ServiceAccount,
}

impl Enrol {
    /// Enrols pods of one service account as nodes of the cluster whose CA the layout holds.
    #[must_use]
    pub fn new(client: Client, layout: Layout, uuid: ClusterUuid, account: ServiceAccount) -> Self {
        Self { client, layout, uuid, account }
    }

    async fn review(&self, token: String) -> Result<TokenReviewStatus, Status> {
        let spec = TokenReviewSpec { token, audiences: Some(vec![AUDIENCE.to_owned()]) };
        let review = TokenReview { metadata: ObjectMeta::default(), spec, status: None };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        match timeout(REVIEW_MAX, api.create(&PostParams::default(), &review)).await {
            Ok(Ok(review)) => Ok(review.status.unwrap_or_default()),
            Ok(Err(error)) => {
                warn!(%error, "Cannot review a token");
                Err(Status::unavailable("the Kubernetes API does not review the token; try again"))
            }
            Err(_) => Err(Status::unavailable("the Kubernetes API does not answer; try again")),
        }
    }

    fn certificate(&self, node: &str, request: &str) -> Result<String, Status> {
        let id = SpiffeId::new(self.uuid, Role::Node, node)
            .map_err(|error| Status::invalid_argument(format!("`{node}` cannot be a node: {error}")))?;
        let now = SystemTime::now();
        let authority = Authority::load(&self.layout).map_err(|error| {
            warn!(error = format!("{:#}", anyhow::Error::new(error)), "Cannot use our own CA");
            Status::internal("the apiserver cannot use its CA; see its log")
        })?;
        authority
            .issue_for(request, &id, NODE_CERTIFICATE_DAYS, now)
            .map_err(|error| Status::invalid_argument(format!("{:#}", anyhow::Error::new(error))))
    }
}

/// On which node the pod of this token runs, or why that is nobody's business here.
fn node(status: &TokenReviewStatus, account: &ServiceAccount) -> Result<String, String> {
    if status.authenticated != Some(true) {
        let why = status.error.as_deref().unwrap_or("it is expired, or of another cluster");
        return Err(format!("the token is not valid: {why}"));
    }
    let audiences = status.audiences.as_deref().unwrap_or_default();
    if !audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(format!("the token is not for the audience `{AUDIENCE}`"));
    }
    let user = status.user.as_ref();
    let wanted = format!("system:serviceaccount:{}:{}", account.namespace, account.name);
    let is = user.and_then(|user| user.username.as_deref()).unwrap_or_default();
    if is != wanted {
        return Err(format!("the token is {is}'s, and only {wanted} may enrol nodes"));
    }
    let extra = user.and_then(|user| user.extra.as_ref());
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

#[tonic::async_trait]
impl Enrolment for Enrol {
    async fn enrol_node(
        &self,
        request: Request<EnrolNodeRequest>,
    ) -> Result<Response<EnrolNodeResponse>, Status> {
        let from: Option<SocketAddr> = request.extensions().get::<StrangerInfo>().map(|info| info.from);
        let EnrolNodeRequest { token, certificate_request } = request.into_inner();
        let status = self.review(token).await?;
        let node = node(&status, &self.account).map_err(|why| {
            warn!(?from, why, "Refused to enrol a node");
            Status::permission_denied(why)
        })?;
        let certificate = self.certificate(&node, &certificate_request)?;
        info!(?from, node, days = NODE_CERTIFICATE_DAYS, "Enrolled a node");
        Ok(Response::new(EnrolNodeResponse { certificate }))
    }
}

#[cfg(test)]
mod tests;
