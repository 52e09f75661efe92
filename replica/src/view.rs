//! The view of all clusters, from one store: what agents and meshctl know.
//!
//! Events of a follower go in; typed tables come out. A list replaces the tables when it is complete, and takes away
//! only what the store that sent it can vouch for: a kind that is not `synced` in the store's running boot may still
//! be filling, and its missing records stay as they were until it is.

mod sweep;
mod tables;

pub use sweep::Relisted;
pub use tables::{ClusterTables, LocalTables, ServiceKey, Tables};

use crate::{
    follower::{Event, Value},
    service::{self, Choice, Silent, Situation},
};
use api::{
    bytes::BootId,
    key::{Key, KeyError, MeshKey},
    name::ClusterName,
    record::Record,
};
use std::collections::BTreeSet;
use sweep::Unconfirmed;

/// What a record was refused for, and how many times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refused {
    /// Since the view was made.
    pub count: u64,
    /// The newest one's key.
    pub example: String,
    /// What is wrong with the newest one.
    pub reason: String,
}

/// What one event did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Nothing that anybody sees.
    Nothing,
    /// The tables changed.
    Changed,
    /// A list was completed.
    Relisted(Relisted),
}

/// All clusters, as the own store tells them.
#[derive(Debug, Clone)]
pub struct View {
    own: ClusterName,
    tables: Tables,
    /// The list that is being read.
    next: Option<Tables>,
    unconfirmed: Unconfirmed,
    complete: bool,
    revision: u64,
    refused: Refused,
}

impl View {
    /// The empty view of the agent of a cluster.
    #[must_use]
    pub fn new(own: ClusterName) -> Self {
        Self {
            own,
            tables: Tables::default(),
            next: None,
            unconfirmed: Unconfirmed::default(),
            complete: false,
            revision: 0,
            refused: Refused::default(),
        }
    }

    /// A view as it was before: something to program from while nothing was listed. It is not complete, and the first
    /// list replaces it as it replaces every older view.
    #[must_use]
    pub fn restored(own: ClusterName, records: impl IntoIterator<Item = (Key, Record, u64)>) -> Self {
        let mut view = Self::new(own);
        for (key, record, mod_revision) in records {
            view.tables.put(key, record, mod_revision);
        }
        view
    }

    /// The cluster whose store this is.
    #[must_use]
    pub fn own(&self) -> &ClusterName {
        &self.own
    }

    /// What is known.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// One cluster's tables, if it ever announced anything.
    #[must_use]
    pub fn cluster(&self, name: &ClusterName) -> Option<&ClusterTables> {
        self.tables.clusters.get(name)
    }

    /// What the store has under a key, as far as it told: not what is only held because nobody vouched for its absence.
    #[must_use]
    pub fn stored(&self, key: &Key) -> Option<Record> {
        let told = self.complete && !self.unconfirmed.contains(key);
        self.tables.get(key).filter(|_| told).map(|(record, _)| record)
    }

    /// Whether a first list was completed: before that, absence means nothing at all.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Of our own store: everything up to here is in the view.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Records that could not be read; each spoiled only itself.
    #[must_use]
    pub fn refused(&self) -> &Refused {
        &self.refused
    }

    /// The boot that the own store runs in, as far as it said.
    #[must_use]
    pub fn boot(&self) -> Option<BootId> {
        boot(&self.tables, &self.own)
    }

    /// The own cluster's Services, exported or not.
    #[must_use]
    pub fn own_services(&self) -> BTreeSet<&ServiceKey> {
        let exported = self.cluster(&self.own).into_iter().flat_map(|own| own.services.keys());
        exported.chain(self.tables.local.services.keys()).collect()
    }

    /// What is known of one of the own cluster's Services, ready for [`service::choose`].
    #[must_use]
    pub fn situation(&self, key: &ServiceKey) -> Option<Situation<'_>> {
        service::situation(self, key)
    }

    /// The backends of each of the own cluster's Services. See [`service::choose`].
    pub fn choices<'a>(&'a self, silent: &'a Silent) -> impl Iterator<Item = (&'a ServiceKey, Choice<'a>)> {
        let choice = |key| self.situation(key).map(|situation| (key, service::choose(&situation, silent)));
        self.own_services().into_iter().filter_map(choice)
    }

    /// Takes an event of the follower.
    pub fn apply(&mut self, event: Event) -> Effect {
        match event {
            Event::Init => {
                self.next = Some(Tables::default());
                Effect::Nothing
            }
            Event::InitApply(value) => {
                if let Some((key, record)) = self.read(&value)
                    && let Some(next) = &mut self.next
                {
                    next.put(key, record, value.mod_revision);
                }
                Effect::Nothing
            }
            Event::InitDone { revision } => match self.next.take() {
                Some(next) => self.replace(next, revision),
                None => Effect::Nothing,
            },
            Event::Apply(value) => match self.read(&value) {
                Some((key, record)) => self.put(key, record, value.mod_revision),
                None => Effect::Nothing,
            },
            Event::Delete { key, mod_revision } => match Key::parse(&key) {
                Ok(key) => {
                    self.unconfirmed.forget(&key);
                    let removed = self.tables.remove(&key, mod_revision);
                    let swept = self.unconfirmed.sweep(&mut self.tables, &self.own, mod_revision);
                    changed(removed || swept)
                }
                Err(_) => Effect::Nothing,
            },
            Event::Progress { revision } | Event::Resumed { revision } => {
                self.revision = revision;
                Effect::Nothing
            }
            Event::Disconnected { .. } => Effect::Nothing,
        }
    }

    fn put(&mut self, key: Key, record: Record, mod_revision: u64) -> Effect {
        self.unconfirmed.forget(&key);
        let vouches = matches!(&key, Key::Mesh(_, MeshKey::Synced(_) | MeshKey::Lineage));
        let put = self.tables.put(key, record, mod_revision);
        let swept = vouches && self.unconfirmed.sweep(&mut self.tables, &self.own, mod_revision);
        changed(put || swept)
    }

    fn replace(&mut self, next: Tables, revision: u64) -> Effect {
        let before = std::mem::replace(&mut self.tables, next);
        let relisted = self.unconfirmed.carry_over(&before, &mut self.tables, &self.own);
        self.complete = true;
        self.revision = revision;
        Effect::Relisted(relisted)
    }

    /// A value that cannot be read changes nothing: what was known under its key stays.
    fn read(&mut self, value: &Value) -> Option<(Key, Record)> {
        let refusal = match Key::parse(&value.key) {
            Ok(key) => match Record::decode(&key, &value.value) {
                Ok(record) => return Some((key, record)),
                Err(error) => error.to_string(),
            },
            // Some other version's: neither ours to judge nor to pass on.
            Err(KeyError::Unknown) => return None,
            Err(error) => error.to_string(),
        };
        // In a list, a refused record must not look like a deleted one.
        if let Ok(key) = Key::parse(&value.key)
            && let Some(next) = &mut self.next
            && let Some((record, _)) = self.tables.get(&key)
        {
            next.put(key, record, value.mod_revision);
        }
        self.refused.count += 1;
        self.refused.example = String::from_utf8_lossy(&value.key).into_owned();
        self.refused.reason = refusal;
        None
    }
}

fn changed(changed: bool) -> Effect {
    if changed { Effect::Changed } else { Effect::Nothing }
}

fn boot(tables: &Tables, own: &ClusterName) -> Option<BootId> {
    Some(tables.clusters.get(own)?.lineage.as_ref()?.current().id)
}

#[cfg(test)]
mod tests;
