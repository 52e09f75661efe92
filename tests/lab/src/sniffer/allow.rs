//! The allow-list: what may be seen on the underlay, by kind, address and port.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::frame::{Fragment, Frame, Packet, Transport};
use crate::place::Place;
use crate::topology::Topology;

/// Fragmented datagrams whose first part was seen and whose later parts may come: the links of the underlay keep order
/// but for what runs in parallel.
const FRAGMENTS_MAX: usize = 4_096;

/// ICMPv6 types that find routers and neighbours and join groups: RS, RA, NS, NA (RFC 4861), and MLD (RFC 2710, 3810).
const NEIGHBOUR_DISCOVERY: [u8; 8] = [130, 131, 132, 133, 134, 135, 136, 143];

/// One thing that may be seen. In YAML: `arp`, `neighbour-discovery`, `wireguard: {between: […], port: 51871}`,
/// `wireguard-at: {at: […], port: 51872}`,
/// `tcp: {to: […], port: 2379}`, `udp: {to: […], port: 53}`, `icmp: {between: […]}`, `anything: {between: […]}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Rule {
    /// Address resolution of IPv4.
    Arp,
    /// Address and router resolution of IPv6, and the group memberships it needs.
    NeighbourDiscovery,
    /// WireGuard messages between any two of these, from this port to this port.
    Wireguard {
        /// Who may speak with whom.
        between: Vec<Whom>,
        /// The UDP port of all of them.
        port: u16,
    },
    /// WireGuard messages to and from this port of these; the other port is anybody's, as a NAT box chooses it.
    WireguardAt {
        /// Who listens.
        at: Vec<Whom>,
        /// On which port.
        port: u16,
    },
    /// Connections to a port of these, from anybody on the underlay, both directions.
    Tcp {
        /// Who listens.
        to: Vec<Whom>,
        /// On which port.
        port: u16,
    },
    /// Datagrams to a port of these, from anybody on the underlay, both directions.
    Udp {
        /// Who listens.
        to: Vec<Whom>,
        /// On which port.
        port: u16,
    },
    /// ICMP and ICMPv6 between any two of these.
    Icmp {
        /// Who may speak with whom.
        between: Vec<Whom>,
    },
    /// Everything between any two of these: the pods and nodes of one cluster, whose own network is the CNI's business.
    Anything {
        /// Who may speak with whom.
        between: Vec<Whom>,
    },
}

/// An address, or all addresses of a place.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Whom {
    /// An address.
    Address(IpAddr),
    /// A place of the lab.
    Place(Place),
}

/// Why a frame was allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// There is no list.
    Any,
    /// [`Rule::Arp`].
    Arp,
    /// [`Rule::NeighbourDiscovery`].
    NeighbourDiscovery,
    /// [`Rule::Wireguard`].
    Wireguard,
    /// [`Rule::WireguardAt`].
    WireguardAt,
    /// [`Rule::Tcp`].
    Tcp,
    /// [`Rule::Udp`].
    Udp,
    /// [`Rule::Icmp`].
    Icmp,
    /// [`Rule::Anything`].
    Anything,
}

/// Rules with every place resolved, and what must be remembered to judge fragments.
#[derive(Debug)]
pub struct AllowList {
    rules: Vec<Resolved>,
    fragments: VecDeque<(IpAddr, IpAddr, u8, u32, Class)>,
}

/// A rule with addresses.
#[derive(Debug)]
struct Resolved {
    class: Class,
    whom: BTreeSet<IpAddr>,
    port: u16,
}

/// Reads a list of rules.
///
/// # Errors
/// It is not YAML of this shape; the message names the line.
pub fn parse_rules(yaml: &str) -> Result<Vec<Rule>> {
    match serde_saphyr::from_str(yaml) {
        Ok(rules) => Ok(rules),
        Err(error) => bail!(
            "the allow-list, line {}: {}",
            error.location().map_or(0, |at| at.line()),
            error.without_snippet()
        ),
    }
}

impl AllowList {
    /// Finds the addresses of the places that the rules name.
    ///
    /// # Errors
    /// A rule names a place that is not there.
    pub fn resolve(rules: &[Rule], topology: &Topology) -> Result<Self> {
        let rules = rules.iter().map(|rule| Resolved::of(rule, topology)).collect::<Result<_>>()?;
        Ok(Self { rules, fragments: VecDeque::new() })
    }

    /// Which rule allows a frame. None: none does.
    pub(super) fn classify(&mut self, frame: &Frame) -> Option<Class> {
        let packet = match frame {
            Frame::Arp => return self.rules.iter().map(|rule| rule.class).find(|class| *class == Class::Arp),
            Frame::Other(_) => return None,
            Frame::Ip(packet) => packet,
        };
        match packet.fragment {
            Some(Fragment { id, first: false }) => self.of_first(packet, id),
            Some(Fragment { id, first: true }) => {
                let class = self.first_match(packet)?;
                if self.fragments.len() == FRAGMENTS_MAX {
                    self.fragments.pop_front();
                }
                self.fragments.push_back((packet.source, packet.destination, packet.protocol, id, class));
                Some(class)
            }
            None => self.first_match(packet),
        }
    }

