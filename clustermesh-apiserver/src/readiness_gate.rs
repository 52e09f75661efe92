//! The taint that keeps pods off a node until its maps are programmed. Whoever registers nodes puts it there; here it is
//! taken away, when the node's own agent has said that the first complete view is in its maps. So agents need no right
//! in the Kubernetes API, and a node whose agent never comes takes no pods.
//!
//! What an agent said before the node was tainted does not count: a node that comes back under its old name still has
//! the record of its earlier life.

use crate::{backend::Engine, kubernetes::within, publish::writes, source::driver::State};
use api::{
    key::{Key, LOCAL, LocalKey},
    name::NodeName,
    record::Applied,
};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::sync::watch;
use tracing::{debug, info, warn};

/// The taint's key.
pub const TAINT: &str = "clustermesh.io/agent-not-ready";

/// Time between looks: agents tell how they are every few seconds, and a scheduler waits for this.
const LOOK: Duration = Duration::from_secs(1);

/// Which nodes wait.
#[derive(Debug, Default)]
struct Gate {
    /// Of each tainted node, when its agent had last written as we first saw the taint, by the node's clock.
    waiting: BTreeMap<NodeName, Option<u64>>,
}

impl Gate {
    /// Those whose agents have written since, and say that they are programmed.
    fn due(
        &mut self,
        tainted: &BTreeSet<NodeName>,
        applied: &BTreeMap<NodeName, Applied>,
    ) -> BTreeSet<NodeName> {
        self.waiting.retain(|node, _| tainted.contains(node));
        let programmed = |node: &&NodeName| {
            let said = applied.get(*node);
            let written_ms = said.map(|applied| applied.written_ms);
            let before = *self.waiting.entry((*node).clone()).or_insert(written_ms);
            written_ms != before && said.is_some_and(|applied| applied.programmed)
        };
        tainted.iter().filter(programmed).cloned().collect()
    }
}

/// Opens nodes until dropped.
pub async fn follow(engine: Engine, client: Client, source: watch::Receiver<Option<State>>) {
    let mut gate = Gate::default();
    let mut failing: BTreeMap<NodeName, String> = BTreeMap::new();
    loop {
        let tainted = source.borrow().as_ref().map(|state| state.tainted.clone()).unwrap_or_default();
        failing.retain(|node, _| tainted.contains(node));
        let applied = if tainted.is_empty() { BTreeMap::new() } else { applied(&engine).await };
        for node in gate.due(&tainted, &applied) {
            match open(&client, &node).await.map_err(|error| format!("{error:#}")) {
                Ok(()) => info!(%node, "Its maps are programmed: the node takes pods"),
                // Tried again at the next look, and said once.
                Err(error) if failing.get(&node) != Some(&error) => {
                    warn!(%node, error, "Cannot take the taint {TAINT} off; trying again");
                    failing.insert(node, error);
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn applied(engine: &Engine) -> BTreeMap<NodeName, Applied> {
    let mut all = BTreeMap::new();
    let prefix = format!("{LOCAL}applied/");
    let listed = writes::list(engine, &prefix, |key, value| {
        if let (Key::Local(LocalKey::Applied(node)), Ok(applied)) = (key, Applied::decode(&value)) {
            all.insert(node, applied);
        }
    });
    if let Err(error) = listed.await {
        debug!(%error, "Cannot read what the agents say");
    }
    all
}

/// Takes the taint off, and no other. A node that changed meanwhile is left for the next look.
async fn open(client: &Client, node: &NodeName) -> anyhow::Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let Some(object) = within(api.get_opt(node.as_str())).await? else { return Ok(()) };
    let taints = object.spec.and_then(|spec| spec.taints).unwrap_or_default();
    let others: Vec<_> = taints.iter().filter(|taint| taint.key != TAINT).collect();
    if others.len() == taints.len() {
        return Ok(());
    }
    let version = object.metadata.resource_version;
    let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": others}});
    within(api.patch(node.as_str(), &PatchParams::default(), &Patch::Merge(patch))).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
