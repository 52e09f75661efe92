//! This host: the shell around plan and apply, over the real backends.
//!
//! Its calls block (netlink, the UAPI socket, `nft`); they belong on a thread of their own. What it leaves behind works
//! on without it: maps, programs and links are pinned, routes and rules are the kernel's, and the tunnel is the kernel's
//! or `mesh-tunnel`'s. A restarted agent reads what is there and changes only what differs.

mod clock_epochs;
mod device;
mod take;

pub use device::{DeviceError, TunnelDevice};

use crate::{
    apply::apply,
    backend::{
        bpf::{self, Balancer, Balancing, Bpf, DropReason, Hook, PacketHook, RouteRow, Rows},
        netlink::{self, Netlink},
        nft::{self, services::Services},
        relay::{Relay, RelayObserved},
        sysctl,
        wireguard::{self, FRESH, Kind, PrivateKey, Tunnel},
    },
    image::{Image, RelayPair},
    observe::{Balanced, Masquerade, Observed, PeerObserved, TunnelObserved},
    plan::{Completeness, plan},
    step::Step,
    uplinks::{Link, MESH_DEVICE},
};
use api::bytes::PublicKey;
use clock_epochs::ClockEpochs;
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};
use tracing::warn;

/// Where our maps and links are pinned.
pub const PIN_DIR: &str = "/sys/fs/bpf/mesh";

/// Where the data path attaches, and who this host is to its peers.
#[derive(Debug, Clone)]
pub struct Options {
    /// On a BPF file system.
    pub pin_dir: PathBuf,
    /// The host's cgroup v2 root: sockets below it find services.
    pub cgroup_root: PathBuf,
    /// This host's WireGuard key.
    pub private_key: PrivateKey,
    /// Who may serve `mesh0`.
    pub tunnel_device: TunnelDevice,
    /// What packet programs may be attached to.
    pub packet_hook: PacketHook,
    /// Who may balance Services.
    pub balancer: Balancer,
    /// The file that remembers of which epoch of its clock each peer was made.
    pub clock_epochs: PathBuf,
}

/// The data path of this host.
pub struct Datapath {
    bpf: Bpf,
    netlink: Netlink,
    /// Who serves `mesh0`.
    kind: Kind,
    /// None while it does not answer.
    tunnel: Option<Tunnel>,
    private_key: PrivateKey,
    clock_epochs: ClockEpochs,
    /// The table that balances, where nftables does.
    services: Services,
    relay: Relay,
    /// A map had no room for the last plan.
    short_of_room: bool,
}

/// The data path cannot be had on this host; nothing was set up.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// BPF, or what it needs.
    #[error(transparent)]
    Bpf(#[from] bpf::Error),
    /// No netlink.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// No tunnel device.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// What a reconcile did, and how things are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Steps that were taken. 0 with no problems: the host holds the image.
    pub changed: usize,
    /// One sentence each, for status.
    pub problems: Vec<String>,
    /// How often each reason refused a packet or a connection, since the maps were made.
    pub drops: BTreeMap<DropReason, u64>,
    /// By peer.
    pub tunnels: BTreeMap<PublicKey, TunnelState>,
    /// This host's relay, if it runs one.
    pub relay: Option<RelayObserved>,
}

/// How one tunnel is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TunnelState {
    /// Where its datagrams go.
    pub endpoint: Option<SocketAddr>,
    /// Age of its session; None: there is none.
    pub handshake_age: Option<Duration>,
    /// Bytes from it.
    pub rx_bytes: u64,
    /// Bytes to it.
    pub tx_bytes: u64,
}

