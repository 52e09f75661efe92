//! Reaching a peer's apiserver, whichever way there is to it.

use super::{REACH_MAX, TAKE_MAX, offered::Offered, pipe, relay::Relays};
use crate::pipes::{Full, MESSAGE_BYTES_MAX, Pipe};
use api::{
    bytes::ClusterUuid,
    name::ClusterName,
    peer::{MeshPeer, MeshPeerSpec},
    record::Way,
};
use daemon::tls::{Connection, Expected, Tls, Wire, connect_any, connect_over};
use futures::{StreamExt, stream};
use rpc::mesh::pipe::v1::{Chunk, pipe_client::PipeClient};
use std::{collections::BTreeMap, io, sync::Arc};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    time::timeout,
};
use tonic::{Code, Status, transport::Channel};

/// Connections through our own pipes that wait for their handshake.
const ARRIVALS_MAX: usize = 16;

/// What of a peering says how its bytes go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Who has to answer.
    pub uuid: ClusterUuid,
    /// Where it can be dialled; none: nowhere.
    pub endpoints: Vec<String>,
    /// The peer that passes our bytes on to it.
    pub through: Option<ClusterName>,
    /// The peers to which we pass its bytes on.
    pub relay: Vec<ClusterName>,
}

impl From<&MeshPeer> for Route {
    fn from(peer: &MeshPeer) -> Self {
        let MeshPeerSpec { uuid, endpoints, through, contract, .. } = &peer.spec;
        let (endpoints, through) = (endpoints.clone(), through.clone());
        Self { uuid: *uuid, endpoints, through, relay: contract.relay.clone() }
    }
}

/// By peer.
pub type Routes = BTreeMap<ClusterName, Route>;

/// How a peer is reached.
#[must_use]
pub fn way(route: &Route) -> Way {
    match &route.through {
        _ if !route.endpoints.is_empty() => Way::Dialled,
        Some(through) => Way::Relayed(through.clone()),
        None => Way::DialledByIt,
    }
}

/// Somebody has reached us through a pipe that we offered.
#[derive(Debug)]
pub struct Arrived {
    /// Its bytes; the first are there.
    pub pipe: Pipe,
    /// To whom we offered it.
    pub through: ClusterName,
}

/// Those who reach us through pipes, for our own doors.
pub type Arrivals = mpsc::Receiver<Arrived>;

/// The ways to our peers. Cheap to clone; clones share everything.
#[derive(Debug, Clone)]
pub struct Reach {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    tls: Tls,
    routes: watch::Sender<Routes>,
    offered: Offered,
    relays: Relays,
    arrivals: mpsc::Sender<Arrived>,
}

impl Reach {
    /// No peers yet. What arrives through pipes that we offer is for the doors.
    #[must_use]
    pub fn new(tls: Tls) -> (Self, Arrivals) {
        let (arrivals, arrived) = mpsc::channel(ARRIVALS_MAX);
        let (offered, relays, routes) = (Offered::default(), Relays::default(), watch::Sender::default());
        (Self { inner: Arc::new(Inner { tls, routes, offered, relays, arrivals }) }, arrived)
    }

    /// Whom we have for peers now.
    pub fn set(&self, routes: Routes) {
        self.inner.offered.keep(|peer| routes.contains_key(peer));
        self.inner.relays.keep(|peer| routes.contains_key(peer));
        self.inner.routes.send_if_modified(|held| std::mem::replace(held, routes.clone()) != routes);
    }

    /// Whom we have for peers, as it changes.
    #[must_use]
    pub fn routes(&self) -> watch::Receiver<Routes> {
        self.inner.routes.subscribe()
    }

    /// What we passed on.
    #[must_use]
    pub fn relays(&self) -> &Relays {
        &self.inner.relays
    }

