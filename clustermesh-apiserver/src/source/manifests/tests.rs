use super::*;
use crate::source::{
    index::{Facts, Index},
    memory::Memory,
};
use expect_test::{Expect, expect};

fn files(all: &[(&str, &str)]) -> BTreeMap<String, Content> {
    all.iter().map(|(name, text)| ((*name).to_owned(), Content::Text((*text).to_owned()))).collect()
}

fn shown(snapshot: &Snapshot) -> String {
    let objects = snapshot.objects.iter().map(|(key, m)| format!("{key} ({})\n", m.place));
    let problems = snapshot.problems.iter().map(|p| format!("{p}\n"));
    objects.chain(problems).collect()
}

fn check(text: &str, expected: Expect) {
    expected.assert_eq(&shown(&read(&files(&[("m.yaml", text)]), &Snapshot::default())));
}

const CART: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: cart
  namespace: shop
spec:
  clusterIP: 10.96.0.10
  ports:
  - name: http
    port: 80
";

#[test]
fn a_file_holds_many_documents_and_lists_and_one_bad_document_spoils_only_itself() {
    let text = format!(
        "# all of it\n---\n{CART}---\nkind: [unclosed\n---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  \
         metadata:\n    name: shop\n- apiVersion: v1\n  kind: Namespace\n  metadata:\n    name: Shop\n---\napiVersion: v1\nkind: \
         NamespaceList\nitems:\n- metadata:\n    name: other\n"
    );
    check(
        &text,
        expect![[r#"
            Namespace other (m.yaml:31)
            Namespace shop (m.yaml:19)
            Service shop/cart (m.yaml:3)
            m.yaml:14: not YAML: unclosed bracket '['
            m.yaml:26: metadata.name: `Shop` is not a valid object name: 1 to 253 characters: RFC 1123 labels joined by '.'
        "#]],
    );
}

#[test]
fn what_is_wrong_is_named_by_file_line_and_field() {
    let service = |from: &str, to: &str| CART.replace(from, to);
    let mut out = String::new();
    for text in [
        service("port: 80", "port: 70000"),
        service("port: 80", "port: eighty"),
        service("port: 80", "protocol: HTTP\n    port: 80"),
        service("port: 80", "protocol: SCTP\n    port: 80"),
        service("  ports:", "  sessionAffinity: ClientIp\n  ports:"),
        service(
            "  ports:",
            "  sessionAffinity: ClientIP\n  sessionAffinityConfig:\n    clientIP:\n      timeoutSeconds: 86401\n  ports:",
        ),
        service("10.96.0.10", "10.96.0"),
        service("namespace: shop", "namespace: shop\n  annotations:\n    service.cilium.io/global: true"),
        service("namespace: shop", "namespace: shop\n  annotations:\n    service.cilium.io/affinity: near"),
        service("kind: Service", "kind: Deployment"),
        service("apiVersion: v1", "apiVersion: v2"),
        service("kind: Service\n", ""),
        "just text".to_owned(),
        "a: b: c".to_owned(),
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: cart-1\naddressType: FQDN\nendpoints: []\n"
            .to_owned(),
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: cart-1\naddressType: IPv4\nendpoints:\n- \
         addresses:\n  - fd00::1\n"
            .to_owned(),
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: n1\nspec:\n  podCIDRs:\n  - 10.1.0.1/24\n".to_owned(),
        "apiVersion: clustermesh.io/v1alpha1\nkind: MeshPeer\nmetadata:\n  name: west\nspec:\n  uuid: x\n".to_owned(),
    ] {
        out += &shown(&read(&files(&[("m.yaml", &text)]), &Snapshot::default()));
    }
    expect![[r#"
        m.yaml:10: Service shop/cart: spec.ports[0].port: 70000 is not a port (1 to 65535)
        m.yaml:10: Service shop/cart: spec.ports[0].port: invalid type: string "eighty", expected i32
        m.yaml:10: Service shop/cart: spec.ports[0].protocol: `HTTP` is not a protocol (TCP, UDP or SCTP)
        Service shop/cart (m.yaml:1)
        m.yaml:10: Service shop/cart: spec.ports[0].protocol: SCTP is not carried by the mesh: this port is left out
        m.yaml:8: Service shop/cart: spec.sessionAffinity: `ClientIp` is neither `None` nor `ClientIP`
        m.yaml:11: Service shop/cart: spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401 is not within 1 and 86400 seconds
        m.yaml:7: Service shop/cart: spec.clusterIP: `10.96.0` is not an IP address
        m.yaml:7: Service shop/cart: metadata.annotations.service.cilium.io/global: invalid type: boolean `true`, expected a string (put it in quotes)
        Service shop/cart (m.yaml:1)
        m.yaml:7: Service shop/cart: metadata.annotations.service.cilium.io/affinity: `near` is not local, remote or none; none is used
        m.yaml:1: kind: nothing here reads `Deployment` of `v1`: the document is not used
        m.yaml:1: kind: nothing here reads `Service` of `v2`: the document is not used
        m.yaml:1: not a Kubernetes object: it needs apiVersion and kind
        m.yaml:1: not a Kubernetes object: it needs apiVersion and kind
        m.yaml:1: not YAML: mapping values are not allowed in this context
        m.yaml:5: EndpointSlice default/cart-1: addressType: FQDN is not supported: only IPv4 and IPv6 are
        m.yaml:8: EndpointSlice default/cart-1: endpoints[0].addresses[0]: fd00::1 is not of the slice's addressType
        m.yaml:7: Node n1: spec.podCIDRs[0]: 10.1.0.1/24 has bits set outside its length; meant 10.1.0.0/24?
        m.yaml:6: MeshPeer west: spec.uuid: a cluster UUID is 16 bytes, and this is not one
    "#]].assert_eq(&out);
}

#[test]
fn a_document_that_was_good_and_is_bad_now_keeps_what_it_last_said() {
    let first = read(&files(&[("m.yaml", CART)]), &Snapshot::default());
    let bad = CART.replace("port: 80", "port: 70000");
    let second = read(&files(&[("m.yaml", &bad)]), &first);
    expect![[r#"
        Service shop/cart (m.yaml:1)
        m.yaml:10: Service shop/cart: spec.ports[0].port: 70000 is not a port (1 to 65535) (what it last said stays in force)
    "#]]
    .assert_eq(&shown(&second));
    assert_eq!(first.objects, second.objects);

    let unreadable = read(&files(&[("m.yaml", "kind: [")]), &second);
    assert_eq!(
        first.objects, unreadable.objects,
        "nobody can tell which object it is about: nothing is withdrawn"
    );
    let too_large = BTreeMap::from([("m.yaml".to_owned(), Content::Unusable("too large".to_owned()))]);
    assert_eq!(first.objects, read(&too_large, &unreadable).objects);

    let gone = read(&files(&[("m.yaml", "")]), &unreadable);
    assert_eq!(gone, Snapshot::default(), "a document that is gone is gone");
}

#[test]
fn an_object_that_moves_to_another_file_is_the_same_object() {
    let first = read(&files(&[("a.yaml", CART)]), &Snapshot::default());
    let broken_source = read(&files(&[("a.yaml", "kind: ["), ("b.yaml", &CART.replace("80", "81"))]), &first);
    assert_eq!(broken_source.objects.values().filter_map(|m| m.place.file()).collect::<Vec<_>>(), ["b.yaml"]);
}

#[test]
fn what_is_wrong_with_an_external_workload_is_named_by_its_field() {
    const VM: &str = "\
apiVersion: clustermesh.io/v1alpha1
kind: ExternalWorkload
metadata:
  name: web-1
  namespace: shop
spec:
  labels:
    app: web
  serve:
  - service: cart
    port: 8080
";
    let vm = |from: &str, to: &str| VM.replace(from, to);
    let many: String = (0..65).map(|n| format!("  - service: s{n}\n    port: 80\n")).collect();
    let mut out = String::new();
    for text in [
        VM.to_owned(),
        vm("web-1", "Web_1"),
        vm("shop", "Shop"),
        vm("  namespace", "  labels: {app: web}\n  namespace"),
        vm("    app: web", &format!("    app: {}", "x".repeat(64))),
        vm("8080", "0"),
        vm("8080", "70000"),
        vm("port: 8080", "ports: 8080"),
        vm("    port: 8080\n", "    port: 8080\n  - service: cart\n    port: 81\n"),
        vm("  - service: cart\n    port: 8080\n", &many),
    ] {
        out += &shown(&read(&files(&[("m.yaml", &text)]), &Snapshot::default()));
    }
    expect![[r#"
        ExternalWorkload shop/web-1 (m.yaml:1)
        m.yaml:4: metadata.name: `Web_1` is not a valid object name: 1 to 253 characters: RFC 1123 labels joined by '.'
        m.yaml:5: metadata.namespace: `Shop` is not a valid namespace: 1 to 63 of a-z, 0-9 and '-', starting and ending with a letter or digit (RFC 1123 label)
        m.yaml:5: ExternalWorkload shop/web-1: metadata.labels: unknown field `labels`, expected `name` or `namespace`
        m.yaml:8: ExternalWorkload shop/web-1: spec.labels.app: a label's key has 1 to 317 characters, its value at most 63
        m.yaml:11: ExternalWorkload shop/web-1: spec.serve[0].port: invalid value: integer `0`, expected a nonzero u16
        m.yaml:11: ExternalWorkload shop/web-1: spec.serve[0].port: invalid value: integer `70000`, expected a nonzero u16
        m.yaml:11: ExternalWorkload shop/web-1: spec.serve[0].ports: unknown field `ports`, expected one of `service`, `portName`, `port`
        m.yaml:12: ExternalWorkload shop/web-1: spec.serve[1]: cart is served twice: name the other port in `portName`
        m.yaml:10: ExternalWorkload shop/web-1: spec.serve: 65 Services; a VM serves at most 64
    "#]]
    .assert_eq(&out);
}

#[test]
fn what_is_wrong_with_a_program_is_named_by_its_field() {
    let vm = |programs: &str| {
        format!(
            "apiVersion: clustermesh.io/v1alpha1\nkind: ExternalWorkload\nmetadata: {{name: web-1}}\nspec:\n  programs:\n{programs}"
        )
    };
    let many: String = (0..17).map(|n| format!("  - {{name: p{n}, user: u{n}}}\n")).collect();
    let mut out = String::new();
    for programs in [
        "  - {name: a, unit: a.service, slice: pay-ment.slice}\n  - {name: b, user: '1000'}\n",
        "  - {name: a}\n",
        "  - {name: a, unit: a.service, user: a}\n",
        "  - {name: a, slice: a.slice}\n",
        "  - {name: a, unit: a}\n",
        "  - {name: a, unit: ../a.service}\n",
        "  - {name: a, unit: a.service, slice: a--b.slice}\n",
        "  - {name: a, user: '4294967295'}\n",
        "  - {name: a, user: 'a b'}\n",
        "  - {name: A, user: a}\n",
        "  - {name: a, user: a}\n  - {name: a, user: b}\n",
        "  - {name: a, user: a}\n  - {name: b, user: a}\n",
        "  - {name: a, user: a, serve: [{service: s, port: 1}, {service: s, port: 2}]}\n",
        "  - {name: a, user: a, labels: {'': x}}\n",
        &many,
    ] {
        out += &shown(&read(&files(&[("m.yaml", &vm(programs))]), &Snapshot::default()));
    }
    expect![[r#"
        ExternalWorkload default/web-1 (m.yaml:1)
        m.yaml:6: ExternalWorkload default/web-1: spec.programs[0]: name its processes by either `unit` or `user`
        m.yaml:6: ExternalWorkload default/web-1: spec.programs[0]: name its processes by either `unit` or `user`
        m.yaml:6: ExternalWorkload default/web-1: spec.programs[0].slice: it says where `unit` is; name the unit
        m.yaml:6: ExternalWorkload default/web-1: spec.programs[0].unit: `a` is not a valid unit: 1 to 255 of A-Z, a-z, 0-9 and ':-_.\@', ending with '.service', '.scope' or '.slice' (systemd.unit(5))
        m.yaml:6: ExternalWorkload default/web-1: spec.programs[0].unit: `../a.service` is not a valid unit: 1 to 255 of A-Z, a-z, 0-9 and ':-_.\@', ending with '.service', '.scope' or '.slice' (systemd.unit(5))
        m.yaml:6: ExternalWorkload default/web-1: spec.programs[0].slice: `a--b.slice` is not a valid slice: the name of a unit that ends with '.slice' (systemd.slice(5))
        m.yaml:6: ExternalWorkload default/web-1: spec.programs[0].user: `4294967295` is not a valid user: a number, or 1 to 31 of A-Z, a-z, 0-9, '_' and '-', not starting with a digit or '-'
        m.yaml:6: ExternalWorkload default/web-1: spec.programs[0].user: `a b` is not a valid user: a number, or 1 to 31 of A-Z, a-z, 0-9, '_' and '-', not starting with a digit or '-'
        m.yaml:6: ExternalWorkload default/web-1: spec.programs[0].name: `A` is not a valid program name: 1 to 63 of a-z, 0-9 and '-', starting and ending with a letter or digit (RFC 1123 label)
        m.yaml:7: ExternalWorkload default/web-1: spec.programs[1].name: there are two programs named a
        m.yaml:7: ExternalWorkload default/web-1: spec.programs[1]: a is the user a, too: a process has one identity
        m.yaml:6: ExternalWorkload default/web-1: spec.programs[0].serve[1]: s is served twice: name the other port in `portName`
        m.yaml:6: ExternalWorkload default/web-1: spec.programs[0].labels.: a label's key has 1 to 317 characters, its value at most 63
        m.yaml:6: ExternalWorkload default/web-1: spec.programs: 17 programs; a VM has at most 16
    "#]].assert_eq(&out);
}

#[test]
fn the_same_object_twice_is_read_once_and_shown() {
    let snapshot = read(&files(&[("a.yaml", CART), ("b.yaml", CART)]), &Snapshot::default());
    expect![[r#"
        Service shop/cart (a.yaml:1)
        b.yaml:1: Service shop/cart: the same object stands in a.yaml:1; that one is used
    "#]]
    .assert_eq(&shown(&snapshot));
}

#[test]
fn json_is_read_as_well_with_tabs_too() {
    let text =
        "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Namespace\",\n\t\"metadata\": {\"name\": \"shop\"}\n}\n";
    let snapshot = read(&files(&[("ns.json", text)]), &Snapshot::default());
    expect![[r#"
        Namespace shop (ns.json:1)
    "#]]
    .assert_eq(&shown(&snapshot));
}

#[test]
fn ten_thousand_aliases_of_aliases_are_refused_and_not_expanded() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let below = format!("*a{}", level - 1);
        text += &format!("a{level}: &a{level} [{}]\n", vec![below; 10].join(", "));
    }
    let snapshot = read(&files(&[("m.yaml", &text)]), &Snapshot::default());
    assert_eq!(snapshot.problems.len(), 1);
    assert!(snapshot.problems[0].text.starts_with("not YAML: "), "{}", snapshot.problems[0].text);
}

#[test]
fn lists_within_lists_are_refused_before_the_stack_ends() {
    let blocks = (0..300).fold(String::new(), |text, level| text + &" ".repeat(level) + "- \n");
    for text in [blocks, "[".repeat(300), "{a: ".repeat(300)] {
        let snapshot = read(&files(&[("m.yaml", &text)]), &Snapshot::default());
        assert_eq!(snapshot.problems.len(), 1, "{snapshot:?}");
        assert!(snapshot.problems[0].text.starts_with("not YAML: "), "{}", snapshot.problems[0].text);
    }
}

#[test]
fn a_directory_becomes_records() {
    let text = "\
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}
spec: {podCIDRs: [10.1.0.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: cart-1, namespace: shop, labels: {app: cart}}
spec: {nodeName: n1, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
status: {phase: Running, podIPs: [{ip: 10.1.0.7}]}
";
    let snapshot = read(&files(&[("m.yaml", text)]), &Snapshot::default());
    let cluster = api::bytes::ClusterUuid([7; 16]);
    let mut memory = Memory::default();
    let objects = memory.objects(&snapshot, cluster, 1_000);
    let (mesh, _) = memory.allocate(&objects, &["100.64.0.0/24".parse().expect("a range")], 1_000);
    let mut index = Index::default();
    index.replace(objects);
    let facts = Facts {
        cluster: "east".parse().expect("a name"),
        uuid: cluster,
        pod_cidrs: vec![],
        ignored_labels: vec![],
        namespaces_are_global: true,
    };
    let desired = index.desired(&facts, &mesh, &crate::vms::presence::VmStates::default());
    let shown: String = desired
        .records
        .iter()
        .map(|(key, record)| format!("{key} {}\n", serde_json::to_string(record).expect("records are data")))
        .collect();
    expect![[r#"
        mesh/v1/east/nodes/n1 {"mesh_addresses":["100.64.0.1"],"prefixes":["10.1.0.0/24"],"endpoints":["192.0.2.1"],"zone":"z1","relay":[]}
        mesh/v1/east/identities/shop/2e407654aa2a2e330be0bccd1c7274d6 {"service_account":"default","labels":{"app":"cart"}}
        mesh/v1/east/endpoints/shop/10.1.0.7 {"uid":"c4e63b3e-9b5e-8eff-b93d-eff169ca223e","identity":"2e407654aa2a2e330be0bccd1c7274d6","node":"n1","name":"cart-1","ports":[{"name":"http","port":8080,"protocol":"TCP"}],"terminating":false,"created_s":1000}
    "#]].assert_eq(&shown);
}
