//! The same store, naively: a list of every change ever made, and every answer by walking it. No index, no deletion;
//! compaction is a number. Slow and easy to believe.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, DeleteRangeResponse, Error, Event, EventKind,
    KeyRange, KeyValue, LEASE_TTL_MAX_S, LEASE_TTL_MIN_S, LeaseGrant, LeaseStatus, Op, OpResponse,
    PutRequest, PutResponse, RangeRequest, RangeResponse, SortOrder, SortTarget, TxnRequest, TxnResponse,
    WatchRequest,
};

#[derive(Clone, Debug)]
struct Change {
    revision: i64,
    key: Bytes,
    value: Option<(Bytes, i64)>,
}

#[derive(Clone, Debug)]
struct Lease {
    ttl_s: i64,
    owner: Bytes,
    expires_at: Instant,
}

/// Every change; what of it is durable; what may still be read.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    changes: Vec<Change>,
    pub(crate) applied: i64,
    pub(crate) durable: i64,
    pub(crate) compacted: i64,
    compacting: i64,
    leases: BTreeMap<i64, Lease>,
    durable_leases: BTreeMap<i64, Lease>,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self {
            changes: Vec::new(),
            applied: 1,
            durable: 1,
            compacted: -1,
            compacting: -1,
            leases: BTreeMap::new(),
            durable_leases: BTreeMap::new(),
        }
    }

    pub(crate) fn commit(&mut self) {
        self.durable = self.applied;
        self.compacted = self.compacting;
        self.durable_leases = self.leases.clone();
    }

    pub(crate) fn crash(&mut self, now: Instant) {
        self.changes.retain(|change| change.revision <= self.durable);
        self.applied = self.durable;
        if self.compacted == 0 {
            // A disk does not tell a compaction at 0, which is one of nothing, from none.
            self.compacted = -1;
        }
        self.compacting = self.compacted;
        self.leases = self.durable_leases.clone();
        for lease in self.leases.values_mut() {
            lease.expires_at = now + seconds(lease.ttl_s);
        }
    }

    pub(crate) fn lease_grant(&mut self, request: &LeaseGrant, now: Instant) -> Result<i64, Error> {
        if request.id == 0 {
            return Err(Error::LeaseNotFound);
        }
        if request.ttl_s > LEASE_TTL_MAX_S {
            return Err(Error::LeaseTtlTooLarge);
        }
        if self.leases.contains_key(&request.id) {
            return Err(Error::LeaseExists);
        }
        let ttl_s = request.ttl_s.max(LEASE_TTL_MIN_S);
        let lease = Lease { ttl_s, owner: request.owner.clone(), expires_at: now + seconds(ttl_s) };
        self.leases.insert(request.id, lease);
        Ok(ttl_s)
    }

    pub(crate) fn lease_revoke(&mut self, id: i64) -> Result<i64, Error> {
        let keys = self.keys_of(id);
        self.leases.remove(&id).ok_or(Error::LeaseNotFound)?;
        let before = self.applied;
        keys.iter().for_each(|key| self.change(before, key, None));
        Ok(self.applied)
    }

    pub(crate) fn lease_keep_alive(&mut self, id: i64, now: Instant) -> Result<i64, Error> {
        let lease = self.leases.get_mut(&id).ok_or(Error::LeaseNotFound)?;
        lease.expires_at = now + seconds(lease.ttl_s);
        Ok(lease.ttl_s)
    }

    pub(crate) fn lease(&self, id: i64, now: Instant) -> Result<LeaseStatus, Error> {
        let lease = self.leases.get(&id).ok_or(Error::LeaseNotFound)?;
        Ok(LeaseStatus {
            revision: self.applied,
            remaining_s: lease.expires_at.saturating_duration_since(now).as_secs() as i64,
            granted_s: lease.ttl_s,
            owner: lease.owner.clone(),
            keys: self.keys_of(id),
        })
    }

    pub(crate) fn leases(&self) -> Vec<i64> {
        let mut ids: Vec<i64> = self.leases.keys().copied().collect();
        ids.sort_by_key(|id| (self.leases[id].expires_at, *id));
        ids
    }

    /// Ends what is over, the oldest first.
    pub(crate) fn expire_leases(&mut self, now: Instant) -> Vec<i64> {
        let mut over: Vec<(Instant, i64)> = self
            .leases
            .iter()
            .map(|(id, lease)| (lease.expires_at, *id))
            .filter(|(at, _)| *at <= now)
            .collect();
        over.sort();
        over.into_iter().map(|(_, id)| self.lease_revoke(id).map(|_| id).expect("it is there")).collect()
    }

    fn keys_of(&self, id: i64) -> Vec<Bytes> {
        let everything = KeyRange::prefix("");
        let all = self.all(&everything, self.applied).into_iter();
        all.filter(|kv| kv.lease == id).map(|kv| kv.key).collect()
    }

    pub(crate) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        self.read(request, self.durable, self.durable, self.compacted)
    }

    pub(crate) fn put(&mut self, request: &PutRequest) -> Result<PutResponse, Error> {
        if request.lease != 0 && !self.leases.contains_key(&request.lease) {
            return Err(Error::LeaseNotFound);
        }
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
            kv = change.value.as_ref().map(|(value, lease)| KeyValue {
                key: change.key.clone(),
                value: value.clone(),
                create_revision: kv.as_ref().map_or(change.revision, |kv| kv.create_revision),
                mod_revision: change.revision,
                version: kv.as_ref().map_or(0, |kv| kv.version) + 1,
                lease: *lease,
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
        let bounds = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ];
        if request.sort_order == SortOrder::None && request.limit > 0 && bounds == [0; 4] {
            kvs.truncate(request.limit as usize + 1);
        }
        kvs.retain(|kv| {
            (request.min_mod_revision == 0 || kv.mod_revision >= request.min_mod_revision)
                && (request.max_mod_revision == 0 || kv.mod_revision <= request.max_mod_revision)
                && (request.min_create_revision == 0 || kv.create_revision >= request.min_create_revision)
                && (request.max_create_revision == 0 || kv.create_revision <= request.max_create_revision)
        });
        let descend = request.sort_order == SortOrder::Descend;
        let sign = if descend { -1 } else { 1 };
        match request.sort_target {
            SortTarget::Key if descend => kvs.reverse(),
            SortTarget::Key => {}
            SortTarget::Version => kvs.sort_by_key(|kv| sign * kv.version),
            SortTarget::Create => kvs.sort_by_key(|kv| sign * kv.create_revision),
            SortTarget::Mod => kvs.sort_by_key(|kv| sign * kv.mod_revision),
            // Values of scripts are one byte, or none.
            SortTarget::Value => {
                kvs.sort_by_key(|kv| sign * kv.value.first().map_or(0, |byte| i64::from(*byte)));
            }
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
        // Every way its nested txns can turn out: none may write a key twice.
        for ops in ways(&request.success).into_iter().chain(ways(&request.failure)) {
            let mut times: BTreeMap<Bytes, usize> = BTreeMap::new();
            for op in &ops {
                if let Op::Put(put) = op {
                    *times.entry(put.key.clone()).or_default() += 1;
                }
            }
            for op in &ops {
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
        // What runs is decided by the store as it is, before anything is written.
        let unchanged = self.clone();
        let mut running = Vec::new();
        unchanged.running(request, &mut running);
        for op in &running {
            if let Op::Put(put) = op {
                if (put.ignore_value || put.ignore_lease) && unchanged.get(&put.key, self.applied).is_none() {
                    return Err(Error::KeyNotFound);
                }
                if put.lease != 0 && !self.leases.contains_key(&put.lease) {
                    return Err(Error::LeaseNotFound);
                }
            }
        }
        let before = self.applied;
        let mut answer = self.run(&unchanged, request, before)?;
        answer.revision = self.applied;
        Ok(answer)
    }

    /// The operations that run, flat.
    fn running(&self, txn: &TxnRequest, found: &mut Vec<Op>) {
        for op in self.branch(txn).1 {
            if let Op::Txn(nested) = op { self.running(nested, found) } else { found.push(op.clone()) }
        }
    }

    fn branch<'a>(&self, txn: &'a TxnRequest) -> (bool, &'a [Op]) {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        (succeeded, if succeeded { &txn.success } else { &txn.failure })
    }

    fn run(&mut self, unchanged: &Self, txn: &TxnRequest, before: i64) -> Result<TxnResponse, Error> {
        let (succeeded, ops) = unchanged.branch(txn);
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
                    let old = prev.clone().unwrap_or_default();
                    let value = if put.ignore_value { old.value } else { put.value.clone() };
                    let lease = if put.ignore_lease { old.lease } else { put.lease };
                    self.change(before, &put.key, Some((value, lease)));
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
                Op::Txn(nested) => OpResponse::Txn(self.run(unchanged, nested, before)?),
            };
            responses.push(response);
        }
        Ok(TxnResponse { revision: 0, succeeded, responses })
    }

    fn change(&mut self, before: i64, key: &Bytes, value: Option<(Bytes, i64)>) {
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

/// Every flat list of operations that a list with nested txns can become.
fn ways(ops: &[Op]) -> Vec<Vec<Op>> {
    let mut all = vec![Vec::new()];
    for op in ops {
        let own = match op {
            Op::Txn(nested) => [ways(&nested.success), ways(&nested.failure)].concat(),
            Op::Range(_) | Op::Put(_) | Op::DeleteRange(_) => vec![vec![op.clone()]],
        };
        all = all.iter().flat_map(|way| own.iter().map(|more| [&way[..], more].concat())).collect();
    }
    all
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(seconds as u64)
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
