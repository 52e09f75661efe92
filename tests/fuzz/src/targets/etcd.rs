//! Requests as they come over the wire, from every kind of client, on a small store.
//!
//! Two stores answer each request. They differ in what the client may not read, and in nothing else: so two answers that
//! differ have told it something.

use api::bytes::ClusterUuid;
use api::digest::{ENTRIES_MAX, Entries, Entry};
use bytes::Bytes;
use clustermesh_apiserver::{
    authz::{self, Own},
    face::{convert, recipe, sync as face_sync},
};
use daemon::spiffe::{Role, SpiffeId};
use prost::Message as _;
use rpc::{etcdserverpb as pb, mesh::sync::v1 as sync_pb, v3electionpb as election, v3lockpb as lock};
use std::time::Instant;
use store::{DeleteRangeRequest, KeyValue, LeaseGrant, Polled, PutRequest, RangeRequest, Store};

const OUR_UUID: ClusterUuid = ClusterUuid([1; 16]);
const PEER_UUID: ClusterUuid = ClusterUuid([2; 16]);
/// The node that asks, and the keys that it may write.
const NODE: &str = "e1";
const NODE_KEYS: [&str; 2] = ["mesh/v1/east/keys/e1", "mesh-local/v1/applied/e1"];
const VM_KEYS: [&str; 3] =
    ["mesh/v1/east/keys/vm1", "mesh-local/v1/applied/vm1", "mesh-local/v1/presence/vm1"];

/// The first byte of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Range,
    Put,
    DeleteRange,
    Txn,
    Watch,
    Lock,
    Unlock,
    Campaign,
    Proclaim,
    Leader,
    Resign,
}

impl Method {
    const ALL: [Self; 11] = [
        Self::Range,
        Self::Put,
        Self::DeleteRange,
        Self::Txn,
        Self::Watch,
        Self::Lock,
        Self::Unlock,
        Self::Campaign,
        Self::Proclaim,
        Self::Leader,
        Self::Resign,
    ];

    fn path(self) -> &'static str {
        match self {
            Self::Range => "/etcdserverpb.KV/Range",
            Self::Put => "/etcdserverpb.KV/Put",
            Self::DeleteRange => "/etcdserverpb.KV/DeleteRange",
            Self::Txn => "/etcdserverpb.KV/Txn",
            Self::Watch => "/etcdserverpb.Watch/Watch",
            Self::Lock => "/v3lockpb.Lock/Lock",
            Self::Unlock => "/v3lockpb.Lock/Unlock",
            Self::Campaign => "/v3electionpb.Election/Campaign",
            Self::Proclaim => "/v3electionpb.Election/Proclaim",
            Self::Leader => "/v3electionpb.Election/Leader",
            Self::Resign => "/v3electionpb.Election/Resign",
        }
    }
}

/// The second byte of an input: who asks.
pub(crate) const SUBJECTS: [(ClusterUuid, Role, &str); 6] = [
    (OUR_UUID, Role::Cluster, "east"),
    (PEER_UUID, Role::Cluster, "west"),
    (OUR_UUID, Role::Node, NODE),
    (OUR_UUID, Role::Operator, "ann"),
    (OUR_UUID, Role::Reader, "bob"),
    (OUR_UUID, Role::Vm, "vm1"),
];

/// Method, subject, message.
pub(super) fn request(input: &[u8]) {
    let [method, subject, message @ ..] = input else { return };
    let Some(&method) = Method::ALL.get(usize::from(*method)) else { return };
    let Some(&(domain, role, name)) = SUBJECTS.get(usize::from(*subject)) else { return };
    let who = SpiffeId::new(domain, role, name).expect("the subjects are well formed");
    let may_read = |key: &str| match (domain == OUR_UUID, role) {
        (false, _) => key.starts_with("mesh/v1/east/"),
        // Of what a VM may list, the face shows it a part.
        (true, Role::Node | Role::Vm) => key.starts_with("mesh/") || key.starts_with("mesh-local/"),
        (true, Role::Cluster | Role::Operator | Role::Reader) => true,
    };
    let (mut here, mut there) = (world(|_| true, "here"), world(may_read, "there"));
    let before = all(&here);
    let (answer, other) = (serve(&mut here, &who, method, message), serve(&mut there, &who, method, message));
    assert_eq!(answer, other, "{who} was told what it may not read by {}", method.path());
    let changed = changed(&before, &all(&here));
    let allowed = |key: &str| match role {
        Role::Node => NODE_KEYS.contains(&key),
        Role::Cluster => domain == OUR_UUID,
        Role::Operator => true,
        Role::Vm => VM_KEYS.contains(&key),
        Role::Reader => false,
    };
    assert!(changed.iter().all(|key| allowed(key)), "{who} wrote {changed:?}");
}

