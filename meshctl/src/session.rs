//! A connection to one cluster's apiserver: what it describes, what its store holds, what we ask it to do.

use crate::{
    contexts::Way,
    ended::Ended,
    facts::Facts,
    preflight::{ClusterFacts, Range},
};
use anyhow::{Context as _, bail};
use api::{
    bytes::ClusterUuid,
    external_workload::ExternalWorkload,
    name::{ClusterName, ObjectName},
    peer::MeshPeer,
};
use bytes::Bytes;
use daemon::{
    context::Context,
    spiffe::Role,
    tls::{Connection, Expected, Identity, Tls, connect_any},
};
use futures::future::select_ok;
use ipnet::IpNet;
use rpc::{
    etcdserverpb::{RangeRequest, kv_client::KvClient},
    mesh::admin::v1::{
        AddVmRequest, ApplyPeerRequest, DescribeRequest, DescribeResponse, ForgetRequest, InvitePeerRequest,
        InviteVmRequest, ListVmsRequest, RemovePeerRequest, RemovePeerResponse, RemoveVmRequest, Vm,
        admin_client::AdminClient,
    },
};
use std::{
    pin::pin,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::time::timeout;
use tonic::transport::Channel;

/// One page of a list: 1 000 records of at most 64 KiB would be too much for a message only if all were of that size,
/// and endpoints are under 200 bytes.
const PAGE: i64 = 1_000;
/// Largest message we take: a page of the largest records we know in practice.
const MESSAGE_MAX_BYTES: usize = 16 << 20;
/// When a second connection is opened beside one that is not there yet. Half a second there and back and one packet of
/// twenty lost each way: one handshake of forty takes longer than [`daemon::tls::CONNECT_MAX`], and an operator's
/// command is not repeated by anything.
const SECOND_DIAL: Duration = Duration::from_secs(2);

/// A key as the store holds it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Whatever somebody put there.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// The revision that last changed it.
    pub revision: i64,
}

/// An open connection to a cluster.
#[derive(Debug, Clone)]
pub struct Session {
    /// What it calls itself.
    pub name: ClusterName,
    /// What the operator calls it: its name in a context file, or a context of a kubeconfig.
    pub called: String,
    /// Where it answered.
    pub endpoint: String,
    /// How long it took to be there and to be believed.
    pub took: Duration,
    kv: KvClient<Channel>,
    admin: AdminClient<Channel>,
}

impl Session {
    /// Reaches the apiserver and makes sure that it is this cluster's.
    pub async fn open(way: &Way) -> anyhow::Result<Self> {
        let started = Instant::now();
        let (name, connection) = match way {
            Way::File(context) => (context.name.clone(), dial(context).await?),
            Way::Kubernetes(context) => context.connect().await?,
        };
        let channel = connection.channel;
        Ok(Self {
            name,
            called: way.name().to_owned(),
            endpoint: connection.endpoint,
            took: started.elapsed(),
            kv: KvClient::new(channel.clone()).max_decoding_message_size(MESSAGE_MAX_BYTES),
            admin: AdminClient::new(channel).max_decoding_message_size(MESSAGE_MAX_BYTES),
        })
    }

    /// Everything under our two prefixes, as of one revision.
    pub async fn facts(&self) -> anyhow::Result<Facts> {
        let (mut listed, mut head) = (Vec::new(), 0);
        for prefix in [api::key::MESH, api::key::LOCAL] {
            head = self.list(prefix, head, &mut listed).await?;
        }
        Ok(self.parse(head, listed))
    }

    /// As [`Session::facts`], of the keys that begin with this.
    ///
    /// # Errors
    /// The apiserver is away, or refuses.
    pub async fn facts_below(&self, prefix: &str) -> anyhow::Result<Facts> {
        let mut listed = Vec::new();
        let head = self.list(prefix, 0, &mut listed).await?;
        Ok(self.parse(head, listed))
    }

    /// As [`Session::facts`], and how many keys of the whole store hold no record of ours.
    pub async fn facts_of_all(&self) -> anyhow::Result<(Facts, usize)> {
        let mut listed = Vec::new();
        let head = self.list("", 0, &mut listed).await?;
        let keys = listed.len();
        let facts = self.parse(head, listed);
        let others = keys - facts.records.len();
        Ok((facts, others))
    }

