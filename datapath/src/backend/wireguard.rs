//! The WireGuard driver: what the tunnel should be, what it is, and the steps between.
//!
//! ```text
//!   Device (wanted) ──┐
//!                     ├─▶ plan ─▶ Vec<Step> ─▶ Tunnel::apply ─┬─▶ kernel: generic netlink
//!   Tunnel::observe ──┘                                      └─▶ userspace: mesh-tunnel's UAPI socket
//! ```
//!
//! Every step touches what it names and nothing else; no list is ever replaced. The steps of one `apply` go in one
//! request (as long as they are not hundreds), which `mesh-tunnel` reads whole before it applies it; the kernel takes its
//! parts one by one.
//!
//! Both sides are spoken to by hand and only keys are `wireguard-control`'s: that library has no removal of a single
//! address and no change of a peer only if it is there; for user space it hides the error number, waits without end for
//! a stopped process, and starts a foreign program when the socket is stale.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Mutex,
    time::SystemTime,
};

use api::bytes::PublicKey;
use ipnet::IpNet;

mod kernel;
mod key;
mod plan;
mod renewal;
mod uapi;

#[cfg(test)]
mod tests;

pub(super) use uapi::exchange;

pub use key::{KeyError, PrivateKey, load_or_create_private_key};
pub use plan::{FRESH, plan};

/// Where user-space WireGuard devices listen for configuration.
pub(super) const UAPI_DIR: &str = "/var/run/wireguard";

/// Whose WireGuard a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The kernel's own.
    Kernel,
    /// A TUN, served by `mesh-tunnel`.
    Userspace,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
        })
    }
}

/// What the tunnel should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Our private key.
    pub private_key: PrivateKey,
    /// UDP port we listen on.
    pub port: u16,
    /// Mark of the tunnel's own UDP packets, which our rules exempt.
    pub fwmark: u32,
    /// By public key. When two name one address, the lower key has it.
    pub peers: BTreeMap<PublicKey, Peer>,
}

/// What a peer should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Where to dial it; `None`: it dials us.
    pub endpoint: Option<SocketAddr>,
    /// Inner addresses it may send from and is sent to.
    pub allowed_ips: BTreeSet<IpNet>,
    /// Seconds between keepalives; 0: none.
    pub keepalive_s: u16,
}

/// What the tunnel is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// When this was read; ages of handshakes are counted from here.
    pub at: SystemTime,
    /// The public half of the device's key; `None` when it has none yet.
    pub public_key: Option<PublicKey>,
    /// UDP port; `None` when it does not listen yet.
    pub port: Option<u16>,
    /// Mark of its UDP packets; 0 is none.
    pub fwmark: u32,
    /// By public key.
    pub peers: BTreeMap<PublicKey, PeerObserved>,
}

/// What a peer is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerObserved {
    /// Where its packets go: configured, or learnt from its last authenticated packet.
    pub endpoint: Option<SocketAddr>,
    /// The endpoint this process last asked for; `None` when it has not (after a restart of the agent).
    pub asked_endpoint: Option<SocketAddr>,
    /// Its inner addresses.
    pub allowed_ips: BTreeSet<IpNet>,
    /// Seconds between keepalives; 0: none.
    pub keepalive_s: u16,
    /// When its current session began; `None` when it has none.
    pub last_handshake: Option<SystemTime>,
    /// Bytes from it.
    pub rx_bytes: u64,
    /// Bytes to it.
    pub tx_bytes: u64,
}

/// One change of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Key, port and mark. A new key ends all sessions; what is equal is not touched.
    SetDevice {
        /// Our private key.
        private_key: PrivateKey,
        /// UDP port.
        port: u16,
        /// Mark of the tunnel's own packets.
        fwmark: u32,
    },
    /// A peer that is not there.
    AddPeer {
        /// Who.
        key: PublicKey,
        /// All of it.
        peer: Peer,
    },
    /// Dial the peer there.
    SetEndpoint {
        /// Who.
        key: PublicKey,
        /// Where.
        endpoint: SocketAddr,
    },
    /// Give an address to a peer; whoever had it loses it in the same step.
    AddAllowedIp {
        /// Who.
        key: PublicKey,
        /// What.
        net: IpNet,
    },
    /// Take an address from a peer, if it is its own.
    RemoveAllowedIp {
        /// Who.
        key: PublicKey,
        /// What.
        net: IpNet,
    },
    /// Seconds between keepalives; 0: none.
    SetKeepalive {
        /// Who.
        key: PublicKey,
        /// How often.
        keepalive_s: u16,
    },
    /// Make a peer anew: its session and the stamp of its last handshake are forgotten. No address has another owner
    /// meanwhile, but for one that drops.
    RenewPeer {
        /// Who.
        key: PublicKey,
        /// All of it.
        peer: Peer,
    },
    /// Forget a peer, its session and its addresses.
    RemovePeer {
        /// Who.
        key: PublicKey,
    },
}

