//! Programs of a VM with identities of their own: told apart on the VM, carried by it to all others.

use super::*;
use api::record::Vm;

const BILLING: &str = "100.64.1.11";
const JOBS: &str = "100.64.1.12";

fn unit() -> Processes {
    Processes::Unit { unit: "billing.service".parse().unwrap(), slice: None }
}

fn user() -> Processes {
    Processes::User("jobs".parse().unwrap())
}

/// e1 and e2 are VMs; e1 is asked, and has two programs.
fn with_programs() -> Mesh {
    let mut mesh = mesh();
    for (name, own, carried) in
        [("e1", "100.64.1.1", vec![BILLING, JOBS]), ("e2", "100.64.1.2", vec!["100.64.1.21"])]
    {
        let node = Node {
            mesh_addresses: vec![ip(own)],
            prefixes: carried.into_iter().map(|address| IpNet::from(ip(address))).collect(),
            endpoints: vec![],
            zone: String::new(),
            relay: vec![],
        };
        mesh.put(MeshKey::Node(name.parse().unwrap()).of(&"east".parse().unwrap()), node);
    }
    let program = |name: &str, processes, address: &str| Program {
        name: name.parse().unwrap(),
        processes,
        addresses: vec![ip(address)],
        serve: vec![],
    };
    let vm = Vm {
        namespace: "shop".parse().unwrap(),
        namespaces: [].into(),
        serve: vec![],
        programs: vec![program("billing", unit(), BILLING), program("jobs", user(), JOBS)],
    };
    mesh.put(LocalKey::Vm("e1".parse().unwrap()), vm);
    mesh.endpoint("e1", "e1.billing", BILLING);
    mesh.host.programs = ProgramFacts {
        cgroups: [(unit(), [7, 12].into())].into(),
        running: [unit()].into(),
        users: [(user(), 1000)].into(),
        above: [1, 5].into(),
        newest_cgroup: 12,
        level: 2,
    };
    mesh
}

#[test]
fn the_processes_of_a_program_have_its_address_and_need_no_device() {
    let composed = with_programs().composed();
    assert_eq!(composed.problems, Vec::<String>::new());
    assert_eq!(composed.image.mesh_addresses, [ip("100.64.1.1")].into(), "a program's is not the VM's");
    let tenant = |address: &str| Tenant { addresses: [ip(address)].into(), ..Tenant::default() };
    let tenants = vec![
        Tenant { cgroups: [7, 12].into(), ..tenant(BILLING) },
        Tenant { users: [1000].into(), ..tenant(JOBS) },
    ];
    let tenancy = Tenancy { tenants, above: [1, 5].into(), newest_cgroup: 12, level: 2 };
    assert_eq!(composed.image.tenancy, tenancy);
    let applied: Vec<_> = composed.programs.iter().map(|it| (it.name.to_string(), it.running)).collect();
    assert_eq!(applied, [("billing".to_owned(), true), ("jobs".to_owned(), false)]);
}

#[test]
fn the_programs_of_another_vm_are_reached_through_its_tunnel_also_inside_the_cluster() {
    let composed = with_programs().composed();
    // Nobody dials it, so its datagrams may be of either family.
    let open = Reach::Tunnel { mtu_bytes: 1408 };
    assert_eq!(composed.image.prefixes[&cidr("100.64.1.21/32")], open);
    let owner =
        composed.image.tunnel.peers.values().find(|peer| peer.allowed.contains(&cidr("100.64.1.21/32")));
    assert!(owner.is_some_and(|peer| peer.allowed.contains(&cidr("100.64.1.2/32"))));
}

#[test]
fn before_the_store_was_listed_programs_are_told_apart_and_nothing_else_is_said() {
    let mesh = with_programs();
    let image = compose_tenancy(&mesh.view, &"e1".parse().unwrap(), &mesh.host);
    let tenancy = mesh.composed().image.tenancy;
    assert_eq!(image, Image { tenancy, ..Image::default() });
    let other = compose_tenancy(&mesh.view, &"e2".parse().unwrap(), &mesh.host);
    assert_eq!(other, Image::default(), "a host without programs tells nobody apart");
}
