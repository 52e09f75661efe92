use super::*;
use crate::bytes::{BootId, ClusterUuid, ContractHash, IdentityId, Instance, Nonce, PublicKey, Uid};
use expect_test::{Expect, expect};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn port(name: &str, port: u16, protocol: Protocol) -> NamedPort {
    NamedPort { name: name.parse().ok(), port, protocol }
}

fn check(key: &str, record: impl Into<Record>, golden: Expect) {
    let record = record.into();
    let bytes = record.encode();
    golden.assert_eq(&hex::encode(&bytes));
    let key = Key::parse(key.as_bytes()).unwrap_or_else(|e| panic!("{key}: {e}"));
    assert_eq!(Record::decode(&key, &bytes), Ok(record), "{key} does not read back as it was written");
}

#[test]
fn published_bytes_stay_as_they_are() {
    check(
        "mesh/v1/west/cluster",
        Cluster {
            uuid: ClusterUuid([7; 16]),
            version: "0.1.0".into(),
            capabilities: vec!["relay".into()],
            pod_cidrs: vec!["10.2.0.0/16".parse().unwrap(), "fd00:10:2::/48".parse().unwrap()],
            service_cidrs: vec!["10.102.0.0/16".parse().unwrap()],
            mesh_cidrs: vec!["100.64.2.0/24".parse().unwrap()],
            encrypts_inside: false,
        },
        expect![
            "0a10070707070707070707070707070707071205302e312e301a0572656c617922080a040a020000101022140a10fd00001000020000000000000000000010302a080a040a660000101032080a04644002001018"
        ],
    );
    check(
        "mesh/v1/west/heartbeat",
        Heartbeat { boot: BootId([1; 16]), revision: 4812, source_age_ms: 250 },
        expect!["0a100101010101010101010101010101010110cc2518fa01"],
    );
    check(
        "mesh/v1/west/lineage",
        Lineage {
            boots: vec![
                Boot { id: BootId([1; 16]), first_revision: 1 },
                Boot { id: BootId([2; 16]), first_revision: 900 },
            ],
        },
        expect!["0a140a100101010101010101010101010101010110010a150a1002020202020202020202020202020202108407"],
    );
    check(
        "mesh/v1/west/synced/backends",
        Synced { boot: BootId([1; 16]) },
        expect!["0a1001010101010101010101010101010101"],
    );
    check(
        "mesh/v1/west/peerings/east",
        Peering { nonce: Some(Nonce([3; 16])), phase: Phase::Prepared, contract_hash: ContractHash([4; 32]) },
        expect![
            "0a100303030303030303030303030303030310011a200404040404040404040404040404040404040404040404040404040404040404"
        ],
    );
    check(
        "mesh/v1/west/nodes/w1",
        Node {
            mesh_addresses: vec!["100.64.2.1".parse().unwrap(), "fd64:2::1".parse().unwrap()],
            prefixes: vec!["10.2.1.0/24".parse().unwrap()],
            endpoints: vec!["192.0.2.65".parse().unwrap()],
            zone: "w".into(),
            relay: vec![],
        },
        expect!["0a04644002010a10fd64000200000000000000000000000112080a040a02010010181a04c0000241220177"],
    );
    check(
        "mesh/v1/west/keys/w1",
        TunnelKey {
            public_key: PublicKey([5; 32]),
            port: 51871,
            clock_epoch: 0,
            relay_key: None,
            on_demand: false,
        },
        expect!["0a200505050505050505050505050505050505050505050505050505050505050505109f9503"],
    );
    check(
        "mesh/v1/west/keys/w2",
        TunnelKey {
            public_key: PublicKey([5; 32]),
            port: 51871,
            clock_epoch: 300,
            relay_key: None,
            on_demand: false,
        },
        expect!["0a200505050505050505050505050505050505050505050505050505050505050505109f950318ac02"],
    );
    check(
        "mesh/v1/west/keys/w4",
        TunnelKey {
            public_key: PublicKey([5; 32]),
            port: 51871,
            clock_epoch: 0,
            relay_key: None,
            on_demand: true,
        },
        expect!["0a200505050505050505050505050505050505050505050505050505050505050505109f95032801"],
    );
    check(
        "mesh/v1/west/nodes/w2",
        Node {
            mesh_addresses: vec![],
            prefixes: vec![],
            endpoints: vec![],
            zone: String::new(),
            relay: vec!["192.0.2.66:51872".parse().unwrap(), "[2001:db8::66]:51872".parse().unwrap()],
        },
        expect!["2a0a0a04c000024210a095032a160a1020010db800000000000000000000006610a09503"],
    );
    check(
        "mesh/v1/west/keys/w3",
        TunnelKey {
            public_key: PublicKey([5; 32]),
            port: 51871,
            clock_epoch: 0,
            relay_key: Some(PublicKey([6; 32])),
            on_demand: false,
        },
        expect![
            "0a200505050505050505050505050505050505050505050505050505050505050505109f950322200606060606060606060606060606060606060606060606060606060606060606"
        ],
    );
    check(
        "mesh/v1/west/namespaces/shop",
        Namespace { labels: map(&[("team", "shop")]) },
        expect!["0a0c0a047465616d120473686f70"],
    );
    check(
        "mesh/v1/west/identities/shop/06060606060606060606060606060606",
        Identity { service_account: "cart".into(), labels: map(&[("app", "cart")]) },
        expect!["0a0463617274120b0a03617070120463617274"],
    );
    check(
        "mesh/v1/west/endpoints/shop/10.2.1.7",
        Endpoint {
            uid: Uid([8; 16]),
            identity: IdentityId([6; 16]),
            node: "w1".parse().unwrap(),
            name: "cart-7f".parse().unwrap(),
            ports: vec![port("http", 8080, Protocol::Tcp)],
            terminating: true,
            created_s: 1_700_000_000,
        },
        expect![
            "0a10080808080808080808080808080808081210060606060606060606060606060606061a0277312207636172742d37662a0b0a046874747010903f180630013880e2cfaa06"
        ],
    );
    check(
        "mesh/v1/west/services/shop/cart",
        Service {
            uid: Uid([9; 16]),
            frontends: vec!["10.102.0.10".parse().unwrap(), "fd00:102::10".parse().unwrap()],
            ports: vec![port("http", 80, Protocol::Tcp), port("", 53, Protocol::Udp)],
            global: true,
            shared: true,
            affinity: Affinity::Local,
            headless: false,
            created_s: 1_700_000_000,
            session_affinity_s: 0,
        },
        expect![
            "0a100909090909090909090909090909090912040a66000a1210fd0001020000000000000000000000101a0a0a0468747470105018061a04103518112001280130014080e2cfaa06"
        ],
    );
    check(
        "mesh/v1/west/services/shop/session",
        Service {
            uid: Uid([9; 16]),
            frontends: vec!["10.102.0.11".parse().unwrap()],
            ports: vec![],
            global: false,
            shared: false,
            affinity: Affinity::None,
            headless: false,
            created_s: 1_700_000_000,
            session_affinity_s: 10_800,
        },
        expect!["0a100909090909090909090909090909090912040a66000b4080e2cfaa0648b054"],
    );
    check(
        "mesh/v1/west/backends/shop/cart/10.2.1.7",
        Backend {
            uid: Uid([8; 16]),
            ports: vec![port("http", 8080, Protocol::Tcp)],
            ready: true,
            serving: true,
            terminating: false,
            weight: 1,
            zone: "w".into(),
            node: "w1".parse().ok(),
            hostname: String::new(),
            created_s: 1_700_000_000,
        },
        expect![
            "0a1008080808080808080808080808080808120b0a046874747010903f18061801200130013a0177420277315080e2cfaa06"
        ],
    );
    check(
        "mesh-local/v1/applied/w1",
        Applied {
            clusters: vec![AppliedCluster { cluster: "east".parse().unwrap(), revision: 12 }],
            tunnels: vec![Tunnel {
                cluster: "east".parse().unwrap(),
                node: "e1".parse().unwrap(),
                mtu_bytes: 1420,
                handshake_age_ms: Some(1_000),
                rtt_us: Some(0),
                probe_age_ms: None,
                probe_failed: true,
                rx_bytes: 1,
                tx_bytes: 2,
                endpoint: "192.0.2.1:51871".into(),
                relay: String::new(),
                on_demand: false,
            }],
            agent_version: "0.1.0".into(),
            datapath: "wireguard-user".into(),
            packet_hook: String::new(),
            balancer: String::new(),
            problems: vec!["mesh0 is down".into()],
            programmed: true,
            drops_guard: 3,
            services: 4,
            backends: 5,
            written_ms: 6,
            programs: vec![],
        },
        expect![
            "0a080a0465617374100c12290a046561737412026531188c0b20e8072800380140014802520f3139322e302e322e313a35313837311a05302e312e30220e7769726567756172642d757365722a0d6d6573683020697320646f776e30013803400448055006"
        ],
    );
    check(
        "mesh-local/v1/applied/w1",
        Applied { packet_hook: "clsact".into(), ..Default::default() },
        expect!["5a06636c73616374"],
    );
    check(
        "mesh-local/v1/applied/w1",
        Applied { balancer: "nftables".into(), ..Default::default() },
        expect!["62086e667461626c6573"],
    );
    check(
        "mesh-local/v1/applied/web-1",
        Applied {
            programs: vec![AppliedProgram { name: "billing".parse().unwrap(), running: true }],
            ..Default::default()
        },
        expect!["6a0b0a0762696c6c696e671001"],
    );
    check(
        "mesh-local/v1/applied/w2",
        Applied {
            tunnels: vec![Tunnel {
                cluster: "north".parse().unwrap(),
                node: "n1".parse().unwrap(),
                mtu_bytes: 1420,
                handshake_age_ms: None,
                rtt_us: None,
                probe_age_ms: None,
                probe_failed: false,
                rx_bytes: 0,
                tx_bytes: 0,
                endpoint: "192.0.2.9:51872".into(),
                relay: "east/e1".into(),
                on_demand: true,
            }],
            ..Default::default()
        },
        expect!["122a0a056e6f72746812026e31188c0b520f3139322e302e322e393a35313837325a07656173742f65316001"],
    );
    check(
        "mesh-local/v1/peers/east",
        PeerState {
            uuid: ClusterUuid([7; 16]),
            phase: Phase::Active,
            freshness: Freshness::Stale,
            stale_policy: StalePolicy::DropAfter,
            drop_after_ms: 600_000,
            prefixes: vec!["10.1.0.0/16".parse().unwrap()],
            nonce: None,
            dropped: true,
            through: None,
            relay: vec![],
        },
        expect!["0a100707070707070707070707070707070710021802200228c0cf2432080a040a01000010104001"],
    );
    check(
        "mesh-local/v1/peers/north",
        PeerState {
            uuid: ClusterUuid([7; 16]),
            phase: Phase::Active,
            freshness: Freshness::Fresh,
            stale_policy: StalePolicy::Demote,
            drop_after_ms: 0,
            prefixes: vec![],
            nonce: None,
            dropped: false,
            through: "east".parse().ok(),
            relay: vec!["south".parse().unwrap()],
        },
        expect!["0a1007070707070707070707070707070707100218014a04656173745205736f757468"],
    );
    check(
        "mesh-local/v1/imports/east",
        ImportState {
            records: 9,
            endpoints: 1,
            backends: 2,
            services: 3,
            peer_revision: 12,
            refusals: vec![Refusal {
                reason: "outside-contract".into(),
                count: 4,
                example: "mesh/v1/east/nodes/e9".into(),
            }],
            last_error: "cut".into(),
            connected: true,
            synced: true,
            way: Way::Dialled,
        },
        expect![
            "0809100118022003280c322b0a106f7574736964652d636f6e747261637410041a156d6573682f76312f656173742f6e6f6465732f65393a0363757440014801"
        ],
    );
    check(
        "mesh-local/v1/imports/east",
        ImportState { way: Way::Relayed("core".parse().unwrap()), ..ImportState::default() },
        expect!["50025a04636f7265"],
    );
    check(
        "mesh-local/v1/closed/east",
        Closed { prefixes: vec!["::/1".parse().unwrap()] },
        expect!["0a140a10000000000000000000000000000000001001"],
    );
    check(
        "mesh-local/v1/vms/web-1",
        Vm {
            namespace: "shop".parse().unwrap(),
            namespaces: ["shop".parse().unwrap(), "db".parse().unwrap()].into(),
            serve: vec![Served {
                service: "cart".parse().unwrap(),
                ports: vec![port("http", 8080, Protocol::Tcp)],
            }],
            programs: vec![],
        },
        expect!["0a0473686f7012026462120473686f701a130a0463617274120b0a046874747010903f1806"],
    );
    let program = |name: &str, processes| Program {
        name: name.parse().unwrap(),
        processes,
        addresses: vec!["100.64.2.10".parse().unwrap()],
        serve: vec![],
    };
    let unit = |slice: Option<&str>| Processes::Unit {
        unit: "billing.service".parse().unwrap(),
        slice: slice.map(|slice| slice.parse().unwrap()),
    };
    check(
        "mesh-local/v1/vms/web-2",
        Vm {
            namespace: "shop".parse().unwrap(),
            namespaces: ["shop".parse().unwrap()].into(),
            serve: vec![],
            programs: vec![
                program("a", unit(None)),
                program("b", unit(Some("pay.slice"))),
                program("c", Processes::User("billing".parse().unwrap())),
            ],
        },
        expect![
            "0a0473686f70120473686f70221a0a0161120f62696c6c696e672e736572766963652a046440020a22250a0162120f62696c6c696e672e736572766963651a097061792e736c6963652a046440020a22120a0163220762696c6c696e672a046440020a"
        ],
    );
    check(
        "mesh-local/v1/presence/web-1",
        Presence {
            instance: Instance([10; 16]),
            sequence: 3,
            serve: vec![ServedHealth {
                service: "cart".parse().unwrap(),
                port: 8080,
                address: "100.64.2.9".parse().unwrap(),
                healthy: true,
            }],
            agent_version: "0.1.0".into(),
        },
        expect![
            "0a100a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a10031a110a046361727410903f1a046440020920012205302e312e30"
        ],
    );
}

