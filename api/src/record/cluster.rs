//! What a cluster says of itself: who it is, that it lives, which runs its store had, how far its peerings are.

use super::wire::{self, InField, RecordError, Wire, rule};
use crate::{
    bytes::{BootId, ClusterUuid, ContractHash, Nonce},
    pb,
};
use ipnet::IpNet;

/// `cluster`: who we are and which addresses are ours.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Cluster {
    /// Immutable.
    pub uuid: ClusterUuid,
    /// Of the apiserver, for people.
    pub version: String,
    /// What it understands beyond the first version; unknown ones are ignored.
    pub capabilities: Vec<String>,
    /// Where its pods' addresses come from.
    pub pod_cidrs: Vec<IpNet>,
    /// Where its ClusterIPs come from; never reached from outside, told so that overlaps are explained.
    pub service_cidrs: Vec<IpNet>,
    /// Where the mesh addresses of its nodes and VMs come from.
    pub mesh_cidrs: Vec<IpNet>,
    /// Scope `all`: what goes between pods of its own nodes is encrypted or dropped, too. Its own agents read it.
    pub encrypts_inside: bool,
}

impl Wire for Cluster {
    type Message = pb::Cluster;

    fn from_wire(m: pb::Cluster) -> Result<Self, RecordError> {
        Ok(Self {
            uuid: ClusterUuid::from_slice(&m.uuid).field("uuid")?,
            version: m.version,
            capabilities: m.capabilities,
            pod_cidrs: wire::prefixes(&m.pod_cidrs).field("pod_cidrs")?,
            service_cidrs: wire::prefixes(&m.service_cidrs).field("service_cidrs")?,
            mesh_cidrs: wire::prefixes(&m.mesh_cidrs).field("mesh_cidrs")?,
            encrypts_inside: m.encrypts_inside,
        })
    }

    fn to_wire(&self) -> pb::Cluster {
        pb::Cluster {
            uuid: self.uuid.0.to_vec(),
            version: self.version.clone(),
            capabilities: self.capabilities.clone(),
            pod_cidrs: wire::prefix_messages(&self.pod_cidrs),
            service_cidrs: wire::prefix_messages(&self.service_cidrs),
            mesh_cidrs: wire::prefix_messages(&self.mesh_cidrs),
            encrypts_inside: self.encrypts_inside,
        }
    }
}

/// `heartbeat`: changes every two seconds while the apiserver lives.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Heartbeat {
    /// The running boot.
    pub boot: BootId,
    /// The store's revision when this was written.
    pub revision: u64,
    /// How long ago the source was last known to be current, in milliseconds: a dead Kubernetes watch is age, too.
    pub source_age_ms: u64,
}

impl Wire for Heartbeat {
    type Message = pb::Heartbeat;

    fn from_wire(m: pb::Heartbeat) -> Result<Self, RecordError> {
        let boot = BootId::from_slice(&m.boot).field("boot")?;
        Ok(Self { boot, revision: m.revision, source_age_ms: m.source_age_ms })
    }

    fn to_wire(&self) -> pb::Heartbeat {
        pb::Heartbeat {
            boot: self.boot.0.to_vec(),
            revision: self.revision,
            source_age_ms: self.source_age_ms,
        }
    }
}

/// One run of a store: from its first revision up to the next run's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Boot {
    /// Random.
    pub id: BootId,
    /// The first revision this run may have written.
    pub first_revision: u64,
}

/// `lineage`: the runs whose history this store continues, oldest first. Never empty; revisions never fall.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Lineage {
    /// Oldest first; the last one is running.
    pub boots: Vec<Boot>,
}

impl Lineage {
    /// The running boot.
    #[must_use]
    pub fn current(&self) -> Boot {
        *self.boots.last().expect("a lineage has a running boot")
    }

    /// The boot that wrote this revision; of one that nobody here wrote, the boot that found it.
    #[must_use]
    pub fn boot_at(&self, revision: u64) -> Option<BootId> {
        let last_from = |first: u64| self.boots.iter().rfind(|boot| boot.first_revision <= first);
        last_from(revision).or_else(|| last_from(revision.saturating_add(1))).map(|boot| boot.id)
    }

