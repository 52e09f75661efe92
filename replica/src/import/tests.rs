use super::*;
use api::{
    bytes::{IdentityId, Uid},
    identity::identity,
    peer::Limits,
    record::{
        Backend, Boot, Cluster, Endpoint, Identity, Lineage, NamedPort, Namespace, Node, Peering, Phase,
        Protocol, Service, TunnelKey,
    },
};
use expect_test::{Expect, expect};
use std::fmt::Write as _;

const PEER: ClusterUuid = ClusterUuid([2; 16]);
const OUR_BOOT: BootId = BootId([1; 16]);
const ITS_BOOT: BootId = BootId([2; 16]);

#[test]
fn what_the_contract_allows_is_written_as_it_was_parsed() {
    let mut bench = Bench::new();
    let mut value = backend().encode();
    value.extend([0xf8, 0x07, 0x01]); // Field 127: some later version's.
    bench.apply_raw("mesh/v1/west/backends/shop/cart/10.2.0.7", value);
    let writes = bench.import.poll_writes(128, Now::START);
    let key: Key = MeshKey::Backend(name("shop"), name("cart"), "10.2.0.7".parse().expect("an address"))
        .of(&name("west"));
    assert_eq!(writes, [Write::Put { key, value: backend().encode() }]);
    assert!(bench.import.poll_writes(128, Now::START).is_empty(), "once");
}

