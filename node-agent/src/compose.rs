//! View of all clusters + facts of this host → image. Pure: the same facts give the same image.
//!
//! | in the image | from |
//! |---|---|
//! | own mesh addresses | `nodes/<us>`, which the source wrote; we never describe ourselves |
//! | closed prefixes | every prefix of an active peer's contract, of our own mesh ranges, and of peers that are gone |
//! | reachable prefixes, tunnels | `nodes/<node>` with its `keys/<node>`, inside what the peer's contract allows; our own nodes' pods with scope `all` |
//! | tenants | the programs in `vms/<us>`, and where the host says that their processes are |
//! | pods | endpoints of this node whose device the CNI's results name; two claims of an address close both |
//! | services | all Services of the own cluster, see [`replica::service`] |
//! | who may talk through our relay | the nodes of peers whose contracts name each other, see [`relay`]; ours and those of peers that nobody can dial, see [`gateways`] |

pub mod gateways;
pub mod relay;

use crate::{
    demand::{Demand, OnDemand, Stage},
    path_mtu::PathMtus,
    probe::{Pace, Probes, Target},
    programs::ProgramFacts,
};
use api::{
    bytes::PublicKey,
    name::{ClusterName, NodeName},
    record::{AppliedProgram, Cluster, Node, Phase, Processes, Program, TunnelKey},
};
use datapath::{
    host::TunnelState,
    image::{Elsewhere, Frontend, Image, Pod, Reach, Tenancy, Tenant, TunnelPeer, Upkeep},
};
use gateways::{End, Gateways};
use ipnet::IpNet;
use relay::Relay;
use replica::{
    service::Silent,
    view::{ClusterTables, View},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant},
};

/// The port that every node listens on, unless its agent is told another.
pub const LISTEN_PORT: u16 = 51871;

/// What of the host matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Which device each pod's address owns.
    pub bindings: BTreeMap<IpAddr, Pod>,
    /// Network namespaces of pods.
    pub namespaces: BTreeSet<PathBuf>,
    /// Host-side devices of pods.
    pub pod_devices: BTreeSet<u32>,
    /// Physical devices and bridges.
    pub uplinks: BTreeSet<u32>,
    /// The outer families that its addresses can send.
    pub families: Families,
    /// The smallest MTU of a physical device; the path to another node is at most that.
    pub uplink_mtu_bytes: u16,
    /// UDP port of our own tunnel device.
    pub listen_port: u16,
    /// Of a VM: where the processes of its programs are.
    pub programs: ProgramFacts,
}

/// An image, and what composing it found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Composed {
    /// What the kernel is to hold.
    pub image: Image,
    /// Which node is behind each of our tunnels, and how large its packets may be.
    pub tunnels: BTreeMap<(ClusterName, NodeName), TunnelTo>,
    /// Of a VM: its programs, and whether they run.
    pub programs: Vec<AppliedProgram>,
    /// What does not hold, a sentence each.
    pub problems: Vec<String>,
}

/// One tunnel of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelTo {
    /// The peer of the WireGuard device.
    pub key: TunnelKey,
    /// Path MTU.
    pub mtu_bytes: u16,
    /// The largest it can be, by the uplink.
    pub ceiling_bytes: u16,
    /// What a probe asks.
    pub mesh_address: Option<IpAddr>,
    /// Whether its datagrams go through others.
    pub way: Way,
}

/// How a node is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Way {
    /// One dials the other, and the tunnel is always kept.
    #[default]
    Straight,
    /// Neither dials: through a relay of a third cluster.
    Relayed(Relay),
    /// Through a gateway's relay until it is used.
    OnDemand {
        /// Those of the side that is dialled.
        gateways: Vec<Relay>,
        /// Where we dial the other node when there is something to say; None: it dials us.
        dialled: Option<SocketAddr>,
    },
}

