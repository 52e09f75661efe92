//! Requests of every kind of client.

use super::{Seed, seed};
use crate::targets::{LEASE, Method, SUBJECTS};
use api::digest::BITS_MAX;
use daemon::spiffe::Role;
use prost::Message;
use rpc::{
    etcdserverpb::{self as pb, compare::TargetUnion, request_op::Request},
    mesh::sync::v1::EntriesRequest,
    v3electionpb::{CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest},
    v3lockpb::{LockRequest, UnlockRequest},
};

const OURS: &[u8] = b"mesh/v1/east/";
const OURS_END: &[u8] = b"mesh/v1/east0";

fn of(why: &str, method: Method, role: Role, message: &impl Message) -> Seed {
    raw(why, method, role, &message.encode_to_vec())
}

/// A peer has the second place among the subjects, every other role is found by itself.
fn raw(why: &str, method: Method, role: Role, message: &[u8]) -> Seed {
    let subject = match role {
        Role::Cluster => 1,
        role => SUBJECTS.iter().position(|(_, of, _)| *of == role).expect("every role asks"),
    };
    let mut input = vec![method as u8, u8::try_from(subject).expect("six of them")];
    input.extend(message);
    seed("etcd", why, input)
}

fn range(key: &[u8], end: &[u8]) -> pb::RangeRequest {
    let (key, range_end) = (key.to_vec().into(), end.to_vec().into());
    pb::RangeRequest { key, range_end, ..pb::RangeRequest::default() }
}

fn put(key: &str) -> pb::PutRequest {
    let (key, value) = (key.to_owned().into(), "x".into());
    pb::PutRequest { key, value, ..pb::PutRequest::default() }
}

fn txn(success: Vec<Request>) -> pb::TxnRequest {
    let success = success.into_iter().map(|request| pb::RequestOp { request: Some(request) }).collect();
    pb::TxnRequest { success, ..pb::TxnRequest::default() }
}

fn nested(depth: usize, inner: Request) -> pb::TxnRequest {
    let mut request = txn(vec![inner]);
    for _ in 1..depth {
        request = txn(vec![Request::RequestTxn(request)]);
    }
    request
}

pub(super) fn requests() -> Vec<Seed> {
    let guess = pb::Compare {
        target: pb::compare::CompareTarget::Value.into(),
        key: "mesh/v1/west/nodes/w1".into(),
        target_union: Some(TargetUnion::Value("the secret of here".into())),
        ..pb::Compare::default()
    };
    let guessing =
        pb::TxnRequest { compare: vec![guess], ..txn(vec![Request::RequestRange(range(OURS, OURS_END))]) };
    let hidden = nested(8, Request::RequestPut(put("mesh/v1/east/nodes/e1")));
    let peeking = pb::PutRequest { prev_kv: true, ..put("mesh/v1/west/nodes/w1") };
    let sorted = pb::RangeRequest { sort_order: 2, sort_target: 4, limit: 2, ..range(OURS, OURS_END) };
    let unknown = pb::RangeRequest { sort_order: 77, sort_target: -1, ..range(OURS, OURS_END) };
    let future = pb::RangeRequest { revision: i64::MAX, ..range(OURS, OURS_END) };
    let watch = |key: &[u8], end: &[u8], from| pb::WatchCreateRequest {
        key: key.to_vec().into(),
        range_end: end.to_vec().into(),
        start_revision: from,
        ..pb::WatchCreateRequest::default()
    };
    let all = pb::DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), prev_kv: true };
    vec![
        of("a-peer-lists-our-prefix", Method::Range, Role::Cluster, &range(OURS, OURS_END)),
        of("a-peer-lists-everything", Method::Range, Role::Cluster, &range(b"\0", b"\0")),
        of("a-peer-lists-one-key-too-many", Method::Range, Role::Cluster, &range(OURS, b"mesh/v1/east1")),
        of("a-peer-lists-an-empty-range", Method::Range, Role::Cluster, &range(OURS_END, OURS)),
        of("a-peer-guesses-a-value", Method::Txn, Role::Cluster, &guessing),
        of("a-peer-writes-in-a-txn-of-eight-levels", Method::Txn, Role::Cluster, &hidden),
        of(
            "a-peer-watches-from-before-the-beginning",
            Method::Watch,
            Role::Cluster,
            &watch(OURS, OURS_END, -5),
        ),
        of("a-peer-watches-everything", Method::Watch, Role::Cluster, &watch(b"", b"\0", 1)),
        of("a-node-writes-its-key", Method::Put, Role::Node, &put("mesh/v1/east/keys/e1")),
        of("a-node-writes-anothers-key", Method::Put, Role::Node, &put("mesh/v1/east/keys/e2")),
        of("a-node-reads-by-writing", Method::Put, Role::Node, &peeking),
        of("a-node-deletes-everything", Method::DeleteRange, Role::Node, &all),
        of("an-operator-deletes-everything", Method::DeleteRange, Role::Operator, &all),
        of("a-reader-writes", Method::Put, Role::Reader, &put("a")),
        of("a-reader-sorts", Method::Range, Role::Reader, &sorted),
        of("a-reader-sorts-by-nothing-known", Method::Range, Role::Reader, &unknown),
        of("a-reader-lives-in-the-future", Method::Range, Role::Reader, &future),
        of("a-vm-lists", Method::Range, Role::Vm, &range(OURS, OURS_END)),
        // prost stops at 100 levels; each of ours is two messages.
        of(
            "an-operator-nests-60-levels",
            Method::Txn,
            Role::Operator,
            &nested(60, Request::RequestPut(put("a"))),
        ),
        of(
            "an-operator-puts-a-key-twice",
            Method::Txn,
            Role::Operator,
            &txn(vec![Request::RequestPut(put("a")), Request::RequestPut(put("a"))]),
        ),
        of(
            "an-operator-does-nothing",
            Method::Txn,
            Role::Operator,
            &pb::TxnRequest { success: vec![pb::RequestOp { request: None }], ..pb::TxnRequest::default() },
        ),
        raw("no-message", Method::Txn, Role::Operator, &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]),
    ]
}