#[test]
fn each_rule_refuses_what_breaks_it_and_spoils_no_neighbour() {
    let node = |address: &str, prefix: &str, endpoint: &str| -> Record {
        Node {
            mesh_addresses: ips(address),
            prefixes: nets(prefix),
            endpoints: ips(endpoint),
            zone: String::new(),
            relay: vec![],
        }
        .into()
    };
    let good = || node("10.2.255.1", "10.2.1.0/24", "198.51.100.1");
    let relay = |at: &str| -> Record {
        let (mesh_addresses, relay) = (ips("10.2.255.2"), vec![at.parse().unwrap()]);
        Node { mesh_addresses, prefixes: vec![], endpoints: vec![], zone: String::new(), relay }.into()
    };
    let no_relay_key: Record = TunnelKey {
        public_key: PublicKey([8; 32]),
        port: 51_871,
        clock_epoch: 0,
        relay_key: Some(PublicKey([0; 32])),
        on_demand: false,
    }
    .into();
    let unshared: Record = Service { shared: false, ..service() }.into();
    let ports: Record = Endpoint { ports: vec![port(); 300], ..endpoint() }.into();
    let cluster = |uuid| -> Record { Cluster { uuid, ..cluster() }.into() };
    let zone: Record = Backend { zone: "z".repeat(300), ..backend() }.into();
    let cases: &[(&str, Record, &str)] = &[
        ("mesh/v1/west/nodes/ok", good(), ""),
        ("mesh/v1/east/nodes/n", good(), "foreign-key"),
        ("mesh/v1/north/nodes/n", good(), "foreign-key"),
        ("mesh-local/v1/peers/west", good(), "foreign-key"),
        ("mesh/v1/west/nodes/UPPER", good(), "malformed-key"),
        ("mesh/v1/west/starships/n", good(), ""),
        ("mesh/v1/west/cluster", cluster(PEER), ""),
        ("mesh/v1/west/cluster", cluster(ClusterUuid([3; 16])), "wrong-cluster"),
        ("mesh/v1/west/nodes/n", node("", "", ""), "incomplete"),
        ("mesh/v1/west/nodes/n", node("10.9.0.1", "", ""), "outside-contract"),
        ("mesh/v1/west/nodes/n", node("10.2.255.2", "0.0.0.0/0", ""), "special-address"),
        ("mesh/v1/west/nodes/n", node("10.2.255.2", "::/0", ""), "special-address"),
        ("mesh/v1/west/nodes/n", node("10.2.255.2", "127.0.0.0/24", ""), "special-address"),
        ("mesh/v1/west/nodes/n", node("10.2.255.2", "169.254.0.0/24", ""), "special-address"),
        ("mesh/v1/west/nodes/n", node("10.2.255.2", "fe80::/64", ""), "special-address"),
        ("mesh/v1/west/nodes/n", node("10.2.255.2", "ff02::/16", ""), "special-address"),
        ("mesh/v1/west/nodes/n", node("10.2.255.2", "224.0.0.0/24", ""), "special-address"),
        ("mesh/v1/west/nodes/n", node("10.2.255.2", "10.1.0.0/24", ""), "our-address"),
        ("mesh/v1/west/nodes/n", node("10.2.255.2", "10.0.0.0/8", ""), "our-address"),
        ("mesh/v1/west/nodes/n", node("10.2.255.2", "10.3.0.0/24", ""), "another-peers-address"),
        ("mesh/v1/west/nodes/n", node("10.2.255.2", "192.0.2.0/24", ""), "tunnel-endpoint"),
        ("mesh/v1/west/nodes/n", node("10.2.255.2", "10.2.0.0/15", ""), "another-peers-address"),
        ("mesh/v1/west/nodes/n", node("10.2.255.2", "10.9.0.0/24", ""), "outside-contract"),
        ("mesh/v1/west/nodes/n", node("10.2.255.2", "", "127.0.0.1"), "special-address"),
        ("mesh/v1/west/nodes/n", node("10.2.255.2", "", "10.1.0.1"), "our-address"),
        ("mesh/v1/west/nodes/n", node("10.2.255.2", "", "10.2.0.1"), "tunnel-endpoint"),
        ("mesh/v1/west/nodes/n", relay("127.0.0.1:51872"), "special-address"),
        ("mesh/v1/west/nodes/n", relay("10.1.0.1:51872"), "our-address"),
        ("mesh/v1/west/nodes/n", relay("10.2.0.1:51872"), "tunnel-endpoint"),
        ("mesh/v1/west/keys/n", no_relay_key, "incomplete"),
        ("mesh/v1/west/keys/n", key(0), "incomplete"),
        ("mesh/v1/west/keys/n", key(9), "key-taken"),
        (
            "mesh/v1/west/namespaces/kube-system",
            Namespace { labels: BTreeMap::new() }.into(),
            "namespace-not-allowed",
        ),
        (
            "mesh/v1/west/identities/shop/00000000000000000000000000000000",
            facts_of("cart").into(),
            "forged-identity",
        ),
        ("mesh/v1/west/endpoints/shop/10.2.0.7", endpoint().into(), ""),
        ("mesh/v1/west/endpoints/shop/10.1.0.7", endpoint().into(), "our-address"),
        ("mesh/v1/west/endpoints/shop/10.9.0.7", endpoint().into(), "outside-contract"),
        ("mesh/v1/west/endpoints/kube-system/10.2.0.7", endpoint().into(), "namespace-not-allowed"),
        ("mesh/v1/west/endpoints/shop/10.2.0.8", ports, "too-large"),
        ("mesh/v1/west/services/shop/cart", service().into(), ""),
        ("mesh/v1/west/services/shop/cart", unshared, "not-shared"),
        ("mesh/v1/west/backends/shop/cart/10.2.0.7", backend().into(), ""),
        ("mesh/v1/west/backends/shop/cart/192.0.2.1", backend().into(), "tunnel-endpoint"),
        ("mesh/v1/west/backends/shop/cart/10.2.0.9", zone, "too-large"),
    ];
    for (key, record, reason) in cases {
        let mut bench = Bench::new();
        bench.apply("mesh/v1/west/backends/shop/neighbour/10.2.0.1", backend().into());
        bench.apply_raw(key, record.encode());
        let refusals = bench.import.state().refusals;
        let codes: Vec<&str> = refusals.iter().map(|refusal| refusal.reason.as_str()).collect();
        assert_eq!(codes.join(" "), *reason, "{key}");
        if !reason.is_empty() {
            assert_eq!(bench.held(), "backends/shop/neighbour/10.2.0.1", "{key}");
            assert_eq!(refusals[0].example, *key);
        }
    }
}