impl Way {
    /// The relays that a datagram may go through.
    pub fn relays(&self) -> &[Relay] {
        match self {
            Self::Straight => &[],
            Self::Relayed(relay) => std::slice::from_ref(relay),
            Self::OnDemand { gateways, .. } => gateways,
        }
    }
}

impl TunnelTo {
    /// It is not always kept.
    pub fn is_on_demand(&self) -> bool {
        matches!(self.way, Way::OnDemand { .. })
    }

    /// What is to be looked at, of a tunnel that is kept on demand.
    fn on_demand(&self) -> Option<OnDemand> {
        let Way::OnDemand { gateways, dialled } = &self.way else { return None };
        let relays = gateways.iter().map(|relay| (relay.key, relay.at)).collect();
        Some(OnDemand { key: self.key.public_key, relays, dialled: *dialled })
    }
}

impl Composed {
    /// What to probe, and how often: the first mesh address of each node behind a tunnel.
    pub fn probe_targets(&self) -> impl Iterator<Item = (Target, Pace)> {
        self.targets().map(|(target, to)| (target, if to.is_on_demand() { Pace::Rare } else { Pace::Steady }))
    }

    /// Where the path's MTU is measured, each with the largest packet that the uplink lets through: not in tunnels that
    /// are to be silent while they are not used.
    pub fn path_targets<'a>(&'a self, demand: &'a Demand) -> impl Iterator<Item = (Target, u16)> + 'a {
        let used = |to: &TunnelTo| !to.is_on_demand() || demand.carries_work(&to.key.public_key);
        self.targets().filter(move |(_, to)| used(to)).map(|(target, to)| (target, to.ceiling_bytes))
    }

    /// What the device has sent to each node, in bytes.
    pub fn sent_bytes(
        &self,
        device: &BTreeMap<PublicKey, TunnelState>,
    ) -> impl Iterator<Item = (Target, u64)> {
        self.targets().filter_map(|(target, to)| Some((target, device.get(&to.key.public_key)?.tx_bytes)))
    }

    /// Those that are kept on demand.
    fn on_demand(&self) -> Vec<OnDemand> {
        self.tunnels.values().filter_map(TunnelTo::on_demand).collect()
    }

    /// The relays that they go through, by their devices' keys, without those whose nodes are silent.
    fn gateway_relays(&self, silent: &Silent) -> BTreeSet<PublicKey> {
        let on_demand = self.tunnels.values().filter(|to| to.is_on_demand());
        let relays = on_demand.flat_map(|to| to.way.relays());
        let speaks = |relay: &&Relay| !silent.contains(&(relay.cluster.clone(), relay.node.clone()));
        relays.filter(speaks).map(|relay| relay.key).collect()
    }

    /// Reads what the device counted for the tunnels that are kept on demand, and has those probed at once of which that tells
    /// something; true when one of them takes another way.
    pub fn count(
        &self,
        now: Instant,
        device: &BTreeMap<PublicKey, TunnelState>,
        paths: &mut Paths,
        probes: &mut Probes,
    ) -> bool {
        let relays = self.gateway_relays(&paths.silent);
        let changed = paths.demand.look(now, &self.on_demand(), &relays, device);
        let doubted: Vec<_> = self.doubted(&paths.demand, probes).collect();
        doubted.iter().for_each(|target| probes.hasten(now, target));
        changed
    }

    /// Those whose probes have failed for long enough.
    pub fn silent(&self, now: Instant, probes: &Probes) -> Silent {
        let is_silent = |(cluster, node): &&(ClusterName, NodeName)| {
            let since = probes.silent_since(cluster, node);
            since.is_some_and(|since| now.saturating_duration_since(since) >= SILENT_AFTER)
        };
        self.tunnels.keys().filter(is_silent).cloned().collect()
    }

