//! What survives an apiserver: its store's rows, its lineage, its MeshPeer objects.

use api::{
    bytes::{ClusterUuid, Nonce},
    key::{Key, cluster_prefix},
    name::ClusterName,
    peer::{Contract, Stale},
    record::Record,
};
use bytes::Bytes;
use replica::import::Write;
use std::{collections::BTreeMap, time::Instant};
use store::{DeleteRangeRequest, KeyRange, Lineage, Op, PutRequest, RangeRequest, RowId, Store, TxnRequest};

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

/// The store at work on its disk; every change is synced before anybody sees it.
#[derive(Debug)]
pub struct Durable {
    /// The engine.
    pub store: Store,
    /// Its disk.
    pub disk: Disk,
    epoch: Instant,
}

impl Durable {
    /// Opens what a disk holds, as a new boot.
    #[must_use]
    pub fn open(mut disk: Disk, boot: [u8; 16]) -> Self {
        let epoch = Instant::now();
        let store = Store::restore(disk.compacted, disk.rows.clone(), disk.leases.clone(), epoch)
            .expect("the rows are a store's own");
        disk.lineage.begin(boot, store.revision());
        Self { store, disk, epoch }
    }

    /// The lineage as its record says it.
    #[must_use]
    pub fn lineage(&self) -> api::record::Lineage {
        let boot = |boot: &store::Boot| api::record::Boot {
            id: api::bytes::BootId(boot.id),
            first_revision: boot.first_revision as u64,
        };
        api::record::Lineage { boots: self.disk.lineage.boots().iter().map(boot).collect() }
    }

    /// Loses everything the store held.
    pub fn lose(disk: &mut Disk) {
        disk.rows.clear();
        disk.compacted = 0;
        disk.leases.clear();
        disk.lineage = Lineage::default();
    }

    /// Puts bytes under any key: what no honest publisher does.
    pub fn put_raw(&mut self, key: &str, value: Vec<u8>) {
        let put = PutRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: value.into(),
            ..PutRequest::default()
        };
        self.store.put(&put, self.epoch).expect("a small put");
        self.sync();
    }

    /// Deletes any key.
    pub fn delete_raw(&mut self, key: &str) {
        let delete = DeleteRangeRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            ..DeleteRangeRequest::default()
        };
        self.store.delete_range(&delete, self.epoch).expect("a key");
        self.sync();
    }

    /// Puts a record if the store holds another one, or none.
    pub fn publish(&mut self, key: &Key, record: &Record) {
        let value = record.encode();
        if self.get(&key.to_string()).as_ref() != Some(&value) {
            self.put_raw(&key.to_string(), value);
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
        self.store.txn(&txn, self.epoch).expect("a bounded txn");
        self.sync();
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
