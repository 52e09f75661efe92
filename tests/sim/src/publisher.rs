//! The publisher's shell: from the source's objects, by the real index and the real diff, to the store.

use crate::{
    bug::{Bug, Planted},
    disk::Durable,
    objects::Objects,
};
use api::{
    bytes::BootId,
    key::{Key, Kind, LOCAL, MeshKey, cluster_prefix},
    record::Record,
};
use clustermesh_apiserver::{
    publish::{Author, HEARTBEAT, Linger, Op, Own, author, diff},
    source::index::{Facts, Index},
    vms::presence::VmStates,
};
use replica::Now;
use std::{collections::BTreeMap, time::Duration};

/// Time between comparisons without a change of the source, as the product's.
const RECHECK: Duration = Duration::from_secs(30);

/// What a source holds, and what is announced beside it.
type Source<'a> = (&'a Objects, &'a BTreeMap<Key, Record>);

#[derive(Debug)]
pub(crate) struct Publisher {
    linger: Linger,
    beat_at: Now,
    look_at: Now,
    /// The source had been listed at the last look.
    listed: bool,
}

impl Publisher {
    pub(crate) fn new(now: Now) -> Self {
        Self { linger: Linger::default(), beat_at: now, look_at: now, listed: false }
    }

    /// The source changed.
    pub(crate) fn wake(&mut self) {
        self.look_at = Now::START;
    }

    /// Whether there is anything to do in a step at this time.
    pub(crate) fn is_due(&self, source_speaks: bool, now: Now) -> bool {
        now >= self.beat_at.min(self.look_at) || self.listed != source_speaks
    }

    /// A tick: beats, and brings the store in line with what the source says.
    pub(crate) fn step(
        &mut self,
        own: &Own,
        source: Option<Source<'_>>,
        durable: &mut Durable,
        boot: BootId,
        now: Now,
        planted: Planted,
    ) {
        if now >= self.beat_at {
            self.beat_at = now + HEARTBEAT;
            let (key, record) = own.heartbeat(boot, durable.store.revision(), Duration::ZERO);
            durable.publish(&key, &record);
        }
        let nothing = (&Objects::default(), &BTreeMap::new());
        let source = source.or_else(|| planted.is(Bug::SweepsBeforeSync).then_some(nothing));
        let listed = std::mem::replace(&mut self.listed, source.is_some()) == source.is_some();
        if listed && now < self.look_at {
            return;
        }
        self.look_at = now + RECHECK;
        let mut desired: BTreeMap<Key, Vec<u8>> = BTreeMap::new();
        let mut say = |records: BTreeMap<Key, Record>| {
            desired.extend(records.into_iter().map(|(key, record)| (key, record.encode())));
        };
        say(own.records(durable.lineage(), boot, source.is_some()));
        if let Some((objects, records)) = source {
            say(desired_by(own, objects));
            say(records.clone());
        }
        let held = held(own, durable);
        self.linger.keep(&mut desired, &held, now.elapsed());
        let mut ops = diff(&desired, &held);
        if source.is_none() {
            ops.retain(|op| matches!(op, Op::Put { .. }));
        }
        durable.make(ops);
        if let Some(at) = self.linger.next() {
            self.look_at = self.look_at.min(Now::at(at));
        }
    }
}

/// The records that the objects ask for.
fn desired_by(own: &Own, objects: &Objects) -> BTreeMap<Key, Record> {
    let facts = Facts {
        cluster: own.name.clone(),
        uuid: own.uuid,
        pod_cidrs: own.pod_cidrs.clone(),
        ignored_labels: Vec::new(),
        namespaces_are_global: true,
    };
    let mut index = Index::default();
    index.replace(objects.all.clone());
    let mesh = objects.mesh_addresses.iter().map(|(node, ips)| (node.clone().into(), ips.clone()));
    index.desired(&facts, &mesh.collect(), &VmStates::default()).records
}

/// What the store holds of the publisher's own, as the product's publisher lists it.
fn held(own: &Own, durable: &Durable) -> BTreeMap<Key, Vec<u8>> {
    let ours = |key: &Key| match author(key, &own.name) {
        Author::Source => true,
        Author::Store => !matches!(key, Key::Mesh(_, MeshKey::Heartbeat | MeshKey::Synced(Kind::Peerings))),
        Author::Peers | Author::Node => false,
    };
    let prefixes = [cluster_prefix(&own.name), format!("{LOCAL}services/"), format!("{LOCAL}backends/")];
    let all = prefixes.iter().flat_map(|prefix| durable.list(prefix));
    all.filter_map(|(key, value)| Some((Key::parse(key.as_bytes()).ok()?, value)))
        .filter(|(key, _)| ours(key))
        .collect()
}
