//! Events of watches in, what the API's objects say out. Pure: no IO, no clock.

use crate::source::{
    kubernetes::KINDS,
    object::{ObjectKey, ObjectKind},
    parse::{self, Fault},
    snapshot::{Effect, Found, PROBLEMS_MAX, Place, Problem, Snapshot, Version},
};
use kube::{ResourceExt, api::DynamicObject, runtime::watcher::Event};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Label of who owns an object, as Kubernetes recommends it.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// The objects as far as they were told.
#[derive(Debug, Default)]
pub struct Fold {
    objects: BTreeMap<ObjectKey, Found>,
    problems: BTreeMap<ObjectKey, Vec<Problem>>,
    kinds: BTreeMap<ObjectKind, Kind>,
    changed: bool,
}

/// How far a kind's list is.
#[derive(Debug, Default)]
struct Kind {
    /// It was listed once.
    complete: bool,
    /// It is listed, and its watch has not failed since.
    current: bool,
    /// While it is listed: what was in the list so far.
    listed: BTreeSet<ObjectKey>,
}

impl Fold {
    /// Takes an event of a kind's watch.
    pub fn apply(&mut self, kind: ObjectKind, event: Event<DynamicObject>) {
        match event {
            Event::Init => {
                let kind = self.kinds.entry(kind).or_default();
                kind.current = false;
                kind.listed.clear();
            }
            Event::InitApply(object) => {
                if let Some(key) = self.take(kind, &object) {
                    self.kinds.entry(kind).or_default().listed.insert(key);
                }
            }
            Event::InitDone => {
                let of_kind = self.kinds.entry(kind).or_default();
                of_kind.complete = true;
                of_kind.current = true;
                let listed = std::mem::take(&mut of_kind.listed);
                let gone = |key: &ObjectKey| key.kind == kind && !listed.contains(key);
                let objects = self.objects.extract_if(.., |key, _| gone(key)).count();
                let problems = self.problems.extract_if(.., |key, _| gone(key)).count();
                self.changed |= objects + problems > 0;
            }
            Event::Apply(object) => drop(self.take(kind, &object)),
            Event::Delete(object) => {
                if let Some(key) = parse::key_of(kind, &document(kind, &object)) {
                    let (object, problems) = (self.objects.remove(&key), self.problems.remove(&key));
                    self.changed |= object.is_some() || problems.is_some();
                }
            }
        }
    }

    /// A kind's watch failed: what it says next begins with a list.
    pub fn interrupted(&mut self, kind: ObjectKind) {
        self.kinds.entry(kind).or_default().current = false;
    }

    /// Every watch has to list again.
    pub fn interrupted_all(&mut self) {
        KINDS.into_iter().for_each(|kind| self.interrupted(kind));
    }

    /// Every kind was listed once.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.incomplete().next().is_none()
    }

    /// The kinds that were not listed yet.
    pub fn incomplete(&self) -> impl Iterator<Item = ObjectKind> {
        KINDS.into_iter().filter(|kind| self.kinds.get(kind).is_none_or(|kind| !kind.complete))
    }

    /// Every kind is listed, and no watch has failed since.
    #[must_use]
    pub fn is_current(&self) -> bool {
        KINDS.iter().all(|kind| self.kinds.get(kind).is_some_and(|kind| kind.current))
    }

    /// Something that matters is different since the last [`Fold::snapshot`].
    #[must_use]
    pub fn changed(&self) -> bool {
        self.changed
    }

    /// All that the objects say.
    pub fn snapshot(&mut self) -> Snapshot {
        self.changed = false;
        // Peerings first: what is there and cannot be read is not gone, also among a thousand others.
        let is_peer = |(key, _): &(&ObjectKey, &Vec<Problem>)| key.kind == ObjectKind::MeshPeer;
        let (peers, others): (Vec<_>, Vec<_>) = self.problems.iter().partition(is_peer);
        let all = peers.into_iter().chain(others).flat_map(|(_, problems)| problems);
        let problems = all.take(PROBLEMS_MAX).cloned().collect();
        Snapshot { objects: self.objects.clone(), problems }
    }

    /// Gives the object's key, when it has one that can be ours.
    fn take(&mut self, kind: ObjectKind, object: &DynamicObject) -> Option<ObjectKey> {
        let place = place(object);
        let document = document(kind, object);
        let (key, faults, found) = match parse::parse(kind, &document) {
            Ok(mut parsed) => {
                // The whole document of a peering has no place for these.
                parsed.uid = object.uid().and_then(|uid| uid.parse().ok());
                let created = object.creation_timestamp();
                parsed.created_s = created.and_then(|time| u64::try_from(time.0.as_second()).ok());
                let faults = std::mem::take(&mut parsed.warnings);
                let version = (kind == ObjectKind::MeshPeer).then(|| version(object)).flatten();
                (parsed.key.clone(), faults, Some(Found { place: place.clone(), version, parsed }))
            }
            // A name that cannot be ours, such as one of a newer Kubernetes: nobody here could ask for it.
            Err(fault) => (parse::key_of(kind, &document)?, vec![fault], None),
        };
        let effect = match (&found, self.objects.contains_key(&key)) {
            (Some(_), _) => Effect::Read,
            (None, true) => Effect::LastGood,
            (None, false) => Effect::Refused,
        };
        let problem = |fault: Fault| Problem {
            place: place.clone(),
            field: fault.path.to_string(),
            text: fault.text,
            object: Some(key.clone()),
            effect,
        };
        let problems: Vec<Problem> = faults.into_iter().map(problem).collect();
        if let Some(found) = found
            && self.objects.get(&key) != Some(&found)
        {
            self.objects.insert(key.clone(), found);
            self.changed = true;
        }
        let before = if problems.is_empty() {
            self.problems.remove(&key)
        } else {
            self.problems.insert(key.clone(), problems)
        };
        self.changed |= before.as_deref().unwrap_or_default()
            != self.problems.get(&key).map(Vec::as_slice).unwrap_or_default();
        Some(key)
    }
}

/// Where an object of the API stands.
#[must_use]
pub fn place(object: &DynamicObject) -> Place {
    Place::Kubernetes { managed_by: object.labels().get(MANAGED_BY).cloned().unwrap_or_default() }
}

/// Which one it is.
#[must_use]
pub fn version(object: &DynamicObject) -> Option<Version> {
    Some(Version { uid: object.uid()?, generation: object.metadata.generation? })
}

/// The object as its author wrote it.
fn document(kind: ObjectKind, object: &DynamicObject) -> Value {
    if let ObjectKind::MeshPeer | ObjectKind::ExternalWorkload = kind {
        // A file's typing errors are refused; what a server adds to `metadata`, and `status`, are not its author's.
        let spec = object.data.get("spec").cloned().unwrap_or_else(|| json!({}));
        let mut metadata = json!({"name": object.name_any()});
        if let Some(namespace) = object.namespace() {
            metadata["namespace"] = namespace.into();
        }
        return json!({
            "apiVersion": api::peer::API_VERSION,
            "kind": kind.as_str(),
            "metadata": metadata,
            "spec": spec,
        });
    }
    serde_json::to_value(object).expect("what was JSON is JSON")
}
