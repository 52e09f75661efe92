//! The configuration calls, one after another, and where the addresses are after each: as the tunnel says, and as packets
//! find them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::UdpSocket,
    time::Duration,
};

use api::bytes::PublicKey;
use datapath::backend::wireguard::{Peer, PrivateKey, Step, Tunnel, plan};
use ipnet::IpNet;

use crate::{
    lab::{FWMARK, Host, PORT, Underlay},
    stream::Stream,
};

/// Packets between two calls: several windows of the stream.
pub const PACKETS: u64 = 300;
/// A packet that does not come by then is lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// Its name, its steps, and whose the addresses are then: the other host's, and a stranger's.
type Call<'a> = (&'a str, Vec<Step>, &'a [IpNet], &'a [IpNet]);

/// Every call there is, on a host whose tunnel carries the stream; after each the addresses are where they should be.
pub fn all(host: &Host, other: &Host, stream: &Stream) {
    let (key, peer) = (other.key.public(), other.as_peer(&Underlay::V4.address(other.number)));
    let stranger = PrivateKey::generate().public();
    // One without an endpoint would have the kernel's device refuse a packet, instead of losing it.
    let endpoint = Some("192.0.2.99:1".parse().expect("an address"));
    let stranger_peer = Peer { endpoint, allowed_ips: [net("10.79.0.0/24")].into(), keepalive_s: 1 };
    let own = net(&format!("10.77.0.{}/32", other.number));
    let (extra, foreign) = (net("10.78.0.0/24"), net("10.79.0.0/24"));
    let device = || Step::SetDevice { private_key: host.key.clone(), port: PORT, fwmark: FWMARK };
    let calls: [Call<'_>; 16] = [
        ("add an allowed-ip", vec![Step::AddAllowedIp { key, net: extra }], &[own, extra], &[]),
        ("remove it", vec![Step::RemoveAllowedIp { key, net: extra }], &[own], &[]),
        (
            "set the same endpoint",
            vec![Step::SetEndpoint { key, endpoint: peer.endpoint.expect("an endpoint") }],
            &[own],
            &[],
        ),
        ("start keepalives", vec![Step::SetKeepalive { key, keepalive_s: 25 }], &[own], &[]),
        ("end keepalives", vec![Step::SetKeepalive { key, keepalive_s: 0 }], &[own], &[]),
        ("add another peer", vec![Step::AddPeer { key: stranger, peer: stranger_peer }], &[own], &[foreign]),
        ("take an address from it", vec![Step::AddAllowedIp { key, net: foreign }], &[own, foreign], &[]),
        (
            "change its former owner in another way",
            vec![Step::SetKeepalive { key: stranger, keepalive_s: 0 }],
            &[own, foreign],
            &[],
        ),
        (
            "remove the address from its former owner, too late",
            vec![Step::RemoveAllowedIp { key: stranger, net: foreign }],
            &[own, foreign],
            &[],
        ),
        (
            "give two addresses to the other peer",
            vec![
                Step::AddAllowedIp { key: stranger, net: foreign },
                Step::AddAllowedIp { key: stranger, net: extra },
            ],
            &[own],
            &[extra, foreign],
        ),
        (
            "make the other peer anew",
            vec![Step::RenewPeer {
                key: stranger,
                peer: Peer { endpoint, allowed_ips: [extra, foreign].into(), ..Peer::default() },
            }],
            &[own],
            &[extra, foreign],
        ),
        ("take one of them", vec![Step::AddAllowedIp { key, net: extra }], &[extra, own], &[foreign]),
        (
            "remove the other peer",
            vec![Step::RemovePeer { key: stranger }, Step::RemoveAllowedIp { key, net: extra }],
            &[own],
            &[],
        ),
        ("say key, port and mark again", vec![device()], &[own], &[]),
        ("say the peer again", vec![device(), Step::AddPeer { key, peer: peer.clone() }], &[own], &[]),
        ("say the peer again", vec![Step::AddPeer { key, peer: peer.clone() }], &[own], &[]),
    ];
    let tunnel = host.tunnel();
    let probe = Probe::new(host, other);
    for (name, steps, its, strangers) in calls {
        let name = format!("{name}, on host {}", host.number);
        tunnel.apply(&steps).expect(&name);
        stream.advance(PACKETS, &name);
        let seen = addresses(&tunnel);
        assert_eq!(seen.get(&key), Some(&BTreeSet::from_iter(its.iter().copied())), "{name}");
        for (net, address) in [(extra, "10.78.0"), (foreign, "10.79.0")] {
            assert_eq!(probe.reaches(address), its.contains(&net), "{address}.{}: {name}", other.number);
        }
        let of_stranger = seen.get(&stranger).cloned().unwrap_or_default();
        assert_eq!(of_stranger, BTreeSet::from_iter(strangers.iter().copied()), "{name}");
    }
    let wanted = host.device([(other.key.clone(), peer)]);
    assert_eq!(plan(&wanted, &tunnel.observe().expect("the tunnel answers")), []);
}

/// Says by packets whose an address is.
struct Probe {
    sender: UdpSocket,
    receiver: UdpSocket,
    /// Of the receiving host, in every net.
    number: u8,
    port: u16,
}

impl Probe {
    fn new(from: &Host, to: &Host) -> Self {
        let sender = from.place.run(|| UdpSocket::bind(format!("10.77.0.{}:0", from.number)));
        let receiver = to.place.run(|| UdpSocket::bind("0.0.0.0:0")).expect("a socket");
        receiver.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let port = receiver.local_addr().expect("it is bound").port();
        Self { sender: sender.expect("the tunnel's address is there"), receiver, number: to.number, port }
    }

    /// Whether the other host is reached in this net. A second packet, to its own address, ends the wait: the tunnel
    /// keeps the order.
    fn reaches(&self, net: &str) -> bool {
        for (net, text) in [(net, b"probe"), ("10.77.0", b"after")] {
            let to = format!("{net}.{}:{}", self.number, self.port);
            match self.sender.send_to(text, to) {
                Ok(_) => {}
                // The kernel's device says so when nobody has an address.
                Err(error) if error.raw_os_error() == Some(libc::ENOKEY) && text == b"probe" => {}
                Err(error) => panic!("the tunnel's device takes it: {error}"),
            }
        }
        let mut buffer = [0; 5];
        let mut received = vec![];
        while buffer != *b"after" {
            self.receiver.recv(&mut buffer).expect("the packet to the host's own address arrives");
            received.push(buffer);
        }
        received[0] == *b"probe"
    }
}

fn addresses(tunnel: &Tunnel) -> BTreeMap<PublicKey, BTreeSet<IpNet>> {
    let peers = tunnel.observe().expect("the tunnel answers").peers;
    peers.into_iter().map(|(key, peer)| (key, peer.allowed_ips)).collect()
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a net")
}
