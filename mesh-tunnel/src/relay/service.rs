//! The relay at work: a UDP port, the device that learns who is where, the socket of its configuration, and its file.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use gotatun::{
    device::{Device, DeviceBuilder, Peer as DevicePeer},
    packet::PacketBufPool,
    udp::{UdpRecv as _, UdpSend as _, UdpTransportFactory, UdpTransportFactoryParams},
};
use nix::errno::Errno;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
};
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::{
    Pair, Relay, Verdict,
    port::{Nothing, Port, Received},
    text::{self, Kept, Request},
};
use crate::{
    key::PublicKey,
    state,
    tunnel::greet,
    uapi::server::{Answers, errno, got},
    udp::{Receiver, Sender, Sockets},
};

#[cfg(test)]
mod tests;

/// Buffers for datagrams that are being passed on: what one read brings at most, twice.
const BUFFERS: usize = 256;
const BYTES_PER_MBIT: u64 = 125_000;
/// Proofs that come together are looked at together.
const LEARN_AFTER: Duration = Duration::from_millis(20);

type Transports = (Port, Nothing, Nothing);

/// A running relay.
pub struct Service {
    relay: Arc<Mutex<Relay>>,
    device: Rc<Device<Transports>>,
    public_key: PublicKey,
    port: u16,
    file: PathBuf,
    /// What the file says.
    kept: tokio::sync::Mutex<Kept>,
    /// The device got something: it may have learnt where somebody is.
    stirred: Arc<Notify>,
    /// What the device has of the port.
    own: Port,
    forwarding: RefCell<Option<JoinHandle<()>>>,
}

impl Service {
    /// A relay at this UDP port (0: any) that goes on where the file says. Each pair may use so many Mbit/s, both ways
    /// counted.
    ///
    /// # Errors
    /// The port is taken, or the file is not what we write.
    pub async fn start(port: u16, mbit_per_s: u32, file: PathBuf) -> anyhow::Result<Self> {
        let kept = load(&file)?;
        let mut sockets = Sockets::default();
        let port = sockets.bind(port, 0).with_context(|| format!("cannot relay at UDP port {port}"))?;
        let params = UdpTransportFactoryParams { addr: None, port, fwmark: None };
        let (sender, receiver) = UdpTransportFactory::bind(&mut sockets, &params).await?;

        let public_key = kept.private_key.public();
        let (own, inbox) = Port::new(sender.clone());
        let device = DeviceBuilder::new()
            .with_udp(own.clone())
            .with_ip_pair(Nothing, Nothing)
            .with_private_key(kept.private_key.to_x25519())
            .with_listen_port(port ^ 1)
            .build()
            .await?;
        // The library sets its connection up when the port changes, or never.
        device.write(async |device| device.set_listen_port(port)).await?;

        let mut relay = Relay::new(&public_key, u64::from(mbit_per_s) * BYTES_PER_MBIT);
        relay.allow(&kept.pairs);
        for (party, at) in &kept.whereabouts {
            relay.locate(party, *at);
        }
        let relay = Arc::new(Mutex::new(relay));
        let stirred = Arc::new(Notify::new());
        let ends = Ends { sender, receiver, inbox };
        let forwarding = tokio::spawn(forward(ends, relay.clone(), stirred.clone()));
        let device = Rc::new(device);
        let forwarding = RefCell::new(Some(forwarding));
        let service =
            Self { relay, device, public_key, port, file, kept: kept.into(), stirred, own, forwarding };
        service.seat().await?;
        let located = service.kept.lock().await.whereabouts.keys().copied().collect();
        tokio::task::spawn_local(greet(service.device.clone(), located));
        info!(port, mbit_per_s, pairs = service.relay().pairs().count(), "Relaying");
        Ok(service)
    }

    /// These may talk from now on, and no others.
    pub async fn allow(&self, pairs: BTreeSet<Pair>) -> anyhow::Result<()> {
        let mut kept = self.kept.lock().await;
        let own = |pair: &Pair| pair.sides().contains(&self.public_key);
        let pairs: BTreeSet<Pair> = pairs.into_iter().filter(|pair| !own(pair)).collect();
        // First of all: what is not allowed any more ends, whatever happens to the rest.
        self.relay().allow(&pairs);
        if kept.pairs != pairs {
            info!(pairs = pairs.len(), before = kept.pairs.len(), "Pairs that may talk");
            kept.pairs = pairs;
            self.seat().await?;
            self.save(&mut kept)?;
        }
        Ok(())
    }

    /// Takes note of where the device was last shown that somebody is; for ever.
    pub async fn learn(&self) {
        let mut shown = BTreeMap::new();
        loop {
            self.stirred.notified().await;
            tokio::time::sleep(LEARN_AFTER).await;
            for displaced in self.locate(&mut shown).await {
                // Or the device would say again, with every look, that it is where somebody else is now.
                let forget = |peer: &mut gotatun::device::configure::PeerMut| peer.set_endpoint(None);
                let key = displaced.to_x25519();
                if let Err(error) =
                    self.device.write(async |device| device.modify_peer(&key, forget).await).await
                {
                    warn!(%error, "Cannot forget where a node was");
                }
            }
        }
    }

