//! A store for one client at a time: what any order of requests would have been answered.
//!
//! Not the engine's model, which is of the engine's types: this one speaks etcd's messages and knows as much of them as
//! [`crate::clients`] ask.

use crate::history::Call;
use bytes::Bytes;
use rpc::{
    etcdserverpb::{
        Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
        RangeResponse, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
        compare::{CompareResult, TargetUnion},
        request_op::Request,
        response_op::Response,
    },
    mvccpb::{Event, KeyValue, event::EventType},
};
use std::collections::BTreeMap;

type Keys = BTreeMap<Bytes, KeyValue>;

/// Every revision of the store.
#[derive(Debug, Clone)]
pub struct Model {
    /// The keys as of each revision; revision 1 is the empty store.
    keys: Vec<Keys>,
    /// What changed in each revision, in order, with what was before.
    changes: Vec<Vec<Event>>,
}

impl Default for Model {
    fn default() -> Self {
        Self { keys: vec![Keys::new(); 2], changes: vec![Vec::new(); 2] }
    }
}

impl Model {
    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.keys.len() as i64 - 1
    }

    /// What changed in a range from one revision on, each with what was before.
    pub fn changes<'a>(&'a self, from: i64, key: &'a [u8], end: &'a [u8]) -> impl Iterator<Item = &'a Event> {
        let from = usize::try_from(from).unwrap_or_default();
        let all = self.changes.iter().skip(from).flatten();
        all.filter(move |event| event.kv.as_ref().is_some_and(|kv| is_within(&kv.key, key, end)))
    }

    /// Asks a call's question here; the call with the answer that there is.
    #[must_use]
    pub fn ask(&mut self, call: &Call) -> Call {
        let mut writing = Writing { now: self.now().clone(), changes: Vec::new(), model: self };
        let mut call = match call {
            Call::Range(request, _) => Call::Range(request.clone(), writing.range(request)),
            Call::Put(request, _) => Call::Put(request.clone(), writing.put(request)),
            Call::Delete(request, _) => Call::Delete(request.clone(), writing.delete(request)),
            Call::Txn(request, _) => Call::Txn(request.clone(), writing.txn(request)),
        };
        let Writing { now, changes, .. } = writing;
        if !changes.is_empty() {
            self.keys.push(now);
            self.changes.push(changes);
        }
        // The header of the whole is of the end.
        let end = Some(header(self.revision()));
        match &mut call {
            Call::Range(_, answer) => answer.header = end,
            Call::Put(_, answer) => answer.header = end,
            Call::Delete(_, answer) => answer.header = end,
            Call::Txn(_, answer) => answer.header = end,
        }
        call
    }

    fn now(&self) -> &Keys {
        self.keys.last().expect("there is always a revision")
    }
}

/// One request, which sees what it wrote.
struct Writing<'a> {
    model: &'a Model,
    now: Keys,
    changes: Vec<Event>,
}

impl Writing<'_> {
    fn revision(&self) -> i64 {
        self.model.revision() + i64::from(!self.changes.is_empty())
    }

    fn range(&self, request: &RangeRequest) -> RangeResponse {
        let keys = match usize::try_from(request.revision) {
            Ok(revision) if revision > 0 => &self.model.keys[revision],
            _ => &self.now,
        };
        let kvs: Vec<KeyValue> = within(keys, &request.key, &request.range_end).cloned().collect();
        let count = kvs.len() as i64;
        RangeResponse { header: Some(header(self.revision())), kvs, more: false, count }
    }

    fn put(&mut self, request: &PutRequest) -> PutResponse {
        let before = self.now.get(&request.key).cloned();
        let revision = self.model.revision() + 1;
        let kv = KeyValue {
            key: request.key.clone(),
            value: request.value.clone(),
            create_revision: before.as_ref().map_or(revision, |kv| kv.create_revision),
            mod_revision: revision,
            version: before.as_ref().map_or(0, |kv| kv.version) + 1,
            lease: 0,
        };
        self.now.insert(request.key.clone(), kv.clone());
        self.changes.push(Event { kv: Some(kv), prev_kv: before.clone(), ..Default::default() });
        let prev_kv = before.filter(|_| request.prev_kv);
        PutResponse { header: Some(header(self.revision())), prev_kv }
    }

    fn delete(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let gone: Vec<KeyValue> = within(&self.now, &request.key, &request.range_end).cloned().collect();
        for before in &gone {
            self.now.remove(&before.key);
            let mod_revision = self.model.revision() + 1;
            let kv = KeyValue { key: before.key.clone(), mod_revision, ..Default::default() };
            let r#type = EventType::Delete.into();
            self.changes.push(Event { r#type, kv: Some(kv), prev_kv: Some(before.clone()) });
        }
        let deleted = gone.len() as i64;
        let prev_kvs = if request.prev_kv { gone } else { Vec::new() };
        DeleteRangeResponse { header: Some(header(self.revision())), deleted, prev_kvs }
    }

    fn txn(&mut self, request: &TxnRequest) -> TxnResponse {
        let succeeded = request.compare.iter().all(|compare| holds(&self.now, compare));
        let ops = if succeeded { &request.success } else { &request.failure };
        let answers = ops.iter().map(|op| match &op.request {
            Some(Request::RequestRange(request)) => Response::ResponseRange(self.range(request)),
            Some(Request::RequestPut(request)) => Response::ResponsePut(self.put(request)),
            Some(Request::RequestDeleteRange(request)) => Response::ResponseDeleteRange(self.delete(request)),
            Some(Request::RequestTxn(_)) | None => unreachable!("clients do not nest"),
        });
        let responses = answers.map(|response| ResponseOp { response: Some(response) }).collect();
        TxnResponse { header: None, succeeded, responses }
    }
}

fn holds(keys: &Keys, compare: &Compare) -> bool {
    let kv = keys.get(&compare.key).cloned().unwrap_or_default();
    let equal = match &compare.target_union {
        Some(TargetUnion::Version(version)) => kv.version == *version,
        Some(TargetUnion::ModRevision(revision)) => kv.mod_revision == *revision,
        Some(TargetUnion::CreateRevision(_) | TargetUnion::Value(_) | TargetUnion::Lease(_)) | None => {
            unreachable!("clients compare versions and revisions")
        }
    };
    assert_eq!(compare.result(), CompareResult::Equal, "clients compare for equality");
    equal
}

fn header(revision: i64) -> ResponseHeader {
    ResponseHeader { revision, ..Default::default() }
}

/// Whether a key is in a range.
#[must_use]
pub fn is_within(of: &[u8], key: &[u8], end: &[u8]) -> bool {
    if end.is_empty() { of == key } else { of >= key && (end == b"\0" || of < end) }
}

fn within<'a>(keys: &'a Keys, key: &'a [u8], end: &'a [u8]) -> impl Iterator<Item = &'a KeyValue> {
    keys.values().filter(move |kv| is_within(&kv.key, key, end))
}
