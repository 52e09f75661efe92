//! NAT boxes as text for `nft -f`, and binding them anew.
//!
//! Linux's masquerading gives a socket one port outside for all its targets, and lets in only whom it has sent to: the
//! port-restricted kind. A random port for each connection makes the symmetric kind of it. For a full cone, which Linux
//! does not have, the box learns from each packet that leaves which socket has the port, and sends there whatever comes.

use std::ops::Range;

use anyhow::{Context, Result};

use crate::enter::in_network;
use crate::lab::Lab;
use crate::netfilter::{Message, Netfilter};
use crate::place::{Name, Place};
use crate::shell::feed;
use crate::topology::{DualAddr, Forward, Nat, NatKind};
use crate::underlay::UPLINK;

#[cfg(test)]
mod tests;

/// Ports outside, in turns: after a rebind no port is one that was used before it.
const PORTS: [Range<u16>; 4] = [20_000..30_000, 30_000..40_000, 40_000..50_000, 50_000..60_000];

/// `IPCTNL_MSG_CT_DELETE` of `NFNL_SUBSYS_CTNETLINK`: without an attribute that says which, all.
const FORGET_CONNECTIONS: (u8, u8) = (1, 2);

impl Lab {
    /// Has a NAT box forget all mappings and make new ones at other ports, as one does that is restarted or whose
    /// provider gives it another address.
    ///
    /// # Errors
    /// There is no such box.
    pub fn rebind(&self, name: &Name) -> Result<()> {
        let nat = self.topology.nats.get(name).with_context(|| format!("there is no NAT box `{name}`"))?;
        let place = Place::Nat { nat: name.clone() };
        let entrance = self.entrance(&place)?;
        self.change(|state| {
            let rebinds = state.rebinds.entry(name.clone()).or_default();
            *rebinds = rebinds.wrapping_add(1);
            let nft = entrance.command(&self.mesh_lab, ["nft", "-f", "-"]);
            feed(nft, &format!("cannot write the rules of {place}"), &ruleset(nat, *rebinds))?;
            let all = Message { kind: FORGET_CONNECTIONS, resource: 0, attribute: None };
            in_network(entrance.net, || Netfilter::open()?.ask(all))?
                .with_context(|| format!("cannot have {place} forget its connections"))
        })
    }
}

/// The rules of a box that was bound anew so often: one transaction that replaces the table.
#[must_use]
pub(crate) fn ruleset(nat: &Nat, rebinds: u8) -> String {
    let ports = &PORTS[usize::from(rebinds) % PORTS.len()];
    let (from, to) = (ports.start, ports.end - 1);
    let random = match nat.kind {
        NatKind::Symmetric => " random,fully-random",
        NatKind::FullCone | NatKind::PortRestricted => "",
    };
    let cone = match nat.kind {
        NatKind::FullCone => cone(nat.udp_timeout_s),
        NatKind::PortRestricted | NatKind::Symmetric => String::new(),
    };
    let forwarded: String = nat.forward.iter().map(hand_on).collect();
    // Declared first, because deleting what is not there is an error.
    format!(
        "table inet mesh_lab_nat {{}}
delete table inet mesh_lab_nat
table inet mesh_lab_nat {{
  chain translate {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname \"{UPLINK}\" meta l4proto {{ tcp, udp }} masquerade to :{from}-{to}{random}
    oifname \"{UPLINK}\" masquerade
  }}
  chain through {{
    type filter hook forward priority filter; policy accept;
    iifname \"{UPLINK}\" ct status dnat accept
    iifname \"{UPLINK}\" ct state {{ new, invalid }} drop
  }}
  chain own {{
    type filter hook input priority filter; policy accept;
    iifname \"{UPLINK}\" meta l4proto {{ tcp, udp }} ct state {{ new, invalid }} drop
  }}
  chain hand_on {{
    type nat hook prerouting priority dstnat - 1; policy accept;
{forwarded}  }}
{cone}}}
"
    )
}

/// What comes to a port that was opened goes to the machine that it was opened for.
fn hand_on(Forward { port, to }: &Forward) -> String {
    let DualAddr { v4, v6 } = to.value;
    format!(
        "    iifname \"{UPLINK}\" tcp dport {port} dnat ip to {v4}
    iifname \"{UPLINK}\" tcp dport {port} dnat ip6 to {v6}
"
    )
}

/// Which socket has which port outside: learnt after the translation, used before the next.
fn cone(udp_timeout_s: u16) -> String {
    let flags = format!("size 65535; flags dynamic,timeout; timeout {udp_timeout_s}s;");
    format!(
        "  map address4 {{ type inet_service : ipv4_addr; {flags} }}
  map port4 {{ type inet_service : inet_service; {flags} }}
  map address6 {{ type inet_service : ipv6_addr; {flags} }}
  map port6 {{ type inet_service : inet_service; {flags} }}
  chain learn {{
    type filter hook postrouting priority srcnat + 50; policy accept;
    oifname \"{UPLINK}\" meta nfproto ipv4 meta l4proto udp update @address4 {{ udp sport : ct original ip saddr }}
    oifname \"{UPLINK}\" meta nfproto ipv4 meta l4proto udp update @port4 {{ udp sport : ct original proto-src }}
    oifname \"{UPLINK}\" meta nfproto ipv6 meta l4proto udp update @address6 {{ udp sport : ct original ip6 saddr }}
    oifname \"{UPLINK}\" meta nfproto ipv6 meta l4proto udp update @port6 {{ udp sport : ct original proto-src }}
  }}
  chain let_in {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname \"{UPLINK}\" dnat ip to udp dport map @address4 : udp dport map @port4
    iifname \"{UPLINK}\" dnat ip6 to udp dport map @address6 : udp dport map @port6
  }}
"
    )
}
