//! How a peering is, in the status of its MeshPeer: for `kubectl get meshpeers`, and for alerts on conditions.

use super::{Status, home::objects};
use crate::{
    backend::Engine,
    publish::writes,
    source::{kubernetes::Events, snapshot::Version},
};
use api::{
    key::{Key, LOCAL, LocalKey},
    name::ClusterName,
    record::{Freshness, ImportState, PeerState, Phase, Refusal},
};
use k8s_openapi::{api::core::v1::ObjectReference, jiff::Timestamp};
use kube::{
    Client, ResourceExt,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use tokio::{sync::watch, time::timeout};
use tracing::{debug, warn};

/// Time between looks: a person who runs `kubectl get` again sees the next one.
const LOOK: Duration = Duration::from_secs(2);

/// How long the Kubernetes API may take for one object.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest message of a condition that we write, in bytes: the API takes 32 KiB, a person reads a line.
const MESSAGE_MAX_BYTES: usize = 1_000;

/// What the store says of a peering.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Known {
    /// Of which object it is said; none of one that was not judged yet, or is gone.
    judged: Option<Version>,
    conflict: Option<String>,
    state: Option<PeerState>,
    import: Option<ImportState>,
}

/// The condition `Ready`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ready {
    status: bool,
    reason: &'static str,
    message: String,
}

impl Known {
    /// Green is what was measured: a session, a whole list, heartbeats that come.
    fn ready(&self) -> Ready {
        let no = |reason, message: &str| Ready { status: false, reason, message: message.to_owned() };
        if let Some(conflict) = &self.conflict {
            return no("NotInForce", conflict);
        }
        let (Some(state), Some(import)) = (&self.state, &self.import) else {
            return no("Pending", "the peering has just begun");
        };
        if state.phase == Phase::Prepared {
            return no("Prepared", "the other side has not confirmed the peering yet");
        }
        let error = if import.last_error.is_empty() { "no session yet" } else { &import.last_error };
        match (import.connected, import.synced, state.freshness) {
            (false, _, Freshness::Fresh) => no("Disconnected", error),
            (false, _, Freshness::Stale) => no("Stale", error),
            (true, false, _) => no("Syncing", "the first list is not complete"),
            (true, true, Freshness::Stale) => no("Stale", "nobody confirms the peer's records"),
            (true, true, Freshness::Fresh) => {
                Ready { status: true, reason: "Fresh", message: "its records are current".to_owned() }
            }
        }
    }

    fn says_the_same(&self, other: &Self) -> bool {
        self.judged == other.judged && self.ready() == other.ready() && self.status() == other.status()
    }

    /// Without the time of the last transition.
    fn status(&self) -> Value {
        let import = self.import.clone().unwrap_or_default();
        let mut refusals = import.refusals;
        refusals.sort_by(|a, b| a.reason.cmp(&b.reason));
        json!({
            "services": import.services,
            "backends": import.backends,
            "endpoints": import.endpoints,
            "refused": refusals.iter().map(|refusal| refusal.count).sum::<u64>(),
            "refusals": refusals,
        })
    }
}

