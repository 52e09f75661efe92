//! `meshctl connect`: check, agree, write both sides, and prove it by round trips.
//!
//! Nothing here must survive: both objects are prepared first, and the apiservers complete or expire the connect by
//! themselves. Running it again changes nothing, or finishes what an earlier run left.

mod by_token;
mod pairs;
mod through;

pub use by_token::by_token;
pub use pairs::{every, of};
pub use through::Through;

use crate::{
    agreement::{self, Agreement},
    ended::Ended,
    facts::Facts,
    output,
    preflight::{self, ClusterFacts},
    progress::Progress,
    session::Session,
    status::{self, Due, PeerStatus},
    table,
};
use anyhow::{Context as _, bail};
use api::{
    bytes::Nonce,
    name::ClusterName,
    peer::MeshPeer,
    record::{Phase, Way},
};
use futures::future::try_join_all;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long the apiservers keep a prepared object whose other side does not show itself.
const DEADLINE: Duration = Duration::from_secs(60);
/// How often both sides are looked at while we wait.
const POLL: Duration = Duration::from_millis(250);

/// Where the lines of a connect go.
#[derive(Debug)]
pub enum Lines<'a> {
    /// To stdout, each as soon as it holds, while nothing is waited for on the terminal.
    Shown(&'a Progress),
    /// To stderr: stdout is for data, and a dry run has some.
    Noted,
    /// Into a text, where others would stand between them.
    Kept(&'a mut String),
}

impl Lines<'_> {
    fn line(&mut self, text: &str) {
        match self {
            Self::Shown(progress) => progress.aside(|| output::line(text)),
            Self::Noted => output::note(text),
            Self::Kept(kept) => {
                kept.push_str(text);
                kept.push('\n');
            }
        }
    }

    fn step(&mut self, name: &str, text: &str) {
        self.line(&format!(" ✓ {name:<9} {text}"));
    }

    /// Both answer: who, where, and within which time.
    fn reached(&mut self, both: [(&ClusterName, &str, Duration); 2]) {
        let text = |(name, endpoint, within)| format!("{name} {endpoint} ({})", took(within));
        self.step("reach", &both.map(text).join(", "));
    }

    /// Both are active, and accept what the other one announces. `stands`: they did before.
    fn trusted(&mut self, stands: bool, [a, b]: [&ClusterFacts; 2]) {
        let how = if stands { "bundles stand as they were" } else { "bundles exchanged" };
        let accepts = [(a, b), (b, a)].map(|(us, them)| format!("{} accepts {}", us.name, announced(them)));
        self.step("trust", &format!("{how}; {}", accepts.join(", ")));
    }
}

/// What both say of themselves, when nothing is in the way of connecting them.
async fn check(
    a: &Session,
    b: &Session,
    through: Option<&Through>,
    lines: &mut Lines<'_>,
) -> anyhow::Result<[ClusterFacts; 2]> {
    let (facts_a, facts_b) = tokio::try_join!(a.describe(), b.describe())?;
    lines.reached([a, b].map(|side| (&side.name, side.endpoint.as_str(), side.took)));
    no_conflict(&facts_a, &facts_b, through.map(|through| &through.name), lines)?;
    Ok([facts_a, facts_b])
}

/// Nothing of what the two announce is in the way, and there is one.
fn no_conflict(
    a: &ClusterFacts,
    b: &ClusterFacts,
    through: Option<&ClusterName>,
    lines: &mut Lines<'_>,
) -> anyhow::Result<()> {
    let conflicts = preflight::conflicts(a, b, through);
    if !conflicts.is_empty() {
        let conflicts: Vec<String> = conflicts.iter().map(ToString::to_string).collect();
        let (a, b, conflicts) = (&a.name, &b.name, conflicts.join("\n  "));
        let text = format!("{a} and {b} cannot be connected; nothing was changed\n  {conflicts}");
        return Err(Ended::Refused(text).into());
    }
    lines
        .step("addresses", &format!("no overlap ({} {}, {} {})", a.name, announced(a), b.name, announced(b)));
    Ok(())
}

