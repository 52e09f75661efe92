//! The underlay as text for `ip -batch`: a router with one bridge a cluster, and a link to each machine.
//!
//! The router knows the clusters' own segments and nothing else: no pod, no Service, no mesh prefix, and nothing that
//! stands behind a NAT box.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::place::{Name, Place};
use crate::topology::{DualAddr, DualNet, Topology};

/// A machine's link to the rest of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The machine, or the NAT box.
    pub place: Place,
    /// What it is plugged into.
    pub lan: Lan,
    /// Its addresses.
    pub addresses: DualAddr,
    /// The other end: a port of the segment's bridge in the underlay's namespace, or of the box's bridge in the box.
    pub port: String,
}

/// A bridge that machines are plugged into, with a router that has the first address of each prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lan {
    /// A cluster's segment, behind the underlay's router.
    Segment(Name),
    /// What is behind a NAT box.
    Behind(Name),
}

/// A NAT box's bridge, to those behind it.
pub const INSIDE: &str = "inside";

/// The machine's end of its link.
pub const UPLINK: &str = "eth0";

/// The links of the underlay: of every machine that stands behind no NAT box, and of the boxes.
#[must_use]
pub fn uplinks(topology: &Topology) -> Vec<Uplink> {
    links(topology).into_iter().filter(|link| matches!(link.lan, Lan::Segment(_))).collect()
}

/// Every link, in the order of the places. Ports are numbered, so that no two have the same name.
#[must_use]
pub fn links(topology: &Topology) -> Vec<Uplink> {
    let mut links = Vec::new();
    for place in topology.places() {
        let (segment, behind, addresses, short) = match &place {
            Place::Nat { nat } => {
                let it = &topology.nats[nat];
                (&it.segment.value, None, it.addresses.value, nat)
            }
            Place::Host { host } => {
                let it = &topology.hosts[host];
                (&it.segment.value, it.behind.as_ref(), it.addresses.value, host)
            }
            Place::ClusterHost { cluster, host } => {
                let it = &topology.clusters[cluster].hosts[host];
                (cluster, it.behind.as_ref(), it.addresses.value, host)
            }
            Place::Node { cluster, node } => {
                let it = &topology.clusters[cluster].nodes[node];
                (cluster, it.behind.as_ref(), it.addresses.value, node)
            }
            Place::Underlay | Place::Pod { .. } => continue,
        };
        let lan = match behind {
            Some(nat) => Lan::Behind(nat.value.clone()),
            None => Lan::Segment(segment.clone()),
        };
        let port = interface_name(&format!("u{}-{short}", links.len()));
        links.push(Uplink { place, lan, addresses, port });
    }
    links
}

/// The bridge of each cluster's segment.
#[must_use]
pub fn bridges(topology: &Topology) -> BTreeMap<Name, String> {
    let named = topology.clusters.keys().enumerate();
    named
        .map(|(index, cluster)| (cluster.clone(), interface_name(&format!("lan{index}-{cluster}"))))
        .collect()
}

/// Makes bridges, addresses and links, in the router. `holders` are the pids that hold the machines' namespaces.
#[must_use]
pub fn router_batch(topology: &Topology, holders: &BTreeMap<Place, i32>) -> String {
    let mut batch = String::new();
    let bridges = bridges(topology);
    for (name, cluster) in &topology.clusters {
        add_bridge(&mut batch, &bridges[name], cluster.subnets.value);
    }
    for link in links(topology) {
        if let Lan::Segment(segment) = &link.lan {
            plug(&mut batch, &link, holders[&link.place], &bridges[segment]);
        }
    }
    batch
}

/// Makes a NAT box's bridge, and the links of what stands behind it, in the box.
#[must_use]
pub fn nat_batch(topology: &Topology, nat: &Name, holders: &BTreeMap<Place, i32>) -> String {
    let mut batch = String::new();
    add_bridge(&mut batch, INSIDE, topology.nats[nat].inside.value);
    let behind = Lan::Behind(nat.clone());
    for link in links(topology).into_iter().filter(|link| link.lan == behind) {
        plug(&mut batch, &link, holders[&link.place], INSIDE);
    }
    batch
}

fn add_bridge(batch: &mut String, bridge: &str, subnets: DualNet) {
    let router = subnets.first();
    // Snooping would need a querier to keep multicast, and with it neighbour discovery, alive.
    line(batch, &format!("link add {bridge} address {} type bridge mcast_snooping 0", mac(router.v4)));
    line(batch, &format!("link set {bridge} up"));
    line(batch, &format!("addr add {}/{} dev {bridge}", router.v4, subnets.v4.prefix_len()));
    line(batch, &format!("addr add {}/{} dev {bridge} nodad", router.v6, subnets.v6.prefix_len()));
}

fn plug(batch: &mut String, link: &Uplink, holder: i32, bridge: &str) {
    let (port, mac) = (&link.port, mac(link.addresses.v4));
    line(batch, &format!("link add {port} type veth peer name {UPLINK} address {mac} netns {holder}"));
    line(batch, &format!("link set {port} master {bridge} up"));
}

/// Addresses and routes of one machine, in its own namespace: its segment, a default route to the router, and on a
/// node the pods of the nodes of its cluster that stand beside it by host routes, as kindnet and host-gw make them.
#[must_use]
pub fn machine_batch(topology: &Topology, link: &Uplink) -> String {
    let mut batch = String::new();
    let subnets = match &link.lan {
        Lan::Segment(cluster) => topology.clusters[cluster].subnets.value,
        Lan::Behind(nat) => topology.nats[nat].inside.value,
    };
    let (own, router) = (link.addresses, subnets.first());
    line(&mut batch, &format!("addr add {}/{} dev {UPLINK}", own.v4, subnets.v4.prefix_len()));
    line(&mut batch, &format!("addr add {}/{} dev {UPLINK} nodad", own.v6, subnets.v6.prefix_len()));
    line(&mut batch, &format!("link set {UPLINK} up"));
    line(&mut batch, &format!("route add default via {} dev {UPLINK}", router.v4));
    line(&mut batch, &format!("route add default via {} dev {UPLINK}", router.v6));
    if let Place::Node { cluster, .. } = &link.place {
        let beside = links(topology).into_iter().filter(|other| other.lan == link.lan && other != link);
        for other in beside {
            let Place::Node { cluster: of, node } = &other.place else { continue };
            if of == cluster {
                let (pods, via) = (topology.clusters[cluster].nodes[node].pod_cidrs.value, other.addresses);
                line(&mut batch, &format!("route add {} via {} dev {UPLINK}", pods.v4, via.v4));
                line(&mut batch, &format!("route add {} via {} dev {UPLINK}", pods.v6, via.v6));
            }
        }
    }
    batch
}

/// A locally administered MAC address that shows the IPv4 address in dumps. (RFC 7042, section 2.1)
fn mac(addr: Ipv4Addr) -> String {
    let [a, b, c, d] = addr.octets();
    format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// Interface names have at most 15 characters. (IFNAMSIZ)
fn interface_name(text: &str) -> String {
    text.chars().take(15).collect()
}

fn line(batch: &mut String, text: &str) {
    writeln!(batch, "{text}").expect("a String takes everything");
}
