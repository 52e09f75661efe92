//! What the node tells: `applied/<node>`, from what was measured, and its key. Pure.

use crate::{compose::Composed, probe::Probes};
use api::{
    bytes::PublicKey,
    key::{Key, MeshKey},
    name::NodeName,
    record::{Applied, AppliedCluster, Record, Tunnel, TunnelKey},
};
use datapath::{
    backend::{
        bpf::{Balancing, Hook},
        relay::RelayObserved,
        wireguard::Kind,
    },
    host::TunnelState,
};
use replica::view::View;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// `keys/<node>`, while our store has another one or none. A store that lost it lists its records without it, and only
/// we can write it again: that our own view still holds it is not enough.
pub fn key(view: &View, me: &NodeName, key: &TunnelKey) -> Option<(Key, Record)> {
    let (at, record) = (MeshKey::Key(me.clone()).of(view.own()), Record::from(key.clone()));
    (view.stored(&at).as_ref() != Some(&record)).then_some((at, record))
}

/// The clock epoch that our store has of us, under the key that we have.
#[must_use]
pub fn told_epoch(view: &View, me: &NodeName, key: &TunnelKey) -> Option<u64> {
    let told = view.cluster(view.own())?.keys.get(me)?;
    (told.public_key == key.public_key).then_some(told.clock_epoch)
}

/// What the last look at the data path showed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatapathMeasured {
    /// By the peer's key.
    pub tunnels: BTreeMap<PublicKey, TunnelState>,
    /// What could not be programmed, a sentence each.
    pub problems: Vec<String>,
    /// Packets that the guard refused to send in plain.
    pub drops_guard: u64,
    /// Every refusal, by reason.
    pub drops: BTreeMap<String, u64>,
    /// This host's relay, if it runs one.
    pub relay: Option<RelayObserved>,
}

/// What this agent did and saw so far.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Whose WireGuard serves the tunnel's device.
    pub tunnel: Kind,
    /// What packet programs are attached to.
    pub hook: Hook,
    /// What balances Services.
    pub balancing: Balancing,
    /// The first complete view is in the maps.
    pub programmed: bool,
    /// The newest revision of our own store whose image is in the maps.
    pub revision: u64,
    /// What does not hold beside the data path: no connection, a certificate that ends.
    pub problems: Vec<String>,
    /// What is wrong with the disk.
    pub disk: Option<String>,
}

impl Progress {
    /// At the start.
    pub fn with(tunnel: Kind, hook: Hook, balancing: Balancing) -> Self {
        Self { tunnel, hook, balancing, programmed: false, revision: 0, problems: Vec::new(), disk: None }
    }
}

/// Composes the record.
pub fn applied(
    view: &View,
    composed: &Composed,
    datapath: &DatapathMeasured,
    probes: &Probes,
    progress: &Progress,
    (now, unix_ms): (Instant, u64),
) -> Applied {
    let clusters = view
        .tables()
        .clusters
        .keys()
        .map(|cluster| AppliedCluster { cluster: cluster.clone(), revision: progress.revision });
    let tunnels = composed.tunnels.iter().map(|((cluster, node), to)| {
        let device = datapath.tunnels.get(&to.key.public_key).cloned().unwrap_or_default();
        let probe = probes.measured(cluster, node);
        Tunnel {
            cluster: cluster.clone(),
            node: node.clone(),
            mtu_bytes: to.mtu_bytes.into(),
            handshake_age_ms: device.handshake_age.map(millis),
            rtt_us: probe.answer.map(|(_, rtt)| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            probe_age_ms: probe.answer.map(|(at, _)| millis(now.saturating_duration_since(at))),
            probe_failed: probe.is_red(),
            rx_bytes: device.rx_bytes,
            tx_bytes: device.tx_bytes,
            endpoint: device.endpoint.map(|e| e.to_string()).unwrap_or_default(),
            relay: to
                .way
                .relays()
                .iter()
                .find(|relay| device.endpoint == Some(relay.at))
                .map(ToString::to_string)
                .unwrap_or_default(),
            on_demand: to.is_on_demand(),
        }
    });
    let backends = composed.image.services.values().map(|backends| backends.len() as u64).sum();
    Applied {
        clusters: clusters.collect(),
        tunnels: tunnels.collect(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        datapath: match progress.tunnel {
            Kind::Kernel => "wireguard-kernel".to_owned(),
            Kind::Userspace => "wireguard-user".to_owned(),
        },
        packet_hook: progress.hook.name().to_owned(),
        balancer: progress.balancing.name().to_owned(),
        problems: [&progress.problems, &composed.problems, &datapath.problems]
            .into_iter()
            .flatten()
            .chain(&progress.disk)
            .cloned()
            .collect(),
        programmed: progress.programmed,
        drops_guard: datapath.drops_guard,
        programs: composed.programs.clone(),
        services: composed.image.services.len() as u64,
        backends,
        written_ms: unix_ms,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
