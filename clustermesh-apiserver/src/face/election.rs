//! etcd's Election service.

use super::{
    Doors, convert, recipe, sender,
    turn::{self, Turn},
};
use crate::{authz, backend::WatchResponse};
use bytes::Bytes;
use rpc::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse, election_server::Election,
};
use std::pin::Pin;
use store::{EventKind, KeyValue, WatchRequest};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

/// Proclamations that wait for the network.
const PROCLAMATIONS_MAX: usize = 4;

impl Doors {
    /// A leader changes what it says; whoever is no leader any more is told so.
    async fn say(&self, leader: &LeaderKey, value: Bytes) -> Result<i64, Status> {
        let answer = self.engine().txn(recipe::proclaim(leader, value)).await.map_err(turn::refused)?;
        if answer.succeeded { Ok(answer.revision) } else { Err(Status::unknown("election: not leader")) }
    }

    fn proclamation(&self, revision: i64, kv: KeyValue) -> LeaderResponse {
        LeaderResponse { header: Some(self.header(revision)), kv: Some(convert::key_value(kv)) }
    }
}

/// Whom a request is about.
fn named(leader: Option<&LeaderKey>) -> Result<&LeaderKey, Status> {
    leader.ok_or_else(|| Status::unknown("\"leader\" field must be provided"))
}

#[tonic::async_trait]
impl Election for Doors {
    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        let touches = authz::campaign(request.get_ref());
        self.check(request.extensions(), "/v3electionpb.Election/Campaign", &touches)?;
        let CampaignRequest { name, lease, value } = request.get_ref().clone();
        let lease = self.session(request.extensions(), lease).await?;
        let turn = Turn::join(self, &name, lease, value.clone()).await?;
        let leader = LeaderKey { name, key: turn.key.clone(), rev: turn.place.created, lease };
        // A lease that had a place already may have said something else there.
        if turn.place.said != value {
            self.say(&leader, value).await?;
        }
        let joined = turn.joined;
        turn.come(self).await?;
        // As etcd: the revision as of which it got its place, not that of its turn.
        let header = Some(self.header(joined));
        Ok(Response::new(CampaignResponse { header, leader: Some(leader) }))
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        let leader = named(request.get_ref().leader.as_ref())?;
        let touches = authz::proclaim(request.get_ref()).map_err(turn::refused)?;
        self.check(request.extensions(), "/v3electionpb.Election/Proclaim", &touches)?;
        let revision = self.say(leader, request.get_ref().value.clone()).await?;
        Ok(Response::new(ProclaimResponse { header: Some(self.header(revision)) }))
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        let touches = authz::leader(request.get_ref());
        self.check(request.extensions(), "/v3electionpb.Election/Leader", &touches)?;
        match turn::first(self.engine(), &request.get_ref().name).await? {
            (revision, Some(kv)) => Ok(Response::new(self.proclamation(revision, kv))),
            (_, None) => Err(Status::unknown("election: no leader")),
        }
    }

    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send>>>, Status> {
        let touches = authz::leader(request.get_ref());
        self.check(request.extensions(), "/v3electionpb.Election/Observe", &touches)?;
        let who = sender(request.extensions())?.clone();
        let (give, stream) = mpsc::channel(PROCLAMATIONS_MAX);
        let (doors, name) = (self.clone(), request.into_inner().name);
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = observe(&doors, &name, &give) => ended,
                why = doors.farewell(&who) => Err(why),
                () = give.closed() => Ok(()),
            };
            if let Err(why) = ended {
                // Nobody listens: as good as told.
                give.send(Err(why)).await.ok();
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let leader = named(request.get_ref().leader.as_ref())?;
        let touches = authz::resign(request.get_ref()).map_err(turn::refused)?;
        self.check(request.extensions(), "/v3electionpb.Election/Resign", &touches)?;
        // Whoever is no leader any more has nothing to give back.
        let (revision, _) = turn::delete(self.engine(), leader.key.clone(), leader.rev).await?;
        Ok(Response::new(ResignResponse { header: Some(self.header(revision)) }))
    }
}

/// Sends what each leader says, in order, until nobody listens.
async fn observe(
    doors: &Doors,
    name: &Bytes,
    give: &mpsc::Sender<Result<LeaderResponse, Status>>,
) -> Result<(), Status> {
    loop {
        let (revision, leader) = turn::first(doors.engine(), name).await?;
        let (key, range_end) = match &leader {
            Some(kv) => (kv.key.clone(), Bytes::new()),
            None => {
                let all = authz::waiting(name);
                (all.key().clone(), all.range_end())
            }
        };
        let led = leader.is_some();
        if let Some(kv) = leader
            && give.send(Ok(doors.proclamation(revision, kv))).await.is_err()
        {
            return Ok(());
        }
        let request =
            WatchRequest { key, range_end, start_revision: revision + 1, ..WatchRequest::default() };
        let mut watch = doors.engine().watch(&request).map_err(turn::refused)?;
        'leader: loop {
            match watch.next().await {
                Some(WatchResponse::Events { revision, events }) => {
                    for event in events {
                        match event.kind {
                            EventKind::Put if led => {
                                if give.send(Ok(doors.proclamation(revision, event.kv))).await.is_err() {
                                    return Ok(());
                                }
                            }
                            // Another leads now: who?
                            EventKind::Put | EventKind::Delete => break 'leader,
                        }
                    }
                }
                Some(WatchResponse::Progress { .. }) => {}
                Some(WatchResponse::Canceled { .. }) => break,
                None => return Err(convert::status(store::Error::Stopped)),
            }
        }
    }
}
