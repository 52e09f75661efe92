//! One change to a host. Steps are small, print as one line, and may be repeated.

use crate::{
    backend::bpf::{Attachment, CgroupRow, ConfigRow, LocalRow, RouteRow, SetRef, TenancyRow, TenantRow},
    image::{Frontend, RelayPair},
    observe::{Family, Masquerade, MeshRoute, Sysctl},
};
use api::bytes::PublicKey;
use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Attaches a program, or replaces it in place.
    Attach(Attachment),
    /// Takes a program off.
    Detach(Attachment),
    /// Puts the programs that hold tenants apart at the cgroup.
    HoldApart,
    /// Takes them away.
    LetTogether,
    /// Says what a cgroup is to tenants.
    PutCgroup {
        /// Its number.
        cgroup: u64,
        /// A tenant's, or above one's.
        row: CgroupRow,
    },
    /// Forgets a cgroup.
    RemoveCgroup {
        /// Its number.
        cgroup: u64,
    },
    /// Makes a user a tenant.
    PutUser {
        /// Its number.
        uid: u32,
        /// Which tenant.
        tenant: TenantRow,
    },
    /// The reverse.
    RemoveUser {
        /// Its number.
        uid: u32,
    },
    /// Says which cgroups were looked at, and how many tenants there are.
    PutTenancy(TenancyRow),
    /// Writes a row of the encrypted scope: from now on nothing to it leaves in plain.
    PutScope {
        /// The prefix.
        prefix: IpNet,
        /// Whether it can be reached.
        row: RouteRow,
    },
    /// Takes a prefix out of the encrypted scope: what goes to it is no business of ours any more.
    RemoveScope {
        /// The prefix.
        prefix: IpNet,
    },
    /// Ends our table for a prefix.
    AddUnreachable {
        /// The prefix.
        prefix: IpNet,
    },
    /// The reverse.
    RemoveUnreachable {
        /// The prefix.
        prefix: IpNet,
    },
    /// Brings `mesh0` up.
    BringUp {
        /// Its index.
        ifindex: u32,
    },
    /// Sets what the kernel does on `mesh0`.
    SetSysctl(Sysctl),
    /// Tells the programs who this host is.
    PutConfig(ConfigRow),
    /// Gives `mesh0` an address.
    AddAddress {
        /// Of `mesh0`.
        ifindex: u32,
        /// A /32 or /128.
        address: IpAddr,
    },
    /// Takes one away.
    RemoveAddress {
        /// Of `mesh0`.
        ifindex: u32,
        /// A /32 or /128.
        address: IpAddr,
    },
    /// Sends a family's lookups through our table, WireGuard's own datagrams excepted.
    AddRule(Family),
    /// The reverse.
    RemoveRule(Family),
    /// Replaces our nftables table in one transaction.
    SetMasquerade(Masquerade),
    /// Changes the tunnels.
    Tunnel(TunnelStep),
    /// Tells the relay who may talk from now on, and that nobody else may.
    Relay {
        /// All of them.
        pairs: BTreeSet<RelayPair>,
    },
    /// Writes a route over `mesh0`, in place of the one that is there.
    PutRoute {
        /// Its destination.
        prefix: IpNet,
        /// How it goes.
        route: MeshRoute,
    },
    /// Removes one.
    RemoveRoute {
        /// Its destination.
        prefix: IpNet,
    },
    /// Makes an address of this host reachable from the mesh.
    PutLocal {
        /// The address.
        address: IpAddr,
        /// Who owns it.
        local: LocalRow,
    },
    /// The reverse.
    RemoveLocal {
        /// The address.
        address: IpAddr,
    },
    /// Fills a set of backends that nothing refers to yet.
    PutSet {
        /// Its number.
        set: u32,
        /// By slot.
        backends: Vec<SocketAddr>,
    },
    /// Points a frontend at a set: the moment a change of backends happens.
    PutService {
        /// What clients connect to.
        frontend: Frontend,
        /// What they get.
        to: SetRef,
    },
    /// Forgets a frontend.
    RemoveService {
        /// What clients connected to.
        frontend: Frontend,
    },
    /// Makes clients of a frontend keep their backend.
    PutAffinity {
        /// What clients connect to.
        frontend: Frontend,
        /// For so many seconds after they last connected.
        seconds: u32,
    },
    /// The reverse.
    RemoveAffinity {
        /// What clients connect to.
        frontend: Frontend,
    },
    /// Writes the table of nftables that balances, from the rows.
    Balance,
    /// Closes UDP sockets that are connected to backends that no service has any more.
    CloseUdp {
        /// The backends.
        backends: BTreeSet<SocketAddr>,
        /// Where to look, beside this host's own network namespace.
        namespaces: BTreeSet<PathBuf>,
    },
    /// Empties a set that nothing refers to any more.
    RemoveSet {
        /// Its number.
        set: u32,
        /// Filled slots.
        slots: BTreeSet<u32>,
    },
    /// Marks a service's address: its other ports refuse.
    PutVip {
        /// The address.
        address: IpAddr,
    },
    /// The reverse.
    RemoveVip {
        /// The address.
        address: IpAddr,
    },
}