/// The objects that a connect would write, each with whose side it is for, after both sides said that they would take it.
pub async fn would_write(
    a: &Session,
    b: &Session,
    through: Option<&Through>,
) -> anyhow::Result<[MeshPeer; 2]> {
    let [facts_a, facts_b] = check(a, b, through, &mut Lines::Noted).await?;
    let objects = agreement::declared(&facts_a, &facts_b, through.map(|through| &through.name));
    for (session, object) in [a, b].into_iter().zip(&objects) {
        session.apply_peer(object, None, true).await?;
    }
    Ok(objects)
}

/// Connects two clusters; tells each step as soon as it holds, and on a terminal what is waited for.
pub async fn pair(
    a: &Session,
    b: &Session,
    through: Option<&Through>,
    timeout: Duration,
    lines: &mut Lines<'_>,
    progress: &Progress,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let [facts_a, facts_b] = check(a, b, through, lines).await?;
    if let Some(through) = through {
        through.allow([&facts_a, &facts_b], lines).await?;
    }
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (relay, nonce) = (through.map(|through| &through.name), Nonce(rand::random()));
    let stands = match agreement::agree(&facts_a, &facts_b, relay, nonce, now_s + DEADLINE.as_secs()) {
        Agreement::Stands => true,
        Agreement::Write { on_a, on_b } => {
            // Both sides say whether they would, before either is touched.
            a.apply_peer(&on_a, None, true).await?;
            b.apply_peer(&on_b, None, true).await?;
            a.apply_peer(&on_a, None, false).await?;
            b.apply_peer(&on_b, None, false).await.with_context(|| {
                format!(
                    "{} holds a prepared object, which it removes by itself within {} s",
                    a.name,
                    DEADLINE.as_secs()
                )
            })?;
            false
        }
    };

    let deadline = started + timeout;
    let sides = [(a, &b.name), (b, &a.name)];
    wait(&sides, deadline, progress, "both sides to be active", Side::is_active).await?;
    lines.trusted(stands, [&facts_a, &facts_b]);
    prove(&sides, deadline, lines, progress).await?;
    let verb = if stands { "connected already" } else { "connected" };
    let took = took(started.elapsed());
    lines.line(&format!("{verb} in {took}   undo: meshctl disconnect {} {}", a.called, b.called));
    Ok(())
}

/// Waits until it works as these sides see it, and says what was measured.
async fn prove(
    sides: &[(&Session, &ClusterName)],
    deadline: Instant,
    lines: &mut Lines<'_>,
    progress: &Progress,
) -> anyhow::Result<()> {
    let what = "every node's maps and a round trip on every pair";
    let sides = wait(sides, deadline, progress, what, |side| {
        match side.status.problems.first() {
            // What a peer announces wrongly is shown, and is no reason to undo a peering that works.
            _ if side.works() => Ok(()),
            Some(problem) => Err(format!("{}: {problem}", side.of)),
            None => Err(format!("{}: waiting for its nodes", side.of)),
        }
    })
    .await?;
    ways(&sides, lines);
    for side in &sides {
        let PeerStatus { peer, tunnels_up, tunnels, rtt_max_us, mtu_bytes, .. } = &side.status;
        let (rtt, mtu) = (rtt_max_us.map_or("-".to_owned(), table::duration), mtu_bytes.unwrap_or(0));
        lines.step(
            "tunnel",
            &format!(
                "{}→{peer}→{} {tunnels_up}/{tunnels} pairs of nodes, rtt at most {rtt}, MTU {mtu}",
                side.of, side.of
            ),
        );
    }
    for side in &sides {
        let PeerStatus { peer, nodes_programmed, nodes, services, backends, revision, .. } = &side.status;
        lines.step(
            "data",
            &format!(
                "{peer}→{} {services} services, {backends} backends, revision {revision}, in the maps of {nodes_programmed}/{nodes} nodes",
                side.of
            ),
        );
    }
    for problem in sides.iter().flat_map(|side| &side.status.problems) {
        lines.line(&format!(" ! {problem}"));
    }
    Ok(())
}

