use super::*;
use bytes::Bytes;
use prost::Message;
use prost_types::FileDescriptorSet;
use rpc::{DESCRIPTORS, etcdserverpb as pb};
use std::collections::BTreeSet;

const WEST: ClusterUuid = ClusterUuid([0x11; 16]);
const EAST: ClusterUuid = ClusterUuid([0x22; 16]);
const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";
const DELETE: &str = "/etcdserverpb.KV/DeleteRange";
const TXN: &str = "/etcdserverpb.KV/Txn";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const BUCKETS: &str = "/mesh.sync.v1.Sync/Buckets";
const ENTRIES: &str = "/mesh.sync.v1.Sync/Entries";

#[test]
fn every_method_of_every_service_has_exactly_one_row_and_no_row_is_of_a_method_that_is_not_there() {
    let files = FileDescriptorSet::decode(DESCRIPTORS).expect("our own descriptors");
    let mut methods = BTreeSet::new();
    for file in &files.file {
        for service in &file.service {
            for method in &service.method {
                methods.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    let rows: BTreeSet<String> = TABLE.iter().map(|row| row.method.to_owned()).collect();
    assert_eq!(rows, methods);
    assert_eq!(rows.len(), TABLE.len(), "no method twice");
    assert_eq!(row("/grpc.health.v1.Health/Check"), None);
}

#[test]
fn a_method_that_is_not_in_the_table_is_refused_to_everybody() {
    for who in everybody() {
        let error = authorize(&west(), &who, "/etcdserverpb.KV/RangeStream", &[]).expect_err("refused");
        assert!(error.to_string().starts_with("etcdserver: permission denied: spiffe://"), "{error}");
    }
}

#[test]
fn pipes_are_for_apiservers_of_other_clusters_alone() {
    for method in ["/mesh.pipe.v1.Pipe/Offer", "/mesh.pipe.v1.Pipe/Open"] {
        for who in everybody() {
            assert_eq!(authorize(&west(), &who, method, &[]).is_ok(), who == peer_east(), "{who} {method}");
        }
    }
}

/// Who may read what, by a get, by a watch, by the compare of a txn and by hashes: the same.
#[test]
fn what_can_be_read_does_not_depend_on_how() {
    let table = [
        // key, end, peer, node
        ("mesh/v1/west/", "mesh/v1/west0", true, true),
        ("mesh/v1/west/nodes/w1", "", true, true),
        ("mesh/v1/west/nodes/", "mesh/v1/west/nodes0", true, true),
        ("mesh/v1/west", "", false, true),
        ("mesh/v1/west", "mesh/v1/west0", false, true),
        ("mesh/v1/west/", "mesh/v1/west1", false, true),
        ("mesh/v1/west/", "mesh/v1/x", false, true),
        ("mesh/v1/west/nodes/w1", "\0", false, false),
        ("mesh/v1/western/nodes/w1", "", false, true),
        ("mesh/v1/east/nodes/e1", "", false, true),
        ("mesh/v1/", "mesh/v10", false, true),
        ("mesh-local/v1/", "mesh-local/v10", false, true),
        ("mesh-local/v1/services/shop/db", "", false, true),
        ("mesh-local/", "mesh-local0", false, false),
        ("mesh/", "mesh0", false, false),
        ("\0", "\0", false, false),
        ("health", "", false, false),
    ];
    for (key, end, peer, node) in table {
        let range = range(&pb::RangeRequest { key: b(key), range_end: b(end), ..Default::default() })
            .expect("a range");
        let watch = watch(&pb::WatchCreateRequest { key: b(key), range_end: b(end), ..Default::default() });
        let compare = txn(&pb::TxnRequest {
            compare: vec![pb::Compare { key: b(key), range_end: b(end), ..Default::default() }],
            ..Default::default()
        });
        let hashes = hashes(&b(key), &b(end)).expect("a range");
        let ways = [
            (RANGE, range),
            (WATCH, watch.expect("a range")),
            (TXN, compare.expect("a range")),
            (BUCKETS, hashes.clone()),
            (ENTRIES, hashes),
        ];
        for (method, touches) in ways {
            let may = |who: &SpiffeId| authorize(&west(), who, method, &touches).is_ok();
            let subjects =
                [peer_east(), id(WEST, Role::Node, "w1"), admin(), id(WEST, Role::Reader, "grafana")];
            assert_eq!(subjects.map(|who| may(&who)), [peer, node, true, true], "{method} {key} .. {end}");
            // What a VM is shown of it is another question.
            let listed = node && [RANGE, WATCH].contains(&method);
            assert_eq!(may(&id(WEST, Role::Vm, "edge")), listed, "{method} {key}");
        }
    }
}

/// The value of a key of a node or a VM.
fn tunnel_key() -> Vec<u8> {
    let public_key = api::bytes::PublicKey([7; 32]);
    api::record::TunnelKey { public_key, port: 51_871, clock_epoch: 0, relay_key: None, on_demand: false }
        .encode()
}

#[test]
fn a_node_writes_its_own_two_records_and_nothing_else() {
    let key = tunnel_key();
    for (what, allowed) in [
        ("mesh/v1/west/keys/w1", true),
        ("mesh/v1/west/keys/w2", false),
        ("mesh/v1/west/keys/w1/", false),
        ("mesh/v1/east/keys/w1", false),
        ("mesh/v1/west/nodes/w1", false),
        ("mesh-local/v1/applied/w2", false),
        ("mesh-local/v1/peers/east", false),
        ("anything", false),
    ] {
        assert_eq!(node_may_put(what, &key), allowed, "{what}");
    }
    let ranged = delete_range(&pb::DeleteRangeRequest {
        key: b("mesh/v1/west/keys/w1"),
        range_end: b("mesh/v1/west/keys/w2"),
        prev_kv: false,
    });
    let node = id(WEST, Role::Node, "w1");
    authorize(&west(), &node, DELETE, &ranged.expect("a range"))
        .expect_err("a range is more than its own key");
}

#[test]
fn a_node_writes_only_values_that_are_records_of_their_key() {
    let error =
        authorize(&west(), &id(WEST, Role::Node, "w1"), PUT, &put_of("mesh/v1/west/keys/w1", b"garbage"));
    let text = error.expect_err("refused").to_string();
    assert!(text.contains("may write only valid records: mesh/v1/west/keys/w1: "), "{text}");
}

#[test]
fn a_vm_writes_its_own_three_records_by_put_alone() {
    let key = tunnel_key();
    let presence = api::record::Presence {
        instance: api::bytes::Instance([1; 16]),
        sequence: 1,
        serve: vec![],
        agent_version: String::new(),
    };
    let presence = presence.encode();
    let who = id(WEST, Role::Vm, "web-1");
    let puts = |key: &str, value: &[u8]| authorize(&west(), &who, PUT, &put_of(key, value)).is_ok();
    assert!(puts("mesh/v1/west/keys/web-1", &key));
    assert!(puts("mesh-local/v1/presence/web-1", &presence));
    assert!(puts("mesh-local/v1/applied/web-1", b""));
    for another in ["mesh/v1/west/keys/web-10", "mesh/v1/west/keys/w1", "mesh/v1/east/keys/web-1"] {
        assert!(!puts(another, &key), "{another}");
    }
    for another in ["mesh-local/v1/presence/web-2", "mesh-local/v1/vms/web-1"] {
        assert!(!puts(another, &presence), "{another}");
    }
    authorize(&west(), &who, DELETE, &put_of("mesh/v1/west/keys/web-1", b"")).expect_err("no delete");
    authorize(&west(), &who, TXN, &[]).expect_err("no txn");
}

#[test]
fn a_vm_is_shown_what_opens_its_tunnels_the_services_of_its_namespaces_and_itself() {
    let me = "web-1".parse().expect("a name");
    let of = |namespaces: &[&str]| api::record::Vm {
        namespace: "shop".parse().expect("a name"),
        namespaces: namespaces.iter().map(|name| name.parse().expect("a name")).collect(),
        serve: vec![],
        programs: vec![],
    };
    let table = [
        // key, with the namespaces shop and db, with all
        ("mesh/v1/west/cluster", true, true),
        ("mesh/v1/east/lineage", true, true),
        ("mesh/v1/west/synced/services", true, true),
        ("mesh/v1/east/nodes/e1", true, true),
        ("mesh/v1/east/keys/e1", true, true),
        ("mesh/v1/east/services/shop/cart", true, true),
        ("mesh/v1/east/services/bank/ledger", false, true),
        ("mesh/v1/east/backends/db/pg/10.2.0.7", true, true),
        ("mesh/v1/east/backends/bank/ledger/10.2.0.7", false, true),
        ("mesh/v1/west/heartbeat", false, false),
        ("mesh/v1/west/peerings/east", false, false),
        ("mesh/v1/west/namespaces/shop", false, false),
        ("mesh/v1/west/identities/shop/000102030405060708090a0b0c0d0e0f", false, false),
        ("mesh/v1/west/endpoints/shop/10.1.0.7", false, false),
        ("mesh/v1/west/of-a-later-version", false, false),
        ("mesh-local/v1/services/shop/db", true, true),
        ("mesh-local/v1/services/bank/db", false, true),
        ("mesh-local/v1/backends/bank/db/10.1.0.7", false, true),
        ("mesh-local/v1/peers/east", true, true),
        ("mesh-local/v1/closed/north", true, true),
        ("mesh-local/v1/imports/east", false, false),
        ("mesh-local/v1/applied/web-1", true, true),
        ("mesh-local/v1/applied/web-10", false, false),
        ("mesh-local/v1/vms/web-1", true, true),
        ("mesh-local/v1/vms/web-2", false, false),
        ("mesh-local/v1/presence/web-2", false, false),
        ("not/ours", false, false),
    ];
    for (key, some, all) in table {
        assert_eq!(vm_sees(&me, &of(&["shop", "db"]), key.as_bytes()), some, "{key}");
        assert_eq!(vm_sees(&me, &of(&[]), key.as_bytes()), all, "{key} with all namespaces");
    }
}

#[test]
fn peers_and_readers_write_nothing() {
    for who in [peer_east(), id(WEST, Role::Reader, "grafana"), id(WEST, Role::Vm, "edge")] {
        for method in [PUT, DELETE, "/etcdserverpb.KV/Compact", "/mesh.admin.v1.Admin/ApplyPeer"] {
            authorize(&west(), &who, method, &put_of("mesh/v1/west/nodes/w1", b"x")).expect_err("refused");
        }
        let in_txn = txn(&txn_of(vec![op_put("mesh/v1/west/nodes/w1", false)], vec![])).expect("ranges");
        authorize(&west(), &who, TXN, &in_txn).expect_err("refused in a txn, too");
        let in_failure = txn(&txn_of(vec![], vec![op_put("mesh/v1/west/nodes/w1", false)])).expect("ranges");
        authorize(&west(), &who, TXN, &in_failure).expect_err("whichever branch would run");
    }
}

#[test]
fn a_refusal_names_who_how_and_where() {
    let wanted =
        range(&pb::RangeRequest { key: b("mesh/v1/east/"), range_end: b("\0"), ..Default::default() });
    let error = authorize(&west(), &peer_east(), RANGE, &wanted.expect("a range")).expect_err("refused");
    assert_eq!(
        error.to_string(),
        format!(
            "etcdserver: permission denied: spiffe://{EAST}/cluster/east may not read `mesh/v1/east/` and everything \
             after it by /etcdserverpb.KV/Range"
        )
    );
}

// ── named after what happened to etcd ────────────────────────────────────────────────────────────────────────────

/// CVE-2023-32082: LeaseTimeToLive showed the keys of a lease to those who may not read them. Here only those look at a
/// lease who read every key, and only those end one, or hang a key on one, who write every key.
#[test]
fn cve_2023_32082_leases_are_for_those_who_may_do_the_same_to_any_key() {
    let looks = ["/etcdserverpb.Lease/LeaseTimeToLive", "/etcdserverpb.Lease/LeaseLeases"];
    for lease in TABLE.iter().filter(|row| row.method.contains(".Lease/")) {
        for who in everybody() {
            let may = authorize(&west(), &who, lease.method, &[]).is_ok();
            let writes_all =
                who.trust_domain() == WEST && matches!(who.role(), Role::Cluster | Role::Operator);
            let reads_all = writes_all || who.role() == Role::Reader;
            let expected = if looks.contains(&lease.method) { reads_all } else { writes_all };
            assert_eq!(may, expected, "{who} {}", lease.method);
        }
    }
}

#[test]
fn a_node_hangs_its_records_on_no_lease() {
    let key = tunnel_key();
    let leased = pb::PutRequest {
        key: b("mesh/v1/west/keys/w1"),
        value: Bytes::from(key),
        lease: 7,
        ..Default::default()
    };
    let request = pb::request_op::Request::RequestPut(leased.clone());
    let in_txn = txn_of(vec![], vec![pb::RequestOp { request: Some(request) }]);
    for (method, touches) in [(PUT, put(&leased)), (TXN, txn(&in_txn))] {
        let error = authorize(&west(), &id(WEST, Role::Node, "w1"), method, &touches.expect("ranges"));
        let text = error.expect_err("refused").to_string();
        assert!(text.contains("may not hang mesh/v1/west/keys/w1 on a lease"), "{text}");
    }
}

/// etcd serves locks and elections with its own rights; here they are the reads and writes that they consist of.
#[test]
fn locks_and_elections_are_judged_by_the_keys_of_those_who_wait() {
    use rpc::{v3electionpb as election, v3lockpb as lock};
    let name = || b("mesh/v1/west/keys/w1");
    let key = || b("mesh/v1/west/keys/w1/7");
    let leader = || Some(election::LeaderKey { name: name(), key: key(), rev: 2, lease: 7 });
    let writes = [
        ("/v3lockpb.Lock/Lock", Ok(lock(&lock::LockRequest { name: name(), lease: 7 }))),
        ("/v3lockpb.Lock/Unlock", unlock(&lock::UnlockRequest { key: key() })),
        (
            "/v3electionpb.Election/Campaign",
            Ok(campaign(&election::CampaignRequest { name: name(), lease: 7, value: b("x") })),
        ),
        (
            "/v3electionpb.Election/Proclaim",
            proclaim(&election::ProclaimRequest { leader: leader(), value: b("x") }),
        ),
        ("/v3electionpb.Election/Resign", resign(&election::ResignRequest { leader: leader() })),
    ];
    for (method, touches) in writes {
        let touches = touches.expect("ranges");
        for who in everybody() {
            let writes_all =
                who.trust_domain() == WEST && matches!(who.role(), Role::Cluster | Role::Operator);
            assert_eq!(authorize(&west(), &who, method, &touches).is_ok(), writes_all, "{who} {method}");
        }
    }
    for method in ["/v3electionpb.Election/Leader", "/v3electionpb.Election/Observe"] {
        let of = |name: &str| leader_of(name);
        authorize(&west(), &peer_east(), method, &of("mesh/v1/west/x")).expect("what we announce");
        authorize(&west(), &peer_east(), method, &of("mesh/v1/west")).expect("all of it");
        authorize(&west(), &peer_east(), method, &of("mesh/v1/east")).expect_err("not ours");
        authorize(&west(), &id(WEST, Role::Vm, "edge"), method, &of("mesh/v1/west/x")).expect_err("a VM");
    }
}

/// GHSA-q8m4-xhhv-38mg: MemberList, Alarm, leases and compaction were open to everybody who had a connection.
#[test]
fn ghsa_q8m4_xhhv_38mg_no_method_is_open_because_it_names_no_key() {
    for method in
        ["Cluster/MemberList", "Maintenance/Alarm", "Lease/LeaseRevoke", "KV/Compact", "Maintenance/Snapshot"]
    {
        let method = format!("/etcdserverpb.{method}");
        for who in [peer_east(), id(WEST, Role::Node, "w1"), id(WEST, Role::Vm, "edge")] {
            authorize(&west(), &who, &method, &[]).expect_err("refused");
        }
    }
}

/// GHSA-x35m-3gp4-4fh5: `prev_kv` of a put inside a txn read what the caller may not read.
#[test]
fn ghsa_x35m_3gp4_4fh5_prev_kv_is_a_read_wherever_it_stands() {
    let reads = |touches: &[Touch]| touches.iter().any(|touch| touch.access == Access::Read);
    let put_op = pb::PutRequest { key: b("k"), prev_kv: true, ..Default::default() };
    assert!(reads(&put(&put_op).expect("a range")));
    assert!(reads(&txn(&txn_of(vec![op_put("k", true)], vec![])).expect("ranges")));
    assert!(reads(&txn(&txn_of(vec![], vec![op_put("k", true)])).expect("ranges")));
    let delete = pb::DeleteRangeRequest { key: b("k"), range_end: b("z"), prev_kv: true };
    assert!(reads(&delete_range(&delete).expect("a range")));
}

/// GHSA-rfx7-8w68-q57q: a nested txn was not looked into at all.
#[test]
fn ghsa_rfx7_8w68_q57q_nested_txns_are_looked_into() {
    let inner =
        pb::request_op::Request::RequestTxn(txn_of(vec![op_put("mesh/v1/west/nodes/w1", false)], vec![]));
    let middle = txn_of(vec![], vec![pb::RequestOp { request: Some(inner) }]);
    let nested = pb::RequestOp { request: Some(pb::request_op::Request::RequestTxn(middle)) };
    let touches = txn(&txn_of(vec![nested], vec![])).expect("ranges");
    for who in [peer_east(), id(WEST, Role::Node, "w1"), id(WEST, Role::Reader, "grafana")] {
        authorize(&west(), &who, TXN, &touches).expect_err("refused");
    }
}

/// GHSA-xg4h-6gfc-h4m8: a watch with an open end was judged by its first key alone.
#[test]
fn ghsa_xg4h_6gfc_h4m8_an_open_ended_watch_is_judged_by_what_it_reaches() {
    for (key, end) in [("mesh/v1/west/nodes/w1", "\0"), ("", ""), ("", "\0"), ("mesh/v1/west/", "\0")] {
        let touches = watch(&pb::WatchCreateRequest { key: b(key), range_end: b(end), ..Default::default() });
        authorize(&west(), &peer_east(), WATCH, &touches.expect("a range")).expect_err("refused");
    }
}

// ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────

fn west() -> Own {
    Own { uuid: WEST, name: "west".parse().expect("a name") }
}

fn id(domain: ClusterUuid, role: Role, name: &str) -> SpiffeId {
    SpiffeId::new(domain, role, name).expect("a valid ID")
}

fn peer_east() -> SpiffeId {
    id(EAST, Role::Cluster, "east")
}

fn admin() -> SpiffeId {
    id(WEST, Role::Operator, "admin")
}

fn everybody() -> Vec<SpiffeId> {
    let mut all = vec![peer_east()];
    all.extend(Role::ALL.map(|role| id(WEST, role, if role == Role::Operator { "admin" } else { "west" })));
    all
}

fn b(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put_of(key: &str, value: &[u8]) -> Vec<Touch> {
    put(&pb::PutRequest { key: b(key), value: Bytes::copy_from_slice(value), ..Default::default() })
        .expect("a range")
}

fn node_may_put(key: &str, value: &[u8]) -> bool {
    authorize(&west(), &id(WEST, Role::Node, "w1"), PUT, &put_of(key, value)).is_ok()
}

fn leader_of(name: &str) -> Vec<Touch> {
    leader(&rpc::v3electionpb::LeaderRequest { name: b(name) })
}

fn op_put(key: &str, prev_kv: bool) -> pb::RequestOp {
    let put = pb::PutRequest { key: b(key), prev_kv, ..Default::default() };
    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
}

fn txn_of(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { compare: vec![], success, failure }
}
