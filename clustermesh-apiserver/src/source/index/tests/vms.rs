//! What an ExternalWorkload becomes.

use super::*;
use crate::{source::object::Vm, vms::presence::VmState};
use api::key::LocalKey;

/// The VM of these tests has joined, and is there.
pub(super) fn present() -> VmStates {
    [("web-1".parse().expect("a name"), VmState::default())].into()
}

fn vm(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: clustermesh.io/v1alpha1\nkind: ExternalWorkload\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{{spec}}}\n---\n"
    )
}

fn serving(serve: &str) -> String {
    vm("web-1", &format!("labels: {{app: web}}, serve: [{serve}]"))
}

fn with_port(more: &str) -> String {
    service("").replace("{name: http, port: 80}", &format!("{{name: http, port: 80}}, {more}"))
}

#[test]
fn a_vm_is_a_node_without_prefixes_an_endpoint_and_a_backend_at_its_own_mesh_address() {
    let yaml = [
        NODES,
        &service("service.cilium.io/global: 'true'"),
        &vm("web-1", "labels: {app: web}, serviceAccount: legacy, serve: [{service: cart, port: 8080}]"),
    ]
    .concat();
    check(
        &yaml,
        expect![[r#"
            identity legacy {"app": "web"}
            mesh/v1/east/endpoints/shop/100.64.0.3 web-1 on web-1 uid=28d3e8b5
            mesh/v1/east/endpoints/shop/fd64::3 web-1 on web-1 uid=28d3e8b5
            mesh/v1/east/services/shop/cart [10.96.0.10] global=true shared=true affinity=None headless=false
            mesh/v1/east/backends/shop/cart/100.64.0.3 http:8080/TCP ready serving node=web-1 zone= uid=28d3e8b5
            mesh/v1/east/backends/shop/cart/fd64::3 http:8080/TCP ready serving node=web-1 zone= uid=28d3e8b5
        "#]],
    );
    let name: NodeName = "web-1".parse().expect("a name");
    let key = api::key::MeshKey::Node(name).of(&"east".parse().expect("a name"));
    let Some(Record::Node(node)) = desired(&yaml).records.remove(&key) else { panic!("no {key}") };
    expect![[r#"
        Node {
            mesh_addresses: [
                100.64.0.3,
                fd64::3,
            ],
            prefixes: [],
            endpoints: [],
            zone: "",
            relay: [],
        }
    "#]]
    .assert_debug_eq(&node);
}

#[test]
fn what_a_vm_serves_stands_beside_its_service_and_with_its_other_backends() {
    let pods = slice("a", "[{name: http, port: 80}]", "[{addresses: [10.1.1.7], nodeName: n1}]");
    check(
        &[service(""), pods, serving("{service: cart, port: 81}")].concat(),
        expect![[r#"
            identity default {"app": "web"}
            mesh/v1/east/endpoints/shop/100.64.0.1 web-1 on web-1 uid=28d3e8b5
            mesh/v1/east/endpoints/shop/fd64::1 web-1 on web-1 uid=28d3e8b5
            mesh-local/v1/services/shop/cart [10.96.0.10] global=false shared=false affinity=None headless=false
            mesh-local/v1/backends/shop/cart/10.1.1.7 http:80/TCP ready serving node=n1 zone= uid=0ae6a111
            mesh-local/v1/backends/shop/cart/100.64.0.1 http:81/TCP ready serving node=web-1 zone= uid=28d3e8b5
            mesh-local/v1/backends/shop/cart/fd64::1 http:81/TCP ready serving node=web-1 zone= uid=28d3e8b5
        "#]],
    );
}

#[test]
fn a_service_of_several_ports_is_served_by_their_names() {
    let serve = "{service: cart, portName: dns, port: 5353}, {service: cart, portName: http, port: 8080}";
    check(
        &[with_port("{name: dns, port: 53, protocol: UDP}"), serving(serve)].concat(),
        expect![[r#"
            identity default {"app": "web"}
            mesh/v1/east/endpoints/shop/100.64.0.1 web-1 on web-1 uid=28d3e8b5
            mesh/v1/east/endpoints/shop/fd64::1 web-1 on web-1 uid=28d3e8b5
            mesh-local/v1/services/shop/cart [10.96.0.10] global=false shared=false affinity=None headless=false
            mesh-local/v1/backends/shop/cart/100.64.0.1 dns:5353/UDP,http:8080/TCP ready serving node=web-1 zone= uid=28d3e8b5
            mesh-local/v1/backends/shop/cart/fd64::1 dns:5353/UDP,http:8080/TCP ready serving node=web-1 zone= uid=28d3e8b5
        "#]],
    );
}

#[test]
fn what_cannot_be_served_is_named_and_costs_nothing_else() {
    let mut notices = String::new();
    for (service, serve) in [
        (String::new(), "{service: cart, port: 80}"),
        (service("clustermesh.io/balance: 'false'"), "{service: cart, port: 80}"),
        (with_port("{name: admin, port: 81}"), "{service: cart, port: 80}"),
        (with_port("{name: admin, port: 81}"), "{service: cart, portName: dns, port: 80}"),
    ] {
        let desired = desired(&[service, serving(serve)].concat());
        let count = |wanted: fn(&Record) -> bool| desired.records.values().filter(|r| wanted(r)).count();
        assert_eq!(count(|r| matches!(r, Record::Backend(_))), 0);
        assert_eq!(count(|r| matches!(r, Record::Node(_))), 1, "it takes part all the same");
        desired.notices.iter().for_each(|notice| notices += &format!("{notice}\n"));
    }
    expect![[r#"
        ExternalWorkload shop/web-1: there is no Service shop/cart: nobody reaches what this VM serves
        ExternalWorkload shop/web-1: shop/cart is kube-proxy's alone: this VM cannot serve it
        ExternalWorkload shop/web-1: cannot serve shop/cart: it has several ports: say which by `portName`
        ExternalWorkload shop/web-1: cannot serve shop/cart: it has no port named `dns`
    "#]]
    .assert_eq(&notices);
}

#[test]
fn what_a_vm_serves_is_ready_while_it_is_there_and_its_own_check_is_answered() {
    let lapsed = VmState { lapsed: true, ..VmState::default() };
    let checked =
        |address: &str| ("cart".parse().expect("a name"), 8080, address.parse().expect("an address"));
    let failing = VmState { failing: ["100.64.0.1", "fd64::1"].map(checked).into(), ..VmState::default() };
    let both = VmState { lapsed: true, ..failing.clone() };
    let objects = [service(""), serving("{service: cart, port: 8080}")].concat();
    for (state, conditions) in [
        (None, (false, false, false)),
        (Some(VmState::default()), (true, true, false)),
        (Some(lapsed), (false, true, true)),
        (Some(failing), (false, false, false)),
        (Some(both), (false, false, true)),
    ] {
        let states = state.clone().map(|state| ("web-1".parse().expect("a name"), state));
        let desired = desired_of(
            &objects,
            &facts(true),
            &["100.64.0.0/24", "fd64::/64"],
            &states.into_iter().collect(),
        );
        let backends = desired.records.values().filter_map(|record| match record {
            Record::Backend(backend) => Some((backend.ready, backend.serving, backend.terminating)),
            _ => None,
        });
        assert_eq!(backends.collect::<Vec<_>>(), [conditions; 2], "{state:?}");
    }
}

#[test]
fn a_vm_is_told_what_it_may_read_and_what_it_serves_of_that_which_is_there() {
    let grant = |spec: &str, services: String| {
        let key = LocalKey::Vm("web-1".parse().expect("a name"));
        match desired(&[services, vm("web-1", spec)].concat()).records.remove(&key.into()) {
            Some(Record::Vm(vm)) => vm,
            other => panic!("no grant: {other:?}"),
        }
    };
    let names = |vm: &api::record::Vm| vm.namespaces.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&grant("labels: {app: web}", String::new())), ["shop"], "its own");
    assert_eq!(names(&grant("namespaces: [db]", String::new())), ["db", "shop"]);
    assert_eq!(names(&grant("allNamespaces: true", String::new())), [""; 0], "all");
    let serve = "serve: [{service: cart, port: 8080}, {service: gone, port: 1}]";
    let served = grant(serve, service("")).serve;
    assert_eq!(served.len(), 1);
    assert_eq!((served[0].service.as_str(), served[0].ports[0].port), ("cart", 8080));
}

const PROGRAMS: &str = "labels: {app: web}, serviceAccount: legacy, programs: [\
    {name: billing, unit: billing.service, labels: {app: billing}, serve: [{service: cart, port: 8080}]}, \
    {name: jobs, user: jobs, serviceAccount: jobs}]";

#[test]
fn a_program_of_a_vm_has_an_endpoint_an_identity_and_backends_at_its_own_mesh_address() {
    let yaml = [service("service.cilium.io/global: 'true'"), vm("web-1", PROGRAMS)].concat();
    check(
        &yaml,
        expect![[r#"
        identity legacy {"app": "web"}
        identity legacy {"app": "billing"}
        identity jobs {}
        mesh/v1/east/endpoints/shop/100.64.0.1 web-1 on web-1 uid=28d3e8b5
        mesh/v1/east/endpoints/shop/100.64.0.2 web-1.billing on web-1 uid=fc157a47
        mesh/v1/east/endpoints/shop/100.64.0.3 web-1.jobs on web-1 uid=d66fb78a
        mesh/v1/east/endpoints/shop/fd64::1 web-1 on web-1 uid=28d3e8b5
        mesh/v1/east/endpoints/shop/fd64::2 web-1.billing on web-1 uid=fc157a47
        mesh/v1/east/endpoints/shop/fd64::3 web-1.jobs on web-1 uid=d66fb78a
        mesh/v1/east/services/shop/cart [10.96.0.10] global=true shared=true affinity=None headless=false
        mesh/v1/east/backends/shop/cart/100.64.0.2 http:8080/TCP ready serving node=web-1 zone= uid=fc157a47
        mesh/v1/east/backends/shop/cart/fd64::2 http:8080/TCP ready serving node=web-1 zone= uid=fc157a47
    "#]],
    );
    let mut records = desired(&yaml).records;
    let name: NodeName = "web-1".parse().expect("a name");
    let key = api::key::MeshKey::Node(name.clone()).of(&"east".parse().expect("a name"));
    let Some(Record::Node(node)) = records.remove(&key) else { panic!("no {key}") };
    assert!(node.is_vm(), "nobody dials it");
    let carried: Vec<_> = node.prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(carried, ["100.64.0.2/32", "fd64::2/128", "100.64.0.3/32", "fd64::3/128"]);
    let Some(Record::Vm(told)) = records.remove(&LocalKey::Vm(name).into()) else { panic!("no grant") };
    let told = told.programs.iter().map(|it| {
        let serve: Vec<_> = it.serve.iter().map(|served| served.service.as_str()).collect();
        format!("{} is the {} at {:?}, serves {serve:?}\n", it.name, it.processes, it.addresses)
    });
    expect![[r#"
        billing is the unit billing.service at [100.64.0.2, fd64::2], serves ["cart"]
        jobs is the user jobs at [100.64.0.3, fd64::3], serves []
    "#]]
    .assert_eq(&told.collect::<String>());
}

#[test]
fn what_a_program_serves_is_ready_while_it_answers_at_its_own_address() {
    let failing = ("cart".parse().expect("a name"), 8080, "100.64.0.2".parse().expect("an address"));
    let state = VmState { failing: [failing].into(), ..VmState::default() };
    let states = [("web-1".parse().expect("a name"), state)].into();
    let yaml = [service(""), vm("web-1", PROGRAMS)].concat();
    let desired = desired_of(&yaml, &facts(true), &["100.64.0.0/24", "fd64::/64"], &states);
    let backends = desired.records.iter().filter_map(|(key, record)| match record {
        Record::Backend(backend) => Some(format!("{key} {}", backend.ready)),
        _ => None,
    });
    assert_eq!(
        backends.collect::<Vec<_>>(),
        [
            "mesh-local/v1/backends/shop/cart/100.64.0.2 false",
            "mesh-local/v1/backends/shop/cart/fd64::2 true"
        ]
    );
}

#[test]
fn a_program_for_which_no_address_is_left_is_told_apart_all_the_same() {
    let desired = desired_in(&vm("web-1", PROGRAMS), true, &["100.64.0.0/30"]);
    let notices: String = desired.notices.iter().map(|notice| format!("{notice}\n")).collect();
    expect![[r#"
        ExternalWorkload shop/web-1: its program jobs has no mesh address, and reaches nobody: the cluster's mesh CIDRs are exhausted, give it larger ones
        ExternalWorkload shop/web-1: there is no Service shop/cart: nobody reaches what this VM serves
    "#]].assert_eq(&notices);
    let grant = desired.vms.values().next().expect("it takes part").grant.clone();
    let addresses: Vec<_> = grant.programs.iter().map(|it| (it.name.as_str(), it.addresses.len())).collect();
    assert_eq!(addresses, [("billing", 1), ("jobs", 0)]);
}

#[test]
fn two_machines_with_one_key_are_named() {
    let states = [("web-1".parse().expect("a name"), VmState { twins: true, ..VmState::default() })].into();
    let desired = desired_of(&vm("web-1", ""), &facts(true), &["100.64.0.0/24"], &states);
    assert!(
        desired.notices[0].text.starts_with("two machines speak by its name with one key"),
        "{desired:?}"
    );
}

#[test]
fn a_name_that_is_taken_stays_with_the_node_or_the_vm_that_was_there_first() {
    let object = |namespace: &str, created_s: u64| {
        let key = ObjectKey {
            kind: ObjectKind::ExternalWorkload,
            namespace: Some(namespace.parse().expect("a namespace")),
            name: "web-1".parse().expect("a name"),
        };
        let body = Body::Vm(Vm {
            service_account: "default".into(),
            labels: BTreeMap::new(),
            namespaces: None,
            serve: vec![],
            programs: BTreeMap::new(),
        });
        (key.clone(), Object { uid: key.derived_uid(ClusterUuid([7; 16])), created_s, body })
    };
    let owner = |first: u64, second: u64| {
        let mut index = Index::default();
        index.replace([object("first", first), object("second", second)].into());
        let name: NodeName = "web-1".parse().expect("a name");
        let mesh = [(name.into(), vec!["100.64.0.1".parse().expect("an address")])];
        let desired = index.desired(&facts(true), &mesh.into_iter().collect(), &VmStates::default());
        let endpoints =
            desired.records.keys().map(ToString::to_string).filter(|key| key.contains("/endpoints/"));
        let notices = desired.notices.iter().map(|notice| format!("! {notice}"));
        endpoints.chain(notices).map(|line| line + "\n").collect::<String>()
    };
    expect![[r#"
        mesh/v1/east/endpoints/first/100.64.0.1
        ! ExternalWorkload second/web-1: the name is taken by ExternalWorkload first/web-1: rename this VM, it does not take part
        mesh/v1/east/endpoints/second/100.64.0.1
        ! ExternalWorkload first/web-1: the name is taken by ExternalWorkload second/web-1: rename this VM, it does not take part
    "#]]
    .assert_eq(&[owner(1, 2), owner(2, 1)].concat());
    check(
        &[NODES, &vm("n1", "labels: {app: thief}")].concat(),
        expect![[r#"
            ! ExternalWorkload shop/n1: the name is taken by Node n1: rename this VM, it does not take part
        "#]],
    );
}

#[test]
fn a_pod_that_claims_a_vms_mesh_address_does_not_get_it() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: thief, namespace: shop, creationTimestamp: '2090-01-01T00:00:00Z'}\n\
               spec: {nodeName: n1}\nstatus: {podIPs: [{ip: 100.64.0.3}]}\n---\n";
    check(
        &[NODES, pod, &vm("web-1", "labels: {app: web}")].concat(),
        expect![[r#"
            identity default {"app": "web"}
            mesh/v1/east/endpoints/shop/100.64.0.3 web-1 on web-1 uid=28d3e8b5
            mesh/v1/east/endpoints/shop/fd64::3 web-1 on web-1 uid=28d3e8b5
            ! Pod shop/thief: 100.64.0.3 is the mesh address of ExternalWorkload shop/web-1; that one has it
        "#]],
    );
}

#[test]
fn a_vm_without_an_address_of_its_own_does_not_take_part() {
    let node = |n| format!("apiVersion: v1\nkind: Node\nmetadata: {{name: n{n}}}\n---\n");
    let nodes: String = (0..254).map(node).collect();
    let found = desired_in(&[nodes, vm("web-1", "labels: {app: web}")].concat(), true, &["100.64.0.0/24"]);
    let of_vm = found.notices.iter().filter(|notice| notice.object.kind == ObjectKind::ExternalWorkload);
    expect![[r#"
        ExternalWorkload shop/web-1: no mesh address: the cluster's mesh CIDRs are exhausted, give it larger ones
    "#]]
    .assert_eq(&of_vm.map(|notice| format!("{notice}\n")).collect::<String>());
    assert!(
        !found.records.values().any(|record| matches!(record, Record::Endpoint(_) | Record::Identity(_)))
    );
}
