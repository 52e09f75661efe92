//! The running device: holds the configuration, and turns steps into calls of the WireGuard library.
//!
//! Everything here runs on the main thread, one request at a time; packets run in the library's tasks.

use std::{
    collections::BTreeMap,
    io,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use futures::StreamExt as _;
use gotatun::device::{
    self, Device, DeviceBuilder, DeviceTransports, Peer as DevicePeer,
    configure::{DeviceWrite, PeerMut},
};
use ipnet::IpNet;
use ipnetwork::IpNetwork;
use nix::errno::Errno;
use tokio::sync::Mutex;
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::{
    config::{self, AllowedIpsChange, Config, Peer, PeerChange, Step},
    key::PublicKey,
    state::StateFile,
    tun::Tun,
    uapi::{
        reply::{self, Counters},
        request::Set,
    },
    udp::Sockets,
};

/// Handshakes in flight after a start: a third of what a peer's library answers a second without cookies (100).
const GREETINGS_MAX: usize = 32;
/// How long one of them keeps its place: several round trips of the widest mesh. The library repeats what is lost.
const GREETING: Duration = Duration::from_millis(500);

/// How long packets wait for a change of the configuration. One step alone looks at every address of the device and
/// takes 5 ms with 20 000 of them, the largest mesh we promise; the library's queues (4 000 packets) hold 20 ms at 2 Gbit/s.
const LOCK_MAX: Duration = Duration::from_millis(1);
/// Of a long change's time, packets have so many times what the change has.
const PACKETS_SHARE: u32 = 2;

type Transports = (Sockets, Tun, Tun);

/// A WireGuard device over a TUN that outlives it.
pub struct Tunnel {
    tun: Tun,
    sockets: Sockets,
    file: StateFile,
    state: Mutex<State>,
}

struct State {
    config: Config,
    device: Option<Rc<Device<Transports>>>,
    /// Whether the file says less than `config`.
    unsaved: bool,
}

/// What of a change could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was changed.
    #[error("cannot listen on UDP port {port}")]
    Bind {
        /// The port that was asked for.
        port: u16,
        /// Why not.
        source: io::Error,
    },
    /// The library refused; the device may be down until the next set.
    #[error("cannot configure the WireGuard device")]
    Device(#[from] device::Error),
    /// The configuration is in force, but a restart would not find it. The next set tries again.
    #[error("the configuration is in force but was not written to the state file")]
    Save(#[source] io::Error),
}

impl Error {
    /// What the UAPI says of it.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Bind { source, .. } | Self::Save(source) => {
                source.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
            }
            Self::Device(_) => Errno::EIO,
        }
    }
}

impl Tunnel {
    /// A tunnel over `tun` that goes on where the configuration in `file` says.
    pub async fn start(tun: Tun, file: StateFile) -> anyhow::Result<Self> {
        let wanted = file.load()?;
        let state = State { config: Config::default(), device: None, unsaved: false };
        let tunnel = Self { tun, sockets: Sockets::default(), file, state: Mutex::new(state) };
        tunnel.become_(&mut *tunnel.state.lock().await, wanted).await?;
        Ok(tunnel)
    }

    /// The answer to `get=1` but for its last line.
    pub async fn get(&self) -> Zeroizing<String> {
        let mut state = self.state.lock().await;
        let counters = state.observe().await;
        reply::observed(&state.config, &counters, SystemTime::now())
    }

    /// Applies a request: what is equal is not touched.
    pub async fn set(&self, set: Set) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        // Learnt endpoints are the present; a set that repeats one changes nothing.
        state.observe().await;
        let wanted = state.config.with(set);
        self.become_(&mut state, wanted).await
    }

    /// Writes learnt endpoints to the file, so that a restart finds peers that have moved.
    pub async fn keep(&self) {
        let mut state = self.state.lock().await;
        state.observe().await;
        if let Err(error) = self.save(&mut state) {
            warn!(%error, "Cannot keep the tunnel's configuration");
        }
    }

    /// Stops sending and receiving; the TUN stays, and drops.
    pub async fn stop(&self) {
        self.keep().await;
        self.halt(&mut *self.state.lock().await).await;
    }

    async fn become_(&self, state: &mut State, mut wanted: Config) -> Result<(), Error> {
        let steps = config::steps(&state.config, &wanted);
        if let Some((_, port)) = wanted.runnable()
            && steps.iter().any(|step| matches!(step, Step::Start | Step::Port))
        {
            // The one thing that depends on others comes first: when it fails, nothing has changed.
            let bound =
                self.sockets.bind(port, wanted.fwmark).map_err(|source| Error::Bind { port, source })?;
            wanted.listen_port = Some(bound);
        }
        state.unsaved |= state.config != wanted;
        state.config = wanted;
        let applied = self.apply(state, &steps).await;
        self.save(state).map_err(Error::Save)?;
        applied
    }

    fn save(&self, state: &mut State) -> io::Result<()> {
        if state.unsaved {
            self.file.save(&state.config)?;
            state.unsaved = false;
        }
        Ok(())
    }

    async fn apply(&self, state: &mut State, steps: &[Step]) -> Result<(), Error> {
        if steps.contains(&Step::Stop) {
            self.halt(state).await;
            self.sockets.close();
        } else if steps.contains(&Step::Start) {
            self.halt(state).await;
            state.device = Some(self.build(&state.config).await?);
        } else if let Some(device) = &state.device {
            let pieces = config::pieces(steps);
            let mut rest = pieces.as_slice();
            while !rest.is_empty() {
                let (done, held) = configure(device, &state.config, rest).await?;
                rest = &rest[done..];
                if !rest.is_empty() {
                    // The lock is fair: asked for again at once, it lets one packet pass each time.
                    tokio::time::sleep(held * PACKETS_SHARE).await;
                }
            }
        }
        Ok(())
    }

    /// Ends the device. `suspend` waits for its tasks; dropping it would only ask them.
    async fn halt(&self, state: &mut State) {
        if let Some(device) = state.device.take() {
            device.suspend().await;
            info!("Stopped the WireGuard device");
        }
    }

    async fn build(&self, config: &Config) -> Result<Rc<Device<Transports>>, Error> {
        let (key, port) = config.runnable().expect("a Start step has a key and a port");
        // The library opens its socket when the port changes, or never: so it starts with another one.
        let device = DeviceBuilder::new()
            .with_udp(self.sockets.clone())
            .with_ip_pair(self.tun.clone(), self.tun.clone())
            .with_private_key(key.to_x25519())
            .with_fwmark(config.fwmark)
            .with_listen_port(port ^ 1)
            .build()
            .await?;
        device
            .write(async |device| {
                device.add_peers(config.peers().iter().map(|(key, peer)| new_peer(key, peer)));
                device.set_listen_port(port);
            })
            .await?;
        info!(port, fwmark = config.fwmark, peers = config.peers().len(), "Started the WireGuard device");
        let device = Rc::new(device);
        let located = config.peers().iter().filter(|(_, peer)| peer.endpoint.is_some());
        tokio::task::spawn_local(greet(device.clone(), located.map(|(key, _)| *key).collect()));
        Ok(device)
    }
}

