//! One padded packet and its answer: an ICMP echo that is as large as asked, whatever the route says.

use super::Padded;
use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Slice, Icmpv4Type, Icmpv6Header, Icmpv6Slice, Icmpv6Type,
    Ipv4HeaderSlice,
};
use nix::{
    libc,
    sys::socket::{setsockopt, sockopt::SetUsize},
};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{IpAddr, SocketAddr},
};
use tokio::{net::UdpSocket, time::timeout};

/// An ICMP header of an echo, in either family. (RFC 792, RFC 4443, 4.1)
const ECHO_HEADER_BYTES: u16 = 8;

#[derive(Clone, Copy)]
struct Ipv4MtuDiscover;
nix::setsockopt_impl!(Ipv4MtuDiscover, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, usize, SetUsize);
#[derive(Clone, Copy)]
struct Ipv6MtuDiscover;
nix::setsockopt_impl!(Ipv6MtuDiscover, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, usize, SetUsize);

/// Sends a padded packet from `source`, and says whether it was answered in time.
///
/// # Errors
/// When it cannot be sent: a lack of rights, the mesh address is not there yet, or it is larger than the device.
pub async fn ask(source: IpAddr, padded: &Padded, sequence: u16) -> io::Result<bool> {
    let target = padded.target.address;
    let socket = open(source, target)?;
    let echo = IcmpEchoHeader { id: std::process::id() as u16, seq: sequence };
    let ip_header_bytes = if target.is_ipv4() { 20 } else { 40 };
    let payload = vec![0; usize::from(padded.bytes.saturating_sub(ip_header_bytes + ECHO_HEADER_BYTES))];
    socket.send(&request(source, target, echo, &payload)?).await?;
    let answered = async {
        let mut packet = vec![0; usize::from(u16::MAX)];
        loop {
            let length = socket.recv(&mut packet).await?;
            if answers(target, &packet[..length], echo) {
                return Ok(true);
            }
        }
    };
    timeout(padded.timeout, answered).await.unwrap_or(Ok(false))
}

/// A socket whose packets are not fragmented and may be larger than the route says, up to the device's MTU: that is
/// how a path is found to have grown.
fn open(source: IpAddr, target: IpAddr) -> io::Result<UdpSocket> {
    let (domain, protocol) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    match target {
        IpAddr::V4(_) => setsockopt(&socket, Ipv4MtuDiscover, &(libc::IP_PMTUDISC_PROBE as usize))?,
        IpAddr::V6(_) => setsockopt(&socket, Ipv6MtuDiscover, &(libc::IPV6_PMTUDISC_PROBE as usize))?,
    }
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect(&SocketAddr::new(target, 0).into())?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

fn request(source: IpAddr, target: IpAddr, echo: IcmpEchoHeader, payload: &[u8]) -> io::Result<Vec<u8>> {
    let header = match (source, target) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), payload).to_bytes().to_vec()
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let kind = Icmpv6Type::EchoRequest(echo);
            let header = Icmpv6Header::with_checksum(kind, source.octets(), target.octets(), payload);
            header.map_err(io::Error::other)?.to_bytes().to_vec()
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
    };
    Ok([header.as_slice(), payload].concat())
}

/// A raw socket hears every ICMP packet of the other end, for IPv4 with its IP header. (raw(7))
fn answers(target: IpAddr, packet: &[u8], asked: IcmpEchoHeader) -> bool {
    match target {
        IpAddr::V4(_) => {
            let Ok(ip) = Ipv4HeaderSlice::from_slice(packet) else { return false };
            let icmp = Icmpv4Slice::from_slice(&packet[ip.slice().len()..]);
            icmp.is_ok_and(|icmp| icmp.icmp_type() == Icmpv4Type::EchoReply(asked))
        }
        IpAddr::V6(_) => {
            let icmp = Icmpv6Slice::from_slice(packet);
            icmp.is_ok_and(|icmp| icmp.icmp_type() == Icmpv6Type::EchoReply(asked))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{IpNumber, Ipv4Header};

    #[test]
    fn an_answer_is_recognised_by_its_kind_and_number_and_nothing_else_is_one() {
        let asked = IcmpEchoHeader { id: 7, seq: 9 };
        let other = IcmpEchoHeader { seq: 8, ..asked };
        let v4 = |kind: Icmpv4Type| {
            let ip = Ipv4Header::new(8, 64, IpNumber::ICMP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
            [ip.to_bytes().as_slice(), &Icmpv4Header::with_checksum(kind, &[]).to_bytes()].concat()
        };
        let target = IpAddr::from([10, 0, 0, 1]);
        assert!(answers(target, &v4(Icmpv4Type::EchoReply(asked)), asked));
        let others =
            [v4(Icmpv4Type::EchoReply(other)), v4(Icmpv4Type::EchoRequest(asked)), vec![0x45; 3], vec![]];
        for packet in others {
            assert!(!answers(target, &packet, asked), "{packet:02x?}");
        }
        let target: IpAddr = "fd64::1".parse().unwrap();
        let v6 = |kind| Icmpv6Header::with_checksum(kind, [1; 16], [2; 16], &[]).unwrap().to_bytes();
        assert!(answers(target, &v6(Icmpv6Type::EchoReply(asked)), asked));
        assert!(!answers(target, &v6(Icmpv6Type::EchoReply(other)), asked));
        assert!(!answers(target, &[], asked));
    }
}
