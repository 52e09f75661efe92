//! What survives an apiserver: its store's rows, its lineage, its MeshPeer objects.

use api::{
    bytes::{ClusterUuid, Nonce},
    key::{Key, cluster_prefix},
    name::ClusterName,
    peer::{Contract, Stale},
    record::Record,
};
use bytes::Bytes;
use clustermesh_apiserver::publish;
use replica::{Now, import::Write};
use std::{collections::BTreeMap, time::Instant};
use store::{
    DeleteRangeRequest, KeyRange, LeaseGrant, Lineage, Op, PutRequest, RangeRequest, RowId, Store, TxnRequest,
};

/// A lease as long as it lasts without being kept alive, in seconds: etcd's shortest is shorter than any wait here.
pub const LEASE_TTL_S: i64 = 10;

/// A MeshPeer object, as far as the cores read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The peer's trust domain.
    pub uuid: ClusterUuid,
    /// Of the connect.
    pub nonce: Option<Nonce>,
    /// Unix seconds; none when active.
    pub deadline_s: Option<u64>,
    /// What is accepted.
    pub contract: Contract,
    /// What happens when it is stale.
    pub stale: Stale,
}

/// A disk.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    rows: BTreeMap<RowId, Bytes>,
    compacted: i64,
    leases: BTreeMap<i64, Bytes>,
    lineage: Lineage,
    /// The manifests directory: `meshpeer-<name>.yaml`.
    pub objects: BTreeMap<ClusterName, Object>,
}

impl Disk {
    /// The boot that wrote last.
    pub(crate) fn last_boot(&self) -> Option<[u8; 16]> {
        self.lineage.boots().last().map(|boot| boot.id)
    }
}

/// The store at work on its disk; every change is synced before anybody sees it.
#[derive(Debug)]
pub struct Durable {
    /// The engine.
    pub store: Store,
    /// Its disk.
    pub disk: Disk,
    /// The clock of leases began to run here.
    epoch: Instant,
    now: Now,
    /// Syncs that still work before the power goes; none: it stays.
    syncs_left: Option<u32>,
    /// What was published and is held since: the shells say the same at every look.
    told: Told,
}

/// Records that a store holds at a revision.
#[derive(Debug, Default)]
struct Told {
    revision: i64,
    records: BTreeMap<Key, Record>,
}

impl Durable {
    /// Opens what a disk holds, as a new boot.
    #[must_use]
    pub fn open(mut disk: Disk, boot: [u8; 16], now: Now) -> Self {
        // Only differences to it are looked at.
        let epoch = Instant::now();
        let at = epoch + now.elapsed();
        let store = Store::restore(disk.compacted, disk.rows.clone(), disk.leases.clone(), at)
            .expect("the rows are a store's own");
        if disk.last_boot() != Some(boot) {
            disk.lineage.begin(boot, store.revision());
        }
        Self { store, disk, epoch, now, syncs_left: None, told: Told::default() }
    }

    /// What the clock of leases says from now on.
    pub fn set_time(&mut self, now: Now) {
        self.now = now;
    }

    /// The power goes after so many more syncs: what is written later is on no disk.
    pub fn fail_after(&mut self, syncs: u32) {
        self.syncs_left = Some(syncs);
    }

