//! The loops around the diff: publish on every change and from time to time, heartbeat every two seconds.

use super::{
    Author, Op, author, diff,
    linger::Linger,
    own::Own,
    txns,
    writes::{self, WriteError},
};
use crate::{backend::Engine, source::driver::State};
use api::{
    bytes::BootId,
    key::{Key, LOCAL, LocalKey, MeshKey, cluster_prefix},
};
use prometheus_client::metrics::histogram::Histogram;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

/// Time between heartbeats (design, Numbers).
pub const HEARTBEAT: Duration = Duration::from_secs(2);
/// Time between comparisons without a change of the source: what somebody else wrote under our keys is put right.
const RECHECK: Duration = Duration::from_secs(30);
/// Time between attempts when the store refuses.
const RETRY: Duration = Duration::from_secs(1);

/// What the publisher did last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Published {
    /// The source's first complete list is in the store.
    pub synced: bool,
    /// Records of ours in the store.
    pub records: usize,
    /// Operations since the start.
    pub operations: u64,
}

/// Writes who we are and which boot this is. It comes before everything else that this boot writes, and before anybody
/// reads: a follower that finds a revision of ours finds the boot that it is of.
///
/// # Errors
/// As the store.
pub async fn begin(engine: &Engine, own: &Own) -> Result<(), WriteError> {
    let records = own.records(engine.lineage(), BootId(engine.boot()), false);
    let put = |(key, record): (Key, api::record::Record)| Op::Put { key, value: record.encode() };
    writes::write(engine, &records.into_iter().map(put).collect::<Vec<_>>()).await
}

/// Publishes the source's records into the store until cancelled.
pub fn spawn(
    engine: Engine,
    own: Own,
    source: watch::Receiver<Option<State>>,
    took: Histogram,
    cancel: CancellationToken,
) -> (watch::Receiver<Published>, Vec<JoinHandle<()>>) {
    let (published, receiver) = watch::channel(Published::default());
    let heart = tokio::spawn(heartbeat(engine.clone(), own.clone(), source.clone(), cancel.clone()));
    let (linger, started) = (Linger::default(), Instant::now());
    let publisher = Publisher { engine, own, linger, started, published, took, timed: None };
    let publish = tokio::spawn(publisher.run(source, cancel));
    (receiver, vec![publish, heart])
}

struct Publisher {
    engine: Engine,
    own: Own,
    linger: Linger,
    started: Instant,
    published: watch::Sender<Published>,
    /// From a change of the source to durable.
    took: Histogram,
    /// The last change that was timed.
    timed: Option<Instant>,
}

