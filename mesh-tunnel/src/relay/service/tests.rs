//! Real devices on loopback, each with its own socket, that know of each other only the relay's address.

use std::{net::Ipv4Addr, path::Path};

use gotatun::{
    packet::Ip,
    tun::{IpRecv, IpSend, MtuWatcher},
};
use tokio::{task::LocalSet, time::timeout};

use super::*;
use crate::relay::{
    MBIT_PER_S,
    tests::{pair, public, secret},
};

/// A handshake on loopback takes a millisecond; one that is lost is repeated after 5 s.
const PATIENCE: Duration = Duration::from_secs(30);

/// A node: a device, what goes into it, and what comes out.
struct Node {
    device: Device<(Sockets, Inside, Inside)>,
    sockets: Sockets,
    put: mpsc::Sender<gotatun::packet::Packet<Ip>>,
    out: mpsc::Receiver<gotatun::packet::Packet<Ip>>,
}

/// The inside of a device, as channels.
#[derive(Clone)]
struct Inside {
    put: Arc<tokio::sync::Mutex<mpsc::Receiver<gotatun::packet::Packet<Ip>>>>,
    out: mpsc::Sender<gotatun::packet::Packet<Ip>>,
}

impl IpRecv for Inside {
    async fn recv<'a>(
        &'a mut self,
        _: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = gotatun::packet::Packet<Ip>> + Send + 'a> {
        match self.put.lock().await.recv().await {
            Some(packet) => Ok(std::iter::once(packet)),
            None => std::future::pending().await,
        }
    }

    fn mtu(&self) -> MtuWatcher {
        MtuWatcher::new(1420)
    }
}

impl IpSend for Inside {
    async fn send(&mut self, packet: gotatun::packet::Packet<Ip>) -> io::Result<()> {
        self.out.send(packet).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A packet from one name to another: 10.0.0.<name>.
fn packet(from: u8, to: u8, text: &[u8]) -> gotatun::packet::Packet<Ip> {
    let mut packet = bytes::BytesMut::zeroed(20);
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&u16::try_from(20 + text.len()).expect("a short text").to_be_bytes());
    packet[12..16].copy_from_slice(&[10, 0, 0, from]);
    packet[16..20].copy_from_slice(&[10, 0, 0, to]);
    packet.extend_from_slice(text);
    gotatun::packet::Packet::from_bytes(packet).try_into_ip().expect("an IP packet")
}

impl Node {
    /// A node that reaches another through the relay.
    async fn new(name: u8, other: u8, relay: &Service) -> Self {
        let (put, inside) = mpsc::channel(16);
        let (outside, out) = mpsc::channel(16);
        let inside = Inside { put: Arc::new(inside.into()), out: outside };
        let sockets = Sockets::default();
        let port = sockets.bind(0, 0).expect("a port");
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, relay.port));
        let mut proof = DevicePeer::new(relay.public_key.to_x25519()).with_endpoint(at);
        proof.keepalive = Some(1);
        let peer = DevicePeer::new(public(other).to_x25519()).with_endpoint(at).with_allowed_ips([format!(
            "10.0.0.{other}/32"
        )
        .parse()
        .expect("a prefix")]);
        let device = DeviceBuilder::new()
            .with_udp(sockets.clone())
            .with_ip_pair(inside.clone(), inside)
            .with_private_key(secret(name).to_x25519())
            .with_listen_port(port ^ 1)
            .build()
            .await
            .expect("a device");
        device
            .write(async |device| {
                device.add_peers([proof, peer]);
                device.set_listen_port(port);
            })
            .await
            .expect("it is configured");
        Self { device, sockets, put, out }
    }

    /// Its NAT box is bound anew: the same device, behind another port.
    async fn move_away(&self) {
        let port = self.sockets.bind(0, 0).expect("another port");
        self.device.write(async |device| device.set_listen_port(port)).await.expect("it moves");
    }
}

/// Whether what one says now arrives at the other, within the time. What was said before may arrive meanwhile.
async fn arrives(from: &Node, to: &mut Node, (me, you): (u8, u8), text: &str, within: Duration) -> bool {
    let said = async {
        loop {
            from.put.send(packet(me, you, text.as_bytes())).await.expect("the device takes it");
            while let Ok(Some(heard)) = timeout(Duration::from_millis(100), to.out.recv()).await {
                if heard.into_bytes().ends_with(text.as_bytes()) {
                    return;
                }
            }
        }
    };
    timeout(within, said).await.is_ok()
}

/// Runs a story beside a relay that learns; the relay is started anew over its file when the story says so.
async fn story<T>(service: &Rc<Service>, story: impl Future<Output = T>) -> T {
    tokio::select! {
        told = story => told,
        () = service.learn() => unreachable!("it learns for ever"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_know_the_relay_only_talk_move_and_are_cut() {
    LocalSet::new().run_until(two_nodes()).await;
}

/// Another relay at the port of one that stopped. A process that ends lets go of it at once; here the device's tasks do, a
/// moment after they were told to end.
async fn started_again(port: u16, file: &Path) -> Service {
    loop {
        match Service::start(port, MBIT_PER_S, file.to_owned()).await {
            Ok(service) => return service,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn two_nodes() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("mesh0.relay");
    let service = Rc::new(Service::start(0, MBIT_PER_S, file.clone()).await.expect("a relay"));
    service.allow(BTreeSet::from([pair(1, 2)])).await.expect("they may talk");
    let mut alice = Node::new(1, 2, &service).await;
    let mut bob = Node::new(2, 1, &service).await;
    story(&service, async {
        assert!(arrives(&alice, &mut bob, (1, 2), "one", PATIENCE).await, "Alice to Bob");
        assert!(arrives(&bob, &mut alice, (2, 1), "two", PATIENCE).await, "Bob to Alice");

        alice.move_away().await;
        assert!(arrives(&bob, &mut alice, (2, 1), "three", PATIENCE).await, "Bob to where Alice is now");
        assert!(arrives(&alice, &mut bob, (1, 2), "four", PATIENCE).await, "Alice to Bob from there");
    })
    .await;

    // Who may talk, and where they are, outlives the process.
    let (port, key) = (service.port, service.public_key);
    service.stop().await;
    drop(service);
    let again = timeout(PATIENCE, started_again(port, &file)).await;
    let service = Rc::new(again.expect("the port is let go of"));
    assert_eq!(service.public_key, key);
    story(&service, async {
        assert!(arrives(&alice, &mut bob, (1, 2), "five", PATIENCE).await, "after the relay started again");
        service.allow(BTreeSet::new()).await.expect("nobody may talk");
        assert!(
            !arrives(&alice, &mut bob, (1, 2), "six", Duration::from_millis(500)).await,
            "nobody passes it on"
        );
    })
    .await;
    service.stop().await;
}
