//! The two objects that a connect writes: what each side holds the other to is literally what the other declares. Pure.

use crate::preflight::ClusterFacts;
use api::{
    bytes::Nonce,
    name::ClusterName,
    peer::{
        API_VERSION, Connect, Contract, KIND, LIMIT_DEFAULT, Limits, MeshPeer, MeshPeerSpec, Metadata, Stale,
    },
    record::Phase,
};

/// What has to be written on each side; nothing where the peering stands already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Agreement {
    /// Both sides hold an object of the same connect (or both were declared by hand), as the other declares itself.
    Stands,
    /// To be written: first on `a`, about `b`, then on `b`, about `a`.
    Write {
        /// What `a` holds `b` to.
        on_a: Box<MeshPeer>,
        /// What `b` holds `a` to.
        on_b: Box<MeshPeer>,
    },
}

/// Compares what stands with what should, and makes the objects that are missing. A way through a third cluster that
/// stands is kept where none is named.
pub fn agree(
    a: &ClusterFacts,
    b: &ClusterFacts,
    through: Option<&ClusterName>,
    nonce: Nonce,
    deadline_s: u64,
) -> Agreement {
    let connect = Some(Connect { nonce, deadline_s: Some(deadline_s) });
    let (on_a, on_b) = (object(a, b, through, connect.clone()), object(b, a, through, connect));
    if let (Some(held_a), Some(held_b)) = (a.peer(&b.name), b.peer(&a.name))
        && held_a.nonce() == held_b.nonce()
        && same_terms(held_a, &on_a)
        && same_terms(held_b, &on_b)
    {
        return Agreement::Stands;
    }
    Agreement::Write { on_a: Box::new(on_a), on_b: Box::new(on_b) }
}

/// Whether one side holds the other to what it declares now, by an active peering.
pub fn stands(ours: &ClusterFacts, theirs: &ClusterFacts) -> bool {
    let held = ours.peer(&theirs.name).filter(|held| held.phase() == Phase::Active);
    held.is_some_and(|held| same_terms(held, &object(ours, theirs, None, None)))
}

/// The two objects as a GitOps tool would own them: without the trace of a connect they are active from the start. What
/// stands and keeps to what the other declares stays as it is, with what an operator edited in it.
pub fn declared(a: &ClusterFacts, b: &ClusterFacts, through: Option<&ClusterName>) -> [MeshPeer; 2] {
    [(a, b), (b, a)].map(|(ours, theirs)| {
        let declared = object(ours, theirs, through, None);
        let mut object = match ours.peer(&theirs.name) {
            Some(held) if same_terms(held, &declared) => held.clone(),
            Some(_) | None => declared,
        };
        object.spec.connect = None;
        object
    })
}

/// Everything but the trace of the connect, and what an operator may have edited since (limits, namespaces, staleness).
fn same_terms(held: &MeshPeer, declared: &MeshPeer) -> bool {
    held.spec.uuid == declared.spec.uuid
        && held.spec.endpoints == declared.spec.endpoints
        && held.spec.through == declared.spec.through
        && held.spec.trust_bundle == declared.spec.trust_bundle
        && held.spec.contract.cidrs == declared.spec.contract.cidrs
}

/// What `by` holds `of` to. Who else's bytes go to it, its declaration does not say: that is kept.
fn object(
    by: &ClusterFacts,
    of: &ClusterFacts,
    through: Option<&ClusterName>,
    connect: Option<Connect>,
) -> MeshPeer {
    let held = by.peer(&of.name).filter(|held| held.spec.uuid == of.uuid).map(|held| &held.spec);
    let through = through.or_else(|| held?.through.as_ref()).cloned();
    let relay = held.map(|held| held.contract.relay.clone()).unwrap_or_default();
    let mut cidrs: Vec<_> = of.announced().map(|(_, cidr)| cidr).collect();
    cidrs.sort();
    MeshPeer {
        api_version: API_VERSION.to_owned(),
        kind: KIND.to_owned(),
        metadata: Metadata { name: of.name.clone() },
        spec: MeshPeerSpec {
            uuid: of.uuid,
            endpoints: of.endpoints.clone(),
            through,
            trust_bundle: of.trust_bundle.clone(),
            contract: Contract { cidrs, namespaces: vec![], limits: limits(of), relay },
            stale: Stale::default(),
            connect,
        },
    }
}

