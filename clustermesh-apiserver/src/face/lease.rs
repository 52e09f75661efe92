//! etcd's Lease service. Whose time is up is the store's to know; here are the words.

use super::{Doors, convert, sender};
use rpc::etcdserverpb::{self as pb, lease_server::Lease};
use std::pin::{Pin, pin};
use store::{Error, LeaseGrant};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Extensions, Request, Response, Status, Streaming};

/// Answers that wait for the network: a client sends one request a lease and third of its time to live.
const ANSWERS_MAX: usize = 4;

/// The answer for a lease that is not there, where etcd gives no error.
const NO_LEASE_TTL: i64 = -1;

/// The lease of somebody who waits for a turn and brings none: etcd's default of a session. Nobody keeps it alive.
const SESSION_TTL_S: i64 = 60;

impl Doors {
    /// The lease that a turn hangs on: the one that was brought, or a new one.
    pub(super) async fn session(&self, extensions: &Extensions, brought: i64) -> Result<i64, Status> {
        if brought != 0 {
            return Ok(brought);
        }
        self.grant(extensions, 0, SESSION_TTL_S).await.map(|(id, _)| id)
    }

    /// Grants a lease to whoever asks; the id 0 leaves the choice to us.
    async fn grant(&self, extensions: &Extensions, id: i64, ttl_s: i64) -> Result<(i64, i64), Status> {
        let owner = sender(extensions)?.id.to_string().into();
        // 63 random bits: should they ever name a lease that is there, the answer says so.
        let id = if id == 0 { rand::random_range(1..=i64::MAX) } else { id };
        let granted = self.engine().lease_grant(LeaseGrant { id, ttl_s, owner }).await;
        Ok((id, granted.map_err(convert::status)?))
    }

    async fn keep_alive(
        &self,
        extensions: &Extensions,
        id: i64,
    ) -> Result<pb::LeaseKeepAliveResponse, Status> {
        // A stream may be older than what its sender may do.
        self.check(extensions, "/etcdserverpb.Lease/LeaseKeepAlive", &[])?;
        let ttl = match self.engine().lease_keep_alive(id).await {
            Ok(ttl) => ttl,
            // etcd: a time to live of 0 says that it has expired.
            Err(Error::LeaseNotFound) => 0,
            Err(error) => return Err(convert::status(error)),
        };
        let header = Some(self.header(self.engine().revision()));
        Ok(pb::LeaseKeepAliveResponse { header, id, ttl })
    }
}

#[tonic::async_trait]
impl Lease for Doors {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        self.check(request.extensions(), "/etcdserverpb.Lease/LeaseGrant", &[])?;
        let pb::LeaseGrantRequest { id, ttl } = *request.get_ref();
        let (id, ttl) = self.grant(request.extensions(), id, ttl).await?;
        let header = Some(self.header(self.engine().revision()));
        Ok(Response::new(pb::LeaseGrantResponse { header, id, ttl, error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        self.check(request.extensions(), "/etcdserverpb.Lease/LeaseRevoke", &[])?;
        let revision = self.engine().lease_revoke(request.get_ref().id).await.map_err(convert::status)?;
        Ok(Response::new(pb::LeaseRevokeResponse { header: Some(self.header(revision)) }))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<
        Response<Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>>,
        Status,
    > {
        let (_, extensions, mut requests) = request.into_parts();
        let who = sender(&extensions)?.clone();
        let (answers, stream) = mpsc::channel(ANSWERS_MAX);
        let doors = self.clone();
        tokio::spawn(async move {
            let mut farewell = pin!(doors.farewell(&who));
            loop {
                let request = tokio::select! {
                    request = requests.message() => request,
                    why = &mut farewell => Err(why),
                    () = answers.closed() => return,
                };
                let answer = match request {
                    Ok(Some(request)) => doors.keep_alive(&extensions, request.id).await,
                    Ok(None) => return,
                    Err(ended) => Err(ended),
                };
                let last = answer.is_err();
                if answers.send(answer).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        self.check(request.extensions(), "/etcdserverpb.Lease/LeaseTimeToLive", &[])?;
        let pb::LeaseTimeToLiveRequest { id, keys } = *request.get_ref();
        let answer = match self.engine().lease(id).await {
            Ok(lease) => pb::LeaseTimeToLiveResponse {
                header: Some(self.header(self.engine().revision())),
                id,
                ttl: lease.remaining_s,
                granted_ttl: lease.granted_s,
                keys: if keys { lease.keys } else { Vec::new() },
            },
            Err(Error::LeaseNotFound) => pb::LeaseTimeToLiveResponse {
                header: Some(self.header(self.engine().revision())),
                id,
                ttl: NO_LEASE_TTL,
                ..Default::default()
            },
            Err(error) => return Err(convert::status(error)),
        };
        Ok(Response::new(answer))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        self.check(request.extensions(), "/etcdserverpb.Lease/LeaseLeases", &[])?;
        let ids = self.engine().leases().await.map_err(convert::status)?;
        let leases = ids.into_iter().map(|id| pb::LeaseStatus { id }).collect();
        let header = Some(self.header(self.engine().revision()));
        Ok(Response::new(pb::LeaseLeasesResponse { header, leases }))
    }
}