/// Writes the statuses until dropped.
pub(super) async fn follow(engine: Engine, client: Client, events: Events, peers: watch::Receiver<Status>) {
    let mut written: BTreeMap<ClusterName, Known> = BTreeMap::new();
    let mut failing: BTreeMap<ClusterName, String> = BTreeMap::new();
    loop {
        let status = peers.borrow().clone();
        let known = known(&engine, &status).await;
        written.retain(|name, _| known.contains_key(name));
        for (name, now) in known {
            let before = written.get(&name);
            if before.is_some_and(|before| before.says_the_same(&now)) {
                continue;
            }
            let wrote = match timeout(PATIENCE, write(&client, &events, &name, before, &now)).await {
                Ok(wrote) => wrote.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {PATIENCE:?}")),
            };
            match wrote {
                Ok(true) => {
                    failing.remove(&name);
                    written.insert(name, now);
                }
                Ok(false) => drop(written.remove(&name)),
                // Tried again at the next look, and said once.
                Err(error) if failing.get(&name) != Some(&error) => {
                    warn!(peer = %name, error, "Cannot write the MeshPeer's status; trying again");
                    failing.insert(name, error);
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn known(engine: &Engine, status: &Status) -> BTreeMap<ClusterName, Known> {
    let of_conflict = |(name, why): (&ClusterName, &String)| {
        (name.clone(), Known { conflict: Some(why.clone()), ..Known::default() })
    };
    let mut all: BTreeMap<ClusterName, Known> = status.conflicts.iter().map(of_conflict).collect();
    for prefix in ["peers/", "imports/"].map(|kind| format!("{LOCAL}{kind}")) {
        // A store that refuses says nothing new.
        let listed = writes::list(engine, &prefix, |key, value| match key {
            Key::Local(LocalKey::Peer(name)) => {
                all.entry(name).or_default().state = PeerState::decode(&value).ok();
            }
            Key::Local(LocalKey::Import(name)) => {
                all.entry(name).or_default().import = ImportState::decode(&value).ok();
            }
            Key::Local(_) | Key::Mesh(..) => {}
        });
        if let Err(error) = listed.await {
            debug!(%error, "Cannot read how the peerings are");
        }
    }
    for (name, known) in &mut all {
        known.judged = status.judged.get(name).cloned();
    }
    all
}

/// False when the object is not the one that was judged, or was changed while we looked: then it is looked at again.
async fn write(
    client: &Client,
    events: &Events,
    name: &ClusterName,
    before: Option<&Known>,
    now: &Known,
) -> Result<bool, kube::Error> {
    let api = objects(client);
    let (Some(judged), Some(object)) = (&now.judged, api.get_opt(name.as_str()).await?) else {
        return Ok(false);
    };
    if object.metadata.uid.as_ref() != Some(&judged.uid) {
        return Ok(false);
    }
    let mut status = now.status();
    status["conditions"] = json!([condition(&now.ready(), judged.generation, &object)]);
    // By the version: an update of the status takes no notice of a UID.
    let version = json!({"resourceVersion": object.metadata.resource_version});
    let patch = Patch::Merge(json!({"metadata": version, "status": status}));
    match api.patch_status(name.as_str(), &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.is_conflict() => return Ok(false),
        written => drop(written?),
    }
    for refusal in news(before, now) {
        let note = format!(
            "{} records refused: {} (the newest one: {})",
            refusal.count, refusal.reason, refusal.example
        );
        let reference = ObjectReference {
            api_version: Some(api::peer::API_VERSION.to_owned()),
            kind: Some(api::peer::KIND.to_owned()),
            name: Some(name.to_string()),
            uid: object.uid(),
            ..ObjectReference::default()
        };
        events.say(reference, "RecordsRefused", note);
    }
    Ok(true)
}

/// Refusals for a reason that did not stand there before; how many more of them is in the status.
fn news<'a>(before: Option<&Known>, now: &'a Known) -> impl Iterator<Item = &'a Refusal> {
    let held: Vec<String> = before
        .and_then(|known| known.import.as_ref())
        .map(|import| import.refusals.iter().map(|refusal| refusal.reason.clone()).collect())
        .unwrap_or_default();
    let refusals = now.import.iter().flat_map(|import| &import.refusals);
    refusals.filter(move |refusal| !held.contains(&refusal.reason))
}

/// `lastTransitionTime` moves when the status does (Kubernetes API conventions, Typical status properties).
/// `observedGeneration` is of the spec that was judged, which may be older than the one that is there.
fn condition(ready: &Ready, generation: i64, object: &DynamicObject) -> Value {
    let status = if ready.status { "True" } else { "False" };
    let held = object.data.pointer("/status/conditions").and_then(Value::as_array);
    let held = held.and_then(|all| all.iter().find(|held| held["type"] == "Ready"));
    let since = held.filter(|held| held["status"] == status).map(|held| held["lastTransitionTime"].clone());
    let mut message = ready.message.clone();
    message.truncate(message.floor_char_boundary(MESSAGE_MAX_BYTES));
    json!({
        "type": "Ready",
        "status": status,
        "reason": ready.reason,
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": since.unwrap_or_else(|| json!(Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn known(phase: Phase, freshness: Freshness, connected: bool, synced: bool, error: &str) -> Known {
        let state = PeerState {
            uuid: api::bytes::ClusterUuid([1; 16]),
            phase,
            freshness,
            stale_policy: Default::default(),
            drop_after_ms: 0,
            prefixes: vec![],
            nonce: None,
            dropped: false,
            through: None,
            relay: vec![],
        };
        let refusal = |reason: &str, count| Refusal {
            reason: reason.to_owned(),
            count,
            example: "mesh/v1/b/endpoints/shop/192.0.2.1".to_owned(),
        };
        let import = ImportState {
            connected,
            synced,
            last_error: error.to_owned(),
            endpoints: 4,
            backends: 2,
            services: 1,
            refusals: vec![refusal("outside-contract", 3), refusal("malformed", 1)],
            ..ImportState::default()
        };
        Known { judged: None, conflict: None, state: Some(state), import: Some(import) }
    }

    #[test]
    fn ready_is_what_was_measured() {
        use Freshness::{Fresh, Stale};
        let conflict = Known {
            conflict: Some("its ranges are ours".to_owned()),
            ..known(Phase::Active, Fresh, true, true, "")
        };
        let all = [
            Known::default(),
            conflict,
            known(Phase::Prepared, Fresh, true, true, ""),
            known(Phase::Active, Fresh, true, true, ""),
            known(Phase::Active, Fresh, true, false, ""),
            known(Phase::Active, Fresh, false, true, "192.0.2.10:2379: connection refused"),
            known(Phase::Active, Stale, false, true, "192.0.2.10:2379: timed out"),
            known(Phase::Active, Stale, true, true, ""),
        ];
        let shown: String = all
            .iter()
            .map(Known::ready)
            .map(|ready| format!("{} {}: {}\n", ready.status, ready.reason, ready.message))
            .collect();
        expect![[r#"
            false Pending: the peering has just begun
            false NotInForce: its ranges are ours
            false Prepared: the other side has not confirmed the peering yet
            true Fresh: its records are current
            false Syncing: the first list is not complete
            false Disconnected: 192.0.2.10:2379: connection refused
            false Stale: 192.0.2.10:2379: timed out
            false Stale: nobody confirms the peer's records
        "#]]
        .assert_eq(&shown);
    }

    #[test]
    fn the_generation_is_the_one_that_was_judged() {
        let mut object = DynamicObject::new(
            "west",
            &crate::source::kubernetes::resource(crate::source::object::ObjectKind::MeshPeer),
        );
        object.metadata.generation = Some(8);
        let ready = known(Phase::Active, Freshness::Fresh, true, true, "").ready();
        assert_eq!(
            condition(&ready, 7, &object)["observedGeneration"],
            7,
            "the eighth was not looked at yet"
        );
        let of = |generation| {
            let judged = Some(Version { uid: "u".to_owned(), generation });
            Known { judged, ..known(Phase::Active, Freshness::Fresh, true, true, "") }
        };
        assert!(!of(7).says_the_same(&of(8)), "a spec that changes nothing is said to be observed, too");
    }

    #[test]
    fn refusals_are_summed_and_a_reason_is_news_once() {
        let now = known(Phase::Active, Freshness::Fresh, true, true, "");
        assert_eq!(now.status()["refused"], 4);
        assert_eq!(news(None, &now).count(), 2);
        assert_eq!(news(Some(&now), &now).count(), 0);
    }
}
