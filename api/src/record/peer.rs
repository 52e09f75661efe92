//! What our cluster knows of a peer: the importer's verdict that agents follow, its counters, what stays closed.

use super::{
    Phase,
    wire::{self, InField, RecordError, Wire, rule},
};
use crate::{
    bytes::{ClusterUuid, Nonce},
    name::ClusterName,
    pb,
};
use ipnet::IpNet;

/// Whether a peer's records are still being confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Freshness {
    /// Its heartbeat changes, and its source is current.
    Fresh,
    /// Nobody confirms its records; they are what was last known.
    Stale,
}

/// What happens to the backends of a stale peer.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum StalePolicy {
    /// Used only where no fresher backend exists.
    #[default]
    Demote,
    /// Used as if fresh.
    Keep,
    /// Demoted at first, no longer used after the contract's `dropAfter`.
    DropAfter,
}

/// `peers/<peer>`: the verdict. An agent that is cut off keeps the last one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PeerState {
    /// Who it is.
    pub uuid: ClusterUuid,
    /// How far our side is.
    pub phase: Phase,
    /// Only transitions are published.
    pub freshness: Freshness,
    /// From the contract.
    pub stale_policy: StalePolicy,
    /// From the contract, in milliseconds; zero unless the policy is [`StalePolicy::DropAfter`].
    pub drop_after_ms: u64,
    /// Accepted by the contract: encrypted or not at all.
    pub prefixes: Vec<IpNet>,
    /// Of the connect that made the peering.
    pub nonce: Option<Nonce>,
    /// `dropAfter` has passed: none of its backends is used.
    pub dropped: bool,
    /// The peer through whose relay its nodes are reached; none: they are dialled, or dial.
    pub through: Option<ClusterName>,
    /// From the contract: peers to which its bytes are passed on. Both have to name the other.
    pub relay: Vec<ClusterName>,
}

impl Wire for PeerState {
    type Message = pb::PeerState;

    fn from_wire(m: pb::PeerState) -> Result<Self, RecordError> {
        let freshness = match pb::Freshness::try_from(m.freshness) {
            Ok(pb::Freshness::Fresh) => Freshness::Fresh,
            Ok(pb::Freshness::Stale) => Freshness::Stale,
            Ok(pb::Freshness::Unspecified) | Err(_) => return rule("freshness", "unknown"),
        };
        let stale_policy = match pb::StalePolicy::try_from(m.stale_policy) {
            Ok(pb::StalePolicy::Demote) => StalePolicy::Demote,
            Ok(pb::StalePolicy::Keep) => StalePolicy::Keep,
            Ok(pb::StalePolicy::DropAfter) => StalePolicy::DropAfter,
            Err(_) => return rule("stale_policy", "unknown"),
        };
        let nonce = if m.nonce.is_empty() { None } else { Some(Nonce::from_slice(&m.nonce).field("nonce")?) };
        Ok(Self {
            uuid: ClusterUuid::from_slice(&m.uuid).field("uuid")?,
            phase: Phase::from_wire(m.phase)?,
            freshness,
            stale_policy,
            drop_after_ms: m.drop_after_ms,
            prefixes: wire::prefixes(&m.prefixes).field("prefixes")?,
            nonce,
            dropped: m.dropped,
            through: wire::optional_name(&m.through).field("through")?,
            relay: m.relay.iter().map(|name| name.parse()).collect::<Result<_, _>>().field("relay")?,
        })
    }

    fn to_wire(&self) -> pb::PeerState {
        let freshness = match self.freshness {
            Freshness::Fresh => pb::Freshness::Fresh,
            Freshness::Stale => pb::Freshness::Stale,
        };
        let stale_policy = match self.stale_policy {
            StalePolicy::Demote => pb::StalePolicy::Demote,
            StalePolicy::Keep => pb::StalePolicy::Keep,
            StalePolicy::DropAfter => pb::StalePolicy::DropAfter,
        };
        pb::PeerState {
            uuid: self.uuid.0.to_vec(),
            phase: self.phase.to_wire(),
            freshness: freshness.into(),
            stale_policy: stale_policy.into(),
            drop_after_ms: self.drop_after_ms,
            prefixes: wire::prefix_messages(&self.prefixes),
            nonce: self.nonce.map(|n| n.0.to_vec()).unwrap_or_default(),
            dropped: self.dropped,
            through: wire::name_text(self.through.as_ref()),
            relay: self.relay.iter().map(ToString::to_string).collect(),
        }
    }
}

