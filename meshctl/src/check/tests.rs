use super::*;
use expect_test::expect;
use std::{collections::BTreeSet, fs, path::Path};

#[test]
fn every_code_has_a_paragraph_and_every_paragraph_a_code() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/checks.md");
    let page = fs::read_to_string(page).expect("the page is there");
    let mut described = BTreeSet::new();
    for section in page.split("\n## ").skip(1) {
        let (head, paragraph) = section.split_once('\n').expect("a head has a paragraph");
        let code = head.split(':').next().expect("a code").to_owned();
        assert!(paragraph.trim().len() > 100, "{code} says what it is and what to do");
        assert!(described.insert(code.clone()), "{code} stands there twice");
    }
    assert_eq!(described, Code::ALL.iter().map(ToString::to_string).collect());
}

#[test]
fn codes_are_a_promise() {
    let all: Vec<String> = Code::ALL.iter().map(|code| format!("{code} {code:?}")).collect();
    expect![[r#"
        MESH101 Unreachable
        MESH102 Refuses
        MESH103 NoAddress
        MESH201 SameCluster
        MESH202 SameName
        MESH203 Overlap
        MESH204 CoversNode
        MESH205 OtherPeer
        MESH206 OtherAlias
        MESH207 OverlapsPeer
        MESH301 NoNodes
        MESH302 Node"#]]
    .assert_eq(&all.join("\n"));
}

#[test]
fn a_cluster_without_nodes_or_address_is_found_before_it_is_connected() {
    let described = ClusterFacts {
        name: "east".parse().expect("a name"),
        uuid: api::bytes::ClusterUuid([1; 16]),
        ranges: vec![],
        node_addresses: vec![],
        endpoints: vec![],
        trust_bundle: String::new(),
        peers: vec![],
        counts: Default::default(),
    };
    let facts = Facts::new(described.name.clone(), 7, 0, []);
    let checked = Checked { reached: vec![], findings: alone(&described, &facts) };
    expect![[r#"
         ✗ MESH103: east advertises no address of its apiserver
         ✗ MESH301: east has no node
        2 found; what each is and what to do: docs/checks.md
    "#]]
    .assert_eq(&checked.text());
}
