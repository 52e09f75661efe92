//! Objects as YAML in, records out: sentences and tables.

mod vms;

use super::*;
use crate::source::{
    manifests::{Content, read},
    memory::Memory,
    snapshot::{Effect, Snapshot},
};
use expect_test::{Expect, expect};

fn desired(yaml: &str) -> Desired {
    desired_with(yaml, true)
}

fn desired_with(yaml: &str, namespaces_are_global: bool) -> Desired {
    desired_in(yaml, namespaces_are_global, &["100.64.0.0/24", "fd64::/64"])
}

/// `ranges` are the cluster's mesh CIDRs.
fn desired_in(yaml: &str, namespaces_are_global: bool, ranges: &[&str]) -> Desired {
    desired_of(yaml, &facts(namespaces_are_global), ranges, &vms::present())
}

fn desired_of(yaml: &str, facts: &Facts, ranges: &[&str], states: &VmStates) -> Desired {
    let files = BTreeMap::from([("m.yaml".to_owned(), Content::Text(yaml.to_owned()))]);
    let snapshot = read(&files, &Snapshot::default());
    let bad = snapshot.problems.iter().find(|p| p.effect != Effect::Read);
    assert_eq!(bad, None, "the test's own YAML is good");
    let uuid = ClusterUuid([7; 16]);
    let mut memory = Memory::default();
    let objects = memory.objects(&snapshot, uuid, 1_000);
    let ranges: Vec<IpNet> = ranges.iter().map(|r| r.parse().expect("a range")).collect();
    let (mesh, _) = memory.allocate(&objects, &ranges, 1_000);
    let mut index = Index::default();
    index.replace(objects);
    index.desired(facts, &mesh, states)
}

fn facts(namespaces_are_global: bool) -> Facts {
    Facts {
        cluster: "east".parse().expect("a name"),
        uuid: ClusterUuid([7; 16]),
        pod_cidrs: ["10.1.0.0/16", "fd01::/48"].map(|r| r.parse().expect("a range")).to_vec(),
        ignored_labels: vec![],
        namespaces_are_global,
    }
}

/// Only what is about services, endpoints and backends; identities as their labels.
fn check(yaml: &str, expected: Expect) {
    let desired = desired(yaml);
    let mut shown = String::new();
    for (key, record) in &desired.records {
        let text = match record {
            Record::Backend(b) => {
                let ports = b.ports.iter().map(|p| {
                    let name = p.name.as_ref().map_or("-", |n| n.as_str());
                    format!("{name}:{}/{}", p.port, p.protocol)
                });
                let ports = ports.collect::<Vec<_>>().join(",");
                let is = |b: bool, text: &'static str| if b { text } else { "" };
                let (ready, serving) = (is(b.ready, " ready"), is(b.serving, " serving"));
                let terminating = is(b.terminating, " terminating");
                let node = b.node.as_ref().map_or("", |n| n.as_str());
                format!(
                    "{ports}{ready}{serving}{terminating} node={node} zone={} uid={}",
                    b.zone,
                    &b.uid.to_string()[..8]
                )
            }
            Record::Service(s) => format!(
                "{:?} global={} shared={} affinity={:?} headless={}",
                s.frontends, s.global, s.shared, s.affinity, s.headless
            ),
            Record::Endpoint(e) => format!("{} on {} uid={}", e.name, e.node, &e.uid.to_string()[..8]),
            Record::Identity(i) => {
                shown += &format!("identity {} {:?}\n", i.service_account, i.labels);
                continue;
            }
            Record::Namespace(_) | Record::Node(_) | Record::Vm(_) => continue,
            other => panic!("the index makes no {other:?}"),
        };
        shown += &format!("{key} {text}\n");
    }
    for notice in &desired.notices {
        shown += &format!("! {notice}\n");
    }
    expected.assert_eq(&shown);
}