/// Why the tunnel could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No process, or one that is stopped. Packets to the tunnel are dropped meanwhile, and nothing goes in plain.
    #[error("mesh-tunnel does not answer for {interface} at {}; is its unit running?", socket.display())]
    Silent {
        /// The tunnel's device.
        interface: String,
        /// Its socket.
        socket: PathBuf,
        /// What the socket said.
        source: io::Error,
    },
    /// The process understood and said no; the source says why.
    #[error("mesh-tunnel refused a change of {interface}")]
    Refused {
        /// The tunnel's device.
        interface: String,
        /// The error number as text.
        source: io::Error,
    },
    /// The kernel's device could not be asked, or refused; the source says why.
    #[error("cannot {action} the kernel's WireGuard device {interface}")]
    Kernel {
        /// What was asked.
        action: &'static str,
        /// The tunnel's device.
        interface: String,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something else listens on that socket.
    #[error("what answers for {interface} does not speak WireGuard's UAPI: {what}")]
    Garbled {
        /// The tunnel's device.
        interface: String,
        /// What was not understood; never a key.
        what: &'static str,
    },
}

impl Error {
    fn kernel(action: &'static str, interface: &str, error: anyhow::Error) -> Self {
        Self::Kernel { action, interface: interface.to_owned(), source: error.into() }
    }
}

/// A handle to one WireGuard device. A call blocks for at most 5 s a request, and one request is all but always enough.
pub struct Tunnel {
    interface: String,
    backend: Backend,
    /// What we asked for, by peer: an endpoint that differs from it was learnt.
    asked: Mutex<BTreeMap<PublicKey, SocketAddr>>,
}

enum Backend {
    /// The kernel's.
    Kernel(kernel::Kernel),
    /// `mesh-tunnel`, or any other process that speaks the UAPI.
    Userspace(uapi::Socket),
}

impl Tunnel {
    /// The tunnel of this interface; an [`Error::Silent`] says when nobody serves it.
    pub fn open(kind: Kind, interface: &str) -> Result<Self, Error> {
        match kind {
            // The socket is of the namespace in which it was opened.
            Kind::Kernel => Self::over(Backend::Kernel(kernel::Kernel::open(interface)?), interface),
            Kind::Userspace => Self::open_at(Path::new(UAPI_DIR), interface),
        }
    }

    /// As [`Tunnel::open`], for a process with another `--uapi-dir`.
    pub fn open_at(uapi_dir: &Path, interface: &str) -> Result<Self, Error> {
        Self::over(Backend::Userspace(uapi::Socket::new(uapi_dir, interface)), interface)
    }

    fn over(backend: Backend, interface: &str) -> Result<Self, Error> {
        let tunnel = Self { interface: interface.to_owned(), backend, asked: Mutex::default() };
        tunnel.observe()?;
        Ok(tunnel)
    }

    /// What the tunnel is now.
    pub fn observe(&self) -> Result<Observed, Error> {
        let mut observed = match &self.backend {
            Backend::Kernel(device) => device.get()?,
            Backend::Userspace(socket) => socket.get()?,
        };
        let asked = self.asked.lock().expect("nobody panics with the endpoints in hand");
        for (key, peer) in &mut observed.peers {
            peer.asked_endpoint = asked.get(key).copied();
        }
        Ok(observed)
    }

    /// Applies steps in their order. An error leaves the tunnel as it was, or (in the kernel, or of hundreds of steps) in
    /// between: observe and plan again.
    pub fn apply(&self, steps: &[Step]) -> Result<(), Error> {
        let renews = |step: &Step| matches!(step, Step::RenewPeer { .. });
        for steps in steps.chunk_by(|a, b| !renews(a) && !renews(b)) {
            match steps {
                [Step::RenewPeer { key, peer }] => {
                    renewal::requests(*key, peer).iter().try_for_each(|request| self.set(request))?;
                }
                steps => self.set(steps)?,
            }
        }
        let mut asked = self.asked.lock().expect("nobody panics with the endpoints in hand");
        for step in steps {
            match step {
                Step::AddPeer { key, peer: Peer { endpoint: Some(endpoint), .. } }
                | Step::SetEndpoint { key, endpoint } => {
                    asked.insert(*key, *endpoint);
                }
                Step::RemovePeer { key } | Step::AddPeer { key, peer: Peer { endpoint: None, .. } } => {
                    asked.remove(key);
                }
                // A peer that is made anew is dialled where it was found, which nobody asked for.
                Step::RenewPeer { .. }
                | Step::SetDevice { .. }
                | Step::AddAllowedIp { .. }
                | Step::RemoveAllowedIp { .. }
                | Step::SetKeepalive { .. } => {}
            }
        }
        Ok(())
    }

    fn set(&self, steps: &[Step]) -> Result<(), Error> {
        match &self.backend {
            Backend::Kernel(device) => device.set(steps),
            Backend::Userspace(socket) => socket.set(steps),
        }
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").field("interface", &self.interface).finish_non_exhaustive()
    }
}
