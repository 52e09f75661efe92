//! What a host holds now, as plain sorted data: the other half of a plan.
//!
//! The shells in [`crate::backend`] fill it in; nothing here reads the kernel.

use crate::{
    backend::bpf::{Attachment, Rows},
    image::RelayPair,
};
use api::bytes::PublicKey;
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Everything that [`crate::plan::plan`] compares with an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Rows of the BPF maps.
    pub rows: Rows,
    /// Who balances by them.
    pub balanced: Balanced,
    /// Programs at devices that exist.
    pub attachments: BTreeSet<Attachment>,
    /// The programs that hold tenants apart stand at the cgroup.
    pub holds_apart: bool,
    /// `mesh0`. None: `mesh-tunnel` has not made it, and nothing that needs it can be planned.
    pub device: Option<Device>,
    /// Addresses of `mesh0`.
    pub addresses: BTreeSet<IpAddr>,
    /// Settings of `mesh0` that the kernel has; one it does not know is not here.
    pub sysctls: BTreeMap<Sysctl, String>,
    /// Families whose lookups go through our table.
    pub rules: BTreeSet<Family>,
    /// Routes of our table over `mesh0`.
    pub routes: BTreeMap<IpNet, MeshRoute>,
    /// The ends of our table: prefixes that never fall through to the default route.
    pub unreachable: BTreeSet<IpNet>,
    /// Our own nftables table.
    pub masquerade: Masquerade,
    /// The tunnels. None: `mesh-tunnel` does not answer, and nothing of them can be planned.
    pub tunnel: Option<TunnelObserved>,
    /// Who may talk through this host's relay. None: it runs none, and nothing of it can be planned.
    pub relay: Option<BTreeSet<RelayPair>>,
    /// A map had no room for the last plan: what nobody needs any more goes first.
    pub short_of_room: bool,
}

/// Who balances Services by the rows of the maps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Balanced {
    /// The programs that read them.
    #[default]
    AtSockets,
    /// A table of nftables that is written from them.
    ByNftables {
        /// It says what they say.
        is_current: bool,
    },
}

/// The tunnel's device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Its index.
    pub ifindex: u32,
    /// Administratively up.
    pub up: bool,
    /// Largest packet it takes.
    pub mtu_bytes: u16,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Of a prefix.
    #[must_use]
    pub fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

/// A route of our table over `mesh0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeshRoute {
    /// The device it leaves by, so that a route over an earlier `mesh0` is told apart.
    pub ifindex: u32,
    /// Source for sockets that did not choose one.
    pub source: Option<IpAddr>,
    /// Path MTU.
    pub mtu_bytes: u16,
}

/// What our nftables table does: forwarded traffic that leaves by `mesh0` takes the host's mesh address; what comes from
/// a tenant's keeps it.
///
/// The direct path does not pass netfilter at all: `bpf_redirect` hands a packet to the device behind every hook of
/// the IP stack, so neither this nor the CNI's masquerading ever touches a pod's own address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Masquerade {
    /// There is no table of ours.
    #[default]
    Absent,
    /// Exactly what we would write for these addresses.
    To {
        /// Source of forwarded IPv4.
        v4: Option<Ipv4Addr>,
        /// Source of forwarded IPv6.
        v6: Option<Ipv6Addr>,
        /// Sources that stay as they are.
        kept: BTreeSet<IpAddr>,
    },
    /// Something under our name that we did not write so; it is replaced whole.
    Foreign,
}

/// What WireGuard holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TunnelObserved {
    /// The key pair that this host owns; a device with another one is set.
    pub own_key: Option<PublicKey>,
    /// The public key it answers with. None: it has no key yet.
    pub public_key: Option<PublicKey>,
    /// UDP port it listens on.
    pub listen_port: Option<u16>,
    /// Mark of its own datagrams.
    pub fwmark: u32,
    /// By public key.
    pub peers: BTreeMap<PublicKey, PeerObserved>,
}

/// One other end, as WireGuard holds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerObserved {
    /// Where its datagrams go.
    pub endpoint: Option<SocketAddr>,
    /// The endpoint that was asked for last; None: not since this process started.
    pub asked_endpoint: Option<SocketAddr>,
    /// Its session is young enough to prove that the endpoint works.
    pub is_fresh: bool,
    /// What it may send from and is sent to.
    pub allowed: BTreeSet<IpNet>,
    /// Interval of persistent keep-alives; 0: none.
    pub keepalive_s: u16,
    /// Of its clock, when it was made here, as far as it is remembered.
    pub clock_epoch: u64,
}

/// A setting of `mesh0` under `/proc/sys`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sysctl {
    /// No link-local address on a device that has no link layer.
    AddrGenMode,
    /// No router is asked for, none is believed.
    AcceptRa,
    /// A host that turns IPv6 off for new devices still gets its mesh address.
    DisableIpv6,
    /// We never tell a sender a better way.
    SendRedirects,
    /// Nobody on the tunnel tells us one.
    AcceptRedirects,
}

impl Sysctl {
    /// All of them, in the order in which they are set.
    pub const ALL: [Self; 5] =
        [Self::AddrGenMode, Self::AcceptRa, Self::DisableIpv6, Self::SendRedirects, Self::AcceptRedirects];

    /// Below `/proc/sys`.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::AddrGenMode => "net/ipv6/conf/mesh0/addr_gen_mode",
            Self::AcceptRa => "net/ipv6/conf/mesh0/accept_ra",
            Self::DisableIpv6 => "net/ipv6/conf/mesh0/disable_ipv6",
            Self::SendRedirects => "net/ipv4/conf/mesh0/send_redirects",
            Self::AcceptRedirects => "net/ipv4/conf/mesh0/accept_redirects",
        }
    }

    /// What we need it to be.
    #[must_use]
    pub fn wanted(self) -> &'static str {
        match self {
            // IN6_ADDR_GEN_MODE_NONE (linux/if_link.h)
            Self::AddrGenMode => "1",
            Self::AcceptRa | Self::DisableIpv6 | Self::SendRedirects | Self::AcceptRedirects => "0",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}
