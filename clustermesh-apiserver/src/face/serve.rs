//! The port: connections become known peers, and known peers' requests reach the services.

use super::{Doors, doorman::DoormanLayer, pipe::Pipes};
use crate::{
    enrol::Enrol,
    pipes::{self, Arrivals, Arrived, Reach},
};
use anyhow::Context;
use daemon::shutdown::finish;
use daemon::tls::{Accepted, Acceptor, Arrival, Origin, Shaken, Stranger, Wire};
use rpc::{
    etcdserverpb::{
        cluster_server::ClusterServer, kv_server::KvServer, lease_server::LeaseServer,
        maintenance_server::MaintenanceServer, watch_server::WatchServer,
    },
    mesh::{
        admin::v1::admin_server::{Admin, AdminServer},
        enrolment::v1::enrolment_server::EnrolmentServer,
        pipe::v1::pipe_server::PipeServer,
        sync::v1::sync_server::SyncServer,
    },
    v3electionpb::election_server::ElectionServer,
    v3lockpb::lock_server::LockServer,
};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tracing::{debug, warn};

/// Open connections: 5,000 nodes with one each, as many VMs, and room for peers and people; next power of two.
const CONNECTIONS_MAX: usize = 16_384;
/// Handshakes at the same time: 64 of 1 ms of work each keep both cores busy, and more would only wait longer.
const HANDSHAKES_MAX: usize = 64;
/// Requests of one connection that wait for an answer.
const REQUESTS_PER_CONNECTION_MAX: usize = 64;
/// HTTP/2 streams of one connection: as many requests, or watches.
const STREAMS_PER_CONNECTION_MAX: u32 = 64;
/// A request's bytes: etcd's 1.5 MiB of keys and values, and what protobuf adds.
const MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of one stream that nobody has read yet. What does not fill the connection's share holds up no other stream: a
/// pipe whose end is slow fills its own.
const STREAM_WINDOW_BYTES: u32 = 128 * 1024;
/// Bytes of all streams of one connection.
const CONNECTION_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * STREAMS_PER_CONNECTION_MAX;
/// A connection that answers no ping for this long, twice, is gone.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Open connections of strangers: a node enrols in a fraction of a second, and one that waits comes again.
const STRANGERS_MAX: usize = 64;
/// How long a stranger may stay.
const STRANGER_STAYS: Duration = Duration::from_secs(10);
/// A stranger's request: a token and a certificate request, 2 KiB each.
const STRANGERS_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// A bound port.
#[derive(Debug)]
pub struct Listening {
    listener: TcpListener,
    at: SocketAddr,
}

/// Binds the port; a separate step, so that a process can refuse to start when it is taken.
///
/// # Errors
/// Names the address.
pub async fn bind(address: SocketAddr) -> anyhow::Result<Listening> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let at = listener.local_addr().context("the port has no address")?;
    Ok(Listening { listener, at })
}

