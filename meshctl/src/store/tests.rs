use super::*;
use api::{bytes::ClusterUuid, key::MeshKey, record::Namespace};
use expect_test::expect;
use std::time::Instant;
use tempfile::TempDir;

fn east() -> ClusterName {
    "east".parse().expect("a name")
}

fn listed(key: &str, value: &[u8], revision: i64) -> Listed {
    Listed { key: key.as_bytes().to_vec(), value: value.to_vec(), revision }
}

#[test]
fn a_short_prefix_is_of_the_clusters_own_records() {
    assert_eq!(prefix(&east(), None), ["mesh/v1/", "mesh-local/v1/"]);
    assert_eq!(prefix(&east(), Some("services/shop")), ["mesh/v1/east/services/shop"]);
    assert_eq!(prefix(&east(), Some("mesh/v1/west/")), ["mesh/v1/west/"]);
    assert_eq!(prefix(&east(), Some("mesh-local/v1/applied/")), ["mesh-local/v1/applied/"]);
}

#[test]
fn records_are_decoded_and_what_is_none_says_why() {
    let labels = [("team".to_owned(), "shop".to_owned())].into();
    let key = MeshKey::Namespace("shop".parse().expect("a name")).of(&east()).to_string();
    let all = [
        listed(&key, &Namespace { labels }.encode(), 7),
        listed("mesh/v1/east/namespaces/shop/x", b"", 8),
        listed("foo", b"\xff\0bar", 9),
    ];
    expect![[r#"
        REVISION  KEY                             RECORD
        7         mesh/v1/east/namespaces/shop    {"labels":{"team":"shop"}}
        8         mesh/v1/east/namespaces/shop/x  ✗ no kind of record lives under this key; 0 bytes:
        9         foo                             ✗ no kind of record lives under this key; 5 bytes: \xff\x00bar
    "#]].assert_eq(&show(&all, Output::Table).expect("shown"));
    expect![[r#"
        - key: mesh/v1/east/namespaces/shop
          revision: 7
          record:
            labels:
              team: shop
        - key: mesh/v1/east/namespaces/shop/x
          revision: 8
          unreadable: "no kind of record lives under this key; 0 bytes: "
        - key: foo
          revision: 9
          unreadable: "no kind of record lives under this key; 5 bytes: \\xff\\x00bar"
    "#]]
    .assert_eq(&show(&all, Output::Yaml).expect("shown"));
}

#[test]
fn a_dump_is_laid_into_the_directory_of_its_own_cluster_and_no_other() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("saved.dump");
    let mut out = fs::File::create(&file).expect("a file");
    let mut store = store::Store::default();
    store.put(&store::PutRequest { key: "a".into(), ..Default::default() }, Instant::now()).expect("a put");
    store.dump([7; 16]).write(&mut out).expect("written");
    let data = |name: &str, uuid: u8| {
        let data = dir.path().join(name);
        fs::create_dir(&data).expect("made");
        let uuid = ClusterUuid([uuid; 16]);
        fs::write(data.join("cluster.yaml"), format!("name: {name}\nuuid: {uuid}\npodCidrs: []\n"))
            .expect("written");
        data
    };
    let (east, west) = (data("east", 7), data("west", 8));
    let said = restore(&file, &east).expect("laid");
    assert!(said.contains("is whole: 1 versions of keys, up to revision 2"), "{said}");
    assert_eq!(fs::read(east.join("restore.dump")).expect("laid"), fs::read(&file).expect("read"));

    let refused = format!("{:#}", restore(&file, &west).expect_err("another's"));
    assert!(refused.contains("was made of the store of"), "{refused}");
    let whole = fs::read(&file).expect("read");
    fs::write(&file, &whole[..whole.len() - 1]).expect("written");
    let refused = format!("{:#}", restore(&file, &east).expect_err("cut off"));
    assert!(refused.contains("it is cut off"), "{refused}");
    let refused = format!("{:#}", restore(&file, dir.path()).expect_err("no data directory"));
    assert!(refused.contains("is not the data directory of an apiserver"), "{refused}");
    assert!(!west.join("restore.dump").exists());
}