/// One change to WireGuard. None of them costs a packet of another flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelStep {
    /// Sets this host's key, its port, and the mark of its own datagrams.
    SetDevice {
        /// UDP port.
        listen_port: u16,
    },
    /// Makes a peer, and gives it prefixes as [`TunnelStep::AddAllowed`] does.
    AddPeer {
        /// Its public key.
        peer: PublicKey,
        /// Where it is dialled; None: it dials us.
        endpoint: Option<SocketAddr>,
        /// Seconds between keepalives; 0: none.
        keepalive_s: u16,
        /// What it brings along.
        allowed: BTreeSet<IpNet>,
        /// Of its clock.
        clock_epoch: u64,
    },
    /// Makes a peer anew with what it has, as its clock went back or as it begins a session at another place: nothing moves to
    /// anybody else meanwhile.
    RenewPeer {
        /// Its public key.
        peer: PublicKey,
        /// Where it is dialled: where it was found last, or that other place.
        endpoint: Option<SocketAddr>,
        /// Seconds between keepalives; 0: none.
        keepalive_s: u16,
        /// What it has.
        allowed: BTreeSet<IpNet>,
        /// Of its clock.
        clock_epoch: u64,
    },
    /// Dials a peer elsewhere.
    SetEndpoint {
        /// Its public key.
        peer: PublicKey,
        /// Where.
        endpoint: SocketAddr,
    },
    /// Sets a peer's keepalives.
    SetKeepalive {
        /// Its public key.
        peer: PublicKey,
        /// Seconds between them; 0: none.
        keepalive_s: u16,
    },
    /// Gives a prefix to a peer, and takes it from its former owner in the same moment.
    AddAllowed {
        /// Its public key.
        peer: PublicKey,
        /// The prefix.
        prefix: IpNet,
    },
    /// Takes a prefix from a peer, when it still has it.
    RemoveAllowed {
        /// Its public key.
        peer: PublicKey,
        /// The prefix.
        prefix: IpNet,
    },
    /// Forgets a peer, and what it still has.
    RemovePeer {
        /// Its public key.
        peer: PublicKey,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attach(at) => write!(f, "attach {} to device {}", at.program, at.ifindex),
            Self::Detach(at) => write!(f, "detach {} from device {}", at.program, at.ifindex),
            Self::HoldApart => f.write_str("hold tenants apart"),
            Self::LetTogether => f.write_str("hold nobody apart"),
            Self::PutCgroup { cgroup, row: CgroupRow::Above } => {
                write!(f, "cgroup {cgroup} is above tenants")
            }
            Self::PutCgroup { cgroup, row: CgroupRow::Tenant(tenant) } => {
                write!(f, "cgroup {cgroup} is")?;
                addresses(f, tenant.v4, tenant.v6)
            }
            Self::RemoveCgroup { cgroup } => write!(f, "cgroup {cgroup} is nobody"),
            Self::PutUser { uid, tenant } => {
                write!(f, "user {uid} is")?;
                addresses(f, tenant.v4, tenant.v6)
            }
            Self::RemoveUser { uid } => write!(f, "user {uid} is nobody"),
            Self::PutTenancy(TenancyRow { newest_cgroup, tenants, .. }) => {
                write!(f, "{tenants} tenants as of cgroup {newest_cgroup}")
            }
            Self::PutScope { prefix, row: RouteRow::Closed } => write!(f, "close {prefix}"),
            Self::PutScope { prefix, row: RouteRow::Routed { mtu_bytes } } => {
                write!(f, "open {prefix} through the tunnel, mtu {mtu_bytes}")
            }
            Self::RemoveScope { prefix } => write!(f, "forget {prefix}"),
            Self::AddUnreachable { prefix } => write!(f, "add route unreachable {prefix}"),
            Self::RemoveUnreachable { prefix } => write!(f, "remove route unreachable {prefix}"),
            Self::BringUp { ifindex } => write!(f, "bring mesh0 up (device {ifindex})"),
            Self::SetSysctl(key) => write!(f, "set {} to {}", key.path(), key.wanted()),
            Self::PutConfig(c) => {
                write!(
                    f,
                    "tell the programs: mesh0 is device {}, we are",
                    c.mesh_ifindex.map_or(0, u32::from)
                )?;
                addresses(f, c.mesh_v4, c.mesh_v6)
            }
            Self::AddAddress { address, .. } => write!(f, "add address {address} to mesh0"),
            Self::RemoveAddress { address, .. } => write!(f, "remove address {address} from mesh0"),
            Self::AddRule(family) => write!(f, "add rule for {family}"),
            Self::RemoveRule(family) => write!(f, "remove rule for {family}"),
            Self::SetMasquerade(Masquerade::To { v4, v6, kept }) => {
                f.write_str("masquerade forwarded traffic to")?;
                addresses(f, *v4, *v6)?;
                kept.iter().try_for_each(|kept| write!(f, ", {kept} stays"))
            }
            Self::SetMasquerade(Masquerade::Absent | Masquerade::Foreign) => {
                f.write_str("masquerade nothing")
            }
            Self::Tunnel(step) => write!(f, "tunnel: {step}"),
            Self::Relay { pairs } => write!(f, "relay between {} pairs of nodes", pairs.len()),
            Self::PutRoute { prefix, route } => {
                write!(f, "route {prefix} over mesh0 mtu {}", route.mtu_bytes)?;
                route.source.map_or(Ok(()), |source| write!(f, " src {source}"))
            }
            Self::RemoveRoute { prefix } => write!(f, "remove route {prefix} over mesh0"),
            Self::PutLocal { address, local: LocalRow::Node } => write!(f, "{address} is this host"),
            Self::PutLocal { address, local: LocalRow::Tenant } => write!(f, "{address} is a tenant"),
            Self::PutLocal { address, local: LocalRow::Pod { ifindex, .. } } => {
                write!(f, "{address} is the pod behind device {ifindex}")
            }
            Self::RemoveLocal { address } => write!(f, "{address} is nobody here"),
            Self::PutSet { set, backends } => {
                write!(f, "fill set {set}:")?;
                backends.iter().try_for_each(|backend| write!(f, " {backend}"))
            }
            Self::PutService { frontend, to } => write!(f, "{frontend} → set {} of {}", to.set, to.count),
            Self::RemoveService { frontend } => write!(f, "forget {frontend}"),
            Self::PutAffinity { frontend, seconds } => {
                write!(f, "clients of {frontend} keep their backend for {seconds} s")
            }
            Self::RemoveAffinity { frontend } => write!(f, "clients of {frontend} keep no backend"),
            Self::CloseUdp { backends, namespaces } => {
                write!(f, "close the UDP sockets of {} namespaces to", namespaces.len() + 1)?;
                backends.iter().try_for_each(|backend| write!(f, " {backend}"))
            }
            Self::Balance => f.write_str("balance by nftables as the maps say"),
            Self::RemoveSet { set, slots } => write!(f, "empty set {set} of {}", slots.len()),
            Self::PutVip { address } => write!(f, "other ports of {address} refuse"),
            Self::RemoveVip { address } => write!(f, "{address} is no service any more"),
        }
    }
}

