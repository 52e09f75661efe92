//! A long link: every packet waits for as long as it would travel, and none overtakes another.
//!
//! Not every kernel has netem, but all have queues to user space. What is cut with a delay is marked where it comes in,
//! and one rule of the underlay hands a mark's packets to the queue of the same number. The kernel keeps the packets;
//! the relay keeps their numbers, and says of each when it may go on.
//!
//! ```text
//!   port ──▶ cuts: drop? mark 250 ──▶ raw PREROUTING: mark 250 ──▶ queue 250 ──▶ bridge, router
//!                                                                   │     ▲
//!                                                       id, now ──▶ Line ─┘ id, 250 ms later
//! ```
//!
//! A relay that died is a link that is cut: a queue that nobody reads drops.

mod queue;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::enter::Entrance;
use crate::hold::READY;
use crate::lab::Lab;
use crate::place::Place;
use crate::process::{Activity, ProcessId};
use crate::shell::feed;
use crate::underlay::bridges;

use queue::{PacketId, Queue};

/// Packets that one queue holds, those beyond are lost: a second of 100 Mbit/s in packets of 1 500 bytes, 12 MB.
const HELD_MAX: u32 = 8_192;

/// Packets on their way, in the order in which they came.
struct Line<T> {
    delay: Duration,
    held: VecDeque<(Instant, T)>,
}

impl<T> Line<T> {
    fn new(delay: Duration) -> Self {
        Self { delay, held: VecDeque::new() }
    }

    /// A packet comes in.
    fn take(&mut self, now: Instant, packet: T) {
        self.held.push_back((now + self.delay, packet));
    }

    /// The next packet that has travelled for long enough.
    fn arrived(&mut self, now: Instant) -> Option<T> {
        self.held.pop_front_if(|(due, _)| *due <= now).map(|(_, packet)| packet)
    }

    /// When the next one will have.
    fn next(&self) -> Option<Instant> {
        self.held.front().map(|(due, _)| *due)
    }
}

/// Holds the packets of the queue whose number is `delay_ms` for so long, until it is killed. Says when it begins.
///
/// # Errors
/// The kernel has no such queues, or somebody reads this one already.
pub fn relay(delay_ms: u16) -> Result<()> {
    let queue = Queue::open(delay_ms, HELD_MAX)?;
    let mut line: Line<PacketId> = Line::new(Duration::from_millis(delay_ms.into()));
    println!("{READY}");
    std::io::stdout().flush().context("nobody reads whether the relay is ready")?;
    loop {
        queue.wait(line.next().map(|due| due.saturating_duration_since(Instant::now())))?;
        queue.receive(|packet| line.take(Instant::now(), packet))?;
        // All of them up to the last one at once.
        let mut last = None;
        while let Some(packet) = line.arrived(Instant::now()) {
            last = Some(packet);
        }
        if let Some(last) = last {
            queue.release_up_to(last)?;
        }
    }
}

impl Lab {
    /// Has a relay for each of these delays, and the rules that hand it its packets.
    pub(crate) fn relay_all(
        &self,
        relays: &mut BTreeMap<u16, ProcessId>,
        delays: impl IntoIterator<Item = u16>,
    ) -> Result<()> {
        let underlay = self.entrance(&Place::Underlay)?;
        let mut started = false;
        for delay_ms in delays {
            if relays.get(&delay_ms).is_none_or(|relay| relay.activity() == Activity::Gone) {
                relays.insert(delay_ms, self.start_relay(&underlay, delay_ms)?);
                started = true;
            }
        }
        if !started {
            return Ok(());
        }
        let mut batch = String::new();
        for bridge in bridges(&self.topology).values() {
            // Without this, what stays inside a segment does not see the rules.
            writeln!(batch, "link set {bridge} type bridge nf_call_iptables 1 nf_call_ip6tables 1")?;
        }
        let what = "cannot hand packets to the relay";
        feed(underlay.command(&self.mesh_lab, ["ip", "-batch", "-"]), what, &batch)?;
        for tool in ["iptables-restore", "ip6tables-restore"] {
            feed(underlay.command(&self.mesh_lab, [tool]), what, &rules(relays.keys().copied()))?;
        }
        Ok(())
    }

    fn start_relay(&self, underlay: &Entrance, delay_ms: u16) -> Result<ProcessId> {
        let mesh_lab = self.mesh_lab.display().to_string();
        let mut relay = underlay.daemon(&self.mesh_lab, [mesh_lab.as_str(), "delay", &delay_ms.to_string()]);
        let log = self.paths.place(&Place::Underlay).join(format!("delay-{delay_ms}.log"));
        let file = std::fs::File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        relay.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        let mut child = relay.spawn().context("cannot start a relay")?;
        let stdout = child.stdout.take().expect("stdout was piped");
        let mut said = String::new();
        BufReader::new(stdout).read_line(&mut said).context("cannot hear the relay")?;
        if said.trim() != READY {
            let why = std::fs::read_to_string(&log).unwrap_or_default();
            let _ended = child.wait();
            bail!("cannot delay by {delay_ms} ms: {}", why.trim());
        }
        ProcessId::of(child.id())
    }
}

/// The rules as `iptables-restore` reads them, of either family.
fn rules(delays: impl IntoIterator<Item = u16>) -> String {
    let mut text = String::from("*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n");
    for delay_ms in delays {
        writeln!(text, "-A PREROUTING -m mark --mark {delay_ms} -j NFQUEUE --queue-num {delay_ms}")
            .expect("a String takes everything");
    }
    text.push_str("COMMIT\n");
    text
}
