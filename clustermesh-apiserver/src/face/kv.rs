//! etcd's KV service.

use super::{Doors, convert, sender};
use crate::authz;
use rpc::etcdserverpb::{self as pb, kv_server::Kv};
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl Kv for Doors {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        let touches = authz::range(request.get_ref()).map_err(convert::status)?;
        self.check(request.extensions(), "/etcdserverpb.KV/Range", &touches)?;
        let sight = self.sight(sender(request.extensions())?);
        let range = convert::range(request.into_inner())?;
        let answer = match sight {
            Some(sight) => sight.range(self.engine(), range).await?,
            None => self.engine().range(&range).await.map_err(convert::status)?,
        };
        let header = self.header(answer.revision);
        Ok(Response::new(convert::range_response(answer, header)))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        let touches = authz::put(request.get_ref()).map_err(convert::status)?;
        self.check(request.extensions(), "/etcdserverpb.KV/Put", &touches)?;
        let answer = self.engine().put(convert::put(request.into_inner())).await.map_err(convert::status)?;
        let prev_kv = answer.prev_kv.map(convert::key_value);
        Ok(Response::new(pb::PutResponse { header: Some(self.header(answer.revision)), prev_kv }))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let touches = authz::delete_range(request.get_ref()).map_err(convert::status)?;
        self.check(request.extensions(), "/etcdserverpb.KV/DeleteRange", &touches)?;
        let request = convert::delete_range(request.into_inner());
        let answer = self.engine().delete_range(request).await.map_err(convert::status)?;
        Ok(Response::new(pb::DeleteRangeResponse {
            header: Some(self.header(answer.revision)),
            deleted: answer.deleted,
            prev_kvs: answer.prev_kvs.into_iter().map(convert::key_value).collect(),
        }))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        let touches = authz::txn(request.get_ref()).map_err(convert::status)?;
        self.check(request.extensions(), "/etcdserverpb.KV/Txn", &touches)?;
        let answer = self.engine().txn(convert::txn(request.into_inner())?).await.map_err(convert::status)?;
        let header = self.header(answer.revision);
        Ok(Response::new(convert::txn_response(answer, header)))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        self.check(request.extensions(), "/etcdserverpb.KV/Compact", &[])?;
        // `physical` asks to wait until the space is free; a compaction here is on disk when it is answered.
        let revision = self.engine().compact(request.into_inner().revision).await.map_err(convert::status)?;
        Ok(Response::new(pb::CompactionResponse { header: Some(self.header(revision)) }))
    }
}
