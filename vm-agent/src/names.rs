//! Names for this host: the server, and the host's resolver pointed at it. The shell of `dns` and `resolv`.
//!
//! Nothing here ends the agent. What stands in the way is told, the host resolves as it did before, and it is
//! tried again.

use crate::{
    dns::{
        server::Server,
        zone::{Domain, Zone},
    },
    resolv::{Host, Looked, Resolver, Wanted},
};
use api::name::NamespaceName;
use daemon::args::Hint;
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

/// How names are served.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where.
    pub server: SocketAddr,
    /// The mesh's device.
    pub interface: String,
    /// The cluster's domain.
    pub domain: Domain,
}

/// What names are made of, as far as it is known.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The host's own namespace, where its short names are looked for first.
    pub namespace: Option<NamespaceName>,
    /// All names.
    pub zone: Arc<Zone>,
}

impl Facts {
    /// Those of an agent that knows nothing yet.
    #[must_use]
    pub fn unknown(domain: Domain) -> Self {
        Self { namespace: None, zone: Arc::new(Zone::unknown(domain)) }
    }
}

/// Serves names until it is told to end, and then puts back what was there before.
pub async fn run(
    host: Host,
    options: Options,
    mut facts: watch::Receiver<Facts>,
    status: watch::Sender<Names>,
    ending: CancellationToken,
) {
    let (servers, upstream) = watch::channel(Vec::new());
    let keeper_facts = facts.clone();
    let mut keeper =
        Keeper { host, options, facts: keeper_facts, upstream, servers, serving: None, rivals: Vec::new() };
    loop {
        let namespace = facts.borrow_and_update().namespace.clone();
        let (now, next) = match keeper.look(namespace.as_ref()).await {
            Ok(looked) => {
                let next = keeper.next_look(&looked, Instant::now());
                (Names::Served { by: looked.resolver }, next)
            }
            Err(error) => {
                keeper.give_up().await;
                (Names::Missing { why: in_one_line(&error) }, RETRY_EVERY)
            }
        };
        tell(&status, now);
        tokio::select! {
            () = ending.cancelled() => break,
            () = sleep(next) => {}
            Ok(_) = facts.wait_for(|facts| facts.namespace != namespace) => {}
        }
    }
    keeper.give_up().await;
}

/// The whole chain and, when somebody knows what to try, the hint.
fn in_one_line(error: &anyhow::Error) -> String {
    let hint = error.downcast_ref::<Hint>().map(|hint| format!("; {}", hint.hint)).unwrap_or_default();
    format!("{error:#}{hint}")
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
    options: Options,
    facts: watch::Receiver<Facts>,
    upstream: watch::Receiver<Vec<SocketAddr>>,
    servers: watch::Sender<Vec<SocketAddr>>,
    serving: Option<(JoinHandle<()>, CancellationToken)>,
    /// When others changed what we had put in place.
    rivals: Vec<Instant>,
}

impl Keeper {
    /// The server first: a resolver is pointed only at what answers.
    async fn look(&mut self, namespace: Option<&NamespaceName>) -> anyhow::Result<Looked> {
        if self.serving.as_ref().is_none_or(|(task, _)| task.is_finished()) {
            let server = Server::bind(self.options.server)?;
            let stop = CancellationToken::new();
            let serve = server.serve(self.facts.clone(), self.upstream.clone(), stop.clone());
            self.serving = Some((tokio::spawn(serve), stop));
        }
        let Options { server, interface, domain } = &self.options;
        let looked = self.host.look(&Wanted::new(*server, interface, namespace, domain)).await?;
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
        if let Err(error) = self.host.restore(&self.options.interface).await {
            error!(error = format!("{error:#}"), "Cannot put the host's resolver back");
        }
        if let Some((task, stop)) = self.serving.take() {
            stop.cancel();
            // It was told to end, and there is nobody to tell what it says at its end.
            let _ = task.await;
        }
    }
}
