//! Who is there: a VM tells by a record that changes every five seconds, and we measure by our own clock when it last did.
//!
//! What a VM says of the time is not asked: its clock may be wrong. A record that was found when we started counts from
//! then on, so that a restart of ours takes nobody's backends away.

use crate::{backend::Engine, publish::writes};
use api::{
    bytes::Instance,
    key::{Key, LOCAL, LocalKey},
    name::{NodeName, ServiceName},
    record::Presence,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};
use tokio::{sync::watch, time::Instant};
use tracing::{debug, info, warn};

/// A VM that has not been heard of for so long has lapsed: three signs of life are missing.
pub const LAPSES_AFTER: Duration = Duration::from_secs(15);

/// A machine that returns within this time, after another one spoke by its name, is a second machine: one that is
/// replaced does not come back.
const TWINS_WITHIN: Duration = Duration::from_secs(60);

/// Time between looks at the records: a lapse is seen two seconds late at most.
const LOOK: Duration = Duration::from_secs(2);

/// How a VM is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmState {
    /// It has not been heard of for [`LAPSES_AFTER`].
    pub lapsed: bool,
    /// What it serves and does not answer its own checks.
    pub failing: BTreeSet<Checked>,
    /// Two machines speak by its name, and with its key.
    pub twins: bool,
}

/// What a VM checks: the Service, and where its program listens.
pub type Checked = (ServiceName, u16, IpAddr);

/// Of each VM that was ever heard of.
pub type VmStates = BTreeMap<NodeName, VmState>;

/// When each was last heard of.
pub type Heard = BTreeMap<NodeName, Instant>;

/// What was heard. Pure.
#[derive(Debug, Default)]
pub struct Watcher(BTreeMap<NodeName, Said>);

#[derive(Debug)]
struct Said {
    record: Presence,
    at: Instant,
    /// Who spoke before the instance of the record, and when that was last.
    before: Option<(Instance, Instant)>,
    twins_at: Option<Instant>,
}

/// Whether a VM that was last heard of then has lapsed.
#[must_use]
pub fn is_silent(heard_at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(heard_at) >= LAPSES_AFTER
}

impl Watcher {
    /// Takes the records as they are now. One that equals what was heard is no sign of life.
    pub fn look(&mut self, records: BTreeMap<NodeName, Presence>, now: Instant) {
        self.0.retain(|name, _| records.contains_key(name));
        for (name, record) in records {
            let Some(heard) = self.0.get_mut(&name) else {
                self.0.insert(name, Said { record, at: now, before: None, twins_at: None });
                continue;
            };
            if heard.record == record {
                continue;
            }
            if heard.record.instance != record.instance {
                let returns = heard.before.is_some_and(|(instance, at)| {
                    instance == record.instance && now.saturating_duration_since(at) < TWINS_WITHIN
                });
                if returns {
                    heard.twins_at = Some(now);
                }
                heard.before = Some((heard.record.instance, heard.at));
            }
            (heard.record, heard.at) = (record, now);
        }
    }

    /// How each is.
    #[must_use]
    pub fn states(&self, now: Instant) -> VmStates {
        let state = |heard: &Said| VmState {
            lapsed: is_silent(heard.at, now),
            failing: heard
                .record
                .serve
                .iter()
                .filter(|serve| !serve.healthy)
                .map(|serve| (serve.service.clone(), serve.port, serve.address))
                .collect(),
            twins: heard.twins_at.is_some_and(|at| now.saturating_duration_since(at) < TWINS_WITHIN),
        };
        self.0.iter().map(|(name, heard)| (name.clone(), state(heard))).collect()
    }

    /// When each was last heard of.
    #[must_use]
    pub fn heard(&self) -> Heard {
        self.0.iter().map(|(name, heard)| (name.clone(), heard.at)).collect()
    }
}

