//! The cluster through which two others are connected that cannot reach each other.

use super::Lines;
use crate::{contexts::Known, output, preflight::ClusterFacts, session::Session};
use anyhow::Context as _;
use api::{name::ClusterName, peer::MeshPeer};

/// A cluster that passes bytes on.
#[derive(Debug)]
pub struct Through {
    /// What it calls itself.
    pub name: ClusterName,
    /// Absent where we know no way to it: then its administrator allows it, or not.
    session: Option<Session>,
}

impl Through {
    /// The cluster of this name, or of this context.
    pub async fn open(contexts: &Known, named: &str) -> anyhow::Result<Self> {
        match contexts.find(named) {
            Ok(way) => {
                let session = Session::open(&way).await?;
                Ok(Self { name: session.name.clone(), session: Some(session) })
            }
            Err(_) => {
                let name: ClusterName = named.parse().context("--through")?;
                let text = format!(
                    "{name} is not known here: its administrator has to allow it (spec.contract.relay)"
                );
                output::note(&text);
                Ok(Self { name, session: None })
            }
        }
    }

    /// Has it pass bytes on between the two.
    pub async fn allow(&self, pair: [&ClusterFacts; 2], lines: &mut Lines<'_>) -> anyhow::Result<()> {
        let Some(session) = &self.session else { return Ok(()) };
        let [a, b] = pair.map(|of| &of.name);
        for (held, allowed) in allowing(&session.describe().await?, pair)? {
            let allowed = session.apply_peer(&allowed, Some(&held), false).await;
            allowed.with_context(|| format!("{} does not pass bytes on between {a} and {b}", self.name))?;
        }
        lines.step("relay", &format!("{} passes bytes on between {a} and {b}", self.name));
        Ok(())
    }
}

/// The objects that have to change: as they are, and as they should be.
fn allowing(relay: &ClusterFacts, [a, b]: [&ClusterFacts; 2]) -> anyhow::Result<Vec<(MeshPeer, MeshPeer)>> {
    let mut change = Vec::new();
    for (of, to) in [(a, b), (b, a)] {
        let held = relay.peer(&of.name).filter(|held| held.spec.uuid == of.uuid);
        let held =
            held.with_context(|| format!("{} has no peer {}: connect these two first", relay.name, of.name))?;
        if !held.spec.contract.relay.contains(&to.name) {
            let mut allowed = held.clone();
            allowed.spec.contract.relay.push(to.name.clone());
            change.push((held.clone(), allowed));
        }
    }
    Ok(change)
}