    fn parse(&self, head: i64, listed: Vec<Listed>) -> Facts {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Facts::new(self.name.clone(), head, u64::try_from(now_ms).unwrap_or(u64::MAX), listed)
    }

    /// Lists a prefix in pages at one revision (the newest when 0) and returns that revision.
    pub async fn list(&self, prefix: &str, revision: i64, into: &mut Vec<Listed>) -> anyhow::Result<i64> {
        let range = store::KeyRange::prefix(prefix.to_owned());
        let (mut key, range_end) = (range.key().clone(), range.range_end());
        let mut revision = revision;
        loop {
            let request = RangeRequest {
                key,
                range_end: range_end.clone(),
                limit: PAGE,
                revision,
                ..Default::default()
            };
            let page = self.kv.clone().range(request).await.map_err(refusal);
            let page = page.with_context(|| format!("cannot list {prefix} of {}", self.name))?.into_inner();
            if revision == 0 {
                revision = page.header.as_ref().map_or(0, |h| h.revision);
            }
            key = page.kvs.last().map(|kv| [&kv.key[..], &[0]].concat()).unwrap_or_default().into();
            into.extend(page.kvs.into_iter().map(|kv| Listed {
                key: kv.key.into(),
                value: kv.value.into(),
                revision: kv.mod_revision,
            }));
            if !page.more {
                return Ok(revision);
            }
        }
    }

    /// Who the cluster is and which peers it has.
    pub async fn describe(&self) -> anyhow::Result<ClusterFacts> {
        let described = self.admin.clone().describe(DescribeRequest {}).await.map_err(refusal);
        let described = described.with_context(|| format!("{} does not describe itself", self.name))?;
        let facts = cluster_facts(described.into_inner())?;
        if facts.name != self.name {
            bail!("the apiserver at {} says that it is {}, not {}", self.endpoint, facts.name, self.name);
        }
        Ok(facts)
    }

    /// Writes a peering's object, or only checks it; over any other, or only over the one that was judged. True when it
    /// changed something.
    pub async fn apply_peer(
        &self,
        peer: &MeshPeer,
        judged: Option<&MeshPeer>,
        dry_run: bool,
    ) -> anyhow::Result<bool> {
        let judged = judged.map(serde_json::to_string).transpose()?;
        let request = ApplyPeerRequest { peer: serde_json::to_string(peer)?, dry_run, judged };
        let applied = self.admin.clone().apply_peer(request).await;
        let doing = || format!("{} does not accept {} as a peer", self.name, peer.metadata.name);
        Ok(applied.map_err(refusal).with_context(doing)?.into_inner().changed)
    }

    /// Removes a peering's object and what was imported by it; with a UUID, only a peering with that cluster.
    pub async fn remove_peer(
        &self,
        peer: &ClusterName,
        uuid: Option<ClusterUuid>,
    ) -> anyhow::Result<RemovePeerResponse> {
        let uuid = uuid.map(|uuid| uuid.to_string()).unwrap_or_default();
        let request = RemovePeerRequest { name: peer.to_string(), nonce: Bytes::new(), uuid };
        let removed = self.admin.clone().remove_peer(request).await.map_err(refusal);
        Ok(removed.with_context(|| format!("{} cannot remove its peer {peer}", self.name))?.into_inner())
    }

    /// Opens the prefixes of a peer that was removed.
    pub async fn forget(&self, peer: &ClusterName) -> anyhow::Result<Vec<String>> {
        let forgotten =
            self.admin.clone().forget(ForgetRequest { name: peer.to_string() }).await.map_err(refusal);
        Ok(forgotten.with_context(|| format!("{} cannot forget {peer}", self.name))?.into_inner().opened)
    }
}

impl Session {
    /// Adds a VM.
    pub async fn add_vm(&self, workload: &ExternalWorkload) -> anyhow::Result<()> {
        let request = AddVmRequest { workload: serde_json::to_string(workload)? };
        let added = self.admin.clone().add_vm(request).await.map_err(refusal);
        added.with_context(|| format!("{} does not add {}", self.name, workload.metadata.name))?;
        Ok(())
    }