/// Looks until dropped: tells how the VMs are, which wakes those who follow when that changes, and when each was heard of,
/// for those who ask.
pub async fn follow(engine: Engine, states: watch::Sender<VmStates>, heard: watch::Sender<Heard>) {
    let mut watcher = Watcher::default();
    loop {
        match records(&engine).await {
            Ok(records) => watcher.look(records, Instant::now()),
            // Nobody lapses because we cannot read.
            Err(error) => debug!(%error, "Cannot read what the VMs say"),
        }
        let now = watcher.states(Instant::now());
        states.send_if_modified(|held| {
            report(held, &now);
            let changed = *held != now;
            *held = now;
            changed
        });
        heard.send_replace(watcher.heard());
        tokio::time::sleep(LOOK).await;
    }
}

async fn records(engine: &Engine) -> Result<BTreeMap<NodeName, Presence>, writes::WriteError> {
    let mut records = BTreeMap::new();
    writes::list(engine, &format!("{LOCAL}presence/"), |key, value| {
        if let (Key::Local(LocalKey::Presence(vm)), Ok(record)) = (key, Presence::decode(&value)) {
            records.insert(vm, record);
        }
    })
    .await?;
    Ok(records)
}

fn report(before: &VmStates, now: &VmStates) {
    for (vm, state) in now {
        let was = before.get(vm);
        if state.lapsed && was.is_some_and(|was| !was.lapsed) {
            warn!(%vm, "The VM has not been heard of; what it serves is demoted");
        } else if !state.lapsed && was.is_none_or(|was| was.lapsed) {
            info!(%vm, "The VM is there");
        }
        if state.twins && was.is_none_or(|was| !was.twins) {
            warn!(%vm, "Two machines speak by this VM's name with one key: one is a copy of the other");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::record::ServedHealth;

    fn name() -> NodeName {
        "web-1".parse().unwrap()
    }

    fn says(instance: u8, sequence: u64, healthy: bool) -> BTreeMap<NodeName, Presence> {
        let (service, address) = ("cart".parse().unwrap(), "100.64.1.9".parse().unwrap());
        let serve = vec![ServedHealth { service, port: 8080, address, healthy }];
        let instance = Instance([instance; 16]);
        let record = Presence { instance, sequence, serve, agent_version: String::new() };
        BTreeMap::from([(name(), record)])
    }

    fn after(start: Instant, s: u64) -> Instant {
        start + Duration::from_secs(s)
    }

    #[test]
    fn a_vm_that_says_nothing_new_lapses_and_one_that_speaks_again_is_there() {
        let (mut watcher, start) = (Watcher::default(), Instant::now());
        watcher.look(says(1, 7, true), start);
        assert!(
            !watcher.states(after(start, 14))[&name()].lapsed,
            "a record of before counts from our start on"
        );
        watcher.look(says(1, 7, true), after(start, 14));
        assert!(watcher.states(after(start, 15))[&name()].lapsed, "the same record is no sign of life");
        watcher.look(says(1, 8, true), after(start, 20));
        assert!(!watcher.states(after(start, 34))[&name()].lapsed);
        watcher.look(BTreeMap::new(), after(start, 21));
        assert_eq!(watcher.states(after(start, 21)), VmStates::new());
    }

    #[test]
    fn what_fails_its_own_check_is_named() {
        let (mut watcher, start) = (Watcher::default(), Instant::now());
        watcher.look(says(1, 1, false), start);
        let failing = &watcher.states(start)[&name()].failing;
        assert_eq!(
            failing.iter().next(),
            Some(&("cart".parse().unwrap(), 8080, "100.64.1.9".parse().unwrap()))
        );
        watcher.look(says(1, 2, true), start);
        assert!(watcher.states(start)[&name()].failing.is_empty());
    }

    #[test]
    fn a_restart_is_one_machine_and_two_that_take_turns_are_twins() {
        let (mut watcher, start) = (Watcher::default(), Instant::now());
        for (s, instance) in [(0, 1), (5, 2), (10, 3)] {
            watcher.look(says(instance, 1, true), after(start, s));
            assert!(!watcher.states(after(start, s))[&name()].twins, "a machine that was restarted");
        }
        watcher.look(says(2, 2, true), after(start, 15));
        assert!(watcher.states(after(start, 15))[&name()].twins);
        watcher.look(says(2, 3, true), after(start, 75));
        assert!(!watcher.states(after(start, 75))[&name()].twins, "the copy is off");
    }
}
