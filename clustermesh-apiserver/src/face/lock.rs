//! etcd's Lock service.

use super::{Doors, convert, turn::Turn};
use crate::authz;
use bytes::Bytes;
use rpc::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse, lock_server::Lock};
use store::DeleteRangeRequest;
use tonic::{Request, Response, Status};

/// The lease of a lock whose caller brings none: etcd's default of a session. Nobody keeps it alive.
pub(super) const SESSION_TTL_S: i64 = 60;

#[tonic::async_trait]
impl Lock for Doors {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let touches = authz::lock(request.get_ref()).map_err(convert::status)?;
        self.check(request.extensions(), "/v3lockpb.Lock/Lock", &touches)?;
        let LockRequest { name, mut lease } = request.get_ref().clone();
        if lease == 0 {
            (lease, _) = self.grant(request.extensions(), 0, SESSION_TTL_S).await?;
        }
        let turn = Turn::join(self, &name, lease, Bytes::new()).await?.come(self).await?;
        let header = Some(self.header(self.engine().revision()));
        Ok(Response::new(LockResponse { header, key: turn.key.clone() }))
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let touches = authz::unlock(request.get_ref()).map_err(convert::status)?;
        self.check(request.extensions(), "/v3lockpb.Lock/Unlock", &touches)?;
        let delete = DeleteRangeRequest { key: request.into_inner().key, ..DeleteRangeRequest::default() };
        let answer = self.engine().delete_range(delete).await.map_err(convert::status)?;
        Ok(Response::new(UnlockResponse { header: Some(self.header(answer.revision)) }))
    }
}
