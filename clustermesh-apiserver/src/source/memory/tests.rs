use super::*;
use crate::source::object::{Node, ObjectKind, Program, Vm};
use api::record::Processes;

fn nodes(names: &[&str]) -> BTreeMap<ObjectKey, Object> {
    let object = |name: &&str| {
        let key = ObjectKey { kind: ObjectKind::Node, namespace: None, name: name.parse().expect("a name") };
        let body = Body::Node(Node::default());
        (key.clone(), Object { uid: key.derived_uid(ClusterUuid([1; 16])), created_s: 0, body })
    };
    names.iter().map(object).collect()
}

fn allocate(memory: &mut Memory, names: &[&str], ranges: &[&str], now_s: u64) -> String {
    let ranges: Vec<IpNet> = ranges.iter().map(|r| r.parse().expect("a range")).collect();
    let (given, exhausted) = memory.allocate(&nodes(names), &ranges, now_s);
    let given = given.iter().map(|(node, ips)| format!("{node}={ips:?}"));
    let without = exhausted.iter().map(|e| format!("{} has none of {}", e.holder, e.range));
    given.chain(without).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_vm_keeps_its_mesh_address_beside_nodes_and_a_machine_that_becomes_a_vm_keeps_its_own() {
    let vm = |name: &str| {
        let namespace = Some("shop".parse().expect("a namespace"));
        let key =
            ObjectKey { kind: ObjectKind::ExternalWorkload, namespace, name: name.parse().expect("a name") };
        let body = Body::Vm(Vm {
            service_account: "default".into(),
            labels: BTreeMap::new(),
            namespaces: None,
            serve: vec![],
            programs: BTreeMap::new(),
        });
        (key.clone(), Object { uid: key.derived_uid(ClusterUuid([1; 16])), created_s: 0, body })
    };
    let mut memory = Memory::default();
    let mut at = |objects: BTreeMap<ObjectKey, Object>, now_s| {
        let ranges = ["100.64.0.0/24".parse().expect("a range")];
        let (given, exhausted) = memory.allocate(&objects, &ranges, now_s);
        memory = serde_json::from_slice(&memory.to_bytes()).expect("a memory");
        assert_eq!(exhausted, []);
        given.iter().map(|(name, ips)| format!("{name}={ips:?}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(at([vm("web")].into(), 1), "web=[100.64.0.1]");
    assert_eq!(
        at(nodes(&["a"]).into_iter().chain([vm("web")]).collect(), 2),
        "a=[100.64.0.2] web=[100.64.0.1]"
    );
    assert_eq!(at([vm("a"), vm("web")].into(), 3), "a=[100.64.0.2] web=[100.64.0.1]");
}

#[test]
fn a_program_keeps_its_mesh_address_while_others_come_and_go_and_a_restart_forgets_none() {
    let vm = |programs: &[&str]| {
        let namespace = Some("shop".parse().expect("a namespace"));
        let name = "web".parse().expect("a name");
        let key = ObjectKey { kind: ObjectKind::ExternalWorkload, namespace, name };
        let program = |name: &&str| {
            let program = Program {
                processes: Processes::User("billing".parse().expect("a user")),
                service_account: "default".into(),
                labels: BTreeMap::new(),
                serve: vec![],
            };
            (name.parse().expect("a name"), program)
        };
        let body = Body::Vm(Vm {
            service_account: "default".into(),
            labels: BTreeMap::new(),
            namespaces: None,
            serve: vec![],
            programs: programs.iter().map(program).collect(),
        });
        (key.clone(), Object { uid: key.derived_uid(ClusterUuid([1; 16])), created_s: 0, body })
    };
    let mut memory = Memory::default();
    let mut at = |programs: &[&str], now_s| {
        let ranges = ["100.64.0.0/29".parse().expect("a range")];
        let (given, exhausted) = memory.allocate(&[vm(programs)].into(), &ranges, now_s);
        memory = serde_json::from_slice(&memory.to_bytes()).expect("a memory");
        assert_eq!(exhausted, []);
        given.iter().map(|(name, ips)| format!("{name}={ips:?}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(at(&["b"], 1), "web=[100.64.0.1] web/b=[100.64.0.2]");
    assert_eq!(at(&["a", "b"], 2), "web=[100.64.0.1] web/a=[100.64.0.3] web/b=[100.64.0.2]");
    assert_eq!(at(&["c"], 3), "web=[100.64.0.1] web/c=[100.64.0.4]");
    assert_eq!(at(&["a", "b"], 4), "web=[100.64.0.1] web/a=[100.64.0.3] web/b=[100.64.0.2]");
}

#[test]
fn a_node_keeps_its_mesh_addresses_whoever_comes_and_goes() {
    let mut memory = Memory::default();
    let ranges = ["100.64.0.0/24", "fd64::/64"];
    let mut at = |names: &[&str], now_s| allocate(&mut memory, names, &ranges, now_s);
    assert_eq!(at(&["b"], 1), "b=[100.64.0.1, fd64::1]");
    assert_eq!(at(&["a", "b"], 2), "a=[100.64.0.2, fd64::2] b=[100.64.0.1, fd64::1]");
    assert_eq!(
        at(&["a", "c"], 3),
        "a=[100.64.0.2, fd64::2] c=[100.64.0.3, fd64::3]",
        "b's are not given away"
    );
    assert_eq!(at(&["b"], 4), "b=[100.64.0.1, fd64::1]");
}

#[test]
fn a_full_range_gives_what_was_left_longest_ago_and_then_says_that_it_is_full() {
    let mut memory = Memory::default();
    let mut at = |names: &[&str], now_s| allocate(&mut memory, names, &["100.64.0.0/30"], now_s);
    assert_eq!(at(&["a", "b"], 1), "a=[100.64.0.1] b=[100.64.0.2]");
    assert_eq!(at(&["b"], 2), "b=[100.64.0.2]");
    assert_eq!(at(&[], 3), "");
    assert_eq!(at(&["c"], 4), "c=[100.64.0.1]", "a went before b");
    assert_eq!(at(&["b", "c"], 5), "b=[100.64.0.2] c=[100.64.0.1]");
    assert_eq!(at(&["a", "b", "c"], 6), "a=[] b=[100.64.0.2] c=[100.64.0.1] a has none of 100.64.0.0/30");
}

#[test]
fn addresses_outside_the_ranges_are_given_up() {
    let mut memory = Memory::default();
    allocate(&mut memory, &["a"], &["100.64.0.0/24"], 1);
    assert_eq!(allocate(&mut memory, &["a"], &["100.65.0.0/24"], 2), "a=[100.65.0.1]");
}

#[test]
fn a_memory_is_the_same_after_a_restart_and_a_broken_one_stops_us() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("source.json");
    let mut memory = Memory::load(&path).expect("none is empty");
    allocate(&mut memory, &["a", "b"], &["100.64.0.0/24"], 1);
    std::fs::write(&path, memory.to_bytes()).expect("written");
    assert_eq!(Memory::load(&path).expect("read"), memory);
    std::fs::write(&path, "{").expect("written");
    let error = format!("{:#}", Memory::load(&path).expect_err("not ours"));
    assert!(error.contains("restore it, or move it away"), "{error}");
}