    /// Who was displaced by somebody who moved.
    async fn locate(&self, shown: &mut BTreeMap<PublicKey, SocketAddr>) -> Vec<PublicKey> {
        let peers = self.device.peers().await;
        let at = |peer: &gotatun::device::configure::PeerStats| {
            Some((PublicKey::from(peer.peer.public_key), peer.peer.endpoint?))
        };
        let now: BTreeMap<_, _> = peers.iter().filter_map(at).collect();
        let mut relay = self.relay();
        let moved = now.iter().filter(|(party, at)| shown.get(party) != Some(at));
        let displaced = moved.filter_map(|(party, at)| relay.locate(party, *at)).collect();
        *shown = now;
        displaced
    }

    /// Writes where everybody is to the file, so that a restart finds them.
    pub async fn keep(&self) {
        let mut kept = self.kept.lock().await;
        if let Err(error) = self.save(&mut kept) {
            warn!(%error, "Cannot keep where the relay's nodes are");
        }
    }

    /// Stops relaying; the port is free when this returns.
    pub async fn stop(&self) {
        let forwarding = self.forwarding.borrow_mut().take();
        if let Some(forwarding) = forwarding {
            forwarding.abort();
            // It says that it was ended, which we know.
            drop(forwarding.await);
        }
        self.keep().await;
        self.device.suspend().await;
        self.own.close();
    }

    fn save(&self, kept: &mut Kept) -> io::Result<()> {
        let whereabouts = self.relay().parties().filter_map(|(party, at)| Some((*party, at?))).collect();
        let now = Kept { whereabouts, ..kept.clone() };
        if now != *kept {
            state::replace(&self.file, &now.to_text())?;
            *kept = now;
        }
        Ok(())
    }

    /// The device's peers are those who may talk to somebody.
    async fn seat(&self) -> anyhow::Result<()> {
        let wanted: BTreeMap<PublicKey, Option<SocketAddr>> =
            self.relay().parties().map(|(party, at)| (*party, at)).collect();
        let there: BTreeSet<PublicKey> =
            self.device.peers().await.iter().map(|peer| peer.peer.public_key.into()).collect();
        self.device
            .write(async |device| {
                for gone in there.iter().filter(|key| !wanted.contains_key(key)) {
                    device.remove_peer(&gone.to_x25519()).await;
                }
                for (key, at) in wanted.iter().filter(|(key, _)| !there.contains(key)) {
                    let mut peer = DevicePeer::new(key.to_x25519());
                    peer.endpoint = *at;
                    device.add_peer(peer);
                }
            })
            .await
            .context("cannot configure the relay's own device")
    }

    fn relay(&self) -> MutexGuard<'_, Relay> {
        lock(&self.relay)
    }
}

impl Answers for Service {
    async fn answer(&self, request: &[u8]) -> Zeroizing<Vec<u8>> {
        match Request::parse(request) {
            Ok(Request::Get) => got(&text::answer(&self.public_key, self.port, &self.relay())),
            Ok(Request::Set(pairs)) => errno(match self.allow(pairs).await {
                Ok(()) => Errno::from_raw(0),
                Err(error) => {
                    warn!(error = format!("{error:#}"), "The relay is not as it was asked to be");
                    Errno::EIO
                }
            }),
            Err(malformed) => {
                warn!(%malformed, "Refused a request to the relay");
                errno(Errno::EINVAL)
            }
        }
    }
}

fn lock(relay: &Mutex<Relay>) -> MutexGuard<'_, Relay> {
    relay.lock().expect("nobody panics with the relay in hand")
}

/// What was kept, or a new relay.
fn load(file: &Path) -> anyhow::Result<Kept> {
    match fs::read(file).map(Zeroizing::new) {
        Ok(bytes) => Kept::parse(&bytes).with_context(|| {
            format!("{} is damaged; remove it to start with a new key and between nobody", file.display())
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let kept = Kept::new(crate::key::Secret::generate().context("cannot make the relay's key")?);
            state::replace(file, &kept.to_text())
                .with_context(|| format!("cannot write {}", file.display()))?;
            Ok(kept)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// The port, and the way to the device.
struct Ends {
    sender: Sender,
    receiver: Receiver,
    inbox: mpsc::Sender<Received>,
}

/// Passes on what is to be passed on, in order, for ever.
async fn forward(ends: Ends, relay: Arc<Mutex<Relay>>, stirred: Arc<Notify>) {
    let Ends { sender, mut receiver, inbox } = ends;
    let mut pool = PacketBufPool::new(BUFFERS);
    let mut buffers = Default::default();
    let (mut received, mut passing) = (Vec::new(), Vec::new());
    loop {
        // Never fails: see `Receiver`.
        if receiver.recv_many_from(&mut buffers, &mut pool, &mut received).await.is_err() {
            continue;
        }
        let now = Instant::now();
        {
            let mut relay = lock(&relay);
            for (datagram, from) in received.drain(..) {
                match relay.take(now, from, &datagram) {
                    Verdict::To(to) => passing.push((datagram, to)),
                    Verdict::Ours => {
                        // A full inbox loses it, as a full socket would.
                        if inbox.try_send((datagram, from)).is_ok() {
                            stirred.notify_one();
                        }
                    }
                    Verdict::Refused(_) => {}
                }
            }
        }
        // Never fails: see `Sender`.
        if sender.send_many_to(&mut (), &mut passing).await.is_err() {
            passing.clear();
        }
    }
}