const NODES: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.1.1.0/24, 'fd01:0:0:1::/64']}
status: {addresses: [{type: Hostname, address: n1}, {type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
spec: {podCIDRs: [10.1.2.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
---
";

fn service(annotations: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: cart\n  namespace: shop\n  annotations: {{{annotations}}}\nspec:\n  \
         clusterIP: 10.96.0.10\n  ports: [{{name: http, port: 80}}]\n---\n"
    )
}

fn slice(name: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: shop, labels: \
         {{kubernetes.io/service-name: cart}}}}\naddressType: IPv4\nports: {ports}\nendpoints: {endpoints}\n---\n"
    )
}

#[test]
fn a_service_travels_when_it_is_global_and_shared_and_its_namespace_takes_part() {
    const G: &str = "service.cilium.io/global";
    const S: &str = "service.cilium.io/shared";
    const OLD: &str = "io.cilium/global-service";
    let namespace = |value: &str| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, annotations: {{clustermesh.cilium.io/global: '{value}'}}}}\n---\n"
        )
    };
    // annotations, namespace's annotation, default of the cluster → exported, global, shared
    type Case = (String, Option<&'static str>, bool, (bool, bool, bool));
    let table: Vec<Case> = vec![
        (String::new(), None, true, (false, false, false)),
        (format!("{G}: 'true'"), None, true, (true, true, true)),
        (format!("{G}: 'True'"), None, true, (true, true, true)),
        (format!("{G}: 'TRUE'"), None, true, (true, true, true)),
        (format!("{G}: 'false'"), None, true, (false, false, false)),
        (format!("{G}: 'yes'"), None, true, (false, false, false)),
        (format!("{G}: ''"), None, true, (false, false, false)),
        (format!("{OLD}: 'true'"), None, true, (true, true, true)),
        (format!("{G}: 'false', {OLD}: 'true'"), None, true, (false, false, false)),
        (format!("{G}: 'true', {S}: 'true'"), None, true, (true, true, true)),
        (format!("{G}: 'true', {S}: 'False'"), None, true, (false, true, false)),
        (format!("{G}: 'true', {S}: 'no'"), None, true, (false, true, false)),
        (format!("{G}: 'true', io.cilium/shared-service: 'false'"), None, true, (false, true, false)),
        (format!("{S}: 'true'"), None, true, (false, false, false)),
        (format!("{G}: 'true'"), Some("false"), true, (false, false, false)),
        (format!("{G}: 'true'"), Some("FALSE"), true, (false, false, false)),
        (format!("{G}: 'true'"), Some("true"), false, (true, true, true)),
        (format!("{G}: 'true'"), Some("maybe"), true, (false, false, false)),
        (format!("{G}: 'true'"), None, false, (false, false, false)),
    ];
    for (annotations, ns, default, expected) in table {
        let yaml = format!(
            "{}{}{}",
            ns.map(namespace).unwrap_or_default(),
            service(&annotations),
            slice("s", "[{name: http, port: 8080}]", "[{addresses: [10.1.1.7]}]")
        );
        let desired = desired_with(&yaml, default);
        let case = format!("{annotations} in a namespace with {ns:?}, default {default}");
        let found = desired.records.iter().find_map(|(key, record)| match record {
            Record::Service(s) => Some((matches!(key, Key::Mesh(..)), s.global, s.shared)),
            _ => None,
        });
        assert_eq!(found, Some(expected), "{case}");
        let backends: Vec<bool> = desired
            .records
            .iter()
            .filter(|(_, record)| matches!(record, Record::Backend(_)))
            .map(|(key, _)| matches!(key, Key::Mesh(..)))
            .collect();
        assert_eq!(backends, [expected.0], "its backends stand beside it: {case}");
    }
}

#[test]
fn the_services_by_which_the_apiserver_is_reached_stay_kube_proxys() {
    let named = |text: String, namespace: &str, name: &str| {
        text.replace("namespace: shop", &format!("namespace: {namespace}"))
            .replace("name: cart", &format!("name: {name}"))
            .replace("kubernetes.io/service-name: cart", &format!("kubernetes.io/service-name: {name}"))
    };
    let endpoints = "[{addresses: [10.1.1.1], nodeName: n1}]";
    for (annotations, namespace, name, records) in [
        ("", "shop", "cart", 2),
        ("clustermesh.io/balance: 'false'", "shop", "cart", 0),
        ("clustermesh.io/balance: 'true'", "shop", "cart", 2),
        ("", "default", "kubernetes", 0),
        ("", "kube-system", "kube-dns", 0),
        ("", "shop", "kube-dns", 2),
    ] {
        let text = service(annotations) + &slice("s", "[{port: 80}]", endpoints);
        let desired = desired(&named(text, namespace, name));
        assert_eq!(desired.records.len(), records, "{namespace}/{name} {annotations}");
        assert_eq!(desired.notices, [], "{namespace}/{name} {annotations}");
    }
}