impl Publisher {
    async fn run(mut self, mut source: watch::Receiver<Option<State>>, cancel: CancellationToken) {
        loop {
            let state = source.borrow_and_update().clone();
            let next = match self.publish(state.as_ref()).await {
                Ok(()) => Instant::now() + RECHECK,
                Err(WriteError::Store(store::Error::Stopped)) => return,
                Err(error) => {
                    error!(%error, "Cannot publish; trying again");
                    Instant::now() + RETRY
                }
            };
            let next = self.linger.next().map_or(next, |at| next.min(self.started + at));
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep_until(next) => {}
                changed = other_records(&mut source, state.as_ref()) => if changed.is_err() { return },
            }
        }
    }

    async fn publish(&mut self, state: Option<&State>) -> Result<(), WriteError> {
        let boot = BootId(self.engine.boot());
        let mut desired: BTreeMap<Key, Vec<u8>> = BTreeMap::new();
        let own = self.own.records(self.engine.lineage(), boot, state.is_some());
        desired.extend(own.into_iter().map(|(key, record)| (key, record.encode())));
        if let Some(state) = state {
            desired.extend(state.desired.records.iter().map(|(key, record)| (key.clone(), record.encode())));
        }
        let mut held = self.held().await?;
        held.extend(self.left(&desired).await?.into_iter().map(|key| (key, Vec::new())));
        self.linger.keep(&mut desired, &held, self.started.elapsed());
        let mut ops = diff(&desired, &held);
        if state.is_none() {
            // Nobody has listed anything yet: what the store knows from before stays.
            ops.retain(|op| matches!(op, Op::Put { .. }));
        }
        let count = ops.len();
        for txn in txns(ops) {
            writes::write(&self.engine, &txn).await?;
        }
        if let Some(state) = state
            && self.timed.replace(state.changed_at) != Some(state.changed_at)
            && count > 0
        {
            self.took.observe(state.changed_at.elapsed().as_secs_f64());
        }
        if count > 0 {
            debug!(operations = count, revision = self.engine.revision(), "Published");
        }
        self.published.send_if_modified(|published| {
            let first = state.is_some() && !published.synced;
            if first {
                info!(records = desired.len(), "The source's first list is published");
            }
            let now = Published {
                synced: published.synced || state.is_some(),
                records: desired.len(),
                operations: published.operations + count as u64,
            };
            std::mem::replace(published, now) != now
        });
        Ok(())
    }

    /// What VMs that are no more wrote of themselves: it is nobody's, and nobody lets them write any longer.
    async fn left(&self, desired: &BTreeMap<Key, Vec<u8>>) -> Result<Vec<Key>, WriteError> {
        let mut left = Vec::new();
        writes::list(&self.engine, &format!("{LOCAL}presence/"), |key, _| {
            if let Key::Local(LocalKey::Presence(vm)) = key
                && !desired.contains_key(&LocalKey::Vm(vm.clone()).into())
            {
                left.push(MeshKey::Key(vm.clone()).of(&self.own.name));
                left.extend([LocalKey::Applied(vm.clone()), LocalKey::Presence(vm)].map(Key::from));
            }
        })
        .await?;
        Ok(left)
    }

    /// What the store holds of ours, whoever wrote it. A key we cannot parse is not ours.
    async fn held(&self) -> Result<BTreeMap<Key, Vec<u8>>, WriteError> {
        let mut held = BTreeMap::new();
        let own = cluster_prefix(&self.own.name);
        let local = ["services/", "backends/", "vms/"];
        for prefix in local.map(|kind| format!("{LOCAL}{kind}")).into_iter().chain([own]) {
            writes::list(&self.engine, &prefix, |key, value| {
                let ours = match author(&key, &self.own.name) {
                    Author::Source => true,
                    // The heartbeat has its own clock.
                    Author::Store => !matches!(key, Key::Mesh(_, api::key::MeshKey::Heartbeat)),
                    Author::Peers | Author::Node => false,
                };
                // `synced/peerings` is the peerings' to say.
                let theirs = matches!(key, Key::Mesh(_, api::key::MeshKey::Synced(api::key::Kind::Peerings)));
                if ours && !theirs {
                    held.insert(key, value);
                }
            })
            .await?;
        }
        Ok(held)
    }
}

/// Waits until the source asks for something else: it says every second that nothing changed.
async fn other_records(
    source: &mut watch::Receiver<Option<State>>,
    published: Option<&State>,
) -> Result<(), watch::error::RecvError> {
    let differs = |now: &Option<State>| match (now, published) {
        (Some(now), Some(published)) => !Arc::ptr_eq(&now.desired, &published.desired),
        (Some(_), None) => true,
        (None, _) => false,
    };
    source.wait_for(differs).await.map(drop)
}

async fn heartbeat(
    engine: Engine,
    own: Own,
    source: watch::Receiver<Option<State>>,
    cancel: CancellationToken,
) {
    let boot = BootId(engine.boot());
    let started = Instant::now();
    let mut beats = tokio::time::interval(HEARTBEAT);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = beats.tick() => {}
        }
        // A source that was never read is as old as we are.
        let read_at = source.borrow().as_ref().map_or(started, |state| state.read_at);
        let (key, record) = own.heartbeat(boot, engine.revision(), read_at.elapsed());
        match writes::write(&engine, &[Op::Put { key, value: record.encode() }]).await {
            Ok(()) => {}
            Err(WriteError::Store(store::Error::Stopped)) => return,
            // The missing heartbeat is what tells the others.
            Err(error) => error!(%error, "Cannot write the heartbeat"),
        }
    }
}

#[cfg(test)]
mod tests;
