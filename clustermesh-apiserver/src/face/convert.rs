//! etcd's messages and the store's values, one to one.

use rpc::{etcdserverpb as pb, mvccpb};
use store::{
    Code, Compare, CompareResult, CompareTarget, DeleteRangeRequest, Error, Event, EventKind, KeyValue, Op,
    OpResponse, PutRequest, RangeRequest, SortOrder, SortTarget, TxnRequest, TxnResponse, WatchRequest,
};
use tonic::Status;

/// As etcd maps its errors.
#[must_use]
pub fn status(error: Error) -> Status {
    let text = error.to_string();
    match error.code() {
        Code::InvalidArgument => Status::invalid_argument(text),
        Code::NotFound => Status::not_found(text),
        Code::FailedPrecondition => Status::failed_precondition(text),
        Code::ResourceExhausted => Status::resource_exhausted(text),
        Code::OutOfRange => Status::out_of_range(text),
        Code::Unavailable => Status::unavailable(text),
    }
}

/// etcd's words since 3.5.8; those before it panic.
fn unsorted() -> Status {
    Status::invalid_argument("etcdserver: invalid sort option")
}

fn unknown(field: &str, number: i32) -> Status {
    Status::invalid_argument(format!("etcdserver: {field} has no value {number}"))
}

/// A `Range`.
///
/// # Errors
/// As etcd answers an order that it does not know.
pub fn range(request: pb::RangeRequest) -> Result<RangeRequest, Status> {
    use pb::range_request::{SortOrder as Order, SortTarget as Target};
    let order = Order::try_from(request.sort_order).map_err(|_| unsorted())?;
    let target = Target::try_from(request.sort_target).map_err(|_| unsorted())?;
    Ok(RangeRequest {
        key: request.key,
        range_end: request.range_end,
        limit: request.limit,
        revision: request.revision,
        sort_order: match order {
            Order::None => SortOrder::None,
            Order::Ascend => SortOrder::Ascend,
            Order::Descend => SortOrder::Descend,
        },
        sort_target: match target {
            Target::Key => SortTarget::Key,
            Target::Version => SortTarget::Version,
            Target::Create => SortTarget::Create,
            Target::Mod => SortTarget::Mod,
            Target::Value => SortTarget::Value,
        },
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: request.min_mod_revision,
        max_mod_revision: request.max_mod_revision,
        min_create_revision: request.min_create_revision,
        max_create_revision: request.max_create_revision,
    })
}

/// A `Put`.
#[must_use]
pub fn put(request: pb::PutRequest) -> PutRequest {
    PutRequest {
        key: request.key,
        value: request.value,
        lease: request.lease,
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    }
}

/// A `DeleteRange`.
#[must_use]
pub fn delete_range(request: pb::DeleteRangeRequest) -> DeleteRangeRequest {
    DeleteRangeRequest { key: request.key, range_end: request.range_end, prev_kv: request.prev_kv }
}

/// A `Txn`, with all that is nested in it.
///
/// # Errors
/// As etcd answers an operation, a compare or an order that it does not know.
pub fn txn(request: pb::TxnRequest) -> Result<TxnRequest, Status> {
    Ok(TxnRequest {
        compare: request.compare.into_iter().map(compare).collect::<Result<_, _>>()?,
        success: ops(request.success)?,
        failure: ops(request.failure)?,
    })
}

fn ops(ops: Vec<pb::RequestOp>) -> Result<Vec<Op>, Status> {
    // As etcd answers an operation that says nothing.
    ops.into_iter().map(|op_| op_.request.ok_or_else(|| status(Error::KeyNotFound)).and_then(op)).collect()
}

fn op(request: pb::request_op::Request) -> Result<Op, Status> {
    use pb::request_op::Request;
    Ok(match request {
        Request::RequestRange(request) => Op::Range(range(request)?),
        Request::RequestPut(request) => Op::Put(put(request)),
        Request::RequestDeleteRange(request) => Op::DeleteRange(delete_range(request)),
        // prost decodes at most 100 levels.
        Request::RequestTxn(request) => Op::Txn(txn(request)?),
    })
}