    /// Whether a follower that saw `revision` of `boot` may resume there: the boot is listed and the revision lies in
    /// its range. (That it is not above the head is the store's to say.)
    #[must_use]
    pub fn allows_resume(&self, boot: BootId, revision: u64) -> bool {
        let Some(at) = self.boots.iter().position(|b| b.id == boot) else { return false };
        let end = self.boots.get(at + 1).map_or(u64::MAX, |next| next.first_revision);
        // A boot that wrote nothing has an empty range; what it served was its predecessor's last revision.
        (self.boots[at].first_revision.saturating_sub(1)..end).contains(&revision)
    }
}

impl Wire for Lineage {
    type Message = pb::Lineage;

    fn from_wire(m: pb::Lineage) -> Result<Self, RecordError> {
        let boot = |b: &pb::Boot| {
            Ok(Boot { id: BootId::from_slice(&b.id).field("boots.id")?, first_revision: b.first_revision })
        };
        let boots = m.boots.iter().map(boot).collect::<Result<Vec<_>, RecordError>>()?;
        if boots.is_empty() {
            return rule("boots", "a lineage has at least the running boot");
        }
        if !boots.is_sorted_by_key(|b| b.first_revision) {
            return rule("boots", "first revisions never fall");
        }
        Ok(Self { boots })
    }

    fn to_wire(&self) -> pb::Lineage {
        let boot = |b: &Boot| pb::Boot { id: b.id.0.to_vec(), first_revision: b.first_revision };
        pb::Lineage { boots: self.boots.iter().map(boot).collect() }
    }
}

/// `synced/<kind>`: the first list of this kind is complete in the boot named; before that, absence means nothing.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Synced {
    /// The boot that completed the list.
    pub boot: BootId,
}

impl Wire for Synced {
    type Message = pb::Synced;

    fn from_wire(m: pb::Synced) -> Result<Self, RecordError> {
        Ok(Self { boot: BootId::from_slice(&m.boot).field("boot")? })
    }

    fn to_wire(&self) -> pb::Synced {
        pb::Synced { boot: self.boot.0.to_vec() }
    }
}

/// How far one side of a peering is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Trusts the other's bundle and follows its peering record, imports nothing, and expires by itself.
    Prepared,
    /// Imports what the contract allows.
    Active,
}

impl Phase {
    pub(super) fn from_wire(number: i32) -> Result<Self, RecordError> {
        match pb::Phase::try_from(number) {
            Ok(pb::Phase::Prepared) => Ok(Self::Prepared),
            Ok(pb::Phase::Active) => Ok(Self::Active),
            // A phase from the future grants nothing.
            Ok(pb::Phase::Unspecified) | Err(_) => rule("phase", "unknown"),
        }
    }

    pub(super) fn to_wire(self) -> i32 {
        match self {
            Self::Prepared => pb::Phase::Prepared.into(),
            Self::Active => pb::Phase::Active.into(),
        }
    }
}

/// `peerings/<peer>`: our side of a peering, told so that both see how far a connect is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Peering {
    /// Of the connect that made it; none when it was declared by hand (it starts active).
    pub nonce: Option<Nonce>,
    /// How far we are.
    pub phase: Phase,
    /// Of the contract that we hold the other to.
    pub contract_hash: ContractHash,
}

impl Wire for Peering {
    type Message = pb::Peering;

    fn from_wire(m: pb::Peering) -> Result<Self, RecordError> {
        let nonce = if m.nonce.is_empty() { None } else { Some(Nonce::from_slice(&m.nonce).field("nonce")?) };
        let contract_hash = ContractHash::from_slice(&m.contract_hash).field("contract_hash")?;
        Ok(Self { nonce, phase: Phase::from_wire(m.phase)?, contract_hash })
    }

    fn to_wire(&self) -> pb::Peering {
        pb::Peering {
            nonce: self.nonce.map(|n| n.0.to_vec()).unwrap_or_default(),
            phase: self.phase.to_wire(),
            contract_hash: self.contract_hash.0.to_vec(),
        }
    }
}
