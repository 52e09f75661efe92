use super::*;
use bytes::Bytes;
use replica::follower::PAGE_KEYS;
use server::Etcd;
use std::{collections::BTreeMap, time::Duration};
use store::{DeleteRangeRequest, Op, PutRequest, Store, TxnRequest};

mod server;

/// Far more than anything here takes, and less than a stuck build.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_list_of_several_pages_is_followed_by_the_changes_after_it() {
    let etcd = Etcd::new(false);
    for n in 0..PAGE_KEYS * 2 + 3 {
        etcd.change(|store, now| put(store, &format!("mesh/v1/east/nodes/n{n}"), now));
    }
    let mut owner = Owner::of(&etcd).await;
    owner.until("listed", |owner| owner.lists == 1).await;
    assert_eq!(owner.held.len(), PAGE_KEYS * 2 + 3 + 1, "and the lineage");
    etcd.change(|store, now| put(store, "mesh-local/v1/applied/n1", now));
    etcd.change(|store, now| delete(store, "mesh/v1/east/nodes/n0", now));
    owner
        .until("changed", |owner| {
            owner.held.contains_key("mesh-local/v1/applied/n1")
                && !owner.held.contains_key("mesh/v1/east/nodes/n0")
        })
        .await;
    let head = PAGE_KEYS as u64 * 2 + 3 + 4;
    owner.until("all prefixes are that far", |owner| owner.progress == head).await;
    assert_eq!(owner.lists, 1);
}

#[tokio::test]
async fn a_revision_that_comes_in_fragments_arrives_whole() {
    let etcd = Etcd::new(true);
    let mut owner = Owner::of(&etcd).await;
    owner.until("listed", |owner| owner.lists == 1).await;
    etcd.change(|store, now| {
        let op = |n: u8| {
            Op::Put(PutRequest { key: format!("mesh/v1/east/nodes/n{n}").into(), ..PutRequest::default() })
        };
        store
            .txn(&TxnRequest { success: (0..9).map(op).collect(), ..TxnRequest::default() }, now)
            .expect("a txn");
    });
    owner.until("progress", |owner| owner.progress == 3).await;
    assert_eq!((owner.held.len(), owner.lists), (10, 1));
}

#[tokio::test]
async fn a_connection_that_ends_is_resumed_and_a_compaction_is_listed() {
    let etcd = Etcd::new(false);
    etcd.change(|store, now| put(store, "mesh/v1/east/nodes/n1", now));
    let mut owner = Owner::of(&etcd).await;
    owner.until("listed", |owner| owner.lists == 1).await;
    owner.watches(&etcd, 1).await;
    etcd.hang_up();
    owner.until("resumed", |owner| owner.resumed == 1).await;

    owner.watches(&etcd, 2).await;
    etcd.hang_up();
    etcd.change(|store, now| delete(store, "mesh/v1/east/nodes/n1", now));
    etcd.change(|store, now| {
        put(store, "mesh/v1/east/nodes/n2", now);
        store.compact(store.applied()).expect("a revision");
    });
    owner.until("listed again", |owner| owner.held.contains_key("mesh/v1/east/nodes/n2")).await;
    assert!(!owner.held.contains_key("mesh/v1/east/nodes/n1"), "no missed delete");
}

#[tokio::test]
async fn after_a_compaction_only_what_changed_comes_from_a_store_that_serves_buckets() {
    for (etcd, lists) in [(Etcd::with_buckets(), 1), (Etcd::new(false), 2)] {
        for n in 0..PAGE_KEYS + 3 {
            etcd.change(|store, now| put(store, &format!("mesh/v1/east/nodes/n{n}"), now));
        }
        let mut owner = Owner::of(&etcd).await;
        owner.until("listed", |owner| owner.lists == 1).await;
        owner.watches(&etcd, 1).await;
        etcd.hang_up();
        owner.until("cut", |owner| owner.cut.is_some()).await;
        let told = owner.told;
        etcd.change(|store, now| delete(store, "mesh/v1/east/nodes/n1", now));
        etcd.change(|store, now| put(store, "mesh/v1/east/nodes/n2", now));
        etcd.change(|store, now| {
            put(store, "mesh-local/v1/applied/n1", now);
            store.compact(store.applied()).expect("a revision");
        });
        owner.until("caught up", |owner| owner.held.contains_key("mesh-local/v1/applied/n1")).await;
        owner.watches(&etcd, 2).await;
        assert_eq!(owner.held.len(), PAGE_KEYS + 3 - 1 + 4, "the lineage, two probes, and one of each");
        assert!(!owner.held.contains_key("mesh/v1/east/nodes/n1"), "no missed delete");
        assert_eq!(owner.lists, lists);
        // A delete, two records, and the probe.
        let moved = owner.told - told;
        assert_eq!(moved, if lists == 1 { 4 } else { PAGE_KEYS + 3 - 1 + 4 });
    }
}