    /// Which of them to probe at once: one that answered its last probe, and what was sent to it since then was not answered,
    /// or the other way about; and one that goes straight from now on, so that the other side hears of it.
    fn doubted<'a>(&'a self, demand: &'a Demand, probes: &'a Probes) -> impl Iterator<Item = Target> + 'a {
        let on_demand = self.targets().filter(|(_, to)| to.is_on_demand());
        on_demand.filter_map(move |(target, to)| {
            let key = &to.key.public_key;
            let is_red = probes.measured(&target.cluster, &target.node).is_red();
            let is_doubted = if is_red { demand.speaks(key) } else { demand.is_doubted(key) };
            (is_doubted || demand.is_astray(key)).then_some(target)
        })
    }

    fn targets(&self) -> impl Iterator<Item = (Target, &TunnelTo)> {
        self.tunnels
            .iter()
            .filter_map(|((cluster, node), to)| Some((target(cluster, node, to.mesh_address)?, to)))
    }
}

fn target(cluster: &ClusterName, node: &NodeName, mesh_address: Option<IpAddr>) -> Option<Target> {
    Some(Target { cluster: cluster.clone(), node: node.clone(), address: mesh_address? })
}

/// What was measured of the tunnels.
#[derive(Debug, Default)]
pub struct Paths {
    /// Those whose other end has not answered for long.
    pub silent: Silent,
    /// How large packets may be.
    pub mtus: PathMtus,
    /// Which of the tunnels on demand are used.
    pub demand: Demand,
}

/// Composes the image of the node `me`.
pub fn compose(view: &View, me: &NodeName, host: &HostFacts, paths: &Paths) -> Composed {
    let mut composed = Composed::default();
    let own = view.cluster(view.own());
    let own_node = own.and_then(|own| own.nodes.get(me));
    match own_node {
        Some(node) => composed.image.mesh_addresses = node.mesh_addresses.iter().copied().collect(),
        None => composed.problems.push(format!(
            "no source of {} knows a node {me}: is there a Node object of this name?",
            view.own()
        )),
    }
    composed.image.uplinks = host.uplinks.clone();
    composed.image.namespaces = host.namespaces.clone();
    composed.image.pod_devices = host.pod_devices.clone();
    composed.image.tunnel.listen_port = Some(host.listen_port);
    let programs = programs(view, me);
    composed.image.tenancy = tenancy(programs, host);
    let running = |it: &Program| host.programs.running.contains(&it.processes);
    let applied = |it: &Program| AppliedProgram { name: it.name.clone(), running: running(it) };
    composed.programs = programs.iter().map(applied).collect();

    close_scope(view, &mut composed.image);
    let encrypts_inside = encrypts_inside(view);
    if encrypts_inside {
        close_other_nodes(own, me, &mut composed.image);
    }
    let gateways = Gateways::of(view);
    composed.image.relay = relay::pairs(view, own_node, gateways.pairs(me), &mut composed.problems);
    let own_key = own.and_then(|own| own.keys.get(me));
    let itself = own_node.map(|node| End { cluster: view.own(), name: me, node, key: own_key });
    let families = Families::of(own_node, host);
    for (cluster, tables, accepted) in reachable(view) {
        for (name, node) in &tables.nodes {
            let is_us = cluster == view.own() && name == me;
            if let Some(key) = tables.keys.get(name)
                && !is_us
            {
                let way = match relay::between(view, families, own_node, (cluster, node)) {
                    Some(relay) => Way::Relayed(relay),
                    None => gateways.between(families, itself, End { cluster, name, node, key: Some(key) }),
                };
                let other = Other { cluster, name, node, key, accepted: &accepted, way };
                open_tunnel(&mut composed, other, families, (host, paths));
            }
        }
    }
    if let Some(own) = own {
        bind_pods(own, me, host, &mut composed);
    }
    for (_, choice) in view.choices(&paths.silent) {
        for (at, backends) in choice.frontends {
            let frontend = Frontend { address: at.address, protocol: at.protocol, port: at.port };
            composed.image.services.insert(frontend, backends);
            if choice.session_affinity_s > 0 {
                composed.image.session_affinity.insert(frontend, choice.session_affinity_s);
            }
        }
    }
    composed
}

