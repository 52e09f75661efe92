//! The same store, naively: a list of every change ever made, and every answer by walking it. No index, no deletion;
//! compaction is a number. Slow and easy to believe.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, DeleteRangeResponse, Error, Event, EventKind,
    KeyRange, KeyValue, Op, OpResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, SortOrder,
    SortTarget, TxnRequest, TxnResponse, WatchRequest,
};

#[derive(Clone, Debug)]
struct Change {
    revision: i64,
    key: Bytes,
    value: Option<Bytes>,
}

/// Every change; what of it is durable; what may still be read.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    changes: Vec<Change>,
    pub(crate) applied: i64,
    pub(crate) durable: i64,
    pub(crate) compacted: i64,
    compacting: i64,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self { changes: Vec::new(), applied: 1, durable: 1, compacted: 0, compacting: 0 }
    }

    pub(crate) fn commit(&mut self) {
        self.durable = self.applied;
        self.compacted = self.compacting;
    }

    pub(crate) fn crash(&mut self) {
        self.changes.retain(|change| change.revision <= self.durable);
        self.applied = self.durable;
        self.compacting = self.compacted;
    }

    pub(crate) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        self.read(request, self.durable, self.durable, self.compacted)
    }

    pub(crate) fn put(&mut self, request: &PutRequest) -> Result<PutResponse, Error> {
        let request = TxnRequest { success: vec![Op::Put(request.clone())], ..TxnRequest::default() };
        match self.txn(&request)?.responses.remove(0) {
            OpResponse::Put(answer) => Ok(answer),
            other => panic!("a put answered {other:?}"),
        }
    }

    pub(crate) fn delete_range(
        &mut self,
        request: &DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, Error> {
        let request = TxnRequest { success: vec![Op::DeleteRange(request.clone())], ..TxnRequest::default() };
        match self.txn(&request)?.responses.remove(0) {
            OpResponse::DeleteRange(answer) => Ok(answer),
            other => panic!("a delete answered {other:?}"),
        }
    }

    pub(crate) fn compact(&mut self, revision: i64) -> Result<i64, Error> {
        if revision <= self.compacting {
            return Err(Error::Compacted { compact_revision: self.compacting });
        }
        if revision > self.applied {
            return Err(Error::FutureRevision);
        }
        self.compacting = revision;
        Ok(self.applied)
    }

    pub(crate) fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, Error> {
        let before = self.clone();
        let answer = self.try_txn(request);
        if answer.is_err() {
            *self = before;
        }
        answer
    }

    /// Everything a watch has to deliver from its start up to the durable revision, if it may still start there.
    pub(crate) fn events(&self, watch: &WatchRequest, from: i64) -> Result<Vec<Event>, Error> {
        if from < self.compacted {
            return Err(Error::Compacted { compact_revision: self.compacted });
        }
        let key = if watch.key.is_empty() { Bytes::from_static(b"\0") } else { watch.key.clone() };
        let range = KeyRange::parse(&key, &watch.range_end)?;
        let mut events = Vec::new();
        for change in &self.changes {
            if change.revision < from || change.revision > self.durable || !range.contains(&change.key) {
                continue;
            }
            let prev_revision = change.revision - 1;
            let readable = watch.prev_kv && prev_revision >= self.compacted;
            let prev_kv = if readable { self.get(&change.key, prev_revision) } else { None };
            let event = match self.get(&change.key, change.revision) {
                Some(kv) => Event { kind: EventKind::Put, kv, prev_kv },
                None => Event {
                    kind: EventKind::Delete,
                    kv: KeyValue {
                        key: change.key.clone(),
                        mod_revision: change.revision,
                        ..KeyValue::default()
                    },
                    prev_kv,
                },
            };
            let wanted = match event.kind {
                EventKind::Put => !watch.no_put,
                EventKind::Delete => !watch.no_delete,
            };
            if wanted {
                events.push(event);
            }
        }
        Ok(events)
    }

    fn get(&self, key: &[u8], at: i64) -> Option<KeyValue> {
        let mut kv: Option<KeyValue> = None;
        for change in self.changes.iter().filter(|change| change.key == key && change.revision <= at) {
            kv = change.value.as_ref().map(|value| KeyValue {
                key: change.key.clone(),
                value: value.clone(),
                create_revision: kv.as_ref().map_or(change.revision, |kv| kv.create_revision),
                mod_revision: change.revision,
                version: kv.as_ref().map_or(0, |kv| kv.version) + 1,
                lease: 0,
            });
        }
        kv
    }

    fn all(&self, range: &KeyRange, at: i64) -> Vec<KeyValue> {
        let keys: BTreeSet<&Bytes> = self.changes.iter().map(|change| &change.key).collect();
        keys.into_iter().filter(|key| range.contains(key)).filter_map(|key| self.get(key, at)).collect()
    }

    fn read(
        &self,
        request: &RangeRequest,
        current: i64,
        now: i64,
        compacted: i64,
    ) -> Result<RangeResponse, Error> {
        let range = KeyRange::parse(&request.key, &request.range_end)?;
        let at = match request.revision {
            revision if revision <= 0 => now,
            revision if revision > current => return Err(Error::FutureRevision),
            revision if revision < compacted => return Err(Error::Compacted { compact_revision: compacted }),
            revision => revision,
        };
        let mut kvs = self.all(&range, at);
        let count = kvs.len() as i64;
        if request.count_only {
            return Ok(RangeResponse { revision: now, count, ..RangeResponse::default() });
        }
        kvs.retain(|kv| {
            (request.min_mod_revision <= 0 || kv.mod_revision >= request.min_mod_revision)
                && (request.max_mod_revision <= 0 || kv.mod_revision <= request.max_mod_revision)
                && (request.min_create_revision <= 0 || kv.create_revision >= request.min_create_revision)
                && (request.max_create_revision <= 0 || kv.create_revision <= request.max_create_revision)
        });
        match request.sort_target {
            SortTarget::Key => {}
            SortTarget::Version => kvs.sort_by_key(|kv| kv.version),
            SortTarget::Create => kvs.sort_by_key(|kv| kv.create_revision),
            SortTarget::Mod => kvs.sort_by_key(|kv| kv.mod_revision),
            SortTarget::Value => kvs.sort_by_key(|kv| kv.value.clone()),
        }
        if request.sort_order == SortOrder::Descend {
            kvs.reverse();
        }
        let mut more = false;
        if request.limit > 0 && kvs.len() as i64 > request.limit {
            kvs.truncate(request.limit as usize);
            more = true;
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        Ok(RangeResponse { revision: now, kvs, more, count })
    }

    fn try_txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, Error> {
        for ops in [&request.success, &request.failure] {
            let puts = |op: &Op| if let Op::Put(put) = op { Some(put.key.clone()) } else { None };
            let mut times: BTreeMap<Bytes, usize> = BTreeMap::new();
            for key in ops.iter().filter_map(puts) {
                *times.entry(key).or_default() += 1;
            }
            for op in ops {
                if let Op::DeleteRange(delete) = op {
                    let range = KeyRange::parse(&delete.key, &delete.range_end)?;
                    times
                        .iter_mut()
                        .filter(|(key, _)| range.contains(key))
                        .for_each(|(_, times)| *times += 1);
                }
            }
            if times.values().any(|times| *times > 1) {
                return Err(Error::DuplicateKey);
            }
        }
        let before = self.applied;
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &request.success } else { &request.failure };
        let missing = |put: &PutRequest| put.ignore_value && self.get(&put.key, before).is_none();
        if ops.iter().any(|op| if let Op::Put(put) = op { missing(put) } else { false }) {
            return Err(Error::KeyNotFound);
        }
        let mut responses = Vec::new();
        for op in ops {
            let response = match op {
                Op::Range(range) => {
                    let mut answer = self.read(range, before, before + 1, self.compacting)?;
                    answer.revision = self.applied;
                    OpResponse::Range(answer)
                }
                Op::Put(put) => {
                    let prev = self.get(&put.key, before);
                    let kept = prev.as_ref().filter(|_| put.ignore_value).map(|kv| kv.value.clone());
                    self.change(before, &put.key, Some(kept.unwrap_or_else(|| put.value.clone())));
                    let prev_kv = prev.filter(|_| put.prev_kv);
                    OpResponse::Put(PutResponse { revision: self.applied, prev_kv })
                }
                Op::DeleteRange(delete) => {
                    let range = KeyRange::parse(&delete.key, &delete.range_end)?;
                    let gone = self.all(&range, before + 1);
                    gone.iter().for_each(|kv| self.change(before, &kv.key, None));
                    OpResponse::DeleteRange(DeleteRangeResponse {
                        revision: self.applied,
                        deleted: gone.len() as i64,
                        prev_kvs: if delete.prev_kv { gone } else { Vec::new() },
                    })
                }
            };
            responses.push(response);
        }
        Ok(TxnResponse { revision: self.applied, succeeded, responses })
    }

    fn change(&mut self, before: i64, key: &Bytes, value: Option<Bytes>) {
        self.applied = before + 1;
        self.changes.push(Change { revision: self.applied, key: key.clone(), value });
    }

    fn holds(&self, compare: &Compare) -> bool {
        let range = KeyRange::parse(&compare.key, &compare.range_end).expect("scripts name keys");
        let found = self.all(&range, self.applied);
        if found.is_empty() {
            let by_value = matches!(compare.target, CompareTarget::Value(_));
            return !by_value && holds_for(&KeyValue::default(), compare);
        }
        found.iter().all(|kv| holds_for(kv, compare))
    }
}

fn holds_for(kv: &KeyValue, compare: &Compare) -> bool {
    let (field, target): (Bytes, Bytes) = match &compare.target {
        CompareTarget::Version(target) => (big_endian(kv.version), big_endian(*target)),
        CompareTarget::CreateRevision(target) => (big_endian(kv.create_revision), big_endian(*target)),
        CompareTarget::ModRevision(target) => (big_endian(kv.mod_revision), big_endian(*target)),
        CompareTarget::Lease(target) => (big_endian(kv.lease), big_endian(*target)),
        CompareTarget::Value(target) => (kv.value.clone(), target.clone()),
    };
    match compare.result {
        CompareResult::Equal => field == target,
        CompareResult::NotEqual => field != target,
        CompareResult::Greater => field > target,
        CompareResult::Less => field < target,
    }
}

/// Scripts use no negative numbers, so bytes compare as the numbers do.
fn big_endian(number: i64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}