impl Listening {
    /// Where.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.at
    }

    /// Serves until the doors' shutdown, then lets running requests finish. Strangers are let in for `enrol` only, and
    /// not at all without it. Who comes through a pipe of ours is served as who comes by TCP.
    ///
    /// # Errors
    /// When the server fails as a whole.
    pub async fn serve(
        self,
        doors: Doors,
        admin: impl Admin,
        enrol: Option<Enrol>,
        (reach, arrivals): (Reach, Arrivals),
    ) -> anyhow::Result<()> {
        let shutdown = doors.shutdown().clone();
        let acceptor = Acceptor::new(doors.tls().clone());
        let piped = acceptor.clone();
        let acceptor = if enrol.is_some() { acceptor.with_strangers() } else { acceptor };
        let (give, incoming) = mpsc::channel(HANDSHAKES_MAX);
        let (give_stranger, strangers) = mpsc::channel(HANDSHAKES_MAX);
        let give = Give { known: give, stranger: give_stranger };
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let piping =
            accept_piped(arrivals, piped, doors.clone(), give.known.clone(), Arc::clone(&connections));
        let piping = tokio::spawn(piping);
        let accepting = tokio::spawn(accept(self.listener, acceptor, doors.clone(), give, connections));
        let enrolling = tokio::spawn(serve_strangers(enrol, strangers, shutdown.clone()));
        let served = Server::builder()
            .concurrency_limit_per_connection(REQUESTS_PER_CONNECTION_MAX)
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .layer(DoormanLayer(doors.clone()))
            .add_service(KvServer::new(doors.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(WatchServer::new(doors.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(LeaseServer::new(doors.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(LockServer::new(doors.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(ElectionServer::new(doors.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(ClusterServer::new(doors.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(MaintenanceServer::new(doors.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(
                PipeServer::new(Pipes { doors: doors.clone(), reach })
                    .max_decoding_message_size(pipes::MESSAGE_BYTES_MAX),
            )
            .add_service(SyncServer::new(doors).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(AdminServer::new(admin).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .serve_with_incoming_shutdown(
                ReceiverStream::new(incoming).map(Ok::<_, io::Error>),
                shutdown.clone().cancelled_owned(),
            )
            .await;
        shutdown.cancel();
        accepting.await.context("the accepting task panicked")?;
        piping.await.context("the task that accepts through pipes panicked")?;
        finish("enrolment", enrolling, STRANGER_STAYS / 2).await;
        served.context("the gRPC server failed")
    }
}

/// A server of its own: whatever a stranger asks for, nothing but enrolment is there.
async fn serve_strangers(
    enrol: Option<Enrol>,
    strangers: mpsc::Receiver<Counted<Stranger>>,
    shutdown: CancellationToken,
) {
    let Some(enrol) = enrol else { return };
    let service = EnrolmentServer::new(enrol).max_decoding_message_size(STRANGERS_MESSAGE_BYTES_MAX);
    let served = Server::builder()
        .concurrency_limit_per_connection(1)
        .max_concurrent_streams(1)
        .max_connection_age(STRANGER_STAYS)
        // Then it is closed, whatever it was about to say: it would hold its place, and our end.
        .max_connection_age_grace(Duration::from_secs(1))
        .add_service(service)
        .serve_with_incoming_shutdown(
            ReceiverStream::new(strangers).map(Ok::<_, io::Error>),
            shutdown.cancelled_owned(),
        )
        .await;
    if let Err(error) = served {
        warn!(%error, "Enrolment is not served any more");
    }
}

/// Where arrivals go.
#[derive(Clone)]
struct Give {
    known: mpsc::Sender<Counted<Accepted>>,
    stranger: mpsc::Sender<Counted<Stranger>>,
}

/// Takes connections and shakes hands, several at a time.
async fn accept(
    listener: TcpListener,
    acceptor: Acceptor,
    doors: Doors,
    give: Give,
    connections: Arc<Semaphore>,
) {
    let shutdown = doors.shutdown().clone();
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    loop {
        let next = async {
            let connection = Arc::clone(&connections).acquire_owned().await;
            let handshake = Arc::clone(&handshakes).acquire_owned().await;
            (connection, handshake, listener.accept().await)
        };
        let (connection, handshake, accepted) = tokio::select! {
            next = next => next,
            () = shutdown.cancelled() => return,
        };
        let (Ok(connection), Ok(handshake)) = (connection, handshake) else { return };
        let (tcp, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: connections that end make room.
                warn!(%error, "Cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, doors, give) = (acceptor.clone(), doors.clone(), give.clone());
        let strangers = Arc::clone(&strangers);
        tokio::spawn(async move {
            let arrival = shake_tcp(&acceptor, &doors, tcp, from).await;
            drop(handshake);
            // When a server has ended, so has its connection.
            match arrival {
                Some(Arrival::Known(shaken)) => {
                    give.known.send(Counted { shaken, _place: connection }).await.ok();
                }
                Some(Arrival::Stranger(shaken)) => match strangers.try_acquire_owned() {
                    Ok(place) => drop(give.stranger.send(Counted { shaken, _place: place }).await),
                    Err(_) => warn!(%from, "Refused a stranger: {STRANGERS_MAX} are here already"),
                },
                None => {}
            }
        });
    }
}

/// Takes those who come through our own pipes, and shakes hands. There are few of them, as many as the pipes that peers
/// have taken, so that they need no place among handshakes.
async fn accept_piped(
    mut arrivals: Arrivals,
    acceptor: Acceptor,
    doors: Doors,
    give: mpsc::Sender<Counted<Accepted>>,
    connections: Arc<Semaphore>,
) {
    let shutdown = doors.shutdown().clone();
    loop {
        let next = async {
            let connection = Arc::clone(&connections).acquire_owned().await;
            (connection, arrivals.recv().await)
        };
        let (connection, arrived) = tokio::select! {
            next = next => next,
            () = shutdown.cancelled() => return,
        };
        let (Ok(connection), Some(Arrived { pipe, through })) = (connection, arrived) else { return };
        let (acceptor, doors, give) = (acceptor.clone(), doors.clone(), give.clone());
        tokio::spawn(async move {
            let from = Origin::Pipe(through.to_string());
            match shake(&acceptor, &doors, Box::new(pipe), from).await {
                // When the server has ended, so has its connection.
                Some(Arrival::Known(shaken)) => {
                    give.send(Counted { shaken, _place: connection }).await.ok();
                }
                // Through pipes no stranger is let in.
                Some(Arrival::Stranger(_)) | None => {}
            }
        });
    }
}

async fn shake_tcp(acceptor: &Acceptor, doors: &Doors, tcp: TcpStream, from: SocketAddr) -> Option<Arrival> {
    // Without it small answers wait for the client's acknowledgement.
    if let Err(error) = tcp.set_nodelay(true) {
        debug!(%from, %error, "A connection ended before it began");
        return None;
    }
    shake(acceptor, doors, Box::new(tcp), Origin::Address(from)).await
}

async fn shake(acceptor: &Acceptor, doors: &Doors, wire: Wire, from: Origin) -> Option<Arrival> {
    match acceptor.accept(wire, from.clone()).await {
        Ok(arrival) => {
            match &arrival {
                Arrival::Known(accepted) => {
                    doors.count(|counters| &counters.accepted);
                    debug!(%from, who = %accepted.peer().id, "Connected");
                }
                Arrival::Stranger(_) => debug!(%from, "A stranger has connected"),
            }
            Some(arrival)
        }
        Err(error) => {
            doors.count(|counters| &counters.refused_connections);
            warn!(%from, error = format!("{:#}", anyhow::Error::new(error)), "Refused a connection");
            None
        }
    }
}

use counted::Counted;

/// A connection and its place among the many.
mod counted {
    use super::{OwnedSemaphorePermit, Shaken};
    use std::{
        io,
        pin::Pin,
        task::{Context, Poll},
    };
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
    use tonic::transport::server::Connected;

    #[derive(Debug)]
    pub(super) struct Counted<S> {
        pub(super) shaken: S,
        pub(super) _place: OwnedSemaphorePermit,
    }

    impl<I: Clone + Send + Sync + 'static> Connected for Counted<Shaken<I>> {
        type ConnectInfo = I;
        fn connect_info(&self) -> I {
            self.shaken.connect_info()
        }
    }

    impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.shaken).poll_read(cx, buf)
        }
    }

    impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.shaken).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.shaken).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.shaken).poll_shutdown(cx)
        }
    }
}