#[tokio::test]
async fn a_store_that_does_not_let_us_in_any_more_is_told_from_one_that_is_away() {
    let etcd = Etcd::new(false);
    let mut owner = Owner::of(&etcd).await;
    owner.until("listed", |owner| owner.lists == 1).await;
    owner.watches(&etcd, 1).await;
    etcd.hang_up();
    owner.until("cut", |owner| owner.cut.is_some()).await;
    assert_eq!(owner.cut.take(), Some(("etcdserver: server stopped".to_owned(), false)));
    owner.until("resumed", |owner| owner.resumed == 1).await;
    owner.watches(&etcd, 2).await;
    etcd.close();
    owner.until("refused", |owner| owner.cut.as_ref().is_some_and(|(_, refused)| *refused)).await;
}

#[tokio::test]
async fn an_owner_that_asks_for_a_list_gets_one() {
    let etcd = Etcd::new(false);
    let mut owner = Owner::of(&etcd).await;
    owner.until("listed", |owner| owner.lists == 1).await;
    owner.following.relist();
    owner.until("listed again", |owner| owner.lists == 2).await;
}

#[tokio::test]
async fn nobody_there_is_no_end() {
    struct Nowhere;
    impl Connect for Nowhere {
        async fn connect(&self) -> Result<tonic::transport::Channel, String> {
            Err("no route to host".to_owned())
        }
    }
    let mut owner = Owner::new(spawn(prefixes(), 1, Nowhere));
    owner.until("cut", |owner| owner.cut.is_some()).await;
    assert_eq!(owner.cut.take(), Some(("no route to host".to_owned(), false)));
    owner.until("cut again", |owner| owner.cut.is_some()).await;
}

// ---- helpers ----

struct Owner {
    following: Following,
    held: BTreeMap<String, Vec<u8>>,
    lists: usize,
    resumed: usize,
    /// Records and deletes.
    told: usize,
    progress: u64,
    cut: Option<(String, bool)>,
}

struct Plain(String);

impl Connect for Plain {
    async fn connect(&self) -> Result<tonic::transport::Channel, String> {
        let endpoint = tonic::transport::Endpoint::from_shared(self.0.clone()).expect("a URI");
        endpoint.connect().await.map_err(|error| error.to_string())
    }
}

fn prefixes() -> Follow {
    let prefixes = vec!["mesh/v1/".to_owned(), "mesh-local/v1/".to_owned()];
    Follow { cluster: "east".parse().expect("a name"), prefixes }
}

impl Owner {
    /// Of a store that has a lineage, and whatever the test gave it.
    async fn of(etcd: &Etcd) -> Self {
        let boot = api::record::Boot { id: api::bytes::BootId([1; 16]), first_revision: 2 };
        let lineage = api::record::Lineage { boots: vec![boot] }.encode();
        etcd.change(|store, now| {
            let key = Bytes::from_static(b"mesh/v1/east/lineage");
            let put = PutRequest { key, value: lineage.into(), ..PutRequest::default() };
            store.put(&put, now).expect("a put");
        });
        Self::new(spawn(prefixes(), 1, Plain(etcd.clone().serve().await)))
    }

    fn new(following: Following) -> Self {
        Self { following, held: BTreeMap::new(), lists: 0, resumed: 0, told: 0, progress: 0, cut: None }
    }

    /// Until its watch stands: a change that can only come by it has come.
    async fn watches(&mut self, etcd: &Etcd, number: u8) {
        let key = format!("mesh/v1/east/nodes/probe{number}");
        etcd.change(|store, now| put(store, &key, now));
        self.until("watching", |owner| owner.held.contains_key(&key)).await;
    }

    async fn until(&mut self, what: &str, reached: impl Fn(&Self) -> bool) {
        while !reached(self) {
            let event = tokio::time::timeout(PATIENCE, self.following.events.recv()).await;
            let event = event.unwrap_or_else(|_| panic!("never {what}")).expect("a follower never ends");
            self.take(event);
        }
    }

    fn take(&mut self, event: Event) {
        let text = |key: Vec<u8>| String::from_utf8(key).expect("a key");
        self.told +=
            usize::from(matches!(event, Event::InitApply(_) | Event::Apply(_) | Event::Delete { .. }));
        match event {
            Event::Init => self.held.clear(),
            Event::InitApply(value) | Event::Apply(value) => {
                drop(self.held.insert(text(value.key), value.value));
            }
            Event::Delete { key, .. } => drop(self.held.remove(&text(key))),
            Event::InitDone { revision } => {
                self.lists += 1;
                self.progress = revision;
            }
            Event::Resumed { .. } => self.resumed += 1,
            Event::Progress { revision } => self.progress = revision,
            Event::Disconnected { error, refused, .. } => self.cut = Some((error, refused)),
        }
    }
}

fn put(store: &mut Store, key: &str, now: Instant) {
    let put = PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..PutRequest::default() };
    store.put(&put, now).expect("a put");
}

fn delete(store: &mut Store, key: &str, now: Instant) {
    let delete =
        DeleteRangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..DeleteRangeRequest::default() };
    store.delete_range(&delete, now).expect("a delete");
}