    /// Pipes of peers that wait to be used.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.inner.offered.idle()
    }

    pub(super) fn tls(&self) -> &Tls {
        &self.inner.tls
    }

    pub(super) fn arrivals(&self) -> &mpsc::Sender<Arrived> {
        &self.inner.arrivals
    }

    /// Takes in a pipe that a peer offers.
    ///
    /// # Errors
    /// When it has as many as it may.
    pub fn offered(&self, peer: &ClusterName, pipe: Pipe) -> Result<(), Full> {
        self.inner.offered.put(peer, pipe)
    }

    /// Connects to a peer's apiserver and makes sure that it is this peer's.
    ///
    /// # Errors
    /// Why there is no connection, in words for a status.
    pub async fn connect(&self, peer: &ClusterName, route: &Route) -> Result<Channel, String> {
        let connected = match way(route) {
            Way::Dialled | Way::DialledByIt => self.connect_directly(peer, route).await?,
            Way::Relayed(relay) => {
                let (reach, to) = (self.clone(), peer.clone());
                let place = format!("{peer} through {relay}");
                let open = move || {
                    let (reach, relay, to) = (reach.clone(), relay.clone(), to.clone());
                    async move { reach.open(&relay, &to).await.map_err(io::Error::other) }
                };
                let expected = Expected::cluster(route.uuid, peer.clone());
                connect_over(self.tls(), &place, &expected, REACH_MAX, open).await.map_err(words)?
            }
        };
        Ok(connected.channel)
    }

    /// Without anybody in between.
    async fn connect_directly(&self, peer: &ClusterName, route: &Route) -> Result<Connection, String> {
        let expected = Expected::cluster(route.uuid, peer.clone());
        if !route.endpoints.is_empty() {
            return connect_any(self.tls(), &route.endpoints, &expected).await.map_err(words);
        }
        let (reach, from) = (self.clone(), peer.clone());
        let open = move || {
            let (reach, from) = (reach.clone(), from.clone());
            async move { reach.take(&from).await.map_err(io::Error::other) }
        };
        let place = format!("{peer} over a connection that it opened");
        connect_over(self.tls(), &place, &expected, REACH_MAX, open).await.map_err(words)
    }

    async fn take(&self, peer: &ClusterName) -> Result<Wire, String> {
        match self.inner.offered.take(peer, TAKE_MAX).await {
            Some(pipe) => Ok(Box::new(pipe)),
            None => Err(format!(
                "{peer} has no endpoint and keeps no connection to us; its apiserver is away, cannot reach ours, or was \
                 not made with --dial-out"
            )),
        }
    }

    /// Opens a pipe to a peer through another one.
    async fn open(&self, relay: &ClusterName, to: &ClusterName) -> Result<Wire, String> {
        let route = self.inner.routes.borrow().get(relay).cloned();
        let route = route.ok_or_else(|| {
            format!(
                "{relay}, through which {to} is to be reached, is no peer of this cluster: connect it first"
            )
        })?;
        if let Way::Relayed(third) = way(&route) {
            return Err(format!("{relay} is itself reached through {third}: bytes are passed on once"));
        }
        let connection = self.connect_directly(relay, &route).await.map_err(|error| {
            // Its words about us would be taken for those of the peer that we mean.
            let refused = follow::is_refusal(&error);
            let why =
                if refused { "it does not let us in; is there still a peering with it?" } else { &error };
            format!("cannot reach {relay}: {why}")
        })?;
        let (output, chunks) = pipe::output();
        let first = Chunk { to: to.to_string(), ..Chunk::default() };
        let chunks = stream::iter([first]).chain(chunks.map(pipe::chunk));
        let mut client =
            PipeClient::new(connection.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        match client.open(chunks).await {
            Ok(answer) => Ok(Box::new(Pipe::new(answer.into_inner(), output).holding(connection.channel))),
            Err(status) => Err(not_opened(relay, &status)),
        }
    }

    /// The bytes to a peer's port, for somebody else to shake hands over.
    pub(super) async fn wire(&self, peer: &ClusterName, route: &Route) -> Result<Wire, String> {
        if route.endpoints.is_empty() {
            return self.take(peer).await;
        }
        let mut why = String::new();
        for endpoint in &route.endpoints {
            match timeout(TAKE_MAX, TcpStream::connect(endpoint)).await {
                Ok(tcp) => match tcp.and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp)) {
                    Ok(tcp) => return Ok(Box::new(tcp)),
                    Err(error) => why = error.to_string(),
                },
                Err(_) => why = format!("no answer within {TAKE_MAX:?}"),
            }
        }
        Err(format!("cannot dial {peer}: {why}"))
    }
}

fn words(error: daemon::tls::ConnectError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

/// Why a relay opened no pipe. Etcd's words for "you may not" would be taken for those of the peer that we mean.
fn not_opened(relay: &ClusterName, status: &Status) -> String {
    match status.code() {
        Code::Unimplemented | Code::PermissionDenied => {
            format!(
                "{relay} passes nothing on for us: its apiserver is older than pipes, or has no peering with us any more"
            )
        }
        _ => format!("{relay} opens no pipe: {}", status.message()),
    }
}
