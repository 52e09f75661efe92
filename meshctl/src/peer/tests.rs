use super::*;
use expect_test::expect;

const WEST: &str = r#"
apiVersion: clustermesh.io/v1alpha1
kind: MeshPeer
metadata:
  name: west
spec:
  uuid: 02020202-0202-0202-0202-020202020202
  endpoints: ["192.0.2.2:2379"]
  trustBundle: "PEM"
  contract:
    cidrs: [10.2.0.0/16, 100.64.2.0/24]
    namespaces: [shop]
    limits: {nodes: 10, identities: 10, endpoints: 10, services: 10, backends: 20, changesPerSecond: 100}
  stale: {policy: drop-after, dropAfterS: 60}
"#;

#[test]
fn peers_are_listed_with_what_they_are_held_to() {
    let west = parse(WEST).expect("a peer");
    let all = [("east".to_owned(), vec![west])];
    expect![[r#"
        CLUSTER  PEER  PHASE   ENDPOINTS       CIDRS                      NAMESPACES  STALE            MAX BACKENDS
        east     west  active  192.0.2.2:2379  10.2.0.0/16,100.64.2.0/24  shop        drop-after 60 s  20
    "#]].assert_eq(&list(&all, Output::Table).expect("shown"));
    let json = list(&all, Output::Json).expect("shown");
    assert!(json.contains(r#""dropAfterS": 60"#), "{json}");
}

#[test]
fn what_is_printed_can_be_applied_again_and_a_diff_shows_only_what_changed() {
    let west = parse(WEST).expect("a peer");
    let text = yaml(&west).expect("YAML");
    assert_eq!(parse(&text).expect("the same"), west);
    assert_eq!(diff(&text, &text), "");
    let mut other = west;
    other.spec.contract.limits.backends = 40;
    expect![[r#"
         -       backends: 20
         +       backends: 40
    "#]]
    .assert_eq(&diff(&text, &yaml(&other).expect("YAML")));
}

#[test]
fn a_field_that_is_misspelt_is_named_with_its_place() {
    let error = parse(&WEST.replace("namespaces", "namespace")).expect_err("refused");
    let text = format!("{error:#}");
    assert!(text.contains("namespace") && text.contains("line"), "{text}");
}