/// Over which connections the two hear of each other, where one of them is not simply dialled.
fn ways(sides: &[Side], lines: &mut Lines<'_>) {
    if sides.iter().all(|side| side.status.way == Way::Dialled) {
        return;
    }
    let way = |side: &Side| {
        let (of, peer) = (&side.of, &side.status.peer);
        match &side.status.way {
            Way::Dialled => format!("{of} dials {peer}"),
            Way::DialledByIt => format!("{of} follows {peer} over a connection that {peer} opened"),
            Way::Relayed(relay) => format!("{of} follows {peer} through {relay}, which reads nothing"),
        }
    };
    lines.step("control", &sides.iter().map(way).collect::<Vec<_>>().join(", "));
}

/// One side of the peering as it is now.
struct Side {
    of: ClusterName,
    status: PeerStatus,
    error: String,
}

impl Side {
    fn read(facts: &Facts, due: &mut Due, peer: &ClusterName) -> Result<Self, String> {
        let all = status::cluster_again(facts, due);
        let found = all.peers.into_iter().find(|p| p.peer == *peer);
        let error = facts.import(peer).map(|i| i.last_error.clone()).unwrap_or_default();
        match found {
            Some(status) => Ok(Self { of: facts.cluster.clone(), status, error }),
            None => Err(format!("{} does not know {peer} yet", facts.cluster)),
        }
    }

    fn last_error(&self) -> &str {
        if self.error.is_empty() { "has not seen the other side yet" } else { &self.error }
    }

    fn is_active(&self) -> Result<(), String> {
        match self.status.phase {
            Phase::Active => Ok(()),
            Phase::Prepared => Err(format!("{}: {}", self.of, self.last_error())),
        }
    }

    /// What a connect promises: the data are in every node's maps, and every pair had a round trip.
    fn works(&self) -> bool {
        let PeerStatus { nodes_programmed, nodes, tunnels_up, tunnels, .. } = self.status;
        nodes > 0 && tunnels > 0 && nodes_programmed == nodes && tunnels_up == tunnels
    }
}

/// Looks at the sides, each of a peering with somebody, until `holds` is content with each, and returns them; else says
/// what was missing last.
async fn wait(
    sides: &[(&Session, &ClusterName)],
    deadline: Instant,
    progress: &Progress,
    what: &str,
    holds: impl Fn(&Side) -> Result<(), String>,
) -> anyhow::Result<Vec<Side>> {
    let mut missing;
    let mut due: Vec<_> = sides.iter().map(|_| Due::default()).collect();
    loop {
        let facts = try_join_all(sides.iter().map(|(session, _)| session.facts())).await?;
        let check = |((facts, due), (_, peer)): ((&Facts, &mut Due), &(&Session, &ClusterName))| {
            Side::read(facts, due, peer).and_then(|side| holds(&side).map(|()| side))
        };
        match facts.iter().zip(&mut due).zip(sides).map(check).collect::<Result<Vec<_>, _>>() {
            Ok(sides) => return Ok(sides),
            Err(first) => missing = first,
        }
        if Instant::now() >= deadline {
            bail!("gave up waiting for {what}: {missing}\n  try: meshctl status");
        }
        progress.waits_for(missing);
        tokio::time::sleep(POLL).await;
    }
}

fn announced(of: &ClusterFacts) -> String {
    of.announced().map(|(_, cidr)| cidr.to_string()).collect::<Vec<_>>().join(" ")
}

fn took(duration: Duration) -> String {
    table::duration(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}
