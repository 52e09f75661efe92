//! The store beside its model, and the sentences that the model cannot say.

mod against_model;
mod dump;
mod leases;
mod sentences;

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;

use crate::{Batch, PutRequest, RowId, Store, WatchRequest};

/// A disk that keeps what batches write.
#[derive(Clone, Debug, Default)]
struct Disk {
    rows: BTreeMap<RowId, Bytes>,
    compacted: i64,
    leases: BTreeMap<i64, Bytes>,
}

impl Disk {
    fn write(&mut self, batch: &Batch) {
        self.rows.extend(batch.puts.iter().cloned());
        for id in &batch.deletes {
            self.rows.remove(id);
        }
        self.compacted = batch.compacted.unwrap_or(self.compacted);
        for (id, lease) in &batch.leases {
            match lease {
                Some(bytes) => self.leases.insert(*id, bytes.clone()),
                None => self.leases.remove(id),
            };
        }
    }

    fn restore(&self, now: Instant) -> Store {
        Store::restore(self.compacted, self.rows.clone(), self.leases.clone(), now)
            .expect("rows that a store wrote")
    }
}

/// Makes everything applied durable.
fn commit(store: &mut Store, disk: &mut Disk) {
    let batch = store.take_batch();
    disk.write(&batch);
    store.commit(&batch);
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: bytes(key), value: bytes(value), ..PutRequest::default() }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn watch_all(start_revision: i64) -> WatchRequest {
    WatchRequest { range_end: bytes("\0"), start_revision, ..WatchRequest::default() }
}