#[test]
fn a_field_that_breaks_its_rule_is_named() {
    let refused = |key: &str, bytes: Vec<u8>, says: Expect| {
        let error = Record::decode(&Key::parse(key.as_bytes()).unwrap(), &bytes).expect_err(key);
        says.assert_eq(&error.to_string());
    };
    let key = |public_key: Vec<u8>, port| {
        prost::Message::encode_to_vec(&crate::pb::Key { public_key, port, ..Default::default() })
    };
    refused(
        "mesh/v1/w/keys/a",
        key(vec![1; 31], 51871),
        expect!["field `public_key`: a public key is 32 bytes, and this is not one"],
    );
    refused(
        "mesh/v1/w/keys/a",
        key(vec![1; 32], 70_000),
        expect!["field `port`: 70000 is not a port (1 to 65535)"],
    );
    let node = |address: Vec<u8>, length| {
        let prefixes = vec![crate::pb::Prefix { address, length }];
        prost::Message::encode_to_vec(&crate::pb::Node { prefixes, ..Default::default() })
    };
    refused(
        "mesh/v1/w/nodes/a",
        node(vec![10, 2, 0, 1], 16),
        expect!["field `prefixes`: 10.2.0.1/16 has bits set outside its length"],
    );
    refused(
        "mesh/v1/w/nodes/a",
        node(vec![10, 2], 16),
        expect!["field `prefixes`: an address has 4 or 16 bytes"],
    );
    let program = |unit: &str, user: &str| {
        let program = crate::pb::Program {
            name: "a".into(),
            unit: unit.into(),
            user: user.into(),
            ..Default::default()
        };
        let namespace = "shop".into();
        prost::Message::encode_to_vec(&crate::pb::Vm {
            namespace,
            programs: vec![program],
            ..Default::default()
        })
    };
    refused(
        "mesh-local/v1/vms/v",
        program("a.service", "b"),
        expect!["field `programs`: a unit or a user is named, not both"],
    );
    refused(
        "mesh-local/v1/vms/v",
        program("../a.service", ""),
        expect![[
            r#"field `programs.unit`: `../a.service` is not a valid unit: 1 to 255 of A-Z, a-z, 0-9 and ':-_.\@', ending with '.service', '.scope' or '.slice' (systemd.unit(5))"#
        ]],
    );
    refused("mesh/v1/w/cluster", vec![0xff; 9], expect!["the bytes are not a record of this kind"]);
    refused("mesh/v1/w/cluster", vec![0; 70_000], expect!["the record has 70000 bytes and may have 65536"]);
    refused("mesh/v1/w/lineage", vec![], expect!["field `boots`: a lineage has at least the running boot"]);
}

