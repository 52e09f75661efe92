//! What the publisher says of the cluster and its store: who we are, which boots there were, what is complete.

use crate::init::{ClusterConfig, EncryptionScope};
use api::{
    bytes::{BootId, ClusterUuid},
    key::{Key, Kind, MeshKey},
    name::ClusterName,
    record::{Boot, Cluster, Heartbeat, Lineage, Record, Synced},
};
use ipnet::IpNet;
use std::{collections::BTreeMap, time::Duration};

/// Kinds whose first list the source completes.
const OF_SOURCE: [Kind; 6] =
    [Kind::Nodes, Kind::Namespaces, Kind::Identities, Kind::Endpoints, Kind::Services, Kind::Backends];

/// Who we are, as `cluster` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Our name.
    pub name: ClusterName,
    /// Our trust domain.
    pub uuid: ClusterUuid,
    /// Where our pods' addresses come from.
    pub pod_cidrs: Vec<IpNet>,
    /// Where our ClusterIPs come from.
    pub service_cidrs: Vec<IpNet>,
    /// Where our mesh addresses come from.
    pub mesh_cidrs: Vec<IpNet>,
    /// What is encrypted.
    pub encryption_scope: EncryptionScope,
}

impl From<&ClusterConfig> for Own {
    fn from(config: &ClusterConfig) -> Self {
        Self {
            name: config.name.clone(),
            uuid: config.uuid,
            pod_cidrs: config.pod_cidrs.clone(),
            service_cidrs: config.service_cidrs.clone(),
            mesh_cidrs: config.mesh_cidrs.clone(),
            encryption_scope: config.encryption_scope,
        }
    }
}

impl Own {
    /// `cluster`, `lineage` and, once the source's first list is there, `synced/…`.
    #[must_use]
    pub fn records(
        &self,
        lineage: &store::Lineage,
        boot: BootId,
        source_synced: bool,
    ) -> BTreeMap<Key, Record> {
        let cluster = Cluster {
            uuid: self.uuid,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: Vec::new(),
            pod_cidrs: self.pod_cidrs.clone(),
            service_cidrs: self.service_cidrs.clone(),
            mesh_cidrs: self.mesh_cidrs.clone(),
            encrypts_inside: self.encryption_scope == EncryptionScope::All,
        };
        let mut records = BTreeMap::from([
            (MeshKey::Cluster.of(&self.name), Record::from(cluster)),
            (MeshKey::Lineage.of(&self.name), Record::from(self::lineage(lineage))),
        ]);
        if source_synced {
            let synced = |kind| (MeshKey::Synced(kind).of(&self.name), Record::from(Synced { boot }));
            records.extend(OF_SOURCE.map(synced));
        }
        records
    }

    /// `heartbeat`
    #[must_use]
    pub fn heartbeat(&self, boot: BootId, revision: i64, source_age: Duration) -> (Key, Record) {
        let heartbeat = Heartbeat {
            boot,
            revision: u64::try_from(revision).unwrap_or(0),
            source_age_ms: u64::try_from(source_age.as_millis()).unwrap_or(u64::MAX),
        };
        (MeshKey::Heartbeat.of(&self.name), heartbeat.into())
    }
}

/// The store's lineage as it travels. A boot whose revisions a later boot began to write again (the store was restored
/// from an older copy) vouches for nothing and is left out, so that first revisions never fall.
fn lineage(lineage: &store::Lineage) -> Lineage {
    let mut end = i64::MAX;
    let mut boots: Vec<Boot> = Vec::new();
    for boot in lineage.boots().iter().rev() {
        if boot.first_revision <= end {
            end = boot.first_revision;
            let first_revision = u64::try_from(boot.first_revision).unwrap_or(0);
            boots.push(Boot { id: BootId(boot.id), first_revision });
        }
    }
    boots.reverse();
    Lineage { boots }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_that_a_restored_copy_wrote_over_vouches_for_nothing() {
        let boot = |id: u8, first_revision| store::Boot { id: [id; 16], first_revision };
        let told = |boots| {
            let boots = lineage(&store::Lineage::new(boots)).boots;
            boots.iter().map(|b| (b.id.0[0], b.first_revision)).collect::<Vec<_>>()
        };
        assert_eq!(told(vec![boot(1, 1), boot(2, 10), boot(3, 20)]), [(1, 1), (2, 10), (3, 20)]);
        assert_eq!(told(vec![boot(1, 1), boot(2, 10), boot(3, 5)]), [(1, 1), (3, 5)]);
        assert_eq!(told(vec![boot(1, 1), boot(2, 1)]), [(1, 1), (2, 1)]);
    }
}
