//! A frame as far as the allow-list asks about it.

use std::fmt;
use std::net::IpAddr;

use etherparse::{IpNumber, Ipv6ExtensionSlice, NetSlice, SlicedPacket, TransportSlice};

/// A frame, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// Address resolution. (RFC 826)
    Arp,
    /// An IP packet.
    Ip(Packet),
    /// Neither, or not well-formed: the reason.
    Other(String),
}

/// An IP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// The protocol behind the IP header and its extensions.
    pub(super) protocol: u8,
    pub(super) fragment: Option<Fragment>,
    pub(super) transport: Transport,
}

/// A packet that is a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fragment {
    pub(super) id: u32,
    /// Whether it is the first, which has the transport header.
    pub(super) first: bool,
}

/// What is in a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Transport {
    /// UDP, with the first four bytes of its payload.
    Udp {
        source: u16,
        destination: u16,
        head: [u8; 4],
    },
    Tcp {
        source: u16,
        destination: u16,
    },
    Icmp4,
    Icmp6 {
        kind: u8,
    },
    /// Another protocol, or a fragment that is not the first.
    Opaque,
}

impl Frame {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let sliced = match SlicedPacket::from_ethernet(bytes) {
            Ok(sliced) => sliced,
            Err(error) => return Self::Other(format!("not well-formed: {error}")),
        };
        let ethertype = bytes.get(12..14).map_or(0, |field| u16::from(field[0]) << 8 | u16::from(field[1]));
        let (source, destination, protocol, fragment): (IpAddr, IpAddr, _, _) = match &sliced.net {
            Some(NetSlice::Arp(_)) => return Self::Arp,
            Some(NetSlice::Ipv4(packet)) => {
                let header = packet.header();
                let first = header.fragments_offset().value() == 0;
                let fragment = packet
                    .is_payload_fragmented()
                    .then(|| Fragment { id: u32::from(header.identification()), first });
                (
                    header.source_addr().into(),
                    header.destination_addr().into(),
                    packet.payload_ip_number(),
                    fragment,
                )
            }
            Some(NetSlice::Ipv6(packet)) => {
                let fragment =
                    packet.extensions().clone().into_iter().find_map(|extension| match extension {
                        Ipv6ExtensionSlice::Fragment(header) => Some(Fragment {
                            id: header.identification(),
                            first: header.fragment_offset().value() == 0,
                        }),
                        Ipv6ExtensionSlice::HopByHop(_)
                        | Ipv6ExtensionSlice::Routing(_)
                        | Ipv6ExtensionSlice::DestinationOptions(_)
                        | Ipv6ExtensionSlice::Authentication(_) => None,
                    });
                let header = packet.header();
                let protocol = packet.payload().ip_number;
                (header.source_addr().into(), header.destination_addr().into(), protocol, fragment)
            }
            None => return Self::Other(format!("ethertype {ethertype:#06x}")),
        };
        let transport = match &sliced.transport {
            // The start of a fragmented datagram: its length field speaks of all of it, so it is read by hand.
            None if protocol == IpNumber::UDP && fragment.is_some_and(|fragment| fragment.first) => sliced
                .net
                .as_ref()
                .and_then(|net| net.ip_payload_ref())
                .map_or(Transport::Opaque, |it| udp(it.payload)),
            None | Some(TransportSlice::Igmp(_)) => Transport::Opaque,
            Some(TransportSlice::Udp(datagram)) => udp(datagram.slice()),
            Some(TransportSlice::Tcp(segment)) => {
                Transport::Tcp { source: segment.source_port(), destination: segment.destination_port() }
            }
            Some(TransportSlice::Icmpv4(_)) => Transport::Icmp4,
            Some(TransportSlice::Icmpv6(message)) => Transport::Icmp6 { kind: message.type_u8() },
        };
        Self::Ip(Packet { source, destination, protocol: protocol.0, fragment, transport })
    }
}

/// The ports and the start of the payload. (RFC 768)
fn udp(datagram: &[u8]) -> Transport {
    let Some((&[s1, s2, d1, d2, ..], payload)) = datagram.split_first_chunk::<8>() else {
        return Transport::Opaque;
    };
    let head = payload.first_chunk::<4>().copied().unwrap_or_default();
    Transport::Udp { source: u16::from_be_bytes([s1, s2]), destination: u16::from_be_bytes([d1, d2]), head }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packet = match self {
            Self::Arp => return write!(f, "ARP"),
            Self::Other(reason) => return write!(f, "{reason}"),
            Self::Ip(packet) => packet,
        };
        let (from, to) = (packet.source, packet.destination);
        let ports = |source: u16, destination: u16| format!("{from} port {source} → {to} port {destination}");
        let what = match &packet.transport {
            Transport::Udp { source, destination, .. } => format!("UDP {}", ports(*source, *destination)),
            Transport::Tcp { source, destination } => format!("TCP {}", ports(*source, *destination)),
            Transport::Icmp4 => format!("ICMP {from} → {to}"),
            Transport::Icmp6 { kind } => format!("ICMPv6 type {kind} {from} → {to}"),
            Transport::Opaque => format!("IP protocol {} {from} → {to}", packet.protocol),
        };
        write!(f, "{what}")?;
        match packet.fragment {
            Some(Fragment { id, first }) => {
                write!(f, ", {} fragment of {id:#x}", if first { "first" } else { "later" })
            }
            None => Ok(()),
        }
    }
}