impl State {
    /// Takes the device's endpoints into the configuration, and returns its counters.
    async fn observe(&mut self) -> BTreeMap<PublicKey, Counters> {
        let Some(device) = &self.device else { return BTreeMap::new() };
        let mut counters = BTreeMap::new();
        for observed in device.peers().await {
            let key = PublicKey::from(observed.peer.public_key);
            if let Some(endpoint) = observed.peer.endpoint {
                self.unsaved |= self.config.learn_endpoint(&key, endpoint);
            }
            let stats = observed.stats;
            counters.insert(
                key,
                Counters {
                    since_handshake: stats.last_handshake,
                    rx_bytes: stats.rx_bytes as u64,
                    tx_bytes: stats.tx_bytes as u64,
                },
            );
        }
        counters
    }
}

/// Applies as many pieces as [`LOCK_MAX`] allows, at least one, under the device's one lock. Says how many, and how long
/// packets waited.
async fn configure(
    device: &Device<Transports>,
    config: &Config,
    pieces: &[&[Step]],
) -> Result<(usize, Duration), device::Error> {
    device
        .write(async |device| {
            let start = Instant::now();
            for (index, piece) in pieces.iter().enumerate() {
                for step in *piece {
                    take(device, config, step).await?;
                }
                if start.elapsed() > LOCK_MAX {
                    return Ok((index + 1, start.elapsed()));
                }
            }
            Ok((pieces.len(), start.elapsed()))
        })
        .await?
}

async fn take(
    device: &mut DeviceWrite<'_, Transports>,
    config: &Config,
    step: &Step,
) -> Result<(), device::Error> {
    match step {
        Step::Start | Step::Stop => unreachable!("the device is built and halted by its owner"),
        Step::Port => device.set_listen_port(config.listen_port.unwrap_or_default()),
        Step::Fwmark => device.set_fwmark(config.fwmark)?,
        Step::Remove(key) => {
            device.remove_peer(&key.to_x25519()).await;
        }
        Step::Add(key) => {
            device.add_peer(new_peer(key, &config.peers()[key]));
        }
        Step::Modify(key, change) => {
            let wanted = &config.peers()[key];
            device.modify_peer(&key.to_x25519(), |peer| modify(peer, change, wanted)).await;
        }
    }
    Ok(())
}

fn modify(peer: &mut PeerMut, change: &PeerChange, wanted: &Peer) {
    if change.preshared_key {
        peer.set_preshared_key(wanted.preshared_key.as_ref().map(|key| key.to_bytes()));
    }
    if change.endpoint {
        peer.set_endpoint(wanted.endpoint);
    }
    if change.keepalive {
        peer.set_keepalive(Some(wanted.keepalive_s));
    }
    match &change.allowed_ips {
        AllowedIpsChange::Same => {}
        AllowedIpsChange::Added(nets) => peer.add_allowed_ips(nets.iter().map(network)),
        AllowedIpsChange::Exchanged | AllowedIpsChange::Removed => {
            peer.clear_allowed_ips();
            peer.add_allowed_ips(wanted.allowed_ips.iter().map(network));
        }
    }
}

fn new_peer(key: &PublicKey, peer: &Peer) -> DevicePeer {
    let mut new = DevicePeer::new(key.to_x25519()).with_allowed_ips(peer.allowed_ips.iter().map(network));
    new.endpoint = peer.endpoint;
    new.preshared_key = peer.preshared_key.as_ref().map(|key| key.to_bytes());
    new.keepalive = Some(peer.keepalive_s).filter(|seconds| *seconds != 0);
    new
}

fn network(net: &IpNet) -> IpNetwork {
    IpNetwork::new(net.addr(), net.prefix_len()).expect("both crates allow the same prefix lengths")
}

/// Opens a session with each of these peers at once. They still send to the session of the process before us, which
/// nobody can decrypt any more, and by the protocol's timers would notice only after 15 s.
pub async fn greet<T: DeviceTransports>(device: Rc<Device<T>>, peers: Vec<PublicKey>) {
    futures::stream::iter(peers)
        .for_each_concurrent(GREETINGS_MAX, |key| {
            let device = &device;
            async move {
                let key = key.to_x25519();
                // A peer that is silent or was removed meanwhile is the timers' business.
                drop(tokio::time::timeout(GREETING, device.force_handshake(&key)).await);
            }
        })
        .await;
}
