//! Nodes: what the source says of them, what only they can say (their key), and what they measured.

use super::wire::{self, InField, RecordError, Wire};
use crate::{
    bytes::PublicKey,
    name::{ClusterName, NodeName, ProgramName},
    pb,
};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};

/// `nodes/<node>`: written by the apiserver from its source; a node never describes itself.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Node {
    /// One of each family the cluster has, from its mesh CIDRs.
    pub mesh_addresses: Vec<IpAddr>,
    /// What it carries: its pod CIDRs; of a VM, the addresses of its programs.
    pub prefixes: Vec<IpNet>,
    /// Where its tunnel is dialled, in order of preference; the port is in its key.
    pub endpoints: Vec<IpAddr>,
    /// `topology.kubernetes.io/zone`, or empty.
    pub zone: String,
    /// Where others dial its relay, in order of preference; none: it relays nothing.
    pub relay: Vec<SocketAddr>,
}

impl Node {
    /// A VM: it carries nothing but addresses of its own and nobody dials it, so it may come and go.
    #[must_use]
    pub fn is_vm(&self) -> bool {
        self.endpoints.is_empty() && self.prefixes.iter().all(is_address)
    }

    /// Addresses that it carries beside its own: those of a VM's programs.
    pub fn program_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.prefixes.iter().filter(|prefix| is_address(prefix)).map(IpNet::addr)
    }
}

fn is_address(prefix: &IpNet) -> bool {
    prefix.prefix_len() == prefix.max_prefix_len()
}

impl Wire for Node {
    type Message = pb::Node;

    fn from_wire(m: pb::Node) -> Result<Self, RecordError> {
        Ok(Self {
            mesh_addresses: wire::addresses(&m.mesh_addresses).field("mesh_addresses")?,
            prefixes: wire::prefixes(&m.prefixes).field("prefixes")?,
            endpoints: wire::addresses(&m.endpoints).field("endpoints")?,
            zone: m.zone,
            relay: wire::sockets(&m.relay).field("relay")?,
        })
    }

    fn to_wire(&self) -> pb::Node {
        pb::Node {
            mesh_addresses: self.mesh_addresses.iter().map(wire::address_bytes).collect(),
            prefixes: wire::prefix_messages(&self.prefixes),
            endpoints: self.endpoints.iter().map(wire::address_bytes).collect(),
            zone: self.zone.clone(),
            relay: wire::socket_messages(&self.relay),
        }
    }
}

/// `keys/<node>`: written by the node itself.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TunnelKey {
    /// Of its WireGuard device.
    pub public_key: PublicKey,
    /// Its UDP port.
    pub port: u16,
    /// Grows each time its clock was found to have gone back. WireGuard refuses a handshake that is not stamped later than
    /// the last one of the same key, so whoever sees this grow forgets the stamp, by making the tunnel's peer anew, once.
    pub clock_epoch: u64,
    /// Of its relay's own device, to which others prove where they are; none: it runs no relay.
    pub relay_key: Option<PublicKey>,
    /// Its agent keeps tunnels on demand, where the other end's does so, too.
    pub on_demand: bool,
}

impl Wire for TunnelKey {
    type Message = pb::Key;

    fn from_wire(m: pb::Key) -> Result<Self, RecordError> {
        Ok(Self {
            public_key: PublicKey::from_slice(&m.public_key).field("public_key")?,
            port: wire::port(m.port).field("port")?,
            clock_epoch: m.clock_epoch,
            relay_key: match &m.relay_key[..] {
                [] => None,
                bytes => Some(PublicKey::from_slice(bytes).field("relay_key")?),
            },
            on_demand: m.on_demand,
        })
    }

    fn to_wire(&self) -> pb::Key {
        pb::Key {
            public_key: self.public_key.0.to_vec(),
            port: self.port.into(),
            clock_epoch: self.clock_epoch,
            relay_key: self.relay_key.map(|key| key.0.to_vec()).unwrap_or_default(),
            on_demand: self.on_demand,
        }
    }
}

/// `applied/<node>`: what the node's maps hold and how its tunnels are. Measured, never configured.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Applied {
    /// Of our store, per cluster, that the maps hold.
    pub clusters: Vec<AppliedCluster>,
    /// To every other node in the encrypted scope.
    pub tunnels: Vec<Tunnel>,
    /// For people.
    pub agent_version: String,
    /// Which tunnel device runs: `wireguard-user` or `wireguard-kernel`.
    pub datapath: String,
    /// What packet programs are attached to: `tcx` or `clsact`.
    pub packet_hook: String,
    /// What balances Services: `socket` or `nftables`.
    pub balancer: String,
    /// What does not hold now, a sentence each.
    pub problems: Vec<String>,
    /// The first complete view is in the maps.
    pub programmed: bool,
    /// Packets that the guard refused to send in plain, since the maps were made.
    pub drops_guard: u64,
    /// Frontends in the maps.
    pub services: u64,
    /// Backends in the maps.
    pub backends: u64,
    /// When this was written by the node's clock, Unix time in milliseconds.
    pub written_ms: u64,
    /// Of a VM: the programs that it tells apart from itself.
    pub programs: Vec<AppliedProgram>,
}

