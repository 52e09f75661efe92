//! Cut links, as one nftables table of the underlay: what is cut is said whole each time, and replaced at once.
//!
//! Packets are dropped, or marked for the relay that delays them, where they come in from their machine, by what they are addressed to, so that a cut holds inside
//! a segment as well as between two, and for pods' addresses as well as for nodes'.

use std::fmt::{self, Write};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::lab::Lab;
use crate::place::{Name, Place};
use crate::shell::feed;
use crate::topology::{DualNet, Topology};
use crate::underlay::{Lan, UPLINK, links, uplinks};

#[cfg(test)]
mod tests;

/// The table, in the underlay's namespace.
const TABLE: &str = "netdev mesh_lab_cuts";

/// ICMPv6 without neighbour discovery: errors and echo. (RFC 4443)
const ICMP6: &str =
    "{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem, echo-request, echo-reply }";

/// A link that is cut, between two sides that are each a cluster or a place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cut {
    /// One side.
    pub a: Side,
    /// The other side.
    pub b: Side,
    /// What does not pass any more.
    pub what: Traffic,
}

/// What stands at an end of a cut.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Side {
    /// A cluster: its nodes, hosts and pods, without the guests of its segment.
    Cluster(Name),
    /// A machine.
    Place(Place),
}

/// Which packets a cut stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Traffic {
    /// Every IP packet.
    All,
    /// UDP alone: TCP and ICMP still pass.
    Udp,
    /// ICMP and ICMPv6 alone, without neighbour discovery.
    Icmp,
    /// This many of a hundred IP packets, at random: a link that loses.
    Percent(u8),
    /// What exceeds this rate, in each direction and family: a link that is slow, and has no queue.
    AboveKbit(u32),
    /// Larger IP packets than this, without a word to their sender: a link whose MTU is smaller than its ends know.
    LargerThan(u16),
    /// None, but every IP packet of the link takes this many milliseconds longer in each direction.
    DelayMs(u16),
}

impl Lab {
    /// Cuts the link between two sides, in both directions. What is cut already stays so.
    ///
    /// # Errors
    /// A side is no cluster and no machine of this lab.
    pub fn cut(&self, a: &str, b: &str, what: Traffic) -> Result<()> {
        let cut = Cut { a: self.side(a)?, b: self.side(b)?, what };
        self.change(|state| {
            if !state.cuts.contains(&cut) {
                state.cuts.push(cut.clone());
            }
            let delays: Vec<_> = state.cuts.iter().filter_map(|cut| cut.what.delay_ms()).collect();
            self.relay_all(&mut state.relays, delays)?;
            self.apply(&state.cuts)?;
            match cut.what {
                Traffic::LargerThan(_) => self.send_no_super_packets(&[&cut.a, &cut.b]),
                Traffic::All
                | Traffic::Udp
                | Traffic::Icmp
                | Traffic::Percent(_)
                | Traffic::AboveKbit(_)
                | Traffic::DelayMs(_) => Ok(()),
            }
        })
    }

    /// From now on these machines' devices segment what they send, as a wire would have it: a super-packet that is
    /// handed over whole has no size that a link could judge.
    fn send_no_super_packets(&self, sides: &[&Side]) -> Result<()> {
        let links = uplinks(&self.topology);
        for side in sides {
            for link in links.iter().filter(|link| belongs(&self.topology, side, &link.place)) {
                let argv = ["ip", "link", "set", UPLINK, "gso_max_segs", "1"];
                let output = self.exec(&link.place.to_string(), argv)?;
                if !output.status.success() {
                    bail!(
                        "cannot limit {UPLINK} of {}: {}",
                        link.place,
                        String::from_utf8_lossy(&output.stderr)
                    );
                }
            }
        }
        Ok(())
    }

    /// Heals whatever is cut between two sides. Nothing cut is no error.
    ///
    /// # Errors
    /// A side is no cluster and no machine of this lab.
    pub fn heal(&self, a: &str, b: &str) -> Result<()> {
        let (a, b) = (self.side(a)?, self.side(b)?);
        self.change(|state| {
            state.cuts.retain(|cut| (&cut.a, &cut.b) != (&a, &b) && (&cut.a, &cut.b) != (&b, &a));
            self.apply(&state.cuts)
        })
    }

    fn side(&self, text: &str) -> Result<Side> {
        let side: Side = text.parse()?;
        ends(&self.topology, &side).map(|_| side)
    }

    fn apply(&self, cuts: &[Cut]) -> Result<()> {
        let nft = self.entrance(&Place::Underlay)?.command(&self.mesh_lab, ["nft", "-f", "-"]);
        feed(nft, "cannot change what is cut", &ruleset(&self.topology, cuts)?).map(drop)
    }
}

/// All cuts as `nft -f` reads them: one transaction that replaces the table.
///
/// # Errors
/// A cut names what the topology does not have.
fn ruleset(topology: &Topology, cuts: &[Cut]) -> Result<String> {
    // Declared first, because deleting what is not there is an error.
    let mut text = format!("table {TABLE} {{}}\ndelete table {TABLE}\n");
    if cuts.is_empty() {
        return Ok(text);
    }
    let ports: Vec<_> = uplinks(topology).into_iter().map(|link| link.port).collect();
    writeln!(text, "table {TABLE} {{")?;
    writeln!(text, "  chain ingress {{")?;
    writeln!(
        text,
        "    type filter hook ingress devices = {{ {} }} priority 0; policy accept;",
        ports.join(", ")
    )?;
    for cut in cuts {
        let (a, b) = (ends(topology, &cut.a)?, ends(topology, &cut.b)?);
        for (from, to) in [(&a, &b), (&b, &a)] {
            for (family, addresses) in [("ip", &to.v4), ("ip6", &to.v6)] {
                let (matched, verdict) = (cut.what.matched(family), cut.what.verdict());
                let (ports, addresses) = (from.ports.join(", "), addresses.join(", "));
                writeln!(
                    text,
                    "    iifname {{ {ports} }} {family} daddr {{ {addresses} }} {matched}counter {verdict}"
                )?;
            }
        }
    }
    writeln!(text, "  }}\n}}")?;
    Ok(text)
}