/// Of the VM `me`: what of it is told apart.
fn programs<'a>(view: &'a View, me: &NodeName) -> &'a [Program] {
    view.tables().local.vms.get(me).map(|vm| &vm.programs[..]).unwrap_or_default()
}

/// Only who of the host is told apart: what an earlier agent pinned stays, and a unit that starts meanwhile is known. To
/// be added to what is there.
pub fn compose_tenancy(view: &View, me: &NodeName, host: &HostFacts) -> Image {
    Image { tenancy: tenancy(programs(view, me), host), ..Image::default() }
}

fn tenancy(programs: &[Program], host: &HostFacts) -> Tenancy {
    if programs.is_empty() {
        return Tenancy::default();
    }
    let facts = &host.programs;
    let tenant = |program: &Program| {
        let addresses = program.addresses.iter().copied().collect();
        let (cgroups, users) = match &program.processes {
            unit @ Processes::Unit { .. } => {
                (facts.cgroups.get(unit).cloned().unwrap_or_default(), BTreeSet::new())
            }
            user @ Processes::User(_) => {
                (BTreeSet::new(), facts.users.get(user).copied().into_iter().collect())
            }
        };
        Tenant { addresses, cgroups, users }
    };
    Tenancy {
        tenants: programs.iter().map(tenant).collect(),
        above: facts.above.clone(),
        newest_cgroup: facts.newest_cgroup,
        level: facts.level,
    }
}

/// What lies in the encrypted scope, closed until a tunnel opens a part of it.
fn close_scope(view: &View, image: &mut Image) {
    let local = &view.tables().local;
    let peers =
        local.peers.values().filter(|peer| peer.phase == Phase::Active).flat_map(|peer| &peer.prefixes);
    let gone = local.closed.values().flat_map(|closed| &closed.prefixes);
    let own = view.cluster(view.own()).and_then(|own| own.cluster.as_ref());
    let mesh = own.into_iter().flat_map(|own| &own.mesh_cidrs);
    for prefix in peers.chain(gone).chain(mesh) {
        image.prefixes.insert(*prefix, Reach::Closed);
    }
}

/// Scope `all`: what goes from node to node of our own cluster is encrypted, too.
fn encrypts_inside(view: &View) -> bool {
    view.cluster(view.own()).and_then(|own| own.cluster.as_ref()).is_some_and(|own| own.encrypts_inside)
}

/// Not the whole pod range: what this node itself carries never leaves it.
fn close_other_nodes(own: Option<&ClusterTables>, me: &NodeName, image: &mut Image) {
    let others = own.into_iter().flat_map(|own| &own.nodes).filter(|(name, _)| *name != me);
    for prefix in others.flat_map(|(_, node)| &node.prefixes) {
        image.prefixes.insert(*prefix, Reach::Closed);
    }
}

/// The clusters whose nodes we open tunnels to, and the prefixes that each may be reached in.
fn reachable(view: &View) -> impl Iterator<Item = (&ClusterName, &ClusterTables, Vec<IpNet>)> {
    let peers = view.tables().local.peers.iter().filter(|(_, peer)| peer.phase == Phase::Active);
    let peers = peers.map(|(name, peer)| (name, peer.prefixes.clone()));
    let own = view.cluster(view.own()).and_then(|own| own.cluster.as_ref());
    let inside = |own: &Cluster| if own.encrypts_inside { own.pod_cidrs.clone() } else { Vec::new() };
    let own = own.map(|own| (view.own(), [own.mesh_cidrs.clone(), inside(own)].concat()));
    peers.chain(own).filter_map(|(name, accepted)| Some((name, view.cluster(name)?, accepted)))
}

/// Which outer families a host can send.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Families {
    /// Those of the addresses that the node is dialled at; of one that nobody can dial, those of its devices.
    fn of(node: Option<&Node>, host: &HostFacts) -> Self {
        match node {
            Some(node) if node.endpoints.is_empty() => host.families,
            Some(node) => node.endpoints.iter().copied().collect(),
            None => Self::default(),
        }
    }

    /// The first address of the other node that we can send to.
    fn endpoint(self, node: &Node) -> Option<IpAddr> {
        node.endpoints.iter().copied().find(|endpoint| self.sends_to(*endpoint))
    }
}