/// Twice of what it has today, and at least [`LIMIT_DEFAULT`]: room to grow, and a bound on what a broken peer costs.
fn limits(of: &ClusterFacts) -> Limits {
    let limit = |kind: &str| {
        let count = of.counts.get(kind).copied().unwrap_or(0);
        u32::try_from(count.saturating_mul(2)).unwrap_or(u32::MAX).max(LIMIT_DEFAULT)
    };
    Limits {
        nodes: limit("nodes"),
        identities: limit("identities"),
        endpoints: limit("endpoints"),
        services: limit("services"),
        backends: limit("backends"),
        ..Limits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Range;
    use api::bytes::ClusterUuid;

    fn cluster(name: &str, id: u8) -> ClusterFacts {
        let range = |range, cidr: String| (range, cidr.parse().unwrap());
        ClusterFacts {
            name: name.parse().unwrap(),
            uuid: ClusterUuid([id; 16]),
            ranges: vec![
                range(Range::Services, format!("10.10{id}.0.0/16")),
                range(Range::Pods, format!("10.{id}.0.0/16")),
                range(Range::Mesh, format!("100.64.{id}.0/24")),
            ],
            node_addresses: vec![],
            endpoints: vec![format!("192.0.2.{id}:2379")],
            trust_bundle: format!("bundle {id}"),
            peers: vec![],
            counts: [("backends".to_owned(), 7_000)].into(),
        }
    }

    fn written(agreement: Agreement) -> (MeshPeer, MeshPeer) {
        match agreement {
            Agreement::Write { on_a, on_b } => (*on_a, *on_b),
            Agreement::Stands => panic!("nothing would be written"),
        }
    }

    #[test]
    fn each_side_holds_the_other_to_what_it_declares_and_to_twice_what_it_has() {
        let (on_a, on_b) = written(agree(&cluster("a", 1), &cluster("b", 2), None, Nonce([9; 16]), 60));
        assert_eq!(on_a.metadata.name.as_str(), "b");
        let cidrs: Vec<String> = on_a.spec.contract.cidrs.iter().map(ToString::to_string).collect();
        assert_eq!(cidrs, ["10.2.0.0/16", "100.64.2.0/24"], "ClusterIPs are not announced");
        assert_eq!(
            (on_a.spec.contract.limits.backends, on_a.spec.contract.limits.services),
            (14_000, 10_000)
        );
        assert_eq!(on_b.spec.uuid, ClusterUuid([1; 16]));
        assert_eq!((on_a.nonce(), on_b.nonce()), (Some(Nonce([9; 16])), Some(Nonce([9; 16]))));
    }

    #[test]
    fn connecting_again_writes_nothing_unless_a_side_is_missing_or_declares_itself_anew() {
        let (mut a, mut b) = (cluster("a", 1), cluster("b", 2));
        let (mut on_a, on_b) = written(agree(&a, &b, None, Nonce([9; 16]), 60));
        on_a.spec.connect = Some(Connect { nonce: Nonce([9; 16]), deadline_s: None });
        on_a.spec.contract.limits.services = 5;
        a.peers = vec![on_a];
        assert!(
            matches!(agree(&a, &b, None, Nonce([8; 16]), 60), Agreement::Write { .. }),
            "one side alone is no peering"
        );
        b.peers = vec![on_b];
        assert_eq!(agree(&a, &b, None, Nonce([8; 16]), 60), Agreement::Stands);
        b.endpoints = vec!["192.0.2.99:2379".to_owned()];
        assert!(matches!(agree(&a, &b, None, Nonce([8; 16]), 60), Agreement::Write { .. }));
    }

    #[test]
    fn a_way_through_a_third_cluster_is_written_on_both_sides_and_kept_by_a_connect_that_names_none() {
        let (mut a, mut b) = (cluster("a", 1), cluster("b", 2));
        let core: ClusterName = "core".parse().unwrap();
        let (mut on_a, on_b) = written(agree(&a, &b, Some(&core), Nonce([9; 16]), 60));
        assert_eq!((&on_a.spec.through, &on_b.spec.through), (&Some(core.clone()), &Some(core.clone())));
        on_a.spec.contract.relay = vec!["c".parse().unwrap()];
        (a.peers, b.peers) = (vec![on_a], vec![on_b]);
        assert_eq!(agree(&a, &b, None, Nonce([8; 16]), 60), Agreement::Stands);
        b.endpoints.clear();
        let (on_a, _) = written(agree(&a, &b, None, Nonce([8; 16]), 60));
        assert_eq!((on_a.spec.through, on_a.spec.contract.relay.len()), (Some(core), 1));
    }
}