/// A program of a VM as its agent finds it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct AppliedProgram {
    /// Unique on the VM.
    pub name: ProgramName,
    /// Its unit has a cgroup; of a user, that the host knows it.
    pub running: bool,
}

/// How much of one cluster a node's maps hold.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct AppliedCluster {
    /// Whose records.
    pub cluster: ClusterName,
    /// The revision of our own store.
    pub revision: u64,
}

/// One tunnel as its node sees it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Tunnel {
    /// The other end's cluster.
    pub cluster: ClusterName,
    /// The other end.
    pub node: NodeName,
    /// Largest packet that fits, in bytes.
    pub mtu_bytes: u32,
    /// Since the last handshake; none yet when absent.
    pub handshake_age_ms: Option<u64>,
    /// Round trip of the last probe that came back, in microseconds.
    pub rtt_us: Option<u64>,
    /// Since the last probe that came back.
    pub probe_age_ms: Option<u64>,
    /// The newest finished probe got no answer.
    pub probe_failed: bool,
    /// Received through it.
    pub rx_bytes: u64,
    /// Sent through it.
    pub tx_bytes: u64,
    /// Address and port in use; empty when none is.
    pub endpoint: String,
    /// `cluster/node` of the relay that has this address; empty when the datagrams go straight.
    pub relay: String,
    /// It says nothing while it is not used, and is probed rarely.
    pub on_demand: bool,
}

impl Wire for Applied {
    type Message = pb::Applied;

    fn from_wire(m: pb::Applied) -> Result<Self, RecordError> {
        let cluster = |c: pb::AppliedCluster| {
            Ok(AppliedCluster { cluster: c.cluster.parse().field("clusters.cluster")?, revision: c.revision })
        };
        let tunnel = |t: pb::Tunnel| {
            Ok(Tunnel {
                cluster: t.cluster.parse().field("tunnels.cluster")?,
                node: t.node.parse().field("tunnels.node")?,
                mtu_bytes: t.mtu_bytes,
                handshake_age_ms: t.handshake_age_ms,
                rtt_us: t.rtt_us,
                probe_age_ms: t.probe_age_ms,
                probe_failed: t.probe_failed,
                rx_bytes: t.rx_bytes,
                tx_bytes: t.tx_bytes,
                endpoint: t.endpoint,
                relay: t.relay,
                on_demand: t.on_demand,
            })
        };
        let program = |p: pb::AppliedProgram| {
            Ok(AppliedProgram { name: p.name.parse().field("programs.name")?, running: p.running })
        };
        Ok(Self {
            clusters: m.clusters.into_iter().map(cluster).collect::<Result<_, RecordError>>()?,
            tunnels: m.tunnels.into_iter().map(tunnel).collect::<Result<_, RecordError>>()?,
            agent_version: m.agent_version,
            datapath: m.datapath,
            packet_hook: m.packet_hook,
            balancer: m.balancer,
            problems: m.problems,
            programmed: m.programmed,
            drops_guard: m.drops_guard,
            services: m.services,
            backends: m.backends,
            written_ms: m.written_ms,
            programs: m.programs.into_iter().map(program).collect::<Result<_, RecordError>>()?,
        })
    }

    fn to_wire(&self) -> pb::Applied {
        let cluster =
            |c: &AppliedCluster| pb::AppliedCluster { cluster: c.cluster.to_string(), revision: c.revision };
        let tunnel = |t: &Tunnel| pb::Tunnel {
            cluster: t.cluster.to_string(),
            node: t.node.to_string(),
            mtu_bytes: t.mtu_bytes,
            handshake_age_ms: t.handshake_age_ms,
            rtt_us: t.rtt_us,
            probe_age_ms: t.probe_age_ms,
            probe_failed: t.probe_failed,
            rx_bytes: t.rx_bytes,
            tx_bytes: t.tx_bytes,
            endpoint: t.endpoint.clone(),
            relay: t.relay.clone(),
            on_demand: t.on_demand,
        };
        pb::Applied {
            clusters: self.clusters.iter().map(cluster).collect(),
            tunnels: self.tunnels.iter().map(tunnel).collect(),
            agent_version: self.agent_version.clone(),
            datapath: self.datapath.clone(),
            packet_hook: self.packet_hook.clone(),
            balancer: self.balancer.clone(),
            problems: self.problems.clone(),
            programmed: self.programmed,
            drops_guard: self.drops_guard,
            services: self.services,
            backends: self.backends,
            written_ms: self.written_ms,
            programs: self
                .programs
                .iter()
                .map(|p| pb::AppliedProgram { name: p.name.to_string(), running: p.running })
                .collect(),
        }
    }
}
