//! The server on a loopback address, for programs of this host alone.

use super::{
    respond::{Plan, Transport, plan},
    upstream::{Upstream, read_framed, write_framed},
};
use crate::names::Facts;
use anyhow::Context as _;
use daemon::args::Hint;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Where we listen: a loopback address of our own. systemd-resolved has 127.0.0.53 and .54, dnsmasq and
/// others that were there before us 127.0.0.1 and 127.0.1.1, often on all addresses they find; so each goes
/// on.
pub const ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 153), 53));

/// Connections at the same time. libc opens one for an answer that was truncated and closes it; more wait in
/// the backlog.
pub const CONNECTIONS_MAX: usize = 64;
/// How long a connection may say nothing: "a few seconds". (RFC 7766, section 6.2.3)
const IDLE: Duration = Duration::from_secs(5);
/// In the queue of the listener; what a burst of truncated answers needs, twice the connections.
const BACKLOG: i32 = 128;
/// Queries that are larger than any name with any option are no queries.
const QUERY_MAX_BYTES: usize = 4_096;
/// After the system refused a connection or a datagram: it is short of something.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// Both sockets, bound.
#[derive(Debug)]
pub struct Server {
    udp: UdpSocket,
    tcp: TcpListener,
}

/// What every query meets.
struct Serving {
    facts: watch::Receiver<Facts>,
    upstream: Upstream,
}

impl Server {
    /// Takes the address, of which others hear nothing: what does not come over `lo` is dropped by the
    /// kernel, whatever `route_localnet` says.
    ///
    /// # Errors
    /// The address is no loopback address, is taken, or the system refuses, with a hint.
    pub fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        if !address.ip().is_loopback() {
            return Err(Hint::new(
                format!("cannot serve names on {address}: it is not a loopback address"),
                format!("names are for this host alone: take one of 127.0.0.0/8, as {ADDRESS}"),
            )
            .into());
        }
        let explain = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => anyhow::Error::from(error).context(Hint::new(
                format!("cannot serve names on {address}"),
                format!(
                    "see who has it with `ss -lnptu 'sport = :{}'`, or take another address",
                    address.port()
                ),
            )),
            io::ErrorKind::PermissionDenied => anyhow::Error::from(error).context(Hint::new(
                format!("cannot serve names on {address}"),
                "a port below 1024 needs CAP_NET_BIND_SERVICE",
            )),
            _ => anyhow::Error::from(error).context(format!("cannot serve names on {address}")),
        };
        let udp = socket(address, Type::DGRAM, Protocol::UDP).map_err(explain)?;
        let tcp = socket(address, Type::STREAM, Protocol::TCP).map_err(explain)?;
        tcp.listen(BACKLOG).map_err(explain)?;
        let udp = UdpSocket::from_std(udp.into()).context("cannot use the UDP socket")?;
        let tcp = TcpListener::from_std(tcp.into()).context("cannot use the TCP socket")?;
        Ok(Self { udp, tcp })
    }

    /// Answers until the token is cancelled; the sockets are closed then.
    pub async fn serve(
        self,
        facts: watch::Receiver<Facts>,
        servers: watch::Receiver<Vec<SocketAddr>>,
        ending: CancellationToken,
    ) {
        let serving = Arc::new(Serving { facts, upstream: Upstream::new(servers) });
        let work = async {
            tokio::join!(datagrams(Arc::new(self.udp), &serving), connections(&self.tcp, &serving));
        };
        ending.run_until_cancelled(work).await;
    }
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if kind == Type::STREAM {
        // Connections of an agent before us that are still closing do not hold the port. (socket(7))
        socket.set_reuse_address(true)?;
    }
    socket.bind_device(Some(b"lo"))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

impl Serving {
    /// What to send back, if anything.
    async fn answer(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let planned = plan(bytes, transport, &self.facts.borrow().zone);
        match planned {
            Plan::Ignore => None,
            Plan::Reply(reply) => Some(reply),
            Plan::Forward(query) => self.upstream.answer(&query, bytes, transport).await,
        }
    }
}

/// Each datagram is a task of its own, as one may wait for a server; [`Upstream`] says how many may. Dropped,
/// it ends them.
async fn datagrams(socket: Arc<UdpSocket>, serving: &Arc<Serving>) {
    let mut answering = JoinSet::new();
    let mut buffer = vec![0; QUERY_MAX_BYTES];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            Some(_) = answering.join_next() => continue,
        };
        match received {
            Ok((length, client)) => {
                let (socket, serving) = (socket.clone(), serving.clone());
                let query = buffer[..length].to_vec();
                answering.spawn(async move {
                    if let Some(reply) = serving.answer(&query, Transport::Udp).await
                        && let Err(error) = socket.send_to(&reply, client).await
                    {
                        debug!(%error, "A client did not wait for its answer");
                    }
                });
            }
            Err(error) => {
                warn!(%error, "Cannot receive queries");
                sleep(AFTER_ERROR).await;
            }
        }
    }
}

async fn connections(listener: &TcpListener, serving: &Arc<Serving>) {
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if open.len() < CONNECTIONS_MAX => accepted,
            Some(_) = open.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => drop(open.spawn(connection(stream, serving.clone()))),
            Err(error) => {
                warn!(%error, "Cannot accept connections");
                sleep(AFTER_ERROR).await;
            }
        }
    }
}

/// One query after the other, as they come. A client that is slow to send or to read is left.
async fn connection(mut stream: TcpStream, serving: Arc<Serving>) {
    while let Ok(Ok(query)) = timeout(IDLE, read_framed(&mut stream)).await
        && let Some(reply) = serving.answer(&query, Transport::Tcp).await
        && let Ok(Ok(())) = timeout(IDLE, write_framed(&mut stream, &reply)).await
    {}
}
