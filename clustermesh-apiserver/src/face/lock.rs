//! etcd's Lock service.

use super::{
    Doors,
    turn::{self, Turn},
};
use crate::authz;
use bytes::Bytes;
use rpc::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse, lock_server::Lock};
use store::DeleteRangeRequest;
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl Lock for Doors {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let touches = authz::lock(request.get_ref());
        self.check(request.extensions(), "/v3lockpb.Lock/Lock", &touches)?;
        let LockRequest { name, lease } = request.get_ref().clone();
        let lease = self.session(request.extensions(), lease).await?;
        let turn = Turn::join(self, &name, lease, Bytes::new()).await?.come(self).await?;
        let header = Some(self.header(self.engine().revision()));
        Ok(Response::new(LockResponse { header, key: turn.key.clone() }))
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let touches = authz::unlock(request.get_ref()).map_err(turn::refused)?;
        self.check(request.extensions(), "/v3lockpb.Lock/Unlock", &touches)?;
        let delete = DeleteRangeRequest { key: request.into_inner().key, ..DeleteRangeRequest::default() };
        let answer = self.engine().delete_range(delete).await.map_err(turn::refused)?;
        Ok(Response::new(UnlockResponse { header: Some(self.header(answer.revision)) }))
    }
}
