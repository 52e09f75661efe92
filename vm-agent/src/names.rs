//! Names for this host: the server, and the host's resolver pointed at it. The shell of `dns` and `resolv`.
//!
//! Nothing here ends the agent. What stands in the way is told, the host resolves as it did before, and it is
//! tried again.

use crate::{
    dns::{server::Server, zone::Zone},
    resolv::{Host, Looked, Resolver, Wanted},
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// A file is looked at this often: what a DHCP client wrote over ours counts so much later at most.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The same where a look starts programs.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// Between tries when something stands in the way.
const RETRY_EVERY: Duration = Duration::from_secs(10);
/// Changes of others that we answer at once, in the time below. Two programs that write a file by turns would
/// go on for ever; the third change is answered when the time is over.
const RIVAL_CHANGES_MAX: usize = 3;
const RIVAL_WITHIN: Duration = Duration::from_secs(60);

/// How names are, for status and readiness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// Nothing was tried yet.
    Starting,
    /// The mesh's names are resolved by this host.
    Served {
        /// Who asks us.
        by: Resolver,
    },
    /// They are not, and the host resolves as without us.
    Missing {
        /// What stands in the way, and what to do.
        why: String,
    },
}

/// Serves names until it is told to end, and then puts back what was there before.
pub async fn run(
    host: Host,
    wanted: Wanted,
    zone: watch::Receiver<Arc<Zone>>,
    status: watch::Sender<Names>,
    ending: CancellationToken,
) {
    let (servers, upstream) = watch::channel(Vec::new());
    let mut keeper = Keeper { host, wanted, zone, upstream, servers, serving: None, rivals: Vec::new() };
    loop {
        let (now, next) = match keeper.look().await {
            Ok(looked) => {
                let next = keeper.next_look(&looked, Instant::now());
                (Names::Served { by: looked.resolver }, next)
            }
            Err(error) => {
                keeper.give_up().await;
                (Names::Missing { why: daemon::args::report(&error).trim_end().to_owned() }, RETRY_EVERY)
            }
        };
        tell(&status, now);
        if ending.run_until_cancelled(sleep(next)).await.is_none() {
            break;
        }
    }
    keeper.give_up().await;
}

/// Told when it differs.
fn tell(status: &watch::Sender<Names>, now: Names) {
    if *status.borrow() != now {
        match &now {
            Names::Served { by } => info!(%by, "The mesh's names are resolved by this host"),
            Names::Missing { why } => {
                warn!(why, "The mesh's names are not resolved; the host's are as before");
            }
            Names::Starting => {}
        }
        status.send_replace(now);
    }
}

struct Keeper {
    host: Host,
    wanted: Wanted,
    zone: watch::Receiver<Arc<Zone>>,
    upstream: watch::Receiver<Vec<SocketAddr>>,
    servers: watch::Sender<Vec<SocketAddr>>,
    serving: Option<(JoinHandle<()>, CancellationToken)>,
    /// When others changed what we had put in place.
    rivals: Vec<Instant>,
}

impl Keeper {
    /// The server first: a resolver is pointed only at what answers.
    async fn look(&mut self) -> anyhow::Result<Looked> {
        if self.serving.as_ref().is_none_or(|(task, _)| task.is_finished()) {
            let server = Server::bind(self.wanted.server)?;
            let stop = CancellationToken::new();
            let serve = server.serve(self.zone.clone(), self.upstream.clone(), stop.clone());
            self.serving = Some((tokio::spawn(serve), stop));
        }
        let looked = self.host.look(&self.wanted).await?;
        self.servers.send_if_modified(|servers| {
            let differs = *servers != looked.servers;
            servers.clone_from(&looked.servers);
            differs
        });
        Ok(looked)
    }

    fn next_look(&mut self, looked: &Looked, now: Instant) -> Duration {
        self.rivals.retain(|at| now.duration_since(*at) < RIVAL_WITHIN);
        if looked.changed {
            self.rivals.push(now);
        }
        match looked.resolver {
            _ if self.rivals.len() > RIVAL_CHANGES_MAX => {
                warn!(by = %looked.resolver, "Somebody else changes the host's resolver again and again");
                RIVAL_WITHIN
            }
            Resolver::File => LOOK_EVERY,
            Resolver::Resolved | Resolver::Resolvconf(_) => ASK_EVERY,
        }
    }

    /// The resolver first, for the same reason.
    async fn give_up(&mut self) {
        if let Err(error) = self.host.restore(&self.wanted.interface).await {
            error!(error = format!("{error:#}"), "Cannot put the host's resolver back");
        }
        if let Some((task, stop)) = self.serving.take() {
            stop.cancel();
            // It was told to end, and there is nobody to tell what it says at its end.
            let _ = task.await;
        }
    }
}