impl Datapath {
    /// Loads the programs, or takes over what an earlier agent left. `mesh-tunnel` may come later.
    ///
    /// # Errors
    /// What the host lacks, in one line; then nothing was set up.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let netlink = Netlink::open()?;
        let kind = device::choose(&netlink, options.tunnel_device)?;
        let Options {
            pin_dir,
            cgroup_root,
            private_key,
            tunnel_device: _,
            packet_hook,
            balancer,
            clock_epochs,
        } = options;
        let bpf = Bpf::open(&pin_dir, &cgroup_root, packet_hook, balancer)?;
        if bpf.balancing() == Balancing::Socket {
            // Of an agent that balanced otherwise: from now on, connections are balanced before they get there.
            // Without nft there is none, and what needs it says so.
            if let Err(error) = nft::services::remove() {
                warn!(%error, "Cannot look for a table of nftables that balances");
            }
        }
        let clock_epochs = ClockEpochs::kept_in(clock_epochs);
        Ok(Self {
            bpf,
            netlink,
            kind,
            tunnel: None,
            private_key,
            clock_epochs,
            services: Services::default(),
            relay: Relay::default(),
            short_of_room: false,
        })
    }

    /// Whose WireGuard serves `mesh0`.
    #[must_use]
    pub fn tunnel_kind(&self) -> Kind {
        self.kind
    }

    /// What packet programs are attached to.
    #[must_use]
    pub fn packet_hook(&self) -> Hook {
        self.bpf.hook()
    }

    /// Who balances Services.
    #[must_use]
    pub fn balancing(&self) -> Balancing {
        self.bpf.balancing()
    }

    /// What peers know this host by.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.private_key.public()
    }

    /// No agent had programmed this host before: a first start, or one after a reboot.
    #[must_use]
    pub fn began_empty(&self) -> bool {
        self.bpf.began_empty()
    }

    /// How large packets to each prefix may be, as an earlier agent left it in the maps; nothing if they cannot be read.
    #[must_use]
    pub fn path_mtus(&self) -> BTreeMap<IpNet, u16> {
        let routes = self.bpf.observe().map(|rows| rows.routes).unwrap_or_default();
        let mtu = |row| match row {
            RouteRow::Routed { mtu_bytes } => Some(mtu_bytes),
            RouteRow::Closed => None,
        };
        routes.into_iter().filter_map(|(prefix, row)| Some((prefix, mtu(row)?))).collect()
    }

    /// The devices of this host, for [`crate::uplinks::uplinks`] and [`crate::bindings::read`].
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn links(&self) -> Result<Vec<Link>, netlink::Error> {
        self.netlink.links()
    }

    /// Makes the host hold the image, as far as it can now; what fails is tried again at the next call.
    pub fn reconcile(&mut self, image: &Image, completeness: Completeness) -> Report {
        let mut problems = Vec::new();
        let mut changed = 0;
        self.restore_device(&mut problems);
        let relay = self.relay.observe().unwrap_or_else(|error| {
            problems.push(sentence(&error));
            None
        });
        let pairs = relay.as_ref().map(|relay| relay.pairs.keys().copied().collect());
        if let Some(observed) = self.observe(pairs, &mut problems) {
            let outcome = apply(&plan(image, &observed, completeness), self);
            changed = outcome.taken;
            self.short_of_room = outcome.short_of_room;
            problems.extend(outcome.problems);
        }
        match self.bpf.rival() {
            Ok(None) => {}
            Ok(Some(rival)) => problems.push(sentence(&rival)),
            Err(error) => problems.push(sentence(&error)),
        }
        let drops = self.bpf.drops().unwrap_or_else(|error| {
            problems.push(sentence(&error));
            BTreeMap::new()
        });
        let tunnels = self.tunnels().unwrap_or_default();
        Report { changed, problems, drops, tunnels, relay }
    }

    /// Puts our programs in the place of an earlier version's, whose maps are of another make; true if there was one. To
    /// be called when the host holds a whole image.
    ///
    /// # Errors
    /// When a program could not be replaced; the earlier ones work on there, and the next call goes on.
    pub fn succeed(&mut self) -> Result<bool, bpf::Error> {
        self.bpf.succeed()
    }

    /// What a reconcile would do.
    ///
    /// # Errors
    /// What could not be read.
    pub fn pending(&mut self, image: &Image, completeness: Completeness) -> Result<Vec<Step>, Vec<String>> {
        let mut problems = Vec::new();
        let relay = self.relay.observe().map_err(|error| vec![sentence(&error)])?;
        let pairs = relay.map(|relay| relay.pairs.into_keys().collect());
        match self.observe(pairs, &mut problems) {
            Some(observed) if problems.is_empty() => Ok(plan(image, &observed, completeness)),
            Some(_) | None => Err(problems),
        }
    }

    /// How often each reason refused a packet or a connection, since the maps were made.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn drops(&self) -> Result<BTreeMap<DropReason, u64>, bpf::Error> {
        self.bpf.drops()
    }

    /// How each tunnel is.
    ///
    /// # Errors
    /// When the device does not answer.
    pub fn tunnels(&mut self) -> Result<BTreeMap<PublicKey, TunnelState>, wireguard::Error> {
        let observed = self.observe_device()?;
        let state = |peer: &wireguard::PeerObserved| TunnelState {
            endpoint: peer.endpoint,
            // A handshake in the future is a clock that went back.
            handshake_age: peer
                .last_handshake
                .map(|then| observed.at.duration_since(then).unwrap_or_default()),
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
        };
        Ok(observed.peers.iter().map(|(key, peer)| (*key, state(peer))).collect())
    }

    /// Somebody removed the kernel's device: a new one is furnished like any that has no key yet.
    fn restore_device(&self, problems: &mut Vec<String>) {
        if self.kind == Kind::Kernel
            && let Err(error) = self.netlink.make_wireguard_if_absent()
        {
            problems.push(sentence(&error));
        }
    }

    /// None: too little could be read to plan anything.
    fn observe(
        &mut self,
        relay: Option<BTreeSet<RelayPair>>,
        problems: &mut Vec<String>,
    ) -> Option<Observed> {
        let rows = self.bpf.observe();
        let attachments = self.bpf.attachments();
        let kernel = self.netlink.observe();
        let (rows, attachments, kernel) = match (rows, attachments, kernel) {
            (Ok(rows), Ok(attachments), Ok(kernel)) => (rows, attachments, kernel),
            (rows, attachments, kernel) => {
                problems.extend(rows.err().iter().map(sentence));
                problems.extend(attachments.err().iter().map(sentence));
                problems.extend(kernel.err().iter().map(sentence));
                return None;
            }
        };
        if kernel.device.is_none() {
            problems.push(match self.kind {
                Kind::Userspace => format!("{MESH_DEVICE} is absent: start mesh-tunnel, which makes it"),
                Kind::Kernel => format!("{MESH_DEVICE} is absent, and the kernel makes no new one"),
            });
        }
        Some(Observed {
            balanced: self.observe_balanced(&rows, problems),
            rows,
            attachments,
            holds_apart: self.bpf.holds_apart(),
            device: kernel.device,
            addresses: kernel.addresses,
            sysctls: sysctl::observe(),
            rules: kernel.rules,
            routes: kernel.routes,
            unreachable: kernel.unreachable,
            // What cannot be read is written anew, and what is wrong with nft is said there.
            masquerade: nft::observe().unwrap_or(Masquerade::Foreign),
            tunnel: self.observe_tunnel(problems),
            relay,
            short_of_room: self.short_of_room,
        })
    }

    fn observe_balanced(&self, rows: &Rows, problems: &mut Vec<String>) -> Balanced {
        match self.bpf.balancing() {
            Balancing::Socket => Balanced::AtSockets,
            Balancing::Nftables => {
                let is_current = self.services.holds(rows).unwrap_or_else(|error| {
                    problems.push(sentence(&error));
                    false
                });
                Balanced::ByNftables { is_current }
            }
        }
    }

    fn observe_device(&mut self) -> Result<wireguard::Observed, wireguard::Error> {
        match &self.tunnel {
            Some(tunnel) => tunnel.observe(),
            None => {
                Tunnel::open(self.kind, MESH_DEVICE).and_then(|tunnel| self.tunnel.insert(tunnel).observe())
            }
        }
    }

    fn observe_tunnel(&mut self, problems: &mut Vec<String>) -> Option<TunnelObserved> {
        match self.observe_device() {
            Ok(observed) => Some(tunnel_observed(&observed, self.private_key.public(), &self.clock_epochs)),
            Err(error) => {
                problems.push(sentence(&error));
                None
            }
        }
    }
}

impl fmt::Debug for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datapath").field("public_key", &self.public_key()).finish_non_exhaustive()
    }
}

fn tunnel_observed(
    observed: &wireguard::Observed,
    own_key: PublicKey,
    epochs: &ClockEpochs,
) -> TunnelObserved {
    let is_fresh = |then| observed.at.duration_since(then).unwrap_or_default() < FRESH;
    let peer = |key: &PublicKey, peer: &wireguard::PeerObserved| PeerObserved {
        endpoint: peer.endpoint,
        asked_endpoint: peer.asked_endpoint,
        is_fresh: peer.last_handshake.is_some_and(is_fresh),
        allowed: peer.allowed_ips.clone(),
        keepalive_s: peer.keepalive_s,
        clock_epoch: epochs.of(key),
    };
    TunnelObserved {
        own_key: Some(own_key),
        public_key: observed.public_key,
        listen_port: observed.port,
        fwmark: observed.fwmark,
        peers: observed.peers.iter().map(|(key, known)| (*key, peer(key, known))).collect(),
    }
}

/// An error with its causes.
fn sentence(error: &(impl std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
