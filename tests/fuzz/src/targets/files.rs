//! Files that people and programs leave for us, some of them damaged.

use api::{
    bytes::ClusterUuid, external_workload::ExternalWorkload, name::ClusterName, peer::MeshPeer,
    record::Record,
};
use bytes::Bytes;
use clustermesh_apiserver::{
    backend::lineage_file,
    init::ClusterConfig,
    peers::ClosedPrefixes,
    publish::{Author, author},
    source::{
        index::{Facts, Index},
        manifests,
        memory::Memory,
        snapshot::Snapshot,
    },
    vms::presence::VmStates,
};
use replica::kept::{self, Owner};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use store::Dump;

/// A file of the manifests directory; read twice, because what was good once is remembered.
pub(super) fn manifest(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let content = manifests::Content::Text(text.to_owned());
    let files = BTreeMap::from([(String::from("fuzz.yaml"), content)]);
    let first = manifests::read(&files, &Snapshot::default());
    let second = manifests::read(&files, &first);
    assert_eq!(first.objects, second.objects, "the same files hold the same objects");
    let uuid = ClusterUuid([1; 16]);
    let mut memory = Memory::default();
    let objects = memory.objects(&first, uuid, 1);
    assert_eq!(objects.len(), first.objects.len());
    let (addresses, _) = memory.allocate(&objects, &["100.64.1.0/24".parse().expect("a range")], 1);
    let cluster: ClusterName = "east".parse().expect("a name");
    let facts = Facts {
        cluster: cluster.clone(),
        uuid,
        pod_cidrs: vec!["10.1.0.0/16".parse().expect("a range")],
        ignored_labels: Vec::new(),
        namespaces_are_global: true,
    };
    let mut index = Index::default();
    index.replace(objects);
    for (key, record) in index.desired(&facts, &addresses, &VmStates::default()).records {
        assert!(author(&key, &cluster) == Author::Source, "{key} is not the source's to say");
        assert_eq!(Record::decode(&key, &record.encode()).expect("what we write, we read"), record, "{key}");
    }
}

/// An ExternalWorkload as YAML, as an operator writes it.
pub(super) fn external_workload(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(workload) = serde_saphyr::from_str::<ExternalWorkload>(text) {
        let text = serde_saphyr::to_string(&workload).expect("a workload is plain data");
        let again = serde_saphyr::from_str::<ExternalWorkload>(&text).expect("what we write, we read");
        assert_eq!(again, workload);
    }
}

/// The file `lineage`, and what it lets a follower do.
pub(super) fn lineage(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Some(lineage) = lineage_file::read(text) else { return };
    let again = lineage_file::read(&lineage_file::write(&lineage)).expect("what we write, we read");
    assert_eq!(again, lineage);
    for boot in lineage.boots() {
        for revision in [0, boot.first_revision, i64::MAX] {
            let admitted = lineage.admits(&boot.id, revision, 1_000);
            assert!(!admitted || revision <= 1_000, "nobody goes on from above the head");
        }
    }
}

/// A MeshPeer as JSON, as an operator sends it.
pub(super) fn mesh_peer(input: &[u8]) {
    if let Ok(peer) = serde_json::from_slice::<MeshPeer>(input) {
        let text = serde_json::to_vec(&peer).expect("a peer is plain data");
        assert_eq!(serde_json::from_slice::<MeshPeer>(&text).expect("what we write, we read"), peer);
        std::hint::black_box(peer.spec.contract.hash());
    }
}

/// `cluster.yaml`
pub(super) fn cluster_config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(config) = serde_saphyr::from_str::<ClusterConfig>(text) {
        // A rule may be broken; that is said, too.
        config.check().ok();
        let text = config.to_yaml().expect("a configuration is plain data");
        assert_eq!(serde_saphyr::from_str::<ClusterConfig>(&text).expect("what we write, we read"), config);
    }
}

/// `closed.json`
pub(super) fn closed(input: &[u8]) {
    if let Ok(closed) = serde_json::from_slice::<ClosedPrefixes>(input) {
        assert_eq!(serde_json::from_slice::<ClosedPrefixes>(&closed.to_bytes()).expect("ours"), closed);
    }
}

/// `memory.json`, and the addresses that are handed out after it.
pub(super) fn memory(input: &[u8]) {
    if let Ok(mut memory) = serde_json::from_slice::<Memory>(input) {
        assert_eq!(serde_json::from_slice::<Memory>(&memory.to_bytes()).expect("ours"), memory);
        let node = "apiVersion: v1\nkind: Node\nmetadata: {name: a1}\n";
        let files = BTreeMap::from([(String::from("n.yaml"), manifests::Content::Text(node.to_owned()))]);
        let snapshot = manifests::read(&files, &Snapshot::default());
        let objects = memory.objects(&snapshot, ClusterUuid([1; 16]), 1);
        let ranges = ["100.64.1.0/24".parse().expect("a range")];
        let (given, _) = memory.allocate(&objects, &ranges, 1);
        let a1 = given.of(&"a1".parse().expect("a name"));
        assert!(a1.iter().all(|address| ranges[0].contains(address)), "{given:?}");
    }
}

/// A snapshot of the store without the zeros and the sum at its end: those are right here, or no input got further.
pub(super) fn dump(input: &[u8]) {
    let mut bytes = input.to_vec();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    let sum = Sha256::digest(&bytes);
    bytes.extend(sum);
    if let Ok(dump) = Dump::read(&Bytes::from(bytes)) {
        let mut written = Vec::new();
        dump.write(&mut written).expect("memory takes what is written");
        let again = Dump::read(&Bytes::from(written)).expect("what we write, we read");
        assert_eq!(again, dump, "a dump reads back as it was");
    }
}

/// A view that an agent kept, without the sum at its end.
pub(super) fn kept_view(input: &[u8]) {
    let mut bytes = input.to_vec();
    let sum = Sha256::digest(&bytes);
    bytes.extend(sum);
    let owner = kept_view_owner();
    if let Ok(kept) = kept::decode(&bytes, &owner) {
        assert!(kept.skipped <= input.len(), "no more records are skipped than there are");
    }
}

/// Whose view the corpus holds.
pub(crate) fn kept_view_owner() -> Owner {
    Owner { uuid: ClusterUuid([1; 16]), node: "a1".parse().expect("a name") }
}
