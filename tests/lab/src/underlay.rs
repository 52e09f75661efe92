//! The underlay as text for `ip -batch`: a router with one bridge a cluster, and a link to each machine.
//!
//! The router knows the clusters' own segments and nothing else: no pod, no Service, no mesh prefix.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::place::{Name, Place};
use crate::topology::{DualAddr, Topology};

/// A machine's link to the underlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The machine.
    pub place: Place,
    /// The cluster whose segment it is plugged into.
    pub segment: Name,
    /// Its addresses.
    pub addresses: DualAddr,
    /// The router's end: a port of the segment's bridge, in the underlay's namespace.
    pub port: String,
}

/// The machine's end of its link.
pub const UPLINK: &str = "eth0";

/// Every machine's link, in the order of the places. Ports are numbered, so that no two have the same name.
#[must_use]
pub fn uplinks(topology: &Topology) -> Vec<Uplink> {
    let mut uplinks = Vec::new();
    for place in topology.places() {
        let (segment, addresses, short) = match &place {
            Place::Host { host } => {
                let guest = &topology.hosts[host];
                (guest.segment.value.clone(), guest.addresses.value, host)
            }
            Place::ClusterHost { cluster, host } => {
                (cluster.clone(), topology.clusters[cluster].hosts[host].addresses.value, host)
            }
            Place::Node { cluster, node } => {
                (cluster.clone(), topology.clusters[cluster].nodes[node].addresses.value, node)
            }
            Place::Underlay | Place::Pod { .. } => continue,
        };
        let port = interface_name(&format!("u{}-{short}", uplinks.len()));
        uplinks.push(Uplink { place, segment, addresses, port });
    }
    uplinks
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
        let (bridge, router, subnets) = (&bridges[name], cluster.router(), cluster.subnets.value);
        // Snooping would need a querier to keep multicast, and with it neighbour discovery, alive.
        line(
            &mut batch,
            &format!("link add {bridge} address {} type bridge mcast_snooping 0", mac(router.v4)),
        );
        line(&mut batch, &format!("link set {bridge} up"));
        line(&mut batch, &format!("addr add {}/{} dev {bridge}", router.v4, subnets.v4.prefix_len()));
        line(&mut batch, &format!("addr add {}/{} dev {bridge} nodad", router.v6, subnets.v6.prefix_len()));
    }
    for link in uplinks(topology) {
        let (port, mac, holder) = (&link.port, mac(link.addresses.v4), holders[&link.place]);
        line(
            &mut batch,
            &format!("link add {port} type veth peer name {UPLINK} address {mac} netns {holder}"),
        );
        line(&mut batch, &format!("link set {port} master {} up", bridges[&link.segment]));
    }
    batch
}

/// Addresses and routes of one machine, in its own namespace: its segment, a default route to the router, and on a
/// node the pods of the other nodes of its cluster by host routes, as kindnet and host-gw make them.
#[must_use]
pub fn machine_batch(topology: &Topology, link: &Uplink) -> String {
    let mut batch = String::new();
    let cluster = &topology.clusters[&link.segment];
    let (own, subnets, router) = (link.addresses, cluster.subnets.value, cluster.router());
    line(&mut batch, &format!("addr add {}/{} dev {UPLINK}", own.v4, subnets.v4.prefix_len()));
    line(&mut batch, &format!("addr add {}/{} dev {UPLINK} nodad", own.v6, subnets.v6.prefix_len()));
    line(&mut batch, &format!("link set {UPLINK} up"));
    line(&mut batch, &format!("route add default via {} dev {UPLINK}", router.v4));
    line(&mut batch, &format!("route add default via {} dev {UPLINK}", router.v6));
    if let Place::Node { node: own, .. } = &link.place {
        for (_, other) in cluster.nodes.iter().filter(|(name, _)| *name != own) {
            let (pods, via) = (other.pod_cidrs.value, other.addresses.value);
            line(&mut batch, &format!("route add {} via {} dev {UPLINK}", pods.v4, via.v4));
            line(&mut batch, &format!("route add {} via {} dev {UPLINK}", pods.v6, via.v6));
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
