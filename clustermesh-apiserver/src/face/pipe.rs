//! Pipes of bytes: a peer offers to be reached through one, or reaches another peer through us.

use super::{Doors, sender};
use crate::pipes::{
    Pipe, Reach, chunk, output,
    relay::{NotRelayed, Relay},
};
use api::name::{BadName, ClusterName};
use daemon::tls::PeerInfo;
use futures::{StreamExt, stream::BoxStream};
use rpc::mesh::pipe::v1::{Chunk, pipe_server};
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

/// How long whoever opens a pipe may take to say to whom.
const FIRST_MAX: Duration = Duration::from_secs(5);

/// The service.
#[derive(Debug, Clone)]
pub(super) struct Pipes {
    pub(super) doors: Doors,
    pub(super) reach: Reach,
}

type Answer = Response<BoxStream<'static, Result<Chunk, Status>>>;

#[tonic::async_trait]
impl pipe_server::Pipe for Pipes {
    async fn offer(&self, request: Request<Streaming<Chunk>>) -> Result<Answer, Status> {
        let who = sender(request.extensions())?.clone();
        let peer = cluster(&who)?;
        let (pipe, answer) = self.pipe(who, request.into_inner());
        self.reach.offered(&peer, pipe).map_err(|full| Status::resource_exhausted(full.to_string()))?;
        Ok(answer)
    }

    async fn open(&self, request: Request<Streaming<Chunk>>) -> Result<Answer, Status> {
        let who = sender(request.extensions())?.clone();
        let from = cluster(&who)?;
        let mut chunks = request.into_inner();
        let late = |_| Status::deadline_exceeded("to whom the pipe leads was not said in time");
        let first = timeout(FIRST_MAX, chunks.message()).await.map_err(late)??;
        let to = first.map(|chunk| chunk.to).unwrap_or_default();
        let to: ClusterName = to.parse().map_err(|bad: BadName| Status::invalid_argument(bad.to_string()))?;
        let relay = Relay::open(&self.reach, &from, &to).await.map_err(|why| {
            warn!(%from, %to, %why, "Passed nothing on");
            refusal(&why)
        })?;
        let (pipe, answer) = self.pipe(who, chunks);
        tokio::spawn(relay.splice(pipe));
        Ok(answer)
    }
}

impl Pipes {
    /// A pipe over a call's two streams. It ends with its caller's peering, and with the server.
    fn pipe(&self, who: PeerInfo, chunks: Streaming<Chunk>) -> (Pipe, Answer) {
        let ended = CancellationToken::new();
        let (output, answers) = output();
        let pipe = Pipe::new(chunks.take_until(ended.clone().cancelled_owned()), output);
        let (doors, end) = (self.doors.clone(), ended.drop_guard());
        let farewell = async move {
            let why = doors.farewell(&who).await;
            info!(who = %who.id, why = why.message(), "A pipe ends");
            drop(end);
        };
        let answers = answers.map(|bytes| Ok(chunk(bytes))).take_until(farewell);
        (pipe, Response::new(answers.boxed()))
    }
}

/// Which peer's apiserver it is: the table lets nobody else in.
fn cluster(who: &PeerInfo) -> Result<ClusterName, Status> {
    who.id.cluster_name().ok_or_else(|| Status::permission_denied("only clusters have pipes"))
}

/// Never etcd's words for "you may not": whoever reads them would take them for the words of the one that he means.
fn refusal(why: &NotRelayed) -> Status {
    let text = why.to_string();
    match why {
        NotRelayed::NotAgreed { .. } => Status::failed_precondition(text),
        NotRelayed::Full(_) => Status::resource_exhausted(text),
        NotRelayed::Away(_) => Status::unavailable(text),
    }
}