    /// A token for a VM, and the Unix time in seconds at which it expires.
    pub async fn invite_vm(&self, name: &ObjectName) -> anyhow::Result<(String, u64)> {
        let request = InviteVmRequest { name: name.to_string() };
        let invited = self.admin.clone().invite_vm(request).await.map_err(refusal);
        let invited =
            invited.with_context(|| format!("{} makes no token for {name}", self.name))?.into_inner();
        Ok((invited.token, invited.expires_s))
    }

    /// A token for the administrator of another cluster.
    pub async fn invite_peer(&self) -> anyhow::Result<String> {
        let invited = self.admin.clone().invite_peer(InvitePeerRequest {}).await.map_err(refusal);
        Ok(invited.with_context(|| format!("{} makes no token", self.name))?.into_inner().token)
    }

    /// The VMs, in the order of their names.
    pub async fn list_vms(&self) -> anyhow::Result<Vec<Vm>> {
        let listed = self.admin.clone().list_vms(ListVmsRequest {}).await.map_err(refusal);
        Ok(listed.with_context(|| format!("{} does not list its VMs", self.name))?.into_inner().vms)
    }

    /// Removes a VM; false when there is none.
    pub async fn remove_vm(&self, name: &ObjectName) -> anyhow::Result<bool> {
        let request = RemoveVmRequest { name: name.to_string() };
        let removed = self.admin.clone().remove_vm(request).await.map_err(refusal);
        Ok(removed.with_context(|| format!("{} cannot remove {name}", self.name))?.into_inner().removed)
    }
}

/// What a cluster says of itself.
pub fn cluster_facts(described: DescribeResponse) -> anyhow::Result<ClusterFacts> {
    let name: ClusterName = described.name.parse()?;
    let mut ranges = Vec::new();
    for (range, cidrs) in [
        (Range::Pods, &described.pod_cidrs),
        (Range::Services, &described.service_cidrs),
        (Range::Mesh, &described.mesh_cidrs),
    ] {
        for cidr in cidrs {
            ranges.push((
                range,
                cidr.parse::<IpNet>().with_context(|| format!("{name} says `{cidr}` is a range"))?,
            ));
        }
    }
    let peers = described.peers.iter().map(|json| serde_json::from_str::<MeshPeer>(json));
    Ok(ClusterFacts {
        uuid: described.uuid.parse()?,
        ranges,
        node_addresses: described.node_addresses.iter().filter_map(|a| a.parse().ok()).collect(),
        endpoints: described.endpoints,
        trust_bundle: described.trust_bundle,
        peers: peers
            .collect::<Result<_, _>>()
            .with_context(|| format!("{name} describes a peer we cannot read"))?,
        counts: described.counts.into_iter().collect(),
        name,
    })
}

/// Dials the endpoints of a context in order.
async fn dial(cluster: &Context) -> anyhow::Result<Connection> {
    let paths = cluster.identity_paths();
    let identity = Identity::load(&paths, Role::Operator)
        .or_else(|error| Identity::load(&paths, Role::Reader).map_err(|_| error))
        .with_context(|| format!("cannot speak to {} without a certificate", cluster.name))?;
    let expected = Expected::cluster(cluster.uuid, cluster.name.clone());
    let tls = Tls::new(identity);
    let connection = twice(|| connect_any(&tls, &cluster.endpoints, &expected)).await;
    connection.with_context(|| Ended::Unreachable(cluster.name.to_string()))
}

/// Dials, and once more beside it when that takes [`SECOND_DIAL`]: whichever is there first. The error is that of the
/// one that ended last.
pub async fn twice<T, E, F: Future<Output = Result<T, E>>>(dial: impl Fn() -> F) -> Result<T, E> {
    let mut first = pin!(dial());
    if let Ok(ended) = timeout(SECOND_DIAL, first.as_mut()).await {
        return ended;
    }
    select_ok([first, pin!(dial())]).await.map(|(connection, _)| connection)
}

pub fn refusal(status: tonic::Status) -> anyhow::Error {
    Ended::from_status(&status).into()
}

#[cfg(test)]
mod tests;