impl FromIterator<IpAddr> for Families {
    fn from_iter<T: IntoIterator<Item = IpAddr>>(addresses: T) -> Self {
        addresses.into_iter().fold(Self::default(), |families, address| match address {
            IpAddr::V4(_) => Self { v4: true, ..families },
            IpAddr::V6(_) => Self { v6: true, ..families },
        })
    }
}

/// Bytes that WireGuard and the outer headers take: 32 of WireGuard, 8 of UDP, and 20 or 40 of IP.
/// A node that dials us does so by either. (WireGuard whitepaper, section 5.4.6; RFC 791, RFC 8200, RFC 768)
fn overhead_bytes(endpoint: Option<IpAddr>) -> u16 {
    if endpoint.is_some_and(|endpoint| endpoint.is_ipv4()) { 60 } else { 80 }
}

/// Largest inner packet. WireGuard pads to 16 bytes, so a size that is no multiple of 16 would be padded beyond the
/// path; 1420 is what every implementation uses on a path of 1500, where the padding of the largest packet still fits.
fn mtu_bytes(uplink: u16, endpoint: Option<IpAddr>) -> u16 {
    let room = uplink.saturating_sub(overhead_bytes(endpoint)) / 16 * 16;
    room.min(MTU_MAX_BYTES)
}

/// A tunnel that has been red for this long makes its backends unhealthy. (design: 15 s under traffic; probes are traffic)
const SILENT_AFTER: Duration = Duration::from_secs(15);

/// `mesh0`'s own MTU.
const MTU_MAX_BYTES: u16 = 1420;

/// A node that we open a tunnel to.
struct Other<'a> {
    cluster: &'a ClusterName,
    name: &'a NodeName,
    node: &'a Node,
    key: &'a TunnelKey,
    /// What it may carry.
    accepted: &'a [IpNet],
    way: Way,
}

fn open_tunnel(
    composed: &mut Composed,
    other: Other<'_>,
    families: Families,
    (host, paths): (&HostFacts, &Paths),
) {
    let Other { cluster, name, node, key, accepted, way } = other;
    let dialled = families.endpoint(node).map(|at| SocketAddr::new(at, key.port));
    let endpoint = way.relays().first().map(|relay| relay.at).or(dialled);
    // One without any address dials us, and WireGuard learns where it is.
    if endpoint.is_none() && !node.endpoints.is_empty() {
        composed.problems.push(format!("{cluster}/{name} has no address of a family that this node has"));
        return;
    }
    let ceiling_bytes = mtu_bytes(host.uplink_mtu_bytes, endpoint.map(|endpoint| endpoint.ip()));
    let mesh_address = node.mesh_addresses.first().copied();
    let mtu_bytes = path_mtu_bytes((cluster, name, mesh_address), &way, ceiling_bytes, &paths.mtus);
    let to = TunnelTo { key: key.clone(), mtu_bytes, ceiling_bytes, mesh_address, way };
    let mesh = node.mesh_addresses.iter().map(|address| IpNet::from(*address));
    // Of our own cluster's nodes it leaves out pods that the CNI carries. Of a peer's the import has checked this already;
    // a prefix that nobody accepted must not be opened by a bug elsewhere.
    let inside = |prefix: &IpNet| accepted.iter().any(|accepted| accepted.contains(prefix));
    let allowed: BTreeSet<IpNet> = node.prefixes.iter().copied().chain(mesh).filter(inside).collect();
    for prefix in &allowed {
        composed.image.prefixes.insert(*prefix, Reach::Tunnel { mtu_bytes });
    }
    let (endpoint, upkeep) = match to.on_demand() {
        None => (endpoint, Upkeep::Steady),
        Some(tunnel) => on_demand(&tunnel, to.way.relays(), &paths.demand),
    };
    let peer = TunnelPeer { endpoint, upkeep, allowed, clock_epoch: key.clock_epoch };
    composed.image.tunnel.peers.insert(key.public_key, peer);
    for relay in to.way.relays() {
        // Nothing is sent to it: by our keepalives it sees where we are. A node of this key keeps its place, as nobody may
        // announce a relay by another's key and so take that one's addresses away.
        let proof = TunnelPeer { endpoint: Some(relay.at), ..TunnelPeer::default() };
        composed.image.tunnel.peers.entry(relay.key).or_insert(proof);
    }
    composed.tunnels.insert((cluster.clone(), name.clone()), to);
}

