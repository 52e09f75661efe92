//! The sniffer: every frame on the underlay must be on a list, and none may contain the canary.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use lab::{Lab, Sniffer, Watch};
//!
//! let lab = Lab::up("topologies/two-clusters.yaml")?;
//! let rules = lab::parse_rules("[arp, neighbour-discovery, {icmp: {between: [cluster-a/node/a1, cluster-b/node/b1]}}]")?;
//! let sniffer = Sniffer::start(&lab, Watch::underlay().allow(rules).canary("secret"))?;
//! // … traffic …
//! sniffer.stop()?.check()?;
//! # Ok(())
//! # }
//! ```

mod allow;
mod frame;
mod report;
mod socket;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use memchr::memmem::Finder;

use crate::lab::Lab;
use crate::place::Place;
use crate::underlay::uplinks;

pub use allow::{AllowList, Class, Rule, Whom, parse_rules};
pub use report::Report;

use frame::Frame;
use socket::{Captured, Heard, PacketSocket};

/// After `stop`, what the kernel still holds is read; on a busy wire that never runs dry, for this long.
const DRAIN: Duration = Duration::from_secs(2);

/// What to watch, and how to judge it.
#[derive(Debug, Clone)]
pub struct Watch {
    place: Place,
    interfaces: Vec<String>,
    allow: Option<Vec<Rule>>,
    canaries: Vec<Vec<u8>>,
}

/// A sniffer at work, on a thread of its own.
#[derive(Debug)]
pub struct Sniffer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Report>>,
}

impl Watch {
    /// Every link of the underlay: a frame from node to node is seen where it comes in and where it goes out.
    #[must_use]
    pub fn underlay() -> Self {
        Self::at(Place::Underlay)
    }

    /// The devices of a place.
    #[must_use]
    pub fn at(place: Place) -> Self {
        Self { place, interfaces: Vec::new(), allow: None, canaries: Vec::new() }
    }

    /// Only this device (and others named so); without it all, but loopback and the underlay's bridges, which only
    /// repeat what their ports show.
    #[must_use]
    pub fn interface(mut self, name: &str) -> Self {
        self.interfaces.push(name.to_owned());
        self
    }

    /// Every frame must match one of these rules.
    #[must_use]
    pub fn allow(mut self, rules: Vec<Rule>) -> Self {
        self.allow = Some(rules);
        self
    }

    /// No frame may contain these bytes (or others named so).
    #[must_use]
    pub fn canary(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.canaries.push(bytes.as_ref().to_vec());
        self
    }
}

impl Sniffer {
    /// Starts to watch: what passes from now on is seen.
    ///
    /// # Errors
    /// There is no such place or device, a rule names a place without an address, or we are not root.
    pub fn start(lab: &Lab, watch: Watch) -> Result<Self> {
        if watch.canaries.iter().any(Vec::is_empty) {
            bail!("a canary is at least one byte long");
        }
        let holder = lab.entrance(&watch.place)?.net;
        let allow = watch.allow.map(|rules| AllowList::resolve(&rules, lab.topology())).transpose()?;
        // What comes in by a port of the underlay is from the place behind it.
        let labelled = |name: String, place: &Place, ways: [&str; 2]| {
            let labels = ways.map(|way| format!("{way} {place} ({name})"));
            (name, labels)
        };
        let links = match (&watch.place, watch.interfaces) {
            (Place::Underlay, named) if named.is_empty() => {
                let links = uplinks(lab.topology()).into_iter();
                links.map(|link| labelled(link.port, &link.place, ["from", "to"])).collect()
            }
            (place, named) => named.into_iter().map(|name| labelled(name, place, ["to", "from"])).collect(),
        };
        let socket = PacketSocket::open(holder, links)?;
        let judge = Judge {
            allow,
            canaries: watch.canaries.iter().map(|canary| Finder::new(canary).into_owned()).collect(),
            report: Report::default(),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let (told, flag) = (mpsc::channel(), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("sniffer".to_owned()).spawn(move || {
            let _ = told.0.send(());
            watch_until(&flag, socket, judge)
        });
        let thread = thread.context("cannot start the sniffer's thread")?;
        told.1.recv().context("the sniffer's thread did not start")?;
        Ok(Self { stop, thread })
    }

    /// Ends the watch, with everything judged that passed before this call.
    ///
    /// # Errors
    /// The socket failed while it was read.
    pub fn stop(self) -> Result<Report> {
        self.stop.store(true, Ordering::SeqCst);
        match self.thread.join() {
            Ok(report) => report,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

fn watch_until(stop: &AtomicBool, mut socket: PacketSocket, mut judge: Judge) -> Result<Report> {
    let mut deadline: Option<Instant> = None;
    loop {
        if deadline.is_none() && stop.load(Ordering::SeqCst) {
            deadline = Some(Instant::now() + DRAIN);
        }
        match socket.receive()? {
            Heard::Frame(captured) => judge.judge(&captured),
            Heard::Silence if deadline.is_some() => break,
            Heard::Silence | Heard::Elsewhere => {}
        }
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            break;
        }
    }
    judge.report.missed = socket.missed();
    Ok(judge.report)
}

/// Judges frames one by one. Pure.
struct Judge {
    allow: Option<AllowList>,
    canaries: Vec<Finder<'static>>,
    report: Report,
}

impl Judge {
    fn judge(&mut self, captured: &Captured<'_>) {
        let frame = Frame::parse(captured.bytes);
        let whole = !captured.truncated;
        let class = match &mut self.allow {
            None => Some(Class::Any),
            Some(allow) => allow.classify(&frame).filter(|_| whole),
        };
        let decoded = || format!("{}: {frame}, {} bytes", captured.link, captured.bytes.len());
        self.report.saw(class, decoded);
        if self.canaries.iter().any(|canary| canary.find(captured.bytes).is_some()) {
            self.report.saw_canary(decoded());
        }
    }
}
