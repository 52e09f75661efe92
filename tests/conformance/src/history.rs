//! What clients asked and were told, and what watchers saw: recorded while it happened, judged afterwards.

use bytes::Bytes;
use rpc::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    ResponseHeader, TxnRequest, TxnResponse, WatchResponse, response_op::Response,
};
use std::time::Duration;

/// All of a run.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Of all clients, in no order.
    pub operations: Vec<Operation>,
    /// One for each watcher.
    pub watches: Vec<Watched>,
}

/// A request and its answer.
#[derive(Debug, Clone)]
pub struct Operation {
    /// When it was asked, since the start of the run.
    pub asked: Duration,
    /// When the answer was there.
    pub answered: Duration,
    /// What.
    pub call: Call,
}

/// What was asked, and what was said.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    /// A read.
    Range(RangeRequest, RangeResponse),
    /// A put.
    Put(PutRequest, PutResponse),
    /// A delete.
    Delete(DeleteRangeRequest, DeleteRangeResponse),
    /// A txn.
    Txn(TxnRequest, TxnResponse),
}

impl Call {
    /// The store's revision as the answer tells it.
    #[must_use]
    pub fn revision(&self) -> i64 {
        let header = match self {
            Self::Range(_, answer) => &answer.header,
            Self::Put(_, answer) => &answer.header,
            Self::Delete(_, answer) => &answer.header,
            Self::Txn(_, answer) => &answer.header,
        };
        revision(header.as_ref())
    }

    /// Whether it changed the store, and its revision is its own.
    #[must_use]
    pub fn has_written(&self) -> bool {
        match self {
            Self::Range(..) => false,
            Self::Put(..) => true,
            Self::Delete(_, answer) => answer.deleted > 0,
            Self::Txn(_, answer) => answer.responses.iter().any(|response| match &response.response {
                Some(Response::ResponsePut(_)) => true,
                Some(Response::ResponseDeleteRange(answer)) => answer.deleted > 0,
                Some(Response::ResponseRange(_) | Response::ResponseTxn(_)) | None => false,
            }),
        }
    }
}

/// The revision of a header; 0 without one.
#[must_use]
pub fn revision(header: Option<&ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

/// What a watcher of a range saw, with the changed keys as they were before; one leg for each time it was connected.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    /// The first key.
    pub key: Bytes,
    /// The end of the range.
    pub range_end: Bytes,
    /// The first begins where the watcher did, each other one after what was seen by then.
    pub legs: Vec<Leg>,
}

/// A watch from its creation to its end.
#[derive(Debug, Clone, Default)]
pub struct Leg {
    /// The first revision that was asked for.
    pub start: i64,
    /// What came, but that it was created.
    pub messages: Vec<WatchResponse>,
}