/// Where a tunnel on demand goes now. See [`crate::demand`].
fn on_demand(tunnel: &OnDemand, gateways: &[Relay], demand: &Demand) -> (Option<SocketAddr>, Upkeep) {
    let first = || gateways.iter().find(|relay| demand.is_up(&relay.key)).or(gateways.first());
    let parked = demand.relay(tunnel).or_else(|| first().map(|relay| relay.at));
    let (endpoint, keepalive, elsewhere) = match (tunnel.dialled, demand.stage(tunnel)) {
        (None, _) if demand.is_heard(&tunnel.key) => (None, false, Elsewhere::Stays),
        (None, _) if demand.is_unanswered(&tunnel.key) => (parked, false, Elsewhere::GoesAlong),
        (None, _) | (Some(_), Stage::Parked) => (parked, false, Elsewhere::Stays),
        (Some(_), Stage::Leaving) => (parked, true, Elsewhere::BeginsAnew),
        (Some(_), Stage::Dead) => (parked, false, Elsewhere::BeginsAnew),
        (Some(at), Stage::Straight) => (Some(at), true, Elsewhere::GoesAlong),
    };
    (endpoint, Upkeep::OnDemand { keepalive, elsewhere })
}

/// The path MTU as it was measured. On demand it is measured only while there is work, and is at most that of the other side's
/// gateways, whose path leaves by the same uplink.
fn path_mtu_bytes(
    (cluster, name, mesh_address): (&ClusterName, &NodeName, Option<IpAddr>),
    way: &Way,
    ceiling_bytes: u16,
    mtus: &PathMtus,
) -> u16 {
    let measured = |node: &NodeName, address: Option<IpAddr>| {
        let target = target(cluster, node, address);
        target.map_or(ceiling_bytes, |target| mtus.mtu_bytes(&target, ceiling_bytes))
    };
    match way {
        Way::Straight | Way::Relayed(_) => measured(name, mesh_address),
        Way::OnDemand { gateways, .. } => {
            let theirs = gateways.iter().filter(|relay| relay.cluster == *cluster);
            let least = theirs.map(|relay| measured(&relay.node, relay.mesh_address)).min();
            measured(name, mesh_address).min(least.unwrap_or(ceiling_bytes))
        }
    }
}

fn bind_pods(own: &ClusterTables, me: &NodeName, host: &HostFacts, composed: &mut Composed) {
    let (owners, _) = own.owners();
    let itself = own.nodes.get(me);
    let mut unbound = Vec::new();
    for (address, (namespace, endpoint)) in owners {
        // A VM's endpoint is the host itself, and so are its programs': they have no devices of their own.
        let is_host = composed.image.mesh_addresses.contains(&address)
            || itself.is_some_and(|node| node.program_addresses().any(|own| own == address));
        if endpoint.node != *me || is_host {
            continue;
        }
        match host.bindings.get(&address) {
            Some(pod) => drop(composed.image.pods.insert(address, *pod)),
            None => unbound.push(format!("{namespace}/{} ({address})", endpoint.name)),
        }
    }
    if !unbound.is_empty() {
        composed.problems.push(format!(
            "the CNI's results name no device of {}: not reachable from the mesh",
            unbound.join(", ")
        ));
    }
}

#[cfg(test)]
mod tests;
