//! Checks of what this VM serves: a TCP connection to its own mesh address, as clients come.

use api::name::ServiceName;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{info, warn};

/// Time between checks: a program that died is out of use within three of them.
const EVERY: Duration = Duration::from_secs(5);
/// How long a program may take to accept: it is on this machine.
const WITHIN: Duration = Duration::from_secs(2);
/// Checks that fail before a program counts as dead: one alone may have met a restart, or a full backlog.
const FAILURES: u32 = 2;

/// What is checked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The Service that it is a backend of.
    pub service: ServiceName,
    /// Where its program listens.
    pub port: u16,
    /// Which of our mesh addresses.
    pub address: IpAddr,
}

/// The two ends of the checks.
#[derive(Debug)]
pub struct Checks {
    /// What is to be checked.
    pub targets: watch::Sender<BTreeSet<Target>>,
    /// How each is; one that was not checked yet is not healthy.
    pub checked: watch::Receiver<BTreeMap<Target, bool>>,
}

/// Starts checking; it ends with the handle.
pub fn spawn() -> Checks {
    let (targets, wanted) = watch::channel(BTreeSet::new());
    let (found, checked) = watch::channel(BTreeMap::new());
    tokio::spawn(run(wanted, found));
    Checks { targets, checked }
}

/// How the checks of one target went. Pure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Count {
    failures: u32,
    healthy: bool,
}

impl Count {
    fn note(&mut self, answered: bool) {
        self.failures = if answered { 0 } else { self.failures.saturating_add(1) };
        self.healthy = answered || (self.healthy && self.failures < FAILURES);
    }
}

async fn run(mut wanted: watch::Receiver<BTreeSet<Target>>, found: watch::Sender<BTreeMap<Target, bool>>) {
    let mut counts: BTreeMap<Target, Count> = BTreeMap::new();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            _ = ticks.tick() => {}
        }
        let targets = wanted.borrow_and_update().clone();
        counts.retain(|target, _| targets.contains(target));
        let mut asked: JoinSet<(Target, bool)> = JoinSet::new();
        for target in targets {
            asked.spawn(async move {
                let at = SocketAddr::new(target.address, target.port);
                let answered = matches!(timeout(WITHIN, TcpStream::connect(at)).await, Ok(Ok(_)));
                (target, answered)
            });
        }
        while let Some(Ok((target, answered))) = asked.join_next().await {
            let count = counts.entry(target.clone()).or_default();
            let before = *count;
            count.note(answered);
            match (before.healthy, count.healthy) {
                (false, true) => info!(?target, "What we serve answers"),
                (true, false) => warn!(?target, "What we serve does not answer; it is taken out of use"),
                (true, true) | (false, false) => {}
            }
        }
        found.send_replace(counts.iter().map(|(target, count)| (target.clone(), count.healthy)).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn one_answer_makes_a_program_healthy_and_two_failures_in_a_row_end_that() {
        let mut count = Count::default();
        let mut states = String::new();
        for answered in [false, true, false, true, false, false, false, true] {
            count.note(answered);
            states.push(if count.healthy { '+' } else { '-' });
        }
        assert_eq!(states, "-++++--+");
    }

    #[tokio::test]
    async fn a_program_that_listens_is_healthy_and_a_port_where_nobody_does_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let target =
            |port| Target { service: "cart".parse().unwrap(), port, address: "127.0.0.1".parse().unwrap() };
        let Checks { targets, mut checked } = spawn();
        targets.send_replace([target(port), target(free)].into());
        let found = checked.wait_for(|found| found.len() == 2).await.unwrap().clone();
        assert_eq!((found[&target(port)], found[&target(free)]), (true, false));
    }
}