/// A lease that there is, whoever's.
pub(crate) const LEASE: i64 = 7;

/// Six keys and a lease. The values of those that are not `same` depend on `seed`, and so does one key's name.
fn world(same: impl Fn(&str) -> bool, seed: &str) -> Store {
    let mut store = Store::default();
    let lease = LeaseGrant { id: LEASE, ttl_s: 60, owner: Bytes::new() };
    store.lease_grant(&lease, Instant::now()).expect("a lease");
    commit(&mut store);
    for key in [
        "mesh/v1/east/nodes/e1",
        "mesh/v1/east/services/shop/cart",
        "mesh/v1/west/nodes/w1",
        "mesh-local/v1/closed/north",
        "mesh-local/v1/applied/e1",
        "somebody/elses",
    ] {
        let (key, value) = match same(key) {
            true => (key.to_owned(), String::from("the same")),
            false => (format!("{key}-{seed}"), format!("the secret of {seed}")),
        };
        put(&mut store, &key, &value);
    }
    store
}

fn put(store: &mut Store, key: &str, value: &str) {
    let (key, value) = (Bytes::from(key.to_owned()), Bytes::from(value.to_owned()));
    store.put(&PutRequest { key, value, ..PutRequest::default() }, Instant::now()).expect("a put");
    commit(store);
}

fn commit(store: &mut Store) {
    let batch = store.take_batch();
    store.commit(&batch);
}

/// What the face does with a message: decode, authorize, convert, apply, answer.
fn serve(store: &mut Store, who: &SpiffeId, method: Method, message: &[u8]) -> Result<Vec<u8>, String> {
    let own = Own { uuid: OUR_UUID, name: "east".parse().expect("a name") };
    let now = Instant::now();
    let text = |error: store::Error| error.to_string();
    let authorize = |touches: Result<Vec<authz::Touch>, store::Error>| {
        authz::authorize(&own, who, method.path(), &touches.map_err(text)?)
            .map_err(|denied| denied.to_string())
    };
    let status = |status: tonic::Status| status.message().to_owned();
    let header = Some(pb::ResponseHeader::default());
    let answer = match method {
        Method::Range => {
            let request = decode::<pb::RangeRequest>(message)?;
            authorize(authz::range(&request))?;
            let answer = store.range(&convert::range(request).map_err(status)?).map_err(text)?;
            convert::range_response(answer, pb::ResponseHeader::default()).encode_to_vec()
        }
        Method::Put => {
            let request = decode::<pb::PutRequest>(message)?;
            authorize(authz::put(&request))?;
            let answer = store.put(&convert::put(request), now).map_err(text)?;
            pb::PutResponse { header, prev_kv: answer.prev_kv.map(convert::key_value) }.encode_to_vec()
        }
        Method::DeleteRange => {
            let request = decode::<pb::DeleteRangeRequest>(message)?;
            authorize(authz::delete_range(&request))?;
            let answer = store.delete_range(&convert::delete_range(request), now).map_err(text)?;
            let prev_kvs = answer.prev_kvs.into_iter().map(convert::key_value).collect();
            pb::DeleteRangeResponse { header, deleted: answer.deleted, prev_kvs }.encode_to_vec()
        }
        Method::Txn => {
            let request = decode::<pb::TxnRequest>(message)?;
            authorize(authz::txn(&request))?;
            let answer = store.txn(&convert::txn(request).map_err(status)?, now).map_err(text)?;
            convert::txn_response(answer, pb::ResponseHeader::default()).encode_to_vec()
        }
        Method::Watch => {
            let request = decode::<pb::WatchCreateRequest>(message)?;
            authorize(authz::watch(&request))?;
            let mut watcher = store.watch(&convert::watch(&request));
            let events = match store.poll(&mut watcher) {
                Polled::Events(events) => events.into_iter().map(convert::event).collect(),
                Polled::Synced | Polled::Behind | Polled::Compacted { .. } => Vec::new(),
            };
            pb::WatchResponse { events, ..pb::WatchResponse::default() }.encode_to_vec()
        }
        Method::Lock => {
            let request = decode::<lock::LockRequest>(message)?;
            authorize(Ok(authz::lock(&request)))?;
            let place = join(store, &request.name, request.lease, Bytes::new(), now).map_err(text)?;
            wait(store, &request.name, place.created).map_err(text)?
        }
        Method::Unlock => {
            let request = decode::<lock::UnlockRequest>(message)?;
            authorize(authz::unlock(&request))?;
            let delete = DeleteRangeRequest { key: request.key, ..DeleteRangeRequest::default() };
            store.delete_range(&delete, now).map_err(text)?.deleted.to_be_bytes().to_vec()
        }
        Method::Campaign => {
            let request = decode::<election::CampaignRequest>(message)?;
            authorize(Ok(authz::campaign(&request)))?;
            let place = join(store, &request.name, request.lease, request.value, now).map_err(text)?;
            wait(store, &request.name, place.created).map_err(text)?
        }
        Method::Proclaim => {
            let request = decode::<election::ProclaimRequest>(message)?;
            authorize(authz::proclaim(&request))?;
            let leader = request.leader.unwrap_or_default();
            let answer = store.txn(&recipe::proclaim(&leader, request.value), now).map_err(text)?;
            vec![u8::from(answer.succeeded)]
        }
        Method::Leader => {
            let request = decode::<election::LeaderRequest>(message)?;
            authorize(Ok(authz::leader(&request)))?;
            let answer = store.range(&recipe::first(&request.name)).map_err(text)?;
            convert::range_response(answer, pb::ResponseHeader::default()).encode_to_vec()
        }
        Method::Resign => {
            let request = decode::<election::ResignRequest>(message)?;
            authorize(authz::resign(&request))?;
            let leader = request.leader.unwrap_or_default();
            let answer = store.txn(&recipe::give_up(leader.key, leader.rev), now).map_err(text)?;
            vec![u8::from(answer.succeeded)]
        }
    };
    commit(store);
    Ok(answer)
}

