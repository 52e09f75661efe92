//! Steps → the attributes of requests. Pure, but for the key of a peer that lives for one request.
//!
//! Never with `REPLACE_ALLOWEDIPS`: between its two halves packets of the flow have no owner, and an address that moved
//! comes back to its old one.

use super::super::{PrivateKey, Step};
use api::bytes::PublicKey;
use ipnet::IpNet;
use netlink_packet_core::Emitable as _;
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAllowedIpFlags,
    WireguardAttribute, WireguardPeer, WireguardPeerAttribute, WireguardPeerFlags,
};

/// What is said of a device in one message.
pub(super) type Request = Vec<WireguardAttribute>;

/// How one address is taken from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    /// By a flag of the address; the kernel does nothing when it is another peer's. (Linux 6.16 and newer)
    Single,
    /// By moving it to a peer that nobody else knows, which is removed with it in the same message.
    Parked,
}

/// Peers of one message: an attribute's length has 16 bits, and the tree of a message is one of them.
const PEERS_BYTES_MAX: usize = 48 << 10;
/// Addresses of one peer in a message: at 48 bytes each they leave room for the peer's other attributes.
const NETS_MAX: usize = 512;

/// The requests for steps other than removals of addresses.
pub(super) fn pack(steps: &[Step]) -> Vec<Request> {
    let mut requests = Requests::default();
    for step in steps {
        match step {
            Step::SetDevice { private_key, port, fwmark } => requests.device([
                WireguardAttribute::PrivateKey(*private_key.bytes()),
                WireguardAttribute::ListenPort(*port),
                WireguardAttribute::Fwmark(*fwmark),
            ]),
            Step::AddPeer { key, peer } => {
                let nets: Vec<IpNet> = peer.allowed_ips.iter().copied().collect();
                let (first, rest) = nets.split_at(nets.len().min(NETS_MAX));
                let mut attributes = vec![WireguardPeerAttribute::PersistentKeepalive(peer.keepalive_s)];
                attributes.extend(peer.endpoint.map(WireguardPeerAttribute::Endpoint));
                attributes.extend((!first.is_empty()).then(|| allowed(first, None)));
                requests.peer(key, attributes);
                for nets in rest.chunks(NETS_MAX) {
                    requests.peer(key, vec![update_only(), allowed(nets, None)]);
                }
            }
            // A peer that went meanwhile is not to come back as a husk: update only.
            Step::SetEndpoint { key, endpoint } => {
                requests.peer(key, vec![update_only(), WireguardPeerAttribute::Endpoint(*endpoint)]);
            }
            Step::AddAllowedIp { key, net } => {
                requests.peer(key, vec![update_only(), allowed(&[*net], None)]);
            }
            Step::SetKeepalive { key, keepalive_s } => {
                let keepalive = WireguardPeerAttribute::PersistentKeepalive(*keepalive_s);
                requests.peer(key, vec![update_only(), keepalive]);
            }
            Step::RemovePeer { key } => requests.peer(key, vec![remove_me()]),
            Step::RemoveAllowedIp { .. } => unreachable!("removals of addresses come apart"),
            Step::RenewPeer { .. } => unreachable!("a renewal comes as its requests"),
        }
    }
    requests.finish()
}

/// The requests that remove addresses, where the kernel can.
pub(super) fn remove(steps: &[Step]) -> Vec<Request> {
    let mut requests = Requests::default();
    for (key, net) in removals(steps) {
        let nets = allowed(&[net], Some(WireguardAllowedIpFlags::RemoveMe));
        requests.peer(&key, vec![update_only(), nets]);
    }
    requests.finish()
}

/// The requests that remove addresses, where the kernel cannot: those that `has` says are the peer's own.
pub(super) fn park(steps: &[Step], has: impl Fn(&IpNet, &PublicKey) -> bool) -> Vec<Request> {
    let owned = removals(steps).filter(|(key, net)| has(net, key));
    let nets: Vec<IpNet> = owned.map(|(_, net)| net).collect();
    let parked = |nets: &[IpNet]| {
        let parking = PrivateKey::generate().public();
        let mut request = Requests::default();
        request.peer(&parking, vec![allowed(nets, None)]);
        request.peer(&parking, vec![remove_me()]);
        request.finish()
    };
    nets.chunks(NETS_MAX).flat_map(parked).collect()
}

fn removals(steps: &[Step]) -> impl Iterator<Item = (PublicKey, IpNet)> {
    steps.iter().filter_map(|step| match step {
        Step::RemoveAllowedIp { key, net } => Some((*key, *net)),
        _ => None,
    })
}

/// Packs peers into as few messages as their size allows.
#[derive(Default)]
struct Requests {
    done: Vec<Request>,
    device: Request,
    peers: Vec<WireguardPeer>,
    peers_bytes: usize,
}

impl Requests {
    /// Of the device itself; the kernel takes it before the peers of its message, so those that were said before go first.
    fn device(&mut self, attributes: [WireguardAttribute; 3]) {
        self.close();
        self.device.extend(attributes);
    }

    fn peer(&mut self, key: &PublicKey, mut attributes: Vec<WireguardPeerAttribute>) {
        attributes.insert(0, WireguardPeerAttribute::PublicKey(key.0));
        let peer = WireguardPeer(attributes);
        let bytes = peer.buffer_len();
        if self.peers_bytes + bytes > PEERS_BYTES_MAX {
            self.close();
        }
        self.peers_bytes += bytes;
        self.peers.push(peer);
    }

    fn close(&mut self) {
        let mut request = std::mem::take(&mut self.device);
        if !self.peers.is_empty() {
            request.push(WireguardAttribute::Peers(std::mem::take(&mut self.peers)));
        }
        self.peers_bytes = 0;
        if !request.is_empty() {
            self.done.push(request);
        }
    }

    fn finish(mut self) -> Vec<Request> {
        self.close();
        self.done
    }
}

fn update_only() -> WireguardPeerAttribute {
    WireguardPeerAttribute::Flags(WireguardPeerFlags::UpdateOnly)
}

fn remove_me() -> WireguardPeerAttribute {
    WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe)
}

fn allowed(nets: &[IpNet], flags: Option<WireguardAllowedIpFlags>) -> WireguardPeerAttribute {
    let one = |net: &IpNet| {
        let family = match net {
            IpNet::V4(_) => WireguardAddressFamily::Ipv4,
            IpNet::V6(_) => WireguardAddressFamily::Ipv6,
        };
        let mut attributes = vec![
            WireguardAllowedIpAttr::Family(family),
            WireguardAllowedIpAttr::IpAddr(net.addr()),
            WireguardAllowedIpAttr::Cidr(net.prefix_len()),
        ];
        attributes.extend(flags.map(WireguardAllowedIpAttr::Flags));
        WireguardAllowedIp(attributes)
    };
    WireguardPeerAttribute::AllowedIps(nets.iter().map(one).collect())
}