#[test]
fn a_field_from_the_future_is_ignored_and_not_passed_on() {
    let mut bytes = TunnelKey {
        public_key: PublicKey([5; 32]),
        port: 51871,
        clock_epoch: 0,
        relay_key: None,
        on_demand: false,
    }
    .encode();
    let known = bytes.clone();
    bytes.extend([0xa2, 0x06, 3, b'n', b'e', b'w']);
    assert_eq!(TunnelKey::decode(&bytes).unwrap().encode(), known);
}

#[test]
fn a_follower_resumes_only_inside_a_run_that_the_store_remembers() {
    let boot = |id, first_revision| Boot { id: BootId([id; 16]), first_revision };
    let lineage = Lineage { boots: vec![boot(1, 1), boot(2, 100), boot(3, 100), boot(4, 200)] };
    for (id, revision, allowed) in [
        (1, 50, true),
        (1, 99, true),
        (1, 100, false),
        (2, 100, false),
        (3, 150, true),
        (4, 199, true),
        (4, 5_000, true),
        (5, 50, false),
    ] {
        assert_eq!(lineage.allows_resume(BootId([id; 16]), revision), allowed, "boot {id} at {revision}");
    }
    let lineage = Lineage { boots: vec![boot(1, 2), boot(2, 100), boot(3, 100), boot(4, 200)] };
    for (revision, id) in
        [(0, None), (1, Some(1)), (2, Some(1)), (99, Some(1)), (100, Some(3)), (900, Some(4))]
    {
        assert_eq!(lineage.boot_at(revision), id.map(|id| BootId([id; 16])), "revision {revision}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic_any_decoder_and_what_decodes_reads_back(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for key in [
            "mesh/v1/w/cluster", "mesh/v1/w/heartbeat", "mesh/v1/w/lineage", "mesh/v1/w/synced/nodes", "mesh/v1/w/peerings/e",
            "mesh/v1/w/nodes/n", "mesh/v1/w/keys/n", "mesh/v1/w/namespaces/s", "mesh/v1/w/identities/s/00000000000000000000000000000000",
            "mesh/v1/w/endpoints/s/10.0.0.1", "mesh/v1/w/services/s/c", "mesh/v1/w/backends/s/c/10.0.0.1", "mesh-local/v1/applied/n",
            "mesh-local/v1/peers/e", "mesh-local/v1/imports/e", "mesh-local/v1/closed/e", "mesh-local/v1/vms/v",
        ] {
            let key = Key::parse(key.as_bytes()).unwrap();
            if let Ok(record) = Record::decode(&key, &bytes) {
                prop_assert_eq!(Record::decode(&key, &record.encode()), Ok(record));
            }
        }
    }

    #[test]
    fn a_backend_reads_back_as_itself(
        uid in any::<[u8; 16]>(), ports in prop::collection::vec((0u16..5, 1u16.., any::<bool>()), 0..4),
        ready in any::<bool>(), serving in any::<bool>(), terminating in any::<bool>(), weight in 1u32..9, created_s in any::<u64>(),
    ) {
        let ports = ports.into_iter().map(|(n, number, udp)| {
            port(["", "a", "b-c", "http", "x9"][usize::from(n)], number, if udp { Protocol::Udp } else { Protocol::Tcp })
        });
        let backend = Backend {
            uid: Uid(uid), ports: ports.collect(), ready, serving, terminating, weight,
            zone: "z".into(), node: None, hostname: "h".into(), created_s,
        };
        prop_assert_eq!(Backend::decode(&backend.encode()), Ok(backend));
    }
}