/// `imports/<peer>`: what the import counted, for status.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct ImportState {
    /// Accepted and held now.
    pub records: u64,
    /// Endpoints among them.
    pub endpoints: u64,
    /// Backends among them.
    pub backends: u64,
    /// Services among them.
    pub services: u64,
    /// The peer's own revision that we hold.
    pub peer_revision: u64,
    /// What was refused, one entry a reason.
    pub refusals: Vec<Refusal>,
    /// Why the last session ended, or why there is none; empty when all is well.
    pub last_error: String,
    /// A session to the peer stands.
    pub connected: bool,
    /// Its first list is complete.
    pub synced: bool,
    /// How the session stands, or was tried last.
    pub way: Way,
}

/// How a peer is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// We dial it.
    #[default]
    Dialled,
    /// It cannot be dialled: we use a connection that it opened.
    DialledByIt,
    /// Neither can dial the other: this third cluster passes our bytes on, and reads none.
    Relayed(ClusterName),
}

/// Records of a peer that were refused for one reason.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Refusal {
    /// A stable code, e.g. `outside-contract`.
    pub reason: String,
    /// How many, since this apiserver started.
    pub count: u64,
    /// The newest key it hit.
    pub example: String,
}

impl Wire for ImportState {
    type Message = pb::ImportState;

    fn from_wire(m: pb::ImportState) -> Result<Self, RecordError> {
        let refusal = |r: pb::Refusal| Refusal { reason: r.reason, count: r.count, example: r.example };
        Ok(Self {
            records: m.records,
            endpoints: m.endpoints,
            backends: m.backends,
            services: m.services,
            peer_revision: m.peer_revision,
            refusals: m.refusals.into_iter().map(refusal).collect(),
            last_error: m.last_error,
            connected: m.connected,
            synced: m.synced,
            way: match pb::Way::try_from(m.way) {
                Ok(pb::Way::DialledByIt) => Way::DialledByIt,
                Ok(pb::Way::Relayed) => Way::Relayed(m.through.parse().field("through")?),
                Ok(pb::Way::Dialled) | Err(_) => Way::Dialled,
            },
        })
    }

    fn to_wire(&self) -> pb::ImportState {
        let refusal = |r: &Refusal| pb::Refusal {
            reason: r.reason.clone(),
            count: r.count,
            example: r.example.clone(),
        };
        let (way, through) = match &self.way {
            Way::Dialled => (pb::Way::Dialled, String::new()),
            Way::DialledByIt => (pb::Way::DialledByIt, String::new()),
            Way::Relayed(through) => (pb::Way::Relayed, through.to_string()),
        };
        pb::ImportState {
            way: way.into(),
            through,
            records: self.records,
            endpoints: self.endpoints,
            backends: self.backends,
            services: self.services,
            peer_revision: self.peer_revision,
            refusals: self.refusals.iter().map(refusal).collect(),
            last_error: self.last_error.clone(),
            connected: self.connected,
            synced: self.synced,
        }
    }
}

/// `closed/<peer>`: prefixes of a peer that was disconnected; nothing goes there, in plain or otherwise.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Closed {
    /// Until `meshctl forget`, or until a peering claims them again.
    pub prefixes: Vec<IpNet>,
}

impl Wire for Closed {
    type Message = pb::Closed;

    fn from_wire(m: pb::Closed) -> Result<Self, RecordError> {
        Ok(Self { prefixes: wire::prefixes(&m.prefixes).field("prefixes")? })
    }

    fn to_wire(&self) -> pb::Closed {
        pb::Closed { prefixes: wire::prefix_messages(&self.prefixes) }
    }
}