/// Locks and elections.
pub(super) fn turns() -> Vec<Seed> {
    let lock = |name: &str, lease| LockRequest { name: name.to_owned().into(), lease };
    let campaign =
        |name: &str| CampaignRequest { name: name.to_owned().into(), lease: LEASE, value: "it is me".into() };
    let leader =
        |key: &str, rev| LeaderKey { name: "job".into(), key: key.to_owned().into(), rev, lease: LEASE };
    let proclaim = |leader| ProclaimRequest { leader, value: "it is me".into() };
    let whose = |name: &str| LeaderRequest { name: name.to_owned().into() };
    vec![
        of("an-operator-locks", Method::Lock, Role::Operator, &lock("job", LEASE)),
        of("an-operator-locks-without-a-name", Method::Lock, Role::Operator, &lock("", LEASE)),
        of("an-operator-locks-by-no-lease", Method::Lock, Role::Operator, &lock("job", i64::MIN)),
        of("a-node-locks-among-our-records", Method::Lock, Role::Node, &lock("mesh/v1/east/keys", LEASE)),
        of("a-peer-locks-its-prefix", Method::Lock, Role::Cluster, &lock("mesh/v1/east", LEASE)),
        of(
            "an-operator-unlocks-what-is-no-lock",
            Method::Unlock,
            Role::Operator,
            &UnlockRequest { key: "somebody/elses".into() },
        ),
        of("a-reader-unlocks-nothing", Method::Unlock, Role::Reader, &UnlockRequest::default()),
        of("an-operator-stands", Method::Campaign, Role::Operator, &campaign("job")),
        of("a-vm-stands-for-presence", Method::Campaign, Role::Vm, &campaign("mesh-local/v1/presence")),
        of("a-leader-of-nothing-speaks", Method::Proclaim, Role::Operator, &proclaim(None)),
        of(
            "a-leader-of-before-speaks",
            Method::Proclaim,
            Role::Operator,
            &proclaim(Some(leader("job/7", i64::MAX))),
        ),
        of(
            "a-node-proclaims-its-own-key",
            Method::Proclaim,
            Role::Node,
            &proclaim(Some(leader("mesh/v1/east/keys/e1", 0))),
        ),
        of("a-reader-asks-who-leads", Method::Leader, Role::Reader, &whose("mesh/v1/east/nodes")),
        of("a-peer-asks-who-leads-another", Method::Leader, Role::Cluster, &whose("mesh/v1/west/nodes")),
        of(
            "an-operator-resigns-for-another",
            Method::Resign,
            Role::Operator,
            &ResignRequest { leader: Some(leader("mesh/v1/east/nodes/e1", -1)) },
        ),
    ]
}

pub(super) fn syncs() -> Vec<Seed> {
    let of = |why: &str, bits: u32, buckets: Vec<u32>| {
        let (key, range_end) = (OURS.to_vec().into(), OURS_END.to_vec().into());
        seed("sync", why, EntriesRequest { key, range_end, revision: 7, bits, buckets }.encode_to_vec())
    };
    vec![
        of("all-in-one-bucket", 0, vec![0]),
        of("some-buckets", 4, vec![1, 7, 15]),
        of("the-most-buckets", BITS_MAX, (0..1 << BITS_MAX).step_by(64).collect()),
        of("a-bucket-twice", 4, vec![1, 1]),
        of("a-bucket-too-far", 4, vec![16]),
        of("more-bits-than-a-number-has", u32::MAX, vec![1]),
        of("no-buckets", 4, vec![]),
    ]
}