/// Where a side's packets come in, and what leads to it.
struct Ends {
    ports: Vec<String>,
    v4: Vec<String>,
    v6: Vec<String>,
}

fn belongs(topology: &Topology, side: &Side, place: &Place) -> bool {
    match (side, place) {
        (
            Side::Cluster(cluster),
            Place::Node { cluster: of, .. } | Place::ClusterHost { cluster: of, .. },
        ) => of == cluster,
        // The box that one of its machines stands behind is all that the underlay sees of it.
        (Side::Cluster(cluster), Place::Nat { nat }) => stands_behind(topology, cluster, nat),
        (Side::Cluster(_), Place::Underlay | Place::Host { .. } | Place::Pod { .. }) => false,
        (Side::Place(named), place) => named == place,
    }
}

fn ends(topology: &Topology, side: &Side) -> Result<Ends> {
    let mut ends = Ends { ports: Vec::new(), v4: Vec::new(), v6: Vec::new() };
    for link in uplinks(topology).into_iter().filter(|link| belongs(topology, side, &link.place)) {
        ends.ports.push(link.port);
        let addresses = link.addresses.both().map(IpNet::from).into_iter();
        for prefix in addresses.chain(pods_behind(topology, &link.place).into_iter().flat_map(DualNet::both))
        {
            match prefix {
                IpNet::V4(prefix) => ends.v4.push(prefix.to_string()),
                IpNet::V6(prefix) => ends.v6.push(prefix.to_string()),
            }
        }
    }
    if ends.ports.is_empty() {
        bail!(
            "`{side}` is no cluster and no machine on the underlay of this lab: `mesh-lab places` lists the machines; \
             of one behind a NAT box the box can be cut"
        );
    }
    Ok(ends)
}

fn stands_behind(topology: &Topology, cluster: &Name, nat: &Name) -> bool {
    let machines = links(topology).into_iter().filter(|link| link.lan == Lan::Behind(nat.clone()));
    machines.map(|link| link.place).any(|place| match place {
        Place::Node { cluster: of, .. } | Place::ClusterHost { cluster: of, .. } => of == *cluster,
        Place::Underlay | Place::Nat { .. } | Place::Host { .. } | Place::Pod { .. } => false,
    })
}

fn pods_behind(topology: &Topology, place: &Place) -> Option<DualNet> {
    match place {
        Place::Node { cluster, node } => {
            Some(topology.clusters.get(cluster)?.nodes.get(node)?.pod_cidrs.value)
        }
        Place::Underlay
        | Place::Nat { .. }
        | Place::Host { .. }
        | Place::ClusterHost { .. }
        | Place::Pod { .. } => None,
    }
}

impl Traffic {
    /// The part of a rule that selects it.
    fn matched(self, family: &str) -> String {
        match (self, family) {
            (Self::All | Self::DelayMs(_), _) => String::new(),
            (Self::Udp, _) => "meta l4proto udp ".to_owned(),
            (Self::Icmp, "ip6") => format!("icmpv6 type {ICMP6} "),
            (Self::Icmp, _) => "meta l4proto icmp ".to_owned(),
            // At a device's ingress this is the IP packet, without the link's header.
            (Self::LargerThan(bytes), _) => format!("meta length > {bytes} "),
            (Self::Percent(share), _) => format!("numgen random mod 100 < {share} "),
            // A burst of 20 ms, and room for one packet of the largest size.
            (Self::AboveKbit(rate), _) => {
                let bytes = u64::from(rate) * 1_000 / 8;
                format!("limit rate over {bytes} bytes/second burst {} bytes ", (bytes / 50).max(2_048))
            }
        }
    }

    /// What becomes of it. Of two delays the later one counts, and what another cut drops is dropped after a mark, too.
    fn verdict(self) -> String {
        match self.delay_ms() {
            Some(delay_ms) => format!("meta mark set {delay_ms}"),
            None => "drop".to_owned(),
        }
    }

    fn delay_ms(self) -> Option<u16> {
        match self {
            Self::DelayMs(delay_ms) => Some(delay_ms),
            Self::All
            | Self::Udp
            | Self::Icmp
            | Self::Percent(_)
            | Self::AboveKbit(_)
            | Self::LargerThan(_) => None,
        }
    }
}

impl std::str::FromStr for Side {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let place =
            if text == "underlay" || text.contains('/') { Some(text.parse::<Place>()?) } else { None };
        match place {
            Some(place) => Ok(Self::Place(place)),
            None => Ok(Self::Cluster(text.parse().context("a side is a cluster or a place")?)),
        }
    }
}

impl TryFrom<String> for Side {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|error| format!("{error:#}"))
    }
}

impl From<Side> for String {
    fn from(side: Side) -> Self {
        side.to_string()
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(name) => name.fmt(f),
            Self::Place(place) => place.fmt(f),
        }
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.pad("all"),
            Self::Udp => f.pad("udp"),
            Self::Icmp => f.pad("icmp"),
            Self::Percent(share) => f.pad(&format!("{share} %")),
            Self::AboveKbit(rate) => f.pad(&format!("above {rate} kbit/s")),
            Self::LargerThan(bytes) => f.pad(&format!("above {bytes} bytes")),
            Self::DelayMs(delay_ms) => f.pad(&format!("delayed by {delay_ms} ms")),
        }
    }
}
