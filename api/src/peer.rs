//! `MeshPeer`: the one home of a peering. A custom resource, or the same YAML in the manifests directory.
//!
//! Which phase a peering is in follows from the object: with a deadline it is prepared and expires; without one it is
//! active. An object without `connect` was declared by hand (a GitOps tool may own it) and starts active.

use crate::{
    bytes::{ClusterUuid, ContractHash, Nonce},
    name::{ClusterName, NamespaceName},
    record::{Phase, StalePolicy},
};
use ipnet::IpNet;
use sha2::{Digest, Sha256};

/// `apiVersion` of our objects.
pub const API_VERSION: &str = "clustermesh.io/v1alpha1";
/// `kind` of a peering.
pub const KIND: &str = "MeshPeer";

/// The object.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshPeer {
    /// [`API_VERSION`]
    pub api_version: String,
    /// [`KIND`]
    pub kind: String,
    /// Whose peer.
    pub metadata: Metadata,
    /// What we hold it to, and how to reach it.
    pub spec: MeshPeerSpec,
}

/// The part of an object's metadata that a peering has.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// The peer cluster's name.
    pub name: ClusterName,
}

/// What we accept from a peer and how we reach it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshPeerSpec {
    /// The peer's trust domain: a cluster of the same name with another UUID is another cluster.
    pub uuid: ClusterUuid,
    /// `host:port` of its apiserver, tried in order. None: it cannot be dialled. It is reached by connections that it
    /// opens to us, or `through` another peer.
    pub endpoints: Vec<String>,
    /// A peer of ours that passes bytes on between us and this one, where neither can dial the other. It reads none of
    /// them, and has to allow it by its own contracts with both of us (`contract.relay`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<ClusterName>,
    /// Its CA certificates, PEM. No key ever leaves a cluster.
    pub trust_bundle: String,
    /// What we accept from it.
    pub contract: Contract,
    /// What happens to its backends when it is stale.
    #[serde(default)]
    pub stale: Stale,
    /// Written by `meshctl connect`; absent in an object declared by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<Connect>,
}

/// The trace of a `meshctl connect`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Connect {
    /// The same on both sides.
    pub nonce: Nonce,
    /// Unix time in seconds by which the other side must have shown itself, or this object goes. Removed when active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<u64>,
}

/// What happens to a stale peer's backends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stale {
    /// `demote` unless said otherwise.
    #[serde(default)]
    pub policy: StalePolicy,
    /// With `drop-after`: seconds of staleness after which they are not used at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_after_s: Option<u32>,
}

/// Seconds until a stale peer's backends are dropped, when `drop-after` is chosen without a time.
pub const DROP_AFTER_DEFAULT_S: u32 = 600;

impl Stale {
    /// Seconds after which a stale peer's backends are dropped, if the policy drops them.
    #[must_use]
    pub fn drop_after_s(self) -> Option<u32> {
        match self.policy {
            StalePolicy::DropAfter => Some(self.drop_after_s.unwrap_or(DROP_AFTER_DEFAULT_S)),
            StalePolicy::Demote | StalePolicy::Keep => None,
        }
    }
}

/// What we accept from a peer. A record outside it is refused, counted and shown, and spoils no neighbour.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Contract {
    /// Pods', nodes' and mesh addresses must lie in these.
    pub cidrs: Vec<IpNet>,
    /// Namespaces it may announce services, endpoints and identities of; empty means all.
    #[serde(default)]
    pub namespaces: Vec<NamespaceName>,
    /// How much of it.
    pub limits: Limits,
    /// Other peers of ours to which we pass its bytes on, unopened, and theirs to it; none by default. Both contracts
    /// have to name the other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relay: Vec<ClusterName>,
}

/// How many records we take from a peer, and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// `nodes/…` (and as many `keys/…`)
    pub nodes: u32,
    /// `identities/…` and `namespaces/…`, each
    pub identities: u32,
    /// `endpoints/…`
    pub endpoints: u32,
    /// `services/…`
    pub services: u32,
    /// `backends/…`
    pub backends: u32,
    /// Changes a second, averaged over ten seconds; what comes faster waits.
    pub changes_per_second: u32,
}

/// Twice of a small cluster's count, and room for what a young one becomes.
pub const LIMIT_DEFAULT: u32 = 10_000;

impl Default for Limits {
    fn default() -> Self {
        Self {
            nodes: LIMIT_DEFAULT,
            identities: LIMIT_DEFAULT,
            endpoints: LIMIT_DEFAULT,
            services: LIMIT_DEFAULT,
            backends: LIMIT_DEFAULT,
            changes_per_second: 5_000,
        }
    }
}

impl Contract {
    /// SHA-256 of a canonical encoding, so that both sides see which contract the other holds them to.
    #[must_use]
    pub fn hash(&self) -> ContractHash {
        let mut cidrs: Vec<String> = self.cidrs.iter().map(IpNet::to_string).collect();
        cidrs.sort();
        let mut namespaces: Vec<&str> = self.namespaces.iter().map(NamespaceName::as_str).collect();
        namespaces.sort_unstable();
        let Limits { nodes, identities, endpoints, services, backends, changes_per_second } = self.limits;
        let limits = [nodes, identities, endpoints, services, backends, changes_per_second];
        let mut text = format!("contract/1\n{}\n{}\n{limits:?}", cidrs.join(","), namespaces.join(","));
        if !self.relay.is_empty() {
            let mut relay: Vec<&str> = self.relay.iter().map(ClusterName::as_str).collect();
            relay.sort_unstable();
            text = format!("{text}\n{}", relay.join(","));
        }
        ContractHash(Sha256::digest(text).into())
    }

    /// Whether an address lies in the contract.
    #[must_use]
    pub fn allows_address(&self, address: std::net::IpAddr) -> bool {
        self.cidrs.iter().any(|cidr| cidr.contains(&address))
    }

    /// Whether a whole prefix lies in the contract.
    #[must_use]
    pub fn allows_prefix(&self, prefix: &IpNet) -> bool {
        self.cidrs.iter().any(|cidr| cidr.contains(prefix))
    }

    /// Whether a namespace lies in the contract.
    #[must_use]
    pub fn allows_namespace(&self, namespace: &NamespaceName) -> bool {
        self.namespaces.is_empty() || self.namespaces.contains(namespace)
    }
}

impl MeshPeer {
    /// The phase that the object itself says.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match &self.spec.connect {
            Some(Connect { deadline_s: Some(_), .. }) => Phase::Prepared,
            Some(Connect { deadline_s: None, .. }) | None => Phase::Active,
        }
    }

    /// The nonce of the connect that made it.
    #[must_use]
    pub fn nonce(&self) -> Option<Nonce> {
        self.spec.connect.as_ref().map(|c| c.nonce)
    }
}

/// Two prefixes share an address.
#[must_use]
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn a_contract_that_relays_nothing_has_the_hash_it_always_had() {
        let mut contract = Contract {
            cidrs: vec!["10.2.0.0/16".parse().unwrap()],
            namespaces: vec![],
            limits: Limits::default(),
            relay: vec![],
        };
        expect!["44ae3a6eb0fdc9ab8e7b8236f01821c0cc2d2fe6d2b19aef28c8cdf28b25867f"]
            .assert_eq(&hex::encode(contract.hash().0));
        let closed = contract.hash();
        contract.relay = vec!["b".parse().unwrap(), "a".parse().unwrap()];
        assert_ne!(contract.hash(), closed);
        let one_order = contract.hash();
        contract.relay.reverse();
        assert_eq!(contract.hash(), one_order);
    }
}
