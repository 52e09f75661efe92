//! The side that only dials out: it keeps a few pipes at every peer that it can dial, and serves who comes through them.

use super::{Arrived, MESSAGE_BYTES_MAX, PIPES_PER_PEER_MAX, Pipe, Reach, Route, pipe};
use api::name::ClusterName;
use backon::{BackoffBuilder, ExponentialBuilder};
use daemon::tls::{Expected, connect_any};
use futures::{StreamExt, future::try_join};
use rpc::mesh::pipe::v1::pipe_client::PipeClient;
use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status, transport::Channel};
use tracing::{debug, info, warn};

/// Pipes that wait at each peer: one for its follower, and one for whoever comes while that one is being replaced.
const IDLE: usize = 2;
/// Time between attempts to reach a peer.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(15);

/// Offers pipes to every peer that can be dialled, as they come and go, for ever.
pub async fn follow(reach: Reach) {
    let mut routes = reach.routes();
    let mut offering: BTreeMap<ClusterName, (Route, AbortOnDropHandle<()>)> = BTreeMap::new();
    loop {
        let dialled = routes.borrow_and_update().clone();
        let dialled = dialled.into_iter().filter(|(_, route)| !route.endpoints.is_empty());
        let dialled: BTreeMap<_, _> = dialled.collect();
        offering.retain(|peer, (route, _)| dialled.get(peer) == Some(route));
        for (peer, route) in dialled {
            offering.entry(peer).or_insert_with_key(|peer| {
                let task = tokio::spawn(to_peer(reach.clone(), peer.clone(), route.clone()));
                (route, AbortOnDropHandle::new(task))
            });
        }
        if routes.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps pipes at one peer.
async fn to_peer(reach: Reach, peer: ClusterName, route: Route) {
    let expected = Expected::cluster(route.uuid, peer.clone());
    let backoff = ExponentialBuilder::default().with_min_delay(RETRY_MIN).with_max_delay(RETRY_MAX);
    let waits = || backoff.with_jitter().without_max_times().build();
    let (mut wait, mut said) = (waits(), String::new());
    loop {
        let began = Instant::now();
        let why = match connect_any(reach.tls(), &route.endpoints, &expected).await {
            Ok(connection) => {
                debug!(%peer, at = connection.endpoint, "Offering pipes");
                refused(&keep(&reach, &peer, connection.channel).await)
            }
            Err(error) => format!("{:#}", anyhow::Error::from(error)),
        };
        // One that stood for a while is tried at once when it breaks.
        if began.elapsed() > RETRY_MAX {
            (wait, said) = (waits(), String::new());
        }
        if why != said {
            warn!(%peer, why, "The peer cannot reach us: it cannot dial us, and has no pipe of ours");
            said = why;
        }
        sleep(wait.next().unwrap_or(RETRY_MAX)).await;
    }
}

/// Keeps two pipes that wait, until the connection breaks, or the peer wants none; says why.
async fn keep(reach: &Reach, peer: &ClusterName, channel: Channel) -> Status {
    // One connection carries all pipes, and no more than the peer takes.
    let places = Arc::new(Semaphore::new(PIPES_PER_PEER_MAX - IDLE));
    let pipes = || one_after_another(reach, peer, &channel, &places);
    let Err(why) = try_join(pipes(), pipes()).await.map(|(never, _)| never);
    why
}

async fn one_after_another(
    reach: &Reach,
    peer: &ClusterName,
    channel: &Channel,
    places: &Arc<Semaphore>,
) -> Result<Infallible, Status> {
    loop {
        let place = Arc::clone(places).acquire_owned().await;
        let place = place.map_err(|_| Status::cancelled("no pipes are offered any more"))?;
        let mut client = PipeClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (output, chunks) = pipe::output();
        let answer = client.offer(chunks.map(pipe::chunk)).await?;
        let mut pipe = Pipe::new(answer.into_inner(), output).holding(place).holding(channel.clone());
        match pipe.begun().await {
            Ok(true) => {}
            Ok(false) => return Err(Status::unavailable("the peer has ended the pipe")),
            Err(error) => return Err(Status::unavailable(error.to_string())),
        }
        info!(%peer, "The peer comes through a pipe");
        // When this fails our doors are closed, and this is about to be ended.
        reach.arrivals().send(Arrived { pipe, through: peer.clone() }).await.ok();
    }
}

fn refused(status: &Status) -> String {
    match status.code() {
        Code::Unimplemented | Code::PermissionDenied => {
            "its apiserver is older than pipes, or has no peering with us any more".to_owned()
        }
        _ => status.message().to_owned(),
    }
}
