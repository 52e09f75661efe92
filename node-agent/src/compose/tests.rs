mod gateways;
mod programs;
mod relay;

use super::*;
use api::{
    bytes::{BootId, ClusterUuid, IdentityId, PublicKey, Uid},
    key::{Key, LocalKey, MeshKey},
    record::{
        Backend, Closed, Cluster, Endpoint, Freshness, NamedPort, PeerState, Protocol, Record, Service,
        StalePolicy,
    },
};
use expect_test::{Expect, expect};
use replica::follower::{Event, Value};

/// The mesh as node e1 of cluster `east` sees it: itself, e2, and the peer `west` with w1.
struct Mesh {
    view: View,
    host: HostFacts,
    paths: Paths,
    revision: u64,
}

fn cidr(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn mesh() -> Mesh {
    let mut mesh =
        Mesh { view: View::new("east".parse().unwrap()), host: host(), paths: Paths::default(), revision: 0 };
    mesh.cluster("east", 1);
    mesh.node("east", "e1", 1, 1);
    mesh.node("east", "e2", 1, 2);
    mesh.peer("west", Phase::Active, &["10.2.0.0/16", "100.64.2.0/24"]);
    mesh.node("west", "w1", 2, 1);
    mesh
}

fn host() -> HostFacts {
    let pod = Pod { ifindex: 9, mac: [2, 0, 0, 0, 0, 9] };
    HostFacts {
        bindings: [(ip("10.1.1.10"), pod)].into(),
        namespaces: ["/run/netns/cni-1".into()].into(),
        pod_devices: [9].into(),
        uplinks: [2].into(),
        families: Families { v4: true, v6: false },
        uplink_mtu_bytes: 1500,
        listen_port: LISTEN_PORT,
        programs: ProgramFacts::default(),
    }
}

impl Mesh {
    fn put(&mut self, key: impl Into<Key>, record: impl Into<Record>) {
        self.revision += 1;
        let (key, value) = (key.into().to_string().into_bytes(), record.into().encode());
        self.view.apply(Event::Apply(Value { key, value, mod_revision: self.revision }));
    }

    fn cluster(&mut self, name: &str, id: u8) {
        let record = Cluster {
            uuid: ClusterUuid([id; 16]),
            version: String::new(),
            capabilities: vec![],
            pod_cidrs: vec![cidr(&format!("10.{id}.0.0/16"))],
            service_cidrs: vec![cidr(&format!("10.10{id}.0.0/16"))],
            mesh_cidrs: vec![cidr(&format!("100.64.{id}.0/24"))],
            encrypts_inside: false,
        };
        self.put(MeshKey::Cluster.of(&name.parse().unwrap()), record);
    }

    fn node(&mut self, cluster: &str, name: &str, id: u8, number: u8) {
        let (cluster, name): (ClusterName, NodeName) = (cluster.parse().unwrap(), name.parse().unwrap());
        let node = Node {
            mesh_addresses: vec![ip(&format!("100.64.{id}.{number}"))],
            prefixes: vec![cidr(&format!("10.{id}.{number}.0/24"))],
            endpoints: vec![ip(&format!("192.0.2.{id}{number}")), ip(&format!("2001:db8::{id}{number}"))],
            zone: String::new(),
            relay: vec![],
        };
        self.put(MeshKey::Node(name.clone()).of(&cluster), node);
        self.put(
            MeshKey::Key(name).of(&cluster),
            TunnelKey {
                public_key: PublicKey([id * 16 + number; 32]),
                port: LISTEN_PORT,
                clock_epoch: 0,
                relay_key: None,
                on_demand: false,
            },
        );
    }

    fn peer(&mut self, name: &str, phase: Phase, prefixes: &[&str]) {
        let record = PeerState {
            uuid: ClusterUuid([2; 16]),
            phase,
            freshness: Freshness::Fresh,
            stale_policy: StalePolicy::Demote,
            drop_after_ms: 0,
            prefixes: prefixes.iter().map(|p| cidr(p)).collect(),
            nonce: None,
            dropped: false,
            through: None,
            relay: vec![],
        };
        self.put(LocalKey::Peer(name.parse().unwrap()), record);
    }

    fn endpoint(&mut self, node: &str, name: &str, address: &str) {
        let record = Endpoint {
            uid: Uid([1; 16]),
            identity: IdentityId([1; 16]),
            node: node.parse().unwrap(),
            name: name.parse().unwrap(),
            ports: vec![],
            terminating: false,
            created_s: 0,
        };
        self.put(
            MeshKey::Endpoint("shop".parse().unwrap(), ip(address)).of(&"east".parse().unwrap()),
            record,
        );
    }

    fn service(&mut self, cluster: &str, frontend: &str, backends: &[&str]) {
        let port = |port| NamedPort { name: "http".parse().ok(), port, protocol: Protocol::Tcp };
        let (shop, cart) = ("shop".parse().unwrap(), "cart".parse().unwrap());
        let service = Service {
            uid: Uid([1; 16]),
            frontends: vec![ip(frontend)],
            ports: vec![port(80)],
            global: true,
            shared: true,
            affinity: Default::default(),
            headless: false,
            created_s: 0,
            session_affinity_s: 0,
        };
        let cluster: ClusterName = cluster.parse().unwrap();
        self.put(MeshKey::Service(shop, cart).of(&cluster), service);
        for address in backends {
            let backend = Backend {
                uid: Uid([1; 16]),
                ports: vec![port(8080)],
                ready: true,
                serving: true,
                terminating: false,
                weight: 1,
                zone: String::new(),
                node: None,
                hostname: String::new(),
                created_s: 0,
            };
            let key = MeshKey::Backend("shop".parse().unwrap(), "cart".parse().unwrap(), ip(address));
            self.put(key.of(&cluster), backend);
        }
    }

    fn composed(&self) -> Composed {
        compose(&self.view, &"e1".parse().unwrap(), &self.host, &self.paths)
    }

    fn check(&self, expected: Expect) {
        let Composed { image, problems, .. } = self.composed();
        let mut text = String::new();
        for (prefix, reach) in &image.prefixes {
            text += &match reach {
                Reach::Closed => format!("{prefix} closed\n"),
                Reach::Tunnel { mtu_bytes } => format!("{prefix} through the tunnel, {mtu_bytes}\n"),
            };
        }
        for peer in image.tunnel.peers.values() {
            let allowed: Vec<String> = peer.allowed.iter().map(ToString::to_string).collect();
            let endpoint = peer.endpoint.map(|e| e.to_string()).unwrap_or_default();
            text += &format!("peer {endpoint}: {}\n", allowed.join(" "));
        }
        for (address, pod) in &image.pods {
            text += &format!("pod {address} at device {}\n", pod.ifindex);
        }
        for (frontend, backends) in &image.services {
            let backends: Vec<String> = backends.iter().map(ToString::to_string).collect();
            text += &format!("{}:{} → {}\n", frontend.address, frontend.port, backends.join(" "));
        }
        for problem in problems {
            text += &format!("problem: {problem}\n");
        }
        expected.assert_eq(&text);
    }
}

#[test]
fn a_peers_contract_is_closed_and_its_nodes_open_what_they_carry() {
    mesh().check(expect![[r#"
        10.2.0.0/16 closed
        10.2.1.0/24 through the tunnel, 1420
        100.64.1.0/24 closed
        100.64.1.2/32 through the tunnel, 1420
        100.64.2.0/24 closed
        100.64.2.1/32 through the tunnel, 1420
        peer 192.0.2.12:51871: 100.64.1.2/32
        peer 192.0.2.21:51871: 10.2.1.0/24 100.64.2.1/32
    "#]]);
}

#[test]
fn a_prepared_peer_changes_nothing_and_one_that_is_gone_leaves_closed_prefixes() {
    let mut mesh = mesh();
    mesh.peer("west", Phase::Prepared, &["10.2.0.0/16"]);
    mesh.put(LocalKey::Closed("north".parse().unwrap()), Closed { prefixes: vec![cidr("10.3.0.0/16")] });
    mesh.check(expect![[r#"
        10.3.0.0/16 closed
        100.64.1.0/24 closed
        100.64.1.2/32 through the tunnel, 1420
        peer 192.0.2.12:51871: 100.64.1.2/32
    "#]]);
}

#[test]
fn a_prefix_that_no_contract_accepts_is_not_opened_even_if_an_import_let_it_in() {
    let mut mesh = mesh();
    mesh.peer("west", Phase::Active, &["10.9.0.0/16"]);
    let composed = mesh.composed();
    assert!(composed.image.tunnel.peers[&PublicKey([33; 32])].allowed.is_empty());
    assert_eq!(composed.image.prefixes.get(&cidr("10.2.1.0/24")), None);
}

#[test]
fn a_smaller_underlay_and_an_outer_ipv6_make_smaller_packets() {
    for (uplink, endpoint, mtu) in [
        (1500, "192.0.2.1", 1420),
        (9000, "192.0.2.1", 1420),
        (1450, "192.0.2.1", 1376),
        (1500, "2001:db8::1", 1420 / 16 * 16),
        (1400, "192.0.2.1", 1328),
    ] {
        assert_eq!(mtu_bytes(uplink, Some(ip(endpoint))), mtu, "{uplink} to {endpoint}");
    }
    assert_eq!(
        mtu_bytes(1500, None),
        mtu_bytes(1500, Some(ip("2001:db8::1"))),
        "who dials us may do so by IPv6"
    );
}

#[test]
fn a_path_that_was_found_to_be_smaller_than_the_uplink_makes_smaller_packets_to_that_node_alone() {
    let mut mesh = mesh();
    // As an earlier agent left it; what is found now is told in the same way.
    mesh.paths.mtus = PathMtus::remember([(cidr("100.64.2.1/32"), 1232)].into());
    let mtus = |mesh: &Mesh| {
        let composed = mesh.composed();
        let tunnels = composed.tunnels.iter().map(|((_, node), to)| format!("{node} {}", to.mtu_bytes));
        let prefixes = ["10.2.1.0/24", "100.64.2.1/32", "100.64.1.2/32"];
        let reach = prefixes.map(|prefix| composed.image.prefixes[&cidr(prefix)]);
        (tunnels.collect::<Vec<_>>().join(", "), reach)
    };
    let through = |mtu_bytes| Reach::Tunnel { mtu_bytes };
    assert_eq!(mtus(&mesh), ("e2 1420, w1 1232".to_owned(), [through(1232), through(1232), through(1420)]));
    mesh.host.uplink_mtu_bytes = 1280;
    assert_eq!(
        mtus(&mesh),
        ("e2 1216, w1 1216".to_owned(), [through(1216); 3]),
        "never more than the uplink"
    );
}

#[test]
fn a_node_that_nobody_can_dial_dials_by_the_families_of_its_devices_and_is_waited_for_by_the_others() {
    let undialled = |mesh: &mut Mesh, cluster: &str, name: &str, id: u8, number: u8| {
        let node = Node {
            mesh_addresses: vec![ip(&format!("100.64.{id}.{number}"))],
            prefixes: vec![cidr(&format!("10.{id}.{number}.0/24"))],
            endpoints: vec![],
            zone: String::new(),
            relay: vec![],
        };
        let name: NodeName = name.parse().unwrap();
        mesh.put(MeshKey::Node(name).of(&cluster.parse().unwrap()), node);
    };
    let endpoints = |mesh: &Mesh| {
        let composed = mesh.composed();
        assert_eq!(composed.problems, Vec::<String>::new());
        let peers = composed.image.tunnel.peers.into_values();
        peers.map(|peer| peer.endpoint.map(|at| at.to_string())).collect::<Vec<_>>()
    };
    let mut there = mesh();
    undialled(&mut there, "west", "w1", 2, 1);
    assert_eq!(endpoints(&there), [Some("192.0.2.12:51871".to_owned()), None]);

    let mut here = mesh();
    undialled(&mut here, "east", "e1", 1, 1);
    let dialled = |e2: &str, w1: &str| [Some(e2.to_owned()), Some(w1.to_owned())];
    assert_eq!(endpoints(&here), dialled("192.0.2.12:51871", "192.0.2.21:51871"));
    here.host.families = Families { v4: false, v6: true };
    assert_eq!(endpoints(&here), dialled("[2001:db8::12]:51871", "[2001:db8::21]:51871"));
}

#[test]
fn an_endpoint_at_the_mesh_address_is_the_host_itself_and_needs_no_device() {
    let mut mesh = mesh();
    mesh.endpoint("e1", "e1", "100.64.1.1");
    let Composed { image, problems, .. } = mesh.composed();
    assert!(image.pods.is_empty(), "{:?}", image.pods);
    assert_eq!(problems, Vec::<String>::new());
}

#[test]
fn a_pod_needs_an_endpoint_of_this_node_and_a_device_that_the_cni_names() {
    let mut mesh = mesh();
    mesh.endpoint("e1", "cart-1", "10.1.1.10");
    mesh.endpoint("e1", "lost", "10.1.1.99");
    mesh.endpoint("e2", "elsewhere", "10.1.2.10");
    let Composed { image, problems, .. } = mesh.composed();
    assert_eq!(image.pods.keys().collect::<Vec<_>>(), [&ip("10.1.1.10")]);
    assert_eq!(
        problems,
        ["the CNI's results name no device of shop/lost (10.1.1.99): not reachable from the mesh"]
    );
}

#[test]
fn a_global_service_has_the_backends_of_both_clusters() {
    let mut mesh = mesh();
    mesh.service("east", "10.101.0.10", &["10.1.1.10"]);
    mesh.service("west", "10.102.0.10", &["10.2.1.10", "10.2.1.11"]);
    let image = mesh.composed().image;
    assert_eq!(image.session_affinity.len(), 0);
    let services = image.services;
    let backends = services.into_values().flatten().map(|b| b.to_string()).collect::<Vec<_>>();
    assert_eq!(backends, ["10.1.1.10:8080", "10.2.1.10:8080", "10.2.1.11:8080"]);
}

#[test]
fn session_affinity_is_that_of_the_own_service_for_each_of_its_frontends() {
    let mut mesh = mesh();
    mesh.service("east", "10.101.0.10", &["10.1.1.10"]);
    let key = MeshKey::Service("shop".parse().unwrap(), "cart".parse().unwrap()).of(&"east".parse().unwrap());
    let (record, _) = mesh.view.tables().get(&key).expect("it is there");
    let api::record::Record::Service(mut service) = record else { panic!("a Service") };
    service.session_affinity_s = 60;
    mesh.put(key, service);
    let image = mesh.composed().image;
    assert_eq!(
        image.session_affinity.into_iter().collect::<Vec<_>>(),
        [(*image.services.keys().next().unwrap(), 60)]
    );
}

#[test]
fn a_node_that_the_source_does_not_know_says_so_and_keeps_what_is_closed() {
    let mesh = mesh();
    let composed = compose(&mesh.view, &"e9".parse().unwrap(), &mesh.host, &mesh.paths);
    assert!(composed.problems[0].starts_with("no source of east knows a node e9"), "{:?}", composed.problems);
    assert!(composed.image.mesh_addresses.is_empty());
    assert_eq!(composed.image.prefixes[&cidr("10.2.0.0/16")], Reach::Closed);
}

#[test]
fn probes_ask_the_mesh_address_of_every_node_behind_a_tunnel() {
    let targets: Vec<String> = mesh()
        .composed()
        .probe_targets()
        .map(|(t, _)| format!("{}/{} {}", t.cluster, t.node, t.address))
        .collect();
    assert_eq!(targets, ["east/e2 100.64.1.2", "west/w1 100.64.2.1"]);
}

#[test]
fn the_running_boot_of_the_store_does_not_matter_to_the_image() {
    let mut mesh = mesh();
    let before = mesh.composed();
    let heartbeat = api::record::Heartbeat { boot: BootId([7; 16]), revision: 9, source_age_ms: 0 };
    mesh.put(MeshKey::Heartbeat.of(&"east".parse().unwrap()), heartbeat);
    assert_eq!(mesh.composed(), before);
}

#[test]
fn with_scope_all_other_nodes_of_our_own_are_closed_until_their_tunnel_opens_them_and_we_are_not() {
    let mut mesh = mesh();
    mesh.node("east", "e3", 1, 3);
    let inside = |mesh: &Mesh| {
        let image = mesh.composed().image;
        image
            .prefixes
            .into_iter()
            .filter(|(prefix, _)| cidr("10.1.0.0/16").contains(prefix))
            .collect::<Vec<_>>()
    };
    assert_eq!(inside(&mesh), [], "by the CNI's own way");
    let key = MeshKey::Cluster.of(&"east".parse().unwrap());
    let Some((Record::Cluster(cluster), _)) = mesh.view.tables().get(&key) else { panic!("it is there") };
    mesh.put(key, Cluster { encrypts_inside: true, ..cluster });
    let open = Reach::Tunnel { mtu_bytes: 1420 };
    assert_eq!(inside(&mesh), [(cidr("10.1.2.0/24"), open), (cidr("10.1.3.0/24"), open)]);

    // One that has no key yet cannot be reached, in plain least of all.
    let e4 = Node {
        mesh_addresses: vec![ip("100.64.1.4")],
        prefixes: vec![cidr("10.1.4.0/24")],
        endpoints: vec![ip("192.0.2.14")],
        zone: String::new(),
        relay: vec![],
    };
    mesh.put(MeshKey::Node("e4".parse().unwrap()).of(&"east".parse().unwrap()), e4);
    assert_eq!(inside(&mesh)[2], (cidr("10.1.4.0/24"), Reach::Closed));
}
