use super::*;
use crate::session::Listed;
use api::{bytes::ClusterUuid, key::LocalKey, record::ImportState};
use flate2::read::GzDecoder;
use std::io::Read as _;

const KEY: &str = "-----BEGIN PRIVATE KEY-----\nplanted-in-a-text\n-----END PRIVATE KEY-----\n";
const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.planted-token.c2lnbmF0dXJl";

fn cluster() -> ClusterFacts {
    ClusterFacts {
        name: "east".parse().expect("a name"),
        uuid: ClusterUuid([1; 16]),
        ranges: vec![(Range::Pods, "10.1.0.0/16".parse().expect("a range"))],
        node_addresses: vec![],
        endpoints: vec!["192.0.2.1:2379".to_owned()],
        trust_bundle: String::new(),
        peers: vec![],
        counts: Default::default(),
    }
}

#[test]
fn what_is_secret_is_in_no_file_wherever_somebody_put_it() {
    let import = LocalKey::Import("west".parse().expect("a name"));
    let error = format!("refused {TOKEN}: {KEY}");
    let record = ImportState { last_error: error, ..ImportState::default() };
    let listed = |key: &str, value: &[u8]| Listed { key: key.into(), value: value.to_vec(), revision: 7 };
    let all = [
        listed(&api::key::Key::from(import).to_string(), &record.encode()),
        listed("mesh/v1/east/nodes/a1", b"planted-in-no-record"),
        listed("mesh/v1/east/planted-in-no-key", b""),
        listed("notes/mine", b"planted-under-another-key"),
    ];
    let facts = Facts::new("east".parse().expect("a name"), 7, 0, all);
    let files = of_cluster("east", &cluster(), &facts, 3).expect("files");
    let bytes = archive(&files, 0).expect("an archive");

    let mut text = String::new();
    let mut archive = tar::Archive::new(GzDecoder::new(&bytes[..]));
    for entry in archive.entries().expect("entries") {
        let mut entry = entry.expect("an entry");
        assert_eq!(entry.header().mode().expect("a mode"), 0o600);
        text += &format!("{}\n", entry.path().expect("a path").display());
        entry.read_to_string(&mut text).expect("text");
    }
    assert!(!text.contains("planted"), "{text}");
    for there in [
        "meshctl-dump/east/records.json",
        "mesh-local/v1/imports/west",
        "[a private key was removed]",
        "[a token was removed]",
        "\"keysThatAreNoRecords\": 3",
        "10.1.0.0/16",
    ] {
        assert!(text.contains(there), "{there} is missing in {text}");
    }
}

#[test]
fn a_context_of_any_name_is_a_directory_in_the_archive() {
    assert_eq!(safe("arn:aws:eks:eu:1:cluster/a"), "arn_aws_eks_eu_1_cluster_a");
    assert_eq!(safe("../../etc"), "_.._.._etc");
    assert_eq!(safe("alice@cluster-a"), "alice@cluster-a");
}
