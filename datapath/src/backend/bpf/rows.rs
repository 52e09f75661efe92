//! The rows of the maps as plain, sorted data: what `observe` returns and what a plan compares with.

use crate::image::Frontend;
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
};

/// The smallest path a prefix may have: what WireGuard leaves of a link of 1280 bytes, which every IPv6 link carries
/// (RFC 8200, 5). It is also the base of a search (RFC 8899, 5.1.2).
pub const PATH_MTU_MIN_BYTES: u16 = 1200;

/// The smallest path that IPv6 knows (RFC 8200, 5): no sender of it sends less for being told so, and the kernel
/// refuses to send into a route that is smaller.
pub const IPV6_MTU_MIN_BYTES: u16 = 1280;

/// All rows of all maps that the agent writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// The encrypted scope.
    pub routes: BTreeMap<IpNet, RouteRow>,
    /// Pods of this host, and its own mesh addresses.
    pub locals: BTreeMap<IpAddr, LocalRow>,
    /// Which set of backends a frontend is balanced over.
    pub services: BTreeMap<Frontend, SetRef>,
    /// Addresses of services: a port of theirs that is no frontend refuses at once.
    pub service_addresses: BTreeSet<IpAddr>,
    /// For how many seconds clients of a frontend keep their backend.
    pub affinity: BTreeMap<Frontend, u32>,
    /// The members of each set, slots counted from 0.
    pub backends: BTreeMap<BackendKey, SocketAddr>,
    /// The tunnel's device and this node's own addresses.
    pub config: ConfigRow,
    /// Cgroups of tenants, and those above them.
    pub cgroups: BTreeMap<u64, CgroupRow>,
    /// Users who are tenants.
    pub users: BTreeMap<u32, TenantRow>,
    /// Which cgroups were looked at.
    pub tenancy: TenancyRow,
}

/// The addresses of what of this host has an identity of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TenantRow {
    /// None: it neither reaches the mesh by IPv4 nor is reached.
    pub v4: Option<Ipv4Addr>,
    /// None: it neither reaches the mesh by IPv6 nor is reached.
    pub v6: Option<Ipv6Addr>,
}

/// What a cgroup is to tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CgroupRow {
    /// It is one, with all that is below it.
    Tenant(TenantRow),
    /// One is below it, or would be.
    Above,
}

/// Which cgroups were looked at, and whether anybody is told apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TenancyRow {
    /// The newest of them.
    pub newest_cgroup: u64,
    /// 0: nobody is told apart.
    pub tenants: u32,
    /// How deep the cgroup is at which the programs stand; 0 is the root of all.
    pub level: u32,
}

/// A prefix of the encrypted scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteRow {
    /// Through the tunnel.
    Routed {
        /// Of the whole path, IP header included; at least [`PATH_MTU_MIN_BYTES`].
        mtu_bytes: u16,
    },
    /// Dropped and counted.
    Closed,
}

/// An address of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LocalRow {
    /// A pod.
    Pod {
        /// The host's side of its device.
        ifindex: u32,
        /// Of the pod's side.
        mac: [u8; 6],
    },
    /// The node's own mesh address: what comes for it goes up the host's stack.
    Node,
    /// A tenant's: what comes for it goes up the host's stack, to the tenant's sockets alone.
    Tenant,
}

/// A frontend's backends: slots 0 to `count` of `set`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SetRef {
    /// Number of the set; a set that changes is a new set, put before the frontend is pointed at it.
    pub set: u32,
    /// 0: connecting is refused.
    pub count: u32,
}

/// One member of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendKey {
    /// Number of the set.
    pub set: u32,
    /// From 0.
    pub slot: u32,
}

/// The tunnel's device and this node's own addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigRow {
    /// `None`: there is no tunnel, and what wants into it is dropped.
    pub mesh_ifindex: Option<NonZeroU32>,
    /// From which Packet Too Big is sent.
    pub mesh_v4: Option<Ipv4Addr>,
    /// From which Packet Too Big is sent.
    pub mesh_v6: Option<Ipv6Addr>,
}

/// One change of one row. Each is atomic in the kernel; removing what is not there succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MapStep {
    /// Adds or replaces a prefix.
    PutRoute(IpNet, RouteRow),
    /// Takes a prefix out of the encrypted scope.
    RemoveRoute(IpNet),
    /// Adds or replaces an address of this host.
    PutLocal(IpAddr, LocalRow),
    /// Forgets an address of this host.
    RemoveLocal(IpAddr),
    /// Points a frontend at a set.
    PutService(Frontend, SetRef),
    /// Forgets a frontend.
    RemoveService(Frontend),
    /// Makes clients of a frontend keep their backend for so many seconds.
    PutAffinity(Frontend, u32),
    /// The reverse.
    RemoveAffinity(Frontend),
    /// Makes an address refuse every port that is no frontend.
    PutServiceAddress(IpAddr),
    /// Forgets that an address is a service's.
    RemoveServiceAddress(IpAddr),
    /// Adds or replaces a member of a set.
    PutBackend(BackendKey, SocketAddr),
    /// Removes a member of a set.
    RemoveBackend(BackendKey),
    /// Replaces the configuration.
    PutConfig(ConfigRow),
    /// Says what a cgroup is to tenants.
    PutCgroup(u64, CgroupRow),
    /// Forgets a cgroup.
    RemoveCgroup(u64),
    /// Makes a user a tenant.
    PutUser(u32, TenantRow),
    /// The reverse.
    RemoveUser(u32),
    /// Says which cgroups were looked at.
    PutTenancy(TenancyRow),
}
