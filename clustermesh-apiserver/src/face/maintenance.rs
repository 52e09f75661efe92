//! What etcd's tools ask a server about itself.

use super::Doors;
use rpc::etcdserverpb::{self as pb, cluster_server::Cluster, maintenance_server::Maintenance};
use tonic::{Request, Response, Status};

/// The API that we speak, for clients that look: etcd's version, and ours as its pre-release.
const VERSION: &str = concat!("3.5.0-mesh.", env!("CARGO_PKG_VERSION"));

#[tonic::async_trait]
impl Maintenance for Doors {
    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        self.check(request.extensions(), "/etcdserverpb.Maintenance/Status", &[])?;
        let sizes = self.engine().stats().store;
        let bytes = i64::try_from(sizes.bytes).unwrap_or(i64::MAX);
        let index = u64::try_from(sizes.revision).unwrap_or_default();
        Ok(Response::new(pb::StatusResponse {
            header: Some(self.header(sizes.revision)),
            version: VERSION.to_owned(),
            db_size: bytes,
            db_size_in_use: bytes,
            leader: self.ids().1,
            raft_index: index,
            raft_applied_index: index,
            raft_term: self.term(),
            db_size_quota: i64::try_from(store::STORE_BYTES_MAX).unwrap_or(i64::MAX),
            ..Default::default()
        }))
    }

    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        self.check(request.extensions(), "/etcdserverpb.Maintenance/Alarm", &[])?;
        if request.get_ref().action() != pb::alarm_request::AlarmAction::Get {
            return Err(Status::unimplemented("alarms cannot be set or cleared here: there are none"));
        }
        Ok(Response::new(pb::AlarmResponse {
            header: Some(self.header(self.engine().revision())),
            alarms: vec![],
        }))
    }
}

#[tonic::async_trait]
impl Cluster for Doors {
    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        self.check(request.extensions(), "/etcdserverpb.Cluster/MemberList", &[])?;
        let own = &self.inner.own;
        let member = pb::Member { id: self.ids().1, name: own.name.to_string(), ..Default::default() };
        let header = Some(self.header(self.engine().revision()));
        Ok(Response::new(pb::MemberListResponse { header, members: vec![member] }))
    }
}
