//! The image: what the kernel of one host is to hold, said whole, as sorted plain data.
//!
//! An agent composes it from the view of all clusters and the facts of its host; [`crate::plan`] compares it with what
//! is there.

use api::{bytes::PublicKey, record::Protocol};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

/// What one host is to hold. Two equal images program nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// This host's own mesh addresses (at most one a family), on `mesh0`, the `src` of our routes.
    pub mesh_addresses: BTreeSet<IpAddr>,
    /// The encrypted scope: what lies in a prefix here travels through `mesh0` or not at all.
    pub prefixes: BTreeMap<IpNet, Reach>,
    /// Workloads of this host that may be reached from the mesh, and the device each one owns.
    pub pods: BTreeMap<IpAddr, Pod>,
    /// Host-side devices of pods, also of pods that may not be reached: their sources are checked.
    pub pod_devices: BTreeSet<u32>,
    /// Physical devices, and bridges: the guard at their egress, the source check at their ingress.
    pub uplinks: BTreeSet<u32>,
    /// Frontends and the backends they are balanced over. No backend: connecting fails at once.
    pub services: BTreeMap<Frontend, BTreeSet<SocketAddr>>,
    /// Frontends whose clients keep their backend for so many seconds after they last connected.
    pub session_affinity: BTreeMap<Frontend, u32>,
    /// Who of this host is told apart from it.
    pub tenancy: Tenancy,
    /// Network namespaces of the pods of this host: UDP sockets there whose backend goes are closed.
    pub namespaces: BTreeSet<PathBuf>,
    /// The tunnels.
    pub tunnel: TunnelImage,
    /// Nodes of other clusters that may talk through the relay of this host.
    pub relay: BTreeSet<RelayPair>,
}

/// Most pairs of one relay; it takes no more.
pub const RELAY_PAIRS_MAX: usize = 16_384;

/// The public keys of two nodes, the lesser one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RelayPair(pub PublicKey, pub PublicKey);

impl RelayPair {
    /// `None` when both are one.
    #[must_use]
    pub fn new(one: PublicKey, other: PublicKey) -> Option<Self> {
        (one != other).then(|| Self(one.min(other), one.max(other)))
    }
}

/// Whether a prefix of the encrypted scope can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Through `mesh0`, in packets of at most this many bytes.
    Tunnel {
        /// Path MTU inside the tunnel.
        mtu_bytes: u16,
    },
    /// Not now: dropped and counted, never sent in plain.
    Closed,
}

/// A pod's binding: which device of the host is the other end of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pod {
    /// Host-side device.
    pub ifindex: u32,
    /// Of the pod's own device: what a delivered frame carries as its destination.
    pub mac: [u8; 6],
}

/// Who of a host has identities of their own. Nobody, where there are no tenants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tenancy {
    /// Each of them.
    pub tenants: Vec<Tenant>,
    /// The cgroups above tenants': what is made in one of them may be a tenant's.
    pub above: BTreeSet<u64>,
    /// The newest cgroup when tenants' were looked for; one that is newer has not been seen. Their numbers only grow.
    pub newest_cgroup: u64,
    /// How deep the cgroup is below which all this is; 0 is the root of all.
    pub level: u32,
}

/// The processes of a unit or of a user, and the addresses that are theirs alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tenant {
    /// At most one a family. What they say to the mesh comes from here, and what comes for it reaches nobody else.
    pub addresses: BTreeSet<IpAddr>,
    /// Cgroups below which they are, by number.
    pub cgroups: BTreeSet<u64>,
    /// Users who they are.
    pub users: BTreeSet<u32>,
}

impl Tenancy {
    /// The addresses of all.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.tenants.iter().flat_map(|tenant| tenant.addresses.iter().copied())
    }
}

/// What a client connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frontend {
    /// A ClusterIP.
    pub address: IpAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// 1 to 65535.
    pub port: u16,
}

/// The WireGuard device and its peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TunnelImage {
    /// UDP port this host listens on; `None` until the agent knows its own key is published.
    pub listen_port: Option<u16>,
    /// By public key. An address is owned by one peer only.
    pub peers: BTreeMap<PublicKey, TunnelPeer>,
}

/// One other end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TunnelPeer {
    /// Where it is dialled; see [`Upkeep`] for what becomes of one that was learnt.
    pub endpoint: Option<SocketAddr>,
    /// How its tunnel is kept.
    pub upkeep: Upkeep,
    /// What it may send from and is sent to.
    pub allowed: BTreeSet<IpNet>,
    /// Of its clock: where it has grown, the peer is made anew, once. See [`api::record::TunnelKey::clock_epoch`].
    pub clock_epoch: u64,
}

/// How a tunnel is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Upkeep {
    /// By keepalives, always; a learnt endpoint stays while its session is fresh.
    #[default]
    Steady,
    /// Whoever composes the image decides, from what he measures; where the image says no place, what was learnt stays.
    OnDemand {
        /// Keepalives are sent.
        keepalive: bool,
        /// What becomes of a fresh session at another place than the image says. Without one the peer is dialled there.
        elsewhere: Elsewhere,
    },
}

/// What becomes of a session that is at another place than the image says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elsewhere {
    /// It stays there: who composed the image did not know of it.
    Stays,
    /// It goes along.
    GoesAlong,
    /// Another one is begun: a relay passes on only what belongs to a handshake that it saw.
    BeginsAnew,
}

impl Upkeep {
    /// Seconds between keepalives; 0: none.
    #[must_use]
    pub fn keepalive_s(self) -> u16 {
        match self {
            Self::Steady | Self::OnDemand { keepalive: true, .. } => KEEPALIVE_S,
            Self::OnDemand { keepalive: false, .. } => 0,
        }
    }
}

/// A tunnel without traffic still shows within three of these that it is alive: a silent one is red after 15 s.
pub const KEEPALIVE_S: u16 = 5;