    fn first_match(&self, packet: &Packet) -> Option<Class> {
        self.rules.iter().find(|rule| rule.allows(packet)).map(|rule| rule.class)
    }

    /// A later fragment has no ports: it is what its first part was. (RFC 791: source, destination, protocol, id)
    fn of_first(&self, packet: &Packet, id: u32) -> Option<Class> {
        let key = (packet.source, packet.destination, packet.protocol, id);
        // The newest first: an id comes again after a while.
        let known = self
            .fragments
            .iter()
            .rev()
            .find(|(from, to, protocol, id, _)| (*from, *to, *protocol, *id) == key);
        known.map(|(.., class)| *class)
    }
}

impl Resolved {
    fn of(rule: &Rule, topology: &Topology) -> Result<Self> {
        let (class, whom, port) = match rule {
            Rule::Arp => (Class::Arp, &[][..], 0),
            Rule::NeighbourDiscovery => (Class::NeighbourDiscovery, &[][..], 0),
            Rule::Wireguard { between, port } => (Class::Wireguard, &between[..], *port),
            Rule::WireguardAt { at, port } => (Class::WireguardAt, &at[..], *port),
            Rule::Tcp { to, port } => (Class::Tcp, &to[..], *port),
            Rule::Udp { to, port } => (Class::Udp, &to[..], *port),
            Rule::Icmp { between } => (Class::Icmp, &between[..], 0),
            Rule::Anything { between } => (Class::Anything, &between[..], 0),
        };
        let whom = whom.iter().map(|whom| whom.addresses(topology)).collect::<Result<Vec<_>>>()?;
        Ok(Self { class, whom: whom.into_iter().flatten().collect(), port })
    }

    fn allows(&self, packet: &Packet) -> bool {
        let known = |address: IpAddr| self.whom.contains(&address);
        let both = known(packet.source) && known(packet.destination);
        let at_port = |source: u16, destination: u16| {
            known(packet.destination) && destination == self.port
                || known(packet.source) && source == self.port
        };
        match (self.class, &packet.transport) {
            (Class::NeighbourDiscovery, Transport::Icmp6 { kind }) => NEIGHBOUR_DISCOVERY.contains(kind),
            (Class::Wireguard, Transport::Udp { source, destination, head }) => {
                both && *source == self.port && *destination == self.port && is_message(head)
            }
            (Class::WireguardAt, Transport::Udp { source, destination, head }) => {
                at_port(*source, *destination) && is_message(head)
            }
            (Class::Tcp, Transport::Tcp { source, destination })
            | (Class::Udp, Transport::Udp { source, destination, .. }) => at_port(*source, *destination),
            (Class::Icmp, Transport::Icmp4 | Transport::Icmp6 { .. }) | (Class::Anything, _) => both,
            (
                Class::Any
                | Class::Arp
                | Class::NeighbourDiscovery
                | Class::Wireguard
                | Class::WireguardAt
                | Class::Tcp
                | Class::Udp
                | Class::Icmp,
                _,
            ) => false,
        }
    }
}

/// Message type 1 to 4 and three zero bytes: every WireGuard message begins so. (WireGuard, section 5.4)
fn is_message(head: &[u8; 4]) -> bool {
    matches!(head, [1..=4, 0, 0, 0])
}

impl Whom {
    fn addresses(&self, topology: &Topology) -> Result<Vec<IpAddr>> {
        match self {
            Self::Address(address) => Ok(vec![*address]),
            Self::Place(place) => {
                let addresses = topology.addresses(place);
                let found = (!addresses.is_empty()).then_some(addresses);
                found.with_context(|| format!("the allow-list names {place}, and there is no such place"))
            }
        }
    }
}

impl FromStr for Whom {
    type Err = crate::place::BadName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(address) => Ok(Self::Address(address)),
            Err(_) => Ok(Self::Place(text.parse()?)),
        }
    }
}

impl TryFrom<String> for Whom {
    type Error = crate::place::BadName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Any => "any",
            Self::Arp => "ARP",
            Self::NeighbourDiscovery => "neighbour discovery",
            Self::Wireguard => "WireGuard",
            Self::WireguardAt => "WireGuard at listed ports",
            Self::Tcp => "TCP to listed ports",
            Self::Udp => "UDP to listed ports",
            Self::Icmp => "ICMP",
            Self::Anything => "a cluster's own network",
        })
    }
}