fn compare(compare: pb::Compare) -> Result<Compare, Status> {
    use pb::compare::{CompareResult as Is, CompareTarget as Of, TargetUnion as With};
    let result = Is::try_from(compare.result).map_err(|_| unknown("result", compare.result))?;
    let target = Of::try_from(compare.target).map_err(|_| unknown("target", compare.target))?;
    // As etcd's getters: a union of another kind is the default of the kind that is asked for.
    let target = match (target, compare.target_union) {
        (Of::Version, Some(With::Version(version))) => CompareTarget::Version(version),
        (Of::Version, _) => CompareTarget::Version(0),
        (Of::Create, Some(With::CreateRevision(revision))) => CompareTarget::CreateRevision(revision),
        (Of::Create, _) => CompareTarget::CreateRevision(0),
        (Of::Mod, Some(With::ModRevision(revision))) => CompareTarget::ModRevision(revision),
        (Of::Mod, _) => CompareTarget::ModRevision(0),
        (Of::Value, Some(With::Value(value))) => CompareTarget::Value(value),
        (Of::Value, _) => CompareTarget::Value(bytes::Bytes::new()),
        (Of::Lease, Some(With::Lease(lease))) => CompareTarget::Lease(lease),
        (Of::Lease, _) => CompareTarget::Lease(0),
    };
    let result = match result {
        Is::Equal => CompareResult::Equal,
        Is::Greater => CompareResult::Greater,
        Is::Less => CompareResult::Less,
        Is::NotEqual => CompareResult::NotEqual,
    };
    Ok(Compare { key: compare.key, range_end: compare.range_end, result, target })
}

/// A watch that is to be created.
#[must_use]
pub fn watch(request: &pb::WatchCreateRequest) -> WatchRequest {
    use pb::watch_create_request::FilterType;
    let filters = |filter: FilterType| request.filters.contains(&(filter as i32));
    WatchRequest {
        key: request.key.clone(),
        range_end: request.range_end.clone(),
        start_revision: request.start_revision,
        prev_kv: request.prev_kv,
        no_put: filters(FilterType::Noput),
        no_delete: filters(FilterType::Nodelete),
        progress_notify: request.progress_notify,
    }
}

/// One version of a key.
#[must_use]
pub fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}

/// One change of a key.
#[must_use]
pub fn event(event: Event) -> mvccpb::Event {
    let kind = match event.kind {
        EventKind::Put => mvccpb::event::EventType::Put,
        EventKind::Delete => mvccpb::event::EventType::Delete,
    };
    mvccpb::Event {
        r#type: kind.into(),
        kv: Some(key_value(event.kv)),
        prev_kv: event.prev_kv.map(key_value),
    }
}

/// The answer of a `Txn`.
#[must_use]
pub fn txn_response(answer: TxnResponse, header: pb::ResponseHeader) -> pb::TxnResponse {
    pb::TxnResponse {
        header: Some(header),
        succeeded: answer.succeeded,
        responses: answer.responses.into_iter().map(op_response).collect(),
    }
}

/// Headers inside a txn carry the revision so far and nothing else, those of nested txns nothing at all (etcd).
fn op_response(response: OpResponse) -> pb::ResponseOp {
    use pb::response_op::Response;
    let at = |revision| pb::ResponseHeader { revision, ..Default::default() };
    let response = match response {
        OpResponse::Range(answer) => {
            let header = at(answer.revision);
            Response::ResponseRange(range_response(answer, header))
        }
        OpResponse::Put(answer) => Response::ResponsePut(pb::PutResponse {
            header: Some(at(answer.revision)),
            prev_kv: answer.prev_kv.map(key_value),
        }),
        OpResponse::DeleteRange(answer) => Response::ResponseDeleteRange(pb::DeleteRangeResponse {
            header: Some(at(answer.revision)),
            deleted: answer.deleted,
            prev_kvs: answer.prev_kvs.into_iter().map(key_value).collect(),
        }),
        OpResponse::Txn(answer) => Response::ResponseTxn(txn_response(answer, pb::ResponseHeader::default())),
    };
    pb::ResponseOp { response: Some(response) }
}

/// The answer of a `Range`.
#[must_use]
pub fn range_response(answer: store::RangeResponse, header: pb::ResponseHeader) -> pb::RangeResponse {
    pb::RangeResponse {
        header: Some(header),
        kvs: answer.kvs.into_iter().map(key_value).collect(),
        more: answer.more,
        count: answer.count,
    }
}