#[test]
fn a_value_that_is_garbage_is_refused_and_what_was_known_stays() {
    let mut bench = Bench::new();
    bench.apply("mesh/v1/west/endpoints/shop/10.2.0.7", endpoint().into());
    bench.apply_raw("mesh/v1/west/endpoints/shop/10.2.0.7", vec![0xff; 9]);
    bench.check(expect![[r#"
        endpoints/shop/10.2.0.7
        refused malformed-value 1 mesh/v1/west/endpoints/shop/10.2.0.7
    "#]]);
    bench.list(&["endpoints"], |bench| bench.value("mesh/v1/west/endpoints/shop/10.2.0.7", vec![0xff; 9]));
    assert_eq!(bench.held(), "endpoints/shop/10.2.0.7", "in a list, too");
    bench.delete("mesh/v1/west/endpoints/shop/10.2.0.7");
    assert_eq!(bench.held(), "");
}

#[test]
fn an_identity_is_computed_again() {
    let mut bench = Bench::new();
    let facts = facts_of("cart");
    let (namespace, labels) = (name("shop"), &facts.labels);
    let service_account = "cart";
    let id = identity(api::identity::Facts { cluster: PEER, namespace: &namespace, service_account, labels });
    bench.apply(&format!("mesh/v1/west/identities/shop/{id}"), facts.into());
    assert!(bench.held().starts_with("identities/shop/"));
}

#[test]
fn at_the_limit_a_node_that_is_held_gets_its_key_before_one_that_is_not() {
    let node = |address: &str| -> Record {
        let (mesh_addresses, prefixes) = (ips(address), vec![]);
        Node { mesh_addresses, prefixes, endpoints: vec![], zone: String::new(), relay: vec![] }.into()
    };
    let mut bench = Bench::limited(1);
    // The other node's agent was the first to speak.
    bench.apply("mesh/v1/west/keys/b", key(2));
    bench.apply("mesh/v1/west/keys/a", key(1));
    bench.apply("mesh/v1/west/nodes/a", node("10.2.255.1"));
    bench.apply("mesh/v1/west/nodes/b", node("10.2.255.2"));
    bench.check(expect![[r#"
        nodes/a
        keys/a
        refused over-limit 3 mesh/v1/west/nodes/b
    "#]]);
    bench.delete("mesh/v1/west/nodes/a");
    bench.delete("mesh/v1/west/keys/a");
    assert_eq!(bench.held(), "nodes/b keys/b");
}

#[test]
fn over_the_limit_those_who_are_held_stay_and_the_rest_come_in_the_order_of_their_keys() {
    let mut bench = Bench::limited(2);
    bench.apply("mesh/v1/west/services/shop/m", service().into());
    bench.list(&["services"], |bench| {
        for name in ["a", "b", "m", "z"] {
            bench.value(&format!("mesh/v1/west/services/shop/{name}"), service().encode());
        }
    });
    bench.check(expect![[r#"
        services/shop/a
        services/shop/m
        refused over-limit 2 mesh/v1/west/services/shop/z
    "#]]);
    bench.delete("mesh/v1/west/services/shop/m");
    assert_eq!(bench.held(), "services/shop/a services/shop/b", "who waited comes in");
    bench.delete("mesh/v1/west/services/shop/z");
    bench.delete("mesh/v1/west/services/shop/a");
    assert_eq!(bench.held(), "services/shop/b");
}

#[test]
fn a_flood_of_records_is_bounded_and_listed_again_when_there_is_room() {
    let mut bench = Bench::limited(1);
    for n in 0..WAITING_MAX + 10 {
        bench.apply(&format!("mesh/v1/west/services/shop/s{n}"), service().into());
    }
    assert_eq!(bench.import.waiting.len(), WAITING_MAX);
    assert!(!bench.import.poll_relist(Now::START));
    bench.delete("mesh/v1/west/services/shop/s0");
    assert_eq!(bench.held(), "services/shop/s1", "in key order");
    assert!(bench.import.poll_relist(Now::START));
    assert!(!bench.import.poll_relist(Now::START));
}

#[test]
fn a_prefix_and_a_public_key_have_one_owner_who_keeps_them() {
    let node = |address: &str, prefix: &str| -> Record {
        Node {
            mesh_addresses: ips(address),
            prefixes: nets(prefix),
            endpoints: vec![],
            zone: String::new(),
            relay: vec![],
        }
        .into()
    };
    let mut bench = Bench::new();
    bench.apply("mesh/v1/west/nodes/n2", node("10.2.255.2", "10.2.2.0/24"));
    bench.apply("mesh/v1/west/nodes/n1", node("10.2.255.1", "10.2.2.128/25"));
    bench.apply("mesh/v1/west/nodes/n3", node("10.2.255.2", "10.2.3.0/24"));
    bench.apply("mesh/v1/west/keys/n2", key(2));
    bench.apply("mesh/v1/west/keys/n1", key(2));
    bench.check(expect![[r#"
        nodes/n2
        keys/n2
        refused prefix-taken 2 mesh/v1/west/nodes/n3
        refused key-taken 1 mesh/v1/west/keys/n1
    "#]]);
    // The owner lets go, and who waited has it at once.
    bench.apply("mesh/v1/west/nodes/n2", node("10.2.255.9", "10.2.9.0/24"));
    bench.delete("mesh/v1/west/keys/n2");
    assert_eq!(bench.held(), "nodes/n1 nodes/n2 nodes/n3 keys/n1");
}

#[test]
fn nothing_is_imported_before_the_peering_is_active() {
    let mut bench = Bench::new();
    bench.import.active = false;
    bench.apply("mesh/v1/west/services/shop/cart", service().into());
    bench.list(&["services", "peerings"], |bench| {
        bench.value("mesh/v1/west/services/shop/cart", service().encode());
    });
    assert_eq!(bench.held(), "");
    assert!(bench.import.poll_writes(128, Now::START).is_empty());
    assert_eq!(bench.import.seen().peering(), Told::Absent);
    let peering = Peering { nonce: None, phase: Phase::Prepared, contract_hash: contract(9).hash() };
    bench.apply("mesh/v1/west/peerings/north", peering.clone().into());
    assert_eq!(bench.import.seen().peering(), Told::Absent, "another one's");
    bench.apply("mesh/v1/west/peerings/east", peering.clone().into());
    assert_eq!(bench.import.seen().peering(), Told::Present(&peering));

    bench.import.set_active(true);
    assert_eq!(bench.import.prefixes(), ["mesh/v1/west/"]);
    assert!(bench.import.poll_relist(Now::START), "what was not read before is listed");
}

#[test]
fn a_list_of_a_peering_that_is_prepared_anew_takes_nothing_away() {
    let mut bench = Bench::new();
    // Of a node that the contract does not allow: its key is held, and the node is not.
    bench.apply("mesh/v1/west/keys/n1", key(1));
    bench.apply("mesh/v1/west/services/shop/cart", service().into());
    bench.import.set_active(false);
    bench.list(&["peerings"], |_| ());
    assert_eq!(bench.held(), "keys/n1 services/shop/cart");
}

#[test]
fn a_list_that_a_broken_session_interrupts_goes_on_in_the_next() {
    let mut bench = Bench::new();
    bench.import.handle(Event::Init);
    bench.value("mesh/v1/west/services/shop/cart", service().encode());
    let disconnected =
        Event::Disconnected { error: "cable".into(), refused: false, retry_in: Duration::from_secs(1) };
    bench.import.handle(disconnected);
    bench.value("mesh/v1/west/services/shop/till", service().encode());
    bench.import.handle(Event::InitDone { revision: 1 }).expect("a list was completed");
    assert_eq!(bench.held(), "services/shop/cart services/shop/till");
}

#[test]
fn absence_counts_only_when_the_peer_vouches_for_the_kind() {
    let mut bench = Bench::new();
    bench.apply("mesh/v1/west/services/shop/cart", service().into());
    bench.list(&[], |_| ());
    assert_eq!(bench.held(), "services/shop/cart", "a store that is filling");
    bench.apply("mesh/v1/west/synced/services", Synced { boot: OUR_BOOT }.into());
    assert_eq!(bench.held(), "services/shop/cart", "another boot's word");
    bench.apply("mesh/v1/west/synced/services", Synced { boot: ITS_BOOT }.into());
    assert_eq!(bench.held(), "");
}

#[test]
fn our_word_that_a_kind_is_complete_comes_after_its_records_and_in_our_boot() {
    let mut bench = Bench::new();
    bench.list(&["services"], |bench| {
        for n in 0..3 {
            bench.value(&format!("mesh/v1/west/services/shop/s{n}"), service().encode());
        }
    });
    let mut order = String::new();
    while let [write] = &bench.import.poll_writes(1, Now::START)[..] {
        let Write::Put { key, value } = write else { panic!("{write:?}") };
        writeln!(order, "{key}").expect("a string");
        if let Key::Mesh(_, MeshKey::Synced(_)) = key {
            assert_eq!(Synced::decode(value), Ok(Synced { boot: OUR_BOOT }));
        }
    }
    expect![[r#"
        mesh/v1/west/services/shop/s0
        mesh/v1/west/services/shop/s1
        mesh/v1/west/services/shop/s2
        mesh/v1/west/synced/services
    "#]]
    .assert_eq(&order);
}

#[test]
fn another_contract_takes_away_what_it_no_longer_allows_and_lists_what_it_now_does() {
    let mut bench = Bench::new();
    bench.apply("mesh/v1/west/services/shop/cart", service().into());
    bench.apply("mesh/v1/west/backends/shop/cart/10.2.0.7", backend().into());
    assert_eq!(bench.import.poll_writes(128, Now::START).len(), 2);
    let narrow = Contract { cidrs: nets("10.2.128.0/17"), ..contract(100) };
    bench.import.set_contract(narrow, Now::START);
    assert_eq!(bench.held(), "services/shop/cart");
    assert!(matches!(bench.import.poll_writes(128, Now::START)[..], [Write::Delete { .. }]));
    assert!(bench.import.poll_relist(Now::START));
}

#[test]
fn a_node_of_ours_at_an_announced_address_takes_it_from_the_peer() {
    let mut bench = Bench::new();
    bench.apply("mesh/v1/west/backends/shop/cart/10.2.0.7", backend().into());
    let mut facts = facts();
    facts.tunnel_endpoints.insert("10.2.0.7".parse().expect("an address"));
    bench.import.set_facts(facts);
    assert_eq!(bench.held(), "");
}

#[test]
fn after_a_restart_the_store_keeps_what_is_still_allowed_and_unheard_of_goes_with_the_list() {
    let entry = |key: &str, record: Record| (Key::parse(key.as_bytes()).expect("a key"), record.encode());
    let stored = BTreeMap::from([
        entry("mesh/v1/west/services/shop/cart", Service { frontends: vec![], ..service() }.into()),
        entry("mesh/v1/west/services/shop/gone", Service { frontends: vec![], ..service() }.into()),
        entry("mesh/v1/west/services/kube-system/dns", service().into()),
    ]);
    let mut bench = Bench { import: Import::new(Setup { stored, ..setup(100) }, Now::START), revision: 1 };
    let written = |bench: &mut Bench| {
        let text = |write: &Write| match write {
            Write::Put { key, .. } => format!("put {key}"),
            Write::Delete { key } => format!("delete {key}"),
        };
        bench.import.poll_writes(128, Now::START).iter().map(text).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(written(&mut bench), "delete mesh/v1/west/services/kube-system/dns");
    bench.list(&["services"], |bench| bench.value("mesh/v1/west/services/shop/cart", service().encode()));
    assert_eq!(
        written(&mut bench),
        "delete mesh/v1/west/services/shop/gone\nput mesh/v1/west/synced/services"
    );
}

#[test]
fn a_flapping_key_costs_the_rate_and_no_more() {
    let mut bench = Bench::new();
    let changes_per_second = 1;
    bench.import.set_contract(
        Contract { limits: Limits { changes_per_second, ..limits(100) }, ..contract(100) },
        Now::START,
    );
    assert!(bench.import.poll_relist(Now::START));
    let mut puts = 0;
    for round in 0..1_000u32 {
        let record = Service { created_s: round.into(), ..service() };
        bench.apply("mesh/v1/west/services/shop/cart", record.into());
        puts += bench.import.poll_writes(128, Now::START).len();
    }
    assert_eq!(puts, 10, "ten seconds' worth at once");
    let at = bench.import.poll_timeout().expect("it waits");
    assert_eq!(at, Now::at(Duration::from_secs(1)));
    let [Write::Put { value, .. }] = &bench.import.poll_writes(128, at)[..] else { panic!() };
    assert_eq!(Service::decode(value).expect("a service").created_s, 999, "the newest");
}

#[test]
fn a_write_that_failed_is_wanted_again_as_far_as_it_still_is() {
    let mut bench = Bench::new();
    bench.apply("mesh/v1/west/services/shop/cart", service().into());
    let writes = bench.import.poll_writes(128, Now::START);
    bench.import.requeue(writes.clone());
    assert_eq!(bench.import.poll_writes(128, Now::START), writes);
    bench.import.requeue(writes);
    bench.delete("mesh/v1/west/services/shop/cart");
    assert!(matches!(bench.import.poll_writes(128, Now::START)[..], [Write::Delete { .. }] | []));
}

#[test]
fn losing_most_backends_in_one_list_is_told() {
    let mut bench = Bench::new();
    for n in 1..=8 {
        bench.apply(&format!("mesh/v1/west/backends/shop/cart/10.2.0.{n}"), backend().into());
    }
    let relisted = bench.list(&["backends"], |_| ());
    assert_eq!(relisted.mass_removals, BTreeMap::from([(name("west"), (8, 8))]));
}

// ---- helpers ----

struct Bench {
    import: Import,
    revision: u64,
}

impl Bench {
    fn new() -> Self {
        Self::limited(100)
    }

    fn limited(limit: u32) -> Self {
        let mut bench = Self { import: Import::new(setup(limit), Now::START), revision: 1 };
        bench.list(&[], |_| ());
        bench
    }

    fn apply(&mut self, key: &str, record: Record) {
        self.apply_raw(key, record.encode());
    }

    fn apply_raw(&mut self, key: &str, value: Vec<u8>) {
        self.revision += 1;
        let value = Value { key: key.into(), value, mod_revision: self.revision };
        self.import.handle(Event::Apply(value));
    }

    fn delete(&mut self, key: &str) {
        self.revision += 1;
        self.import.handle(Event::Delete { key: key.into(), mod_revision: self.revision });
    }

    fn value(&mut self, key: &str, value: Vec<u8>) {
        let value = Value { key: key.into(), value, mod_revision: self.revision };
        self.import.handle(Event::InitApply(value));
    }

    fn list(&mut self, synced: &[&str], records: impl FnOnce(&mut Self)) -> Relisted {
        self.import.handle(Event::Init);
        let lineage = Lineage { boots: vec![Boot { id: ITS_BOOT, first_revision: 1 }] };
        self.value("mesh/v1/west/lineage", lineage.encode());
        records(self);
        for kind in synced {
            self.value(&format!("mesh/v1/west/synced/{kind}"), Synced { boot: ITS_BOOT }.encode());
        }
        self.import.handle(Event::InitDone { revision: self.revision }).expect("a list was completed")
    }

    fn held(&self) -> String {
        self.import.accepted.keys().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    fn check(&self, expected: Expect) {
        let mut text = String::new();
        for key in self.import.accepted.keys() {
            writeln!(text, "{key}").expect("a string");
        }
        for refusal in self.import.state().refusals {
            writeln!(text, "refused {} {} {}", refusal.reason, refusal.count, refusal.example)
                .expect("a string");
        }
        expected.assert_eq(&text);
    }
}

fn setup(limit: u32) -> Setup {
    Setup {
        us: name("east"),
        peer: name("west"),
        uuid: PEER,
        boot: OUR_BOOT,
        contract: contract(limit),
        facts: facts(),
        active: true,
        stored: BTreeMap::new(),
    }
}

fn facts() -> Facts {
    Facts {
        our_cidrs: nets("10.1.0.0/16 10.96.0.0/16"),
        tunnel_endpoints: ips("192.0.2.1").into_iter().collect(),
        other_contracts: nets("10.3.0.0/16"),
        foreign_keys: [PublicKey([9; 32])].into(),
    }
}

fn limits(limit: u32) -> Limits {
    Limits {
        nodes: limit,
        identities: limit,
        endpoints: limit,
        services: limit,
        backends: limit,
        ..Limits::default()
    }
}

fn contract(limit: u32) -> Contract {
    Contract {
        cidrs: nets("10.2.0.0/16 fd00:2::/48"),
        namespaces: vec![name("shop")],
        limits: limits(limit),
        relay: vec![],
    }
}

fn name<N: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> N {
    text.parse().expect("a name")
}

fn nets(text: &str) -> Vec<IpNet> {
    text.split_whitespace().map(|net| net.parse().expect("a prefix")).collect()
}

fn ips(text: &str) -> Vec<IpAddr> {
    text.split_whitespace().map(|ip| ip.parse().expect("an address")).collect()
}

fn key(byte: u8) -> Record {
    TunnelKey {
        public_key: PublicKey([byte; 32]),
        port: 51_871,
        clock_epoch: 0,
        relay_key: None,
        on_demand: false,
    }
    .into()
}

fn port() -> NamedPort {
    NamedPort { name: None, port: 80, protocol: Protocol::Tcp }
}

fn cluster() -> Cluster {
    Cluster {
        uuid: PEER,
        version: "1".to_owned(),
        capabilities: vec![],
        pod_cidrs: nets("10.2.0.0/17"),
        service_cidrs: nets("10.96.0.0/16"),
        mesh_cidrs: nets("10.2.255.0/24"),
        encrypts_inside: false,
    }
}

fn facts_of(service_account: &str) -> Identity {
    Identity {
        service_account: service_account.to_owned(),
        labels: BTreeMap::from([("app".into(), "cart".into())]),
    }
}

fn service() -> Service {
    Service {
        uid: Uid([1; 16]),
        frontends: ips("10.96.0.1"),
        ports: vec![port()],
        global: true,
        shared: true,
        affinity: api::record::Affinity::None,
        headless: false,
        created_s: 1,
        session_affinity_s: 0,
    }
}

fn endpoint() -> Endpoint {
    Endpoint {
        uid: Uid([3; 16]),
        identity: IdentityId([4; 16]),
        node: name("w1"),
        name: name("cart-7f"),
        ports: vec![port()],
        terminating: false,
        created_s: 1,
    }
}

fn backend() -> Backend {
    Backend {
        uid: Uid([3; 16]),
        ports: vec![port()],
        ready: true,
        serving: true,
        terminating: false,
        weight: 1,
        zone: String::new(),
        node: Some(name("w1")),
        hostname: String::new(),
        created_s: 1,
    }
}