fn addresses(
    f: &mut fmt::Formatter<'_>,
    v4: Option<impl fmt::Display>,
    v6: Option<impl fmt::Display>,
) -> fmt::Result {
    match (v4, v6) {
        (None, None) => f.write_str(" nobody"),
        (v4, v6) => {
            v4.map_or(Ok(()), |v4| write!(f, " {v4}"))?;
            v6.map_or(Ok(()), |v6| write!(f, " {v6}"))
        }
    }
}

impl fmt::Display for TunnelStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetDevice { listen_port } => write!(f, "listen on port {listen_port}"),
            Self::AddPeer { peer, endpoint, allowed, .. } => {
                write!(f, "add peer {peer}")?;
                endpoint.map_or(Ok(()), |at| write!(f, " at {at}"))?;
                allowed.iter().try_for_each(|prefix| write!(f, " {prefix}"))
            }
            Self::RenewPeer { peer, endpoint, allowed, clock_epoch, .. } => {
                write!(f, "make peer {peer} anew, of clock epoch {clock_epoch}")?;
                endpoint.map_or(Ok(()), |at| write!(f, " at {at}"))?;
                allowed.iter().try_for_each(|prefix| write!(f, " {prefix}"))
            }
            Self::SetEndpoint { peer, endpoint } => write!(f, "dial {peer} at {endpoint}"),
            Self::SetKeepalive { peer, keepalive_s: 0 } => write!(f, "no keepalives to {peer}"),
            Self::SetKeepalive { peer, .. } => write!(f, "keep {peer} alive"),
            Self::AddAllowed { peer, prefix } => write!(f, "{prefix} belongs to {peer}"),
            Self::RemoveAllowed { peer, prefix } => write!(f, "{prefix} does not belong to {peer}"),
            Self::RemovePeer { peer } => write!(f, "remove peer {peer}"),
        }
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.address, self.port), self.protocol)
    }
}