    /// The power went.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.syncs_left == Some(0)
    }

    /// Puts a key that goes when nobody keeps it alive for [`LEASE_TTL_S`].
    pub fn put_leased(&mut self, id: i64, key: &str) {
        let at = self.time();
        let grant = LeaseGrant { id, ttl_s: LEASE_TTL_S, owner: Bytes::new() };
        self.store.lease_grant(&grant, at).expect("a lease of a new id");
        let put =
            PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), lease: id, ..PutRequest::default() };
        self.store.put(&put, at).expect("a small put");
        self.sync();
    }

    /// Ends the leases whose time is over.
    pub fn expire_leases(&mut self) {
        let at = self.time();
        if self.store.lease_expiry().is_some_and(|expiry| expiry <= at) {
            self.store.expire_leases(at);
            self.sync();
        }
    }

    fn time(&self) -> Instant {
        self.epoch + self.now.elapsed()
    }

    /// Every start and its first revision.
    #[must_use]
    pub fn lineage(&self) -> &Lineage {
        &self.disk.lineage
    }

    /// Puts bytes under any key: what no honest publisher does.
    pub fn put_raw(&mut self, key: &str, value: Vec<u8>) {
        let put = PutRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: value.into(),
            ..PutRequest::default()
        };
        self.store.put(&put, self.time()).expect("a small put");
        self.sync();
    }

    /// Deletes any key.
    pub fn delete_raw(&mut self, key: &str) {
        let delete = DeleteRangeRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            ..DeleteRangeRequest::default()
        };
        self.store.delete_range(&delete, self.time()).expect("a key");
        self.sync();
    }

    /// Puts a record if the store holds another one, or none.
    pub fn publish(&mut self, key: &Key, record: &Record) {
        let revision = self.store.revision();
        if self.told.revision != revision {
            // Somebody wrote; it may have been this key.
            self.told = Told { revision, records: BTreeMap::new() };
        }
        if self.told.records.get(key) == Some(record) {
            return;
        }
        let value = record.encode();
        if self.get(&key.to_string()).as_ref() != Some(&value) {
            self.put_raw(&key.to_string(), value);
        }
        if self.store.revision() == revision {
            self.told.records.insert(key.clone(), record.clone());
        }
    }

    /// Makes an import's writes in one txn.
    pub fn write(&mut self, writes: Vec<Write>) {
        let op = |write| match write {
            Write::Put { key, value } => Op::Put(PutRequest {
                key: key.to_string().into(),
                value: value.into(),
                ..PutRequest::default()
            }),
            Write::Delete { key } => Op::DeleteRange(DeleteRangeRequest {
                key: key.to_string().into(),
                ..DeleteRangeRequest::default()
            }),
        };
        let txn = TxnRequest { success: writes.into_iter().map(op).collect(), ..TxnRequest::default() };
        self.store.txn(&txn, self.time()).expect("a bounded txn");
        self.sync();
    }

    /// Makes the publisher's changes, in its own txns.
    pub fn make(&mut self, ops: Vec<publish::Op>) {
        let op = |op| match op {
            publish::Op::Put { key, value } => Op::Put(PutRequest {
                key: key.to_string().into(),
                value: value.into(),
                ..PutRequest::default()
            }),
            publish::Op::Delete { key } => Op::DeleteRange(DeleteRangeRequest {
                key: key.to_string().into(),
                ..DeleteRangeRequest::default()
            }),
        };
        for ops in publish::txns(ops) {
            let txn = TxnRequest { success: ops.into_iter().map(op).collect(), ..TxnRequest::default() };
            self.store.txn(&txn, self.time()).expect("a bounded txn");
            self.sync();
        }
    }

    /// Forgets all history.
    pub fn compact(&mut self) {
        if self.store.compact(self.store.applied()).is_ok() {
            self.sync();
        }
    }

    /// Everything under a prefix.
    #[must_use]
    pub fn list(&self, prefix: &str) -> BTreeMap<String, Vec<u8>> {
        let range = KeyRange::prefix(prefix.to_owned());
        let request = RangeRequest {
            key: range.key().clone(),
            range_end: range.range_end(),
            ..RangeRequest::default()
        };
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("a key is text");
        let answer = self.store.range(&request).expect("now can be read");
        answer.kvs.iter().map(|kv| (text(&kv.key), kv.value.to_vec())).collect()
    }

    /// One value.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let request = RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..RangeRequest::default() };
        self.store.range(&request).expect("now can be read").kvs.first().map(|kv| kv.value.to_vec())
    }

    /// What is held of a cluster, parsed; what is not a record is not shown.
    #[must_use]
    pub fn records(&self, cluster: &ClusterName) -> BTreeMap<Key, Record> {
        let parse = |(key, value): (String, Vec<u8>)| {
            let key = Key::parse(key.as_bytes()).ok()?;
            let record = Record::decode(&key, &value).ok()?;
            Some((key, record))
        };
        self.list(&cluster_prefix(cluster)).into_iter().filter_map(parse).collect()
    }

    fn sync(&mut self) {
        let batch = self.store.take_batch();
        match &mut self.syncs_left {
            // A store whose sync failed shows nothing of it; its process ends.
            Some(0) => return,
            Some(left) => *left -= 1,
            None => {}
        }
        self.disk.rows.extend(batch.puts.iter().cloned());
        for row in &batch.deletes {
            self.disk.rows.remove(row);
        }
        self.disk.compacted = batch.compacted.unwrap_or(self.disk.compacted);
        for (id, lease) in &batch.leases {
            match lease {
                Some(bytes) => self.disk.leases.insert(*id, bytes.clone()),
                None => self.disk.leases.remove(id),
            };
        }
        self.store.commit(&batch);
    }
}
