//! `mesh-tunnel`: WireGuard in user space over a persistent TUN, for hosts whose kernel has no WireGuard.
//!
//! ```text
//!   stack, BPF ──▶ mesh0 (TUN) ──▶ tun ──▶ gotatun: session per peer ──▶ udp ──▶ outer UDP, fwmark
//!                                                  ▲
//!   agent, wg ──▶ mesh0.sock ──▶ uapi ──▶ config ──▶ tunnel ──▶ state file
//!
//!   agent ──▶ mesh0.relay ──▶ relay: datagrams of others, passed on unopened (with --relay)
//! ```
//!
//! It is part of the data path: a unit of its own, restarted with nothing else, configured over the WireGuard
//! UAPI by whoever is agent today. What it promises:
//!
//! - a configuration call costs no packet of any flow it does not mean (`config` diffs, `tunnel` changes in place);
//! - an address has one owner, at once and for good;
//! - after kill -9 nothing leaves in plain: the TUN stays and drops. The next process goes on from its file, and
//!   opens its sessions itself;
//! - keys are wiped, not logged, and in no file but one of mode 0600.

use std::{
    future::pending, io::IsTerminal as _, path::PathBuf, process::ExitCode, rc::Rc, sync::Arc, time::Duration,
};

use anyhow::Context as _;
use clap::Parser;
use nix::{
    net::if_::if_nametoindex,
    sys::stat::{Mode, umask},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
    task::LocalSet,
};
use tracing::info;
use tracing_subscriber::EnvFilter;

pub mod config;
pub mod key;
pub mod relay;
mod state;
mod tun;
mod tunnel;
pub mod uapi;
mod udp;

use crate::{relay::service::Service, state::StateFile, tun::Tun, tunnel::Tunnel, uapi::server::Server};

/// How often learnt endpoints go to the file: a restart within it after a peer's move waits for that peer.
const KEEP_EVERY: Duration = Duration::from_secs(30);
/// Packets go through a reader, a cipher and a sender task, each in order; more threads than these find no work.
const THREADS_MAX: usize = 4;

/// WireGuard in user space over a persistent TUN device.
#[derive(Debug, Parser)]
#[command(name = "mesh-tunnel", version)]
struct Args {
    /// Name of the TUN device
    #[arg(long, default_value = "mesh0")]
    interface: String,
    /// MTU of the TUN device in bytes
    #[arg(long, default_value_t = 1420, value_parser = clap::value_parser!(u16).range(576..=65_455))]
    mtu: u16,
    /// File that keeps the configuration [default: /var/lib/mesh/tunnel/INTERFACE.conf]
    #[arg(long)]
    state: Option<PathBuf>,
    /// Directory of the UAPI socket INTERFACE.sock, and of the relay's socket INTERFACE.relay
    #[arg(long, default_value = "/var/run/wireguard")]
    uapi_dir: PathBuf,
    /// Pass WireGuard's datagrams on between nodes of other clusters, unopened, at this UDP port. Which ones may talk is
    /// for the agent to say. What must survive a restart is kept beside the configuration, as INTERFACE.relay
    #[arg(long, value_name = "PORT")]
    relay: Option<u16>,
    /// Mbit/s that each pair of nodes may use through the relay, both ways counted. A burst may be a fifth of a second's
    #[arg(long, value_name = "MBIT_PER_S", requires = "relay", default_value_t = relay::MBIT_PER_S,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    relay_rate: u32,
    /// Relay and nothing else: make no device, and need no capability. For hosts whose device is the kernel's or another
    /// process's
    #[arg(long, requires = "relay")]
    relay_only: bool,
}

impl Args {
    fn state(&self) -> PathBuf {
        self.state.clone().unwrap_or_else(|| {
            PathBuf::from("/var/lib/mesh/tunnel").join(&self.interface).with_extension("conf")
        })
    }
}

/// Reads the arguments, and serves the device, relays, or both until it is told to end.
#[must_use]
pub fn main() -> ExitCode {
    let args = Args::parse();
    // The library logs packets it drops, one by one, as errors; RUST_LOG shows them to whoever looks for them.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,gotatun=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    // Nothing that we make is for others.
    umask(Mode::from_bits_truncate(0o077));
    match start(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: &Args) -> anyhow::Result<()> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, THREADS_MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    LocalSet::new().block_on(&runtime, run(args))
}

async fn run(args: &Args) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let device = if args.relay_only { None } else { Some(Serving::start(args).await?) };
    let relay = match args.relay {
        Some(port) => Some(Relaying::start(port, args).await?),
        None => None,
    };
    let deleted = async {
        match &device {
            Some(device) => device.until_deleted(args).await,
            None => pending().await,
        }
    };
    let relaying = async {
        match &relay {
            Some(relay) => relay.run().await,
            None => pending().await,
        }
    };
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        () = deleted => {
            Err(anyhow::anyhow!("the TUN device {} was deleted; start again to make it anew", args.interface))
        }
        () = relaying => unreachable!("a relay relays for ever"),
    };
    if let Some(Relaying { service, server }) = relay {
        drop(server);
        service.stop().await;
        info!("Stopped relaying");
    }
    if let Some(Serving { tunnel, server, .. }) = device {
        tunnel.stop().await;
        // Whoever finds nobody here any more finds the file as it stays.
        drop(server);
        info!(interface = args.interface, "Stopped; the device stays and drops");
    }
    ended
}

/// The device, and the socket of its configuration.
struct Serving {
    tunnel: Rc<Tunnel>,
    server: Server,
    gone: Arc<Notify>,
}

impl Serving {
    async fn start(args: &Args) -> anyhow::Result<Self> {
        let gone = Arc::new(Notify::new());
        let tun = Tun::open(&args.interface, args.mtu, gone.clone())?;
        let tunnel = Rc::new(Tunnel::start(tun, StateFile::new(args.state())).await?);
        let server = Server::bind(&args.uapi_dir, &format!("{}.sock", args.interface))?;
        info!(interface = args.interface, mtu = args.mtu, "Ready");
        Ok(Self { tunnel, server, gone })
    }

    async fn until_deleted(&self, args: &Args) {
        let index = if_nametoindex(args.interface.as_str());
        let keep = async {
            loop {
                tokio::time::sleep(KEEP_EVERY).await;
                self.tunnel.keep().await;
                // Without a key nobody reads the device, and nobody else hears that it went.
                if if_nametoindex(args.interface.as_str()) != index {
                    return;
                }
            }
        };
        tokio::select! {
            () = self.gone.notified() => {}
            () = keep => {}
            () = self.server.serve(self.tunnel.clone()) => unreachable!("the server serves for ever"),
        }
    }
}

/// The relay, and the socket of its configuration.
struct Relaying {
    service: Rc<Service>,
    server: Server,
}

impl Relaying {
    async fn start(port: u16, args: &Args) -> anyhow::Result<Self> {
        let file = args.state().with_extension("relay");
        let service = Rc::new(Service::start(port, args.relay_rate, file).await?);
        let server = Server::bind(&args.uapi_dir, &format!("{}.relay", args.interface))?;
        Ok(Self { service, server })
    }

    async fn run(&self) {
        let keep = async {
            loop {
                tokio::time::sleep(KEEP_EVERY).await;
                self.service.keep().await;
            }
        };
        tokio::select! {
            () = keep => unreachable!("it keeps for ever"),
            () = self.service.learn() => unreachable!("it learns for ever"),
            () = self.server.serve(self.service.clone()) => unreachable!("the server serves for ever"),
        }
    }
}
