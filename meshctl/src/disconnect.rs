//! `meshctl disconnect`: ends a peering on both sides, or on ours alone when the other is dead.

use crate::{facts::Facts, output, session::Session};
use api::{bytes::ClusterUuid, name::ClusterName, peer::MeshPeer, record::ImportState};

/// One side of the peering that ends.
pub struct Side<'a> {
    /// Whose side.
    pub ours: &'a Session,
    /// Whom it loses.
    pub peer: &'a ClusterName,
    /// Which cluster of that name, where it could be asked.
    pub uuid: Option<ClusterUuid>,
}

impl Side<'_> {
    /// Removes the peer and says what went.
    pub async fn end(&self) -> anyhow::Result<()> {
        let Self { ours, peer, uuid } = self;
        let removed = ours.remove_peer(peer, *uuid).await?;
        if !removed.removed {
            output::line(&format!(" - {} had no peer {peer}", ours.name));
            return Ok(());
        }
        let mut records: Vec<_> = removed.records.into_iter().filter(|(_, count)| *count > 0).collect();
        records.sort();
        let records: Vec<String> =
            records.into_iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        output::line(&format!(" ✓ {} removed its peer {peer}: {}", ours.name, records.join(", ")));
        if !removed.closed.is_empty() {
            output::line(&format!(
                "   still closed: {} (what goes there is dropped until `meshctl forget {peer}`)",
                removed.closed.join(" "),
            ));
        }
        Ok(())
    }

    /// The object that would be removed, and what with it; `None` when there is no such peer.
    pub async fn would_end(&self) -> anyhow::Result<Option<(MeshPeer, String)>> {
        let Some(object) = self.ours.describe().await?.peer(self.peer).cloned() else { return Ok(None) };
        let facts = self.ours.facts().await?;
        let text = lost(&facts, &object);
        Ok(Some((object, text)))
    }
}

/// What a cluster loses with a peer.
fn lost(facts: &Facts, peer: &MeshPeer) -> String {
    let name = &peer.metadata.name;
    let ImportState { services, backends, records, .. } = facts.import(name).cloned().unwrap_or_default();
    let cidrs: Vec<String> = peer.spec.contract.cidrs.iter().map(ToString::to_string).collect();
    format!(
        "{} would remove its peer {name}: {services} services, {backends} backends, {records} records; still closed: {}",
        facts.cluster,
        cidrs.join(" ")
    )
}
