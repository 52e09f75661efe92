//! A connect whose other side is the token of its administrator: we operate one cluster, and are let in at the other for this.

use super::{DEADLINE, Lines, Side, no_conflict, prove, took, wait};
use crate::{
    agreement::{self, Agreement},
    ended::Ended,
    preflight::ClusterFacts,
    progress::Progress,
    session::{Session, cluster_facts, refusal, twice},
};
use anyhow::{Context as _, bail};
use api::{
    bytes::{ClusterUuid, Nonce},
    peer::MeshPeer,
    token::{Invited, Token},
};
use daemon::{
    args::Hint,
    tls::{bundle_pem, connect_as_stranger},
};
use rpc::mesh::{
    admin::v1::DescribeResponse,
    enrolment::v1::{JoinPeerRequest, MeetPeerRequest, enrolment_client::EnrolmentClient},
};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tonic::transport::Channel;

/// The cluster that invites us.
struct Inviter<'a> {
    token: &'a Token,
    client: EnrolmentClient<Channel>,
    endpoint: String,
    took: Duration,
}

impl<'a> Inviter<'a> {
    /// Reaches it; nobody without its CA's key answers in its place.
    async fn reach(token: &'a Token) -> anyhow::Result<Self> {
        let (started, bundle) = (Instant::now(), bundle_pem(&token.ca));
        let mut last = None;
        for endpoint in &token.endpoints {
            match twice(|| connect_as_stranger(&bundle, endpoint)).await {
                Ok(connection) if connection.server.trust_domain() == token.uuid => {
                    let (client, endpoint) = (EnrolmentClient::new(connection.channel), endpoint.clone());
                    return Ok(Self { token, client, endpoint, took: started.elapsed() });
                }
                Ok(connection) => bail!("{endpoint} is {}, not the cluster of the token", connection.server),
                Err(error) => last = Some(anyhow::Error::new(error)),
            }
        }
        let error = last.unwrap_or_else(|| anyhow::anyhow!("its token names no endpoint"));
        Err(error.context(Ended::Unreachable(token.cluster.to_string())))
    }

    async fn meet(&self, us: ClusterUuid) -> anyhow::Result<ClusterFacts> {
        let (secret, uuid) = (self.token.secret.bytes().to_vec().into(), us.0.to_vec().into());
        let met = self.client.clone().meet_peer(MeetPeerRequest { secret, uuid }).await.map_err(refusal);
        let met = met.with_context(|| format!("{} does not let us in", self.token.cluster))?.into_inner();
        cluster_facts(DescribeResponse {
            name: met.name,
            uuid: met.uuid,
            pod_cidrs: met.pod_cidrs,
            service_cidrs: met.service_cidrs,
            mesh_cidrs: met.mesh_cidrs,
            node_addresses: met.node_addresses,
            endpoints: met.endpoints,
            trust_bundle: met.trust_bundle,
            counts: met.counts,
            ..DescribeResponse::default()
        })
    }

    async fn apply(&self, peer: &MeshPeer, dry_run: bool) -> anyhow::Result<()> {
        let secret = self.token.secret.bytes().to_vec().into();
        let request = JoinPeerRequest { secret, peer: serde_json::to_string(peer)?, dry_run };
        let joined = self.client.clone().join_peer(request).await.map_err(refusal);
        joined.with_context(|| {
            format!("{} does not accept {} as a peer", self.token.cluster, peer.metadata.name)
        })?;
        Ok(())
    }
}

/// Connects our cluster with the one that invites.
pub async fn by_token(
    token: &Token,
    ours: &Session,
    timeout: Duration,
    progress: &Progress,
) -> anyhow::Result<()> {
    if token.invites != Invited::Peer {
        bail!(Hint::new("this token is for a VM", "`mesh-vm-agent join` redeems it, on the VM"));
    }
    let (started, mut lines) = (Instant::now(), Lines::Shown(progress));
    let inviter = Inviter::reach(token).await?;
    let facts_ours = ours.describe().await?;
    let facts_theirs = inviter.meet(facts_ours.uuid).await?;
    lines.reached([
        (&ours.name, &ours.endpoint, ours.took),
        (&facts_theirs.name, &inviter.endpoint, inviter.took),
    ]);
    no_conflict(&facts_ours, &facts_theirs, None, &mut lines)?;
    let stands = agreement::stands(&facts_ours, &facts_theirs);
    if !stands {
        write(&inviter, ours, [&facts_theirs, &facts_ours]).await?;
    }
    let (deadline, sides) = (started + timeout, [(ours, &facts_theirs.name)]);
    wait(&sides, deadline, progress, "our side to be active", Side::is_active).await?;
    lines.trusted(stands, [&facts_ours, &facts_theirs]);
    prove(&sides, deadline, &mut lines, progress).await?;
    lines.line(&format!(
        "{} in {}   as {} sees it; what {} sees, its administrator does: meshctl status",
        if stands { "connected already" } else { "connected" },
        took(started.elapsed()),
        ours.name,
        facts_theirs.name
    ));
    Ok(())
}

/// Writes both sides' objects; the inviter's is written by the token.
async fn write(
    inviter: &Inviter<'_>,
    ours: &Session,
    [facts_theirs, facts_ours]: [&ClusterFacts; 2],
) -> anyhow::Result<()> {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let agreed =
        agreement::agree(facts_theirs, facts_ours, None, Nonce(rand::random()), now_s + DEADLINE.as_secs());
    // Which peers it has, it does not tell: so there is always something to write.
    let Agreement::Write { on_a: on_theirs, on_b: on_ours } = agreed else {
        bail!("{} holds a peering with us already", facts_theirs.name)
    };
    // Both sides say whether they would, before either is touched and the token is used.
    inviter.apply(&on_theirs, true).await?;
    ours.apply_peer(&on_ours, None, true).await?;
    inviter.apply(&on_theirs, false).await?;
    let ours = ours.apply_peer(&on_ours, None, false).await.with_context(|| {
        let s = DEADLINE.as_secs();
        format!("{} holds a prepared object, which it removes by itself within {s} s", facts_theirs.name)
    });
    ours.map(drop)
}