#[test]
fn affinity_is_local_remote_or_none() {
    for (value, expected) in [
        ("local", api::record::Affinity::Local),
        ("Remote", api::record::Affinity::Remote),
        ("none", api::record::Affinity::None),
        ("near", api::record::Affinity::None),
        ("", api::record::Affinity::None),
    ] {
        for name in ["service.cilium.io/affinity", "io.cilium/service-affinity"] {
            let desired = desired(&service(&format!("{name}: '{value}'")));
            let found = desired.records.values().find_map(|record| match record {
                Record::Service(s) => Some(s.affinity),
                _ => None,
            });
            assert_eq!(found, Some(expected), "{name}: {value}");
        }
    }
}

#[test]
fn headless_services_travel_without_frontends_and_external_names_never() {
    let global = "annotations: {service.cilium.io/global: 'true'}";
    check(
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: db, namespace: shop, {global}}}\nspec: {{clusterIP: None, ports: [{{port: 5432}}]}}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: ext, namespace: shop, {global}}}\nspec: {{type: ExternalName, externalName: example.org}}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: dual, namespace: shop}}\nspec: {{clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd96::1']}}\n"
        ),
        expect![[r#"
            mesh/v1/east/services/shop/db [] global=true shared=true affinity=None headless=true
            mesh-local/v1/services/shop/dual [10.96.0.1, fd96::1] global=false shared=false affinity=None headless=false
        "#]],
    );
}

#[test]
fn several_slices_of_one_address_are_one_backend() {
    let pod = "targetRef: {kind: Pod, name: cart-1, uid: 11111111-1111-1111-1111-111111111111}";
    check(
        &[
            service(""),
            slice(
                "a",
                "[{name: http, port: 8080}, {name: http, port: 8081}]",
                &format!("[{{addresses: [10.1.1.7], {pod}, conditions: {{ready: false}}}}]"),
            ),
            slice(
                "b",
                "[{name: dns, port: 53, protocol: UDP}]",
                &format!("[{{addresses: [10.1.1.7], {pod}, nodeName: n1}}]"),
            ),
            slice(
                "c",
                "[{port: 9090}]",
                "[{addresses: [10.1.1.8], zone: z1, nodeName: n2}, {addresses: [10.1.1.9, 10.1.1.10]}]",
            ),
        ]
        .concat(),
        expect![[r#"
            mesh-local/v1/services/shop/cart [10.96.0.10] global=false shared=false affinity=None headless=false
            mesh-local/v1/backends/shop/cart/10.1.1.7 dns:53/UDP,http:8080/TCP,http:8081/TCP ready serving node=n1 zone= uid=11111111
            mesh-local/v1/backends/shop/cart/10.1.1.8 -:9090/TCP ready serving node=n2 zone=z1 uid=e5c37182
            mesh-local/v1/backends/shop/cart/10.1.1.9 -:9090/TCP ready serving node= zone= uid=6c3e7bf1
            mesh-local/v1/backends/shop/cart/10.1.1.10 -:9090/TCP ready serving node= zone= uid=e140b8f2
        "#]],
    );
}

#[test]
fn conditions_that_are_absent_mean_ready_serving_and_not_terminating() {
    let mut shown = String::new();
    for conditions in [
        "{}",
        "{ready: true}",
        "{ready: false}",
        "{ready: false, serving: true, terminating: true}",
        "{ready: false, serving: false, terminating: true}",
        "{serving: false}",
    ] {
        let endpoints = format!("[{{addresses: [10.1.1.7], conditions: {conditions}}}]");
        let yaml = format!("{}{}", service(""), slice("a", "[{port: 80}]", &endpoints));
        for record in desired(&yaml).records.values() {
            if let Record::Backend(b) = record {
                shown += &format!(
                    "{conditions} → ready={} serving={} terminating={}\n",
                    b.ready, b.serving, b.terminating
                );
            }
        }
    }
    expect![[r#"
        {} → ready=true serving=true terminating=false
        {ready: true} → ready=true serving=true terminating=false
        {ready: false} → ready=false serving=false terminating=false
        {ready: false, serving: true, terminating: true} → ready=false serving=true terminating=true
        {ready: false, serving: false, terminating: true} → ready=false serving=false terminating=true
        {serving: false} → ready=true serving=false terminating=false
    "#]]
    .assert_eq(&shown);
}

#[test]
fn a_host_network_backend_travels_under_its_nodes_mesh_address() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: cart-1, namespace: shop}\nspec: {nodeName: n1, hostNetwork: true}\n\
               status: {podIPs: [{ip: 192.0.2.1}]}\n---\n";
    let slices = slice(
        "a",
        "[{name: http, port: 8080}]",
        "[{addresses: [192.0.2.1], nodeName: n1, targetRef: {kind: Pod, name: cart-1}}, {addresses: [192.0.2.2]}, \
         {addresses: [192.0.2.1], nodeName: n1, targetRef: {kind: Pod, name: cart-2}}]",
    );
    check(
        &[NODES, pod, &service("service.cilium.io/global: 'true'"), &slices].concat(),
        expect![[r#"
            mesh/v1/east/services/shop/cart [10.96.0.10] global=true shared=true affinity=None headless=false
            mesh/v1/east/backends/shop/cart/100.64.0.1 http:8080/TCP ready serving node=n1 zone= uid=78d76c2c
            mesh/v1/east/backends/shop/cart/100.64.0.2 http:8080/TCP ready serving node=n2 zone= uid=d56d3ee7
        "#]],
    );
    check(
        &[NODES, pod, &service(""), &slices].concat(),
        expect![[r#"
        mesh-local/v1/services/shop/cart [10.96.0.10] global=false shared=false affinity=None headless=false
        mesh-local/v1/backends/shop/cart/192.0.2.1 http:8080/TCP ready serving node=n1 zone= uid=40dbcc3c
        mesh-local/v1/backends/shop/cart/192.0.2.2 http:8080/TCP ready serving node=n2 zone= uid=5c6ffedc
    "#]],
    );
}

#[test]
fn pods_become_endpoints_unless_they_are_finished_without_address_or_on_the_hosts_network() {
    let pod = |name: &str, spec: &str, status: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: cart, pod-template-hash: {name}}}}}\n\
             spec: {{{spec}}}\nstatus: {{{status}}}\n---\n"
        )
    };
    check(
        &[
            pod("running", "nodeName: n1", "phase: Running, podIPs: [{ip: 10.1.1.7}, {ip: 'fd01:0:0:1::7'}]"),
            pod("old-style", "nodeName: n1, serviceAccountName: till", "phase: Running, podIP: 10.1.1.8"),
            pod("done", "nodeName: n1", "phase: Succeeded, podIPs: [{ip: 10.1.1.9}]"),
            pod("failed", "nodeName: n1", "phase: Failed, podIPs: [{ip: 10.1.1.10}]"),
            pod("pending", "nodeName: n1", "phase: Pending"),
            pod("host", "nodeName: n1, hostNetwork: true", "phase: Running, podIPs: [{ip: 192.0.2.1}]"),
            pod("homeless", "containers: []", "podIPs: [{ip: 10.1.1.11}]"),
            pod("elsewhere", "nodeName: n1", "podIPs: [{ip: 10.9.9.9}]"),
        ]
        .concat(),
        expect![[r#"
            identity default {"app": "cart"}
            identity till {"app": "cart"}
            mesh/v1/east/endpoints/shop/10.1.1.7 running on n1 uid=cfbe93e2
            mesh/v1/east/endpoints/shop/10.1.1.8 old-style on n1 uid=0303730e
            mesh/v1/east/endpoints/shop/10.9.9.9 elsewhere on n1 uid=36a5703a
            mesh/v1/east/endpoints/shop/fd01:0:0:1::7 running on n1 uid=cfbe93e2
            ! Pod shop/homeless: 10.1.1.11 is left out: the pod has an address, but no node
            ! Pod shop/elsewhere: 10.9.9.9 lies in none of this cluster's pod CIDRs: peers will refuse it
        "#]],
    );
}

#[test]
fn an_address_that_is_claimed_twice_has_one_owner_and_a_visible_conflict() {
    let pod = |namespace: &str, name: &str, created: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '{created}'}}\n\
             spec: {{nodeName: n1}}\nstatus: {{podIPs: [{{ip: 10.1.1.7}}]}}\n---\n"
        )
    };
    check(
        &[
            pod("a", "old", "2024-01-01T00:00:00Z"),
            pod("b", "new", "2024-01-03T00:00:00Z"),
            pod("c", "middle", "2024-01-02T00:00:00Z"),
        ]
        .concat(),
        expect![[r#"
            identity default {}
            mesh/v1/east/endpoints/b/10.1.1.7 new on n1 uid=ea7125be
            ! Pod a/old: 10.1.1.7 is claimed by Pod b/new, too; the newer one has it
            ! Pod c/middle: 10.1.1.7 is claimed by Pod b/new, too; the newer one has it
        "#]],
    );
    let target = |uid: char| {
        format!(
            "targetRef: {{kind: Pod, name: p, uid: {}}}",
            "11111111-1111-1111-1111-111111111111".replace('1', &uid.to_string())
        )
    };
    check(
        &[
            service(""),
            slice(
                "a",
                "[{port: 80}]",
                &format!(
                    "[{{addresses: [10.1.1.7], {}}}, {{addresses: [10.1.1.7], {}}}]",
                    target('2'),
                    target('1')
                ),
            ),
        ]
        .concat(),
        expect![[r#"
            mesh-local/v1/services/shop/cart [10.96.0.10] global=false shared=false affinity=None headless=false
            mesh-local/v1/backends/shop/cart/10.1.1.7 -:80/TCP ready serving node= zone= uid=22222222
            ! EndpointSlice shop/a: 10.1.1.7 is claimed by the pods 22222222-2222-2222-2222-222222222222 and 11111111-1111-1111-1111-111111111111; the newer one, 22222222-2222-2222-2222-222222222222, has it
        "#]],
    );
}

#[test]
fn a_namespace_with_too_many_identities_keeps_the_oldest_and_shares_one_for_the_rest() {
    let pod = |n: usize| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{n}, namespace: shop, labels: {{build: '{n}'}}, creationTimestamp: \
             '20{:02}-01-01T00:00:00Z'}}\nspec: {{nodeName: n1}}\nstatus: {{podIPs: [{{ip: 10.1.{}.{}}}]}}\n---\n",
            // The youngest have the lowest addresses.
            if n < 5 { 30 } else { 20 },
            n / 250,
            n % 250
        )
    };
    let desired = desired(&(0..IDENTITIES_MAX + 5).map(pod).collect::<String>());
    let identities = desired.records.values().filter(|record| matches!(record, Record::Identity(_))).count();
    assert_eq!(identities, IDENTITIES_MAX + 1);
    let noticed: Vec<String> = desired.notices.iter().map(|notice| notice.object.to_string()).collect();
    assert_eq!(noticed, ["Pod shop/p0", "Pod shop/p1", "Pod shop/p2", "Pod shop/p3", "Pod shop/p4"]);
}

#[test]
fn a_record_that_is_too_large_is_refused_and_named() {
    let labels: String =
        (0..400).map(|n| format!("    {}-{n}: {}\n", "k".repeat(120), "v".repeat(60))).collect();
    let yaml = format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  labels:\n{labels}");
    check(
        &yaml,
        expect![[r#"
        ! Namespace shop: refused: its record has 76318 bytes and may have 65536
    "#]],
    );
}

#[test]
fn the_same_objects_in_any_order_give_the_same_records() {
    let parts = [
        NODES.to_owned(),
        service("service.cilium.io/global: 'true'"),
        slice("a", "[{name: http, port: 8080}]", "[{addresses: [10.1.1.7]}]"),
        slice("b", "[{name: http, port: 8081}]", "[{addresses: [10.1.1.7], conditions: {ready: false}}]"),
    ];
    let forward = desired(&parts.concat());
    let backward = desired(&parts.iter().rev().map(|p| format!("---\n{p}")).collect::<String>());
    assert_eq!(forward, backward);
}
