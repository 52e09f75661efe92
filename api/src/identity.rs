//! Identities are content-addressed: whoever knows the facts computes the same number, and nobody allocates it.

use crate::{
    bytes::{ClusterUuid, IdentityId},
    name::NamespaceName,
};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Version of the encoding below; another encoding is another version, so two never collide by accident.
const ENCODING: u8 = 1;

/// What an identity says: whose pod it is, not where it is.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The cluster the pod runs in.
    pub cluster: ClusterUuid,
    /// Its namespace.
    pub namespace: &'a NamespaceName,
    /// Its service account's name.
    pub service_account: &'a str,
    /// Its labels, already filtered of those that differ per pod.
    pub labels: &'a BTreeMap<String, String>,
}

/// The first 128 bits of SHA-256 over a versioned encoding in which every text carries its length, so that no two
/// sets of facts share an encoding.
#[must_use]
pub fn identity(facts: Facts<'_>) -> IdentityId {
    let mut hash = Sha256::new();
    hash.update([ENCODING]);
    hash.update(facts.cluster.0);
    let mut text = |text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    };
    text(facts.namespace.as_str());
    text(facts.service_account);
    for (key, value) in facts.labels {
        text(key);
        text(value);
    }
    let digest = hash.finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    IdentityId(id)
}

/// Labels that differ per pod of one workload; they would make an identity of each pod.
/// (Kubernetes: well-known labels of StatefulSets, Deployments, DaemonSets and Jobs.)
pub const PER_POD_LABELS: [&str; 7] = [
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-completion-index",
    "controller-revision-hash",
    "controller-uid",
    "pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
];

/// The labels that make the identity: all but those of [`PER_POD_LABELS`] and those in `also_ignored`.
#[must_use]
pub fn filter_labels(labels: &BTreeMap<String, String>, also_ignored: &[String]) -> BTreeMap<String, String> {
    let ignored = |key: &str| PER_POD_LABELS.contains(&key) || also_ignored.iter().any(|i| i == key);
    labels.iter().filter(|(k, _)| !ignored(k)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(cluster: u8, ns: &str, account: &str, labels: &[(&str, &str)]) -> IdentityId {
        let labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let namespace = ns.parse().expect("a namespace");
        identity(Facts {
            cluster: ClusterUuid([cluster; 16]),
            namespace: &namespace,
            service_account: account,
            labels: &labels,
        })
    }

    #[test]
    fn published_identities_stay_as_they_are() {
        expect_test::expect!["30b5a56fcaeec21ee8dbbd64335e01cd"]
            .assert_eq(&id(1, "shop", "cart", &[("app", "cart"), ("tier", "web")]).to_string());
    }

    #[test]
    fn every_fact_counts_and_borders_between_texts_do_too() {
        let one = id(1, "shop", "cart", &[("app", "cart")]);
        for other in [
            id(2, "shop", "cart", &[("app", "cart")]),
            id(1, "shop2", "cart", &[("app", "cart")]),
            id(1, "shop", "cart2", &[("app", "cart")]),
            id(1, "shop", "cart", &[("app", "cart2")]),
            id(1, "shop", "cart", &[("appc", "art")]),
            id(1, "shop", "cart", &[]),
            id(1, "shop", "cartapp", &[("cart", "")]),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn labels_that_differ_per_pod_do_not_count() {
        let labels = [("app", "cart"), ("pod-template-hash", "7f"), ("build", "12")];
        let labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let kept = filter_labels(&labels, &["build".to_owned()]);
        assert_eq!(kept.into_iter().collect::<Vec<_>>(), [("app".to_owned(), "cart".to_owned())]);
    }
}