/// Takes a place among those that wait under a name.
fn join(
    store: &mut Store,
    name: &[u8],
    lease: i64,
    value: Bytes,
    now: Instant,
) -> Result<recipe::Place, store::Error> {
    let key = recipe::key(name, lease);
    let answer = store.txn(&recipe::join(&key, lease, &value), now)?;
    commit(store);
    Ok(recipe::place(answer, value))
}

/// What whoever waits is told of the one before him.
fn wait(store: &Store, name: &[u8], place: i64) -> Result<Vec<u8>, store::Error> {
    let before = store.range(&recipe::before(name, place))?;
    assert!(
        before.kvs.iter().all(|kv| kv.create_revision < place),
        "only those who came before are waited for"
    );
    Ok(convert::range_response(before, pb::ResponseHeader::default()).encode_to_vec())
}

fn decode<M: prost::Message + Default>(message: &[u8]) -> Result<M, String> {
    M::decode(message).map_err(|error| error.to_string())
}

fn all(store: &Store) -> Vec<KeyValue> {
    let first = Bytes::from_static(b"\0");
    let range = RangeRequest { key: first.clone(), range_end: first, ..RangeRequest::default() };
    store.range(&range).expect("everything can be read").kvs
}

/// The keys that are not as they were.
fn changed(before: &[KeyValue], after: &[KeyValue]) -> Vec<String> {
    let gone = before.iter().filter(|kv| !after.contains(kv));
    let new = after.iter().filter(|kv| !before.contains(kv));
    gone.chain(new).map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

/// A message of `mesh.sync.v1`: `Entries`, of which `Buckets` is the first half.
pub(super) fn sync(input: &[u8]) {
    let Ok(asked) = sync_pb::EntriesRequest::decode(input) else { return };
    if authz::hashes(&asked.key, &asked.range_end).is_err()
        || face_sync::check(asked.bits, &asked.buckets).is_err()
    {
        return;
    }
    let all: Entries = (0..100_u64).map(|n| Entry::of(&n.to_be_bytes(), n)).collect();
    let counted: u64 = all.buckets(asked.bits).iter().map(|bucket| bucket.count).sum();
    assert_eq!(counted, 100, "every key is in a bucket");
    let told: usize = asked.buckets.iter().map(|number| all.bucket(asked.bits, *number).len()).sum();
    assert!(told <= 100.min(ENTRIES_MAX), "no key is told twice");
}
