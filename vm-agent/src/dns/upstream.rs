//! Asking the servers that the host had before.
//!
//! The client's own bytes are sent on and the server's own bytes come back, each with another id: what we do
//! not know of DNS passes unharmed.

use super::{
    cache::Cache,
    heard::{Heard, hear},
    respond::{Transport, encode, failure, limit_bytes},
};
use hickory_proto::op::{Message, ResponseCode};
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    sync::{Semaphore, watch},
    time::timeout,
};
use tracing::debug;

/// Queries that wait for a server at the same time. Each holds a socket, and the usual limit is 1,024
/// descriptors.
pub const IN_FLIGHT_MAX: usize = 256;
/// Servers that are asked in turn: as many as libc asks. (resolv.conf(5), MAXNS)
pub const SERVERS_MAX: usize = 3;
/// How long one server may take. All three then take less than the 5 s after which libc asks again.
/// (resolv.conf(5))
const SERVER_WITHIN: Duration = Duration::from_millis(1_500);

/// Where names that are not the mesh's go.
pub struct Upstream {
    servers: watch::Receiver<Vec<SocketAddr>>,
    cache: Mutex<Cached>,
    in_flight: Semaphore,
}

/// Answers, and whose they are.
#[derive(Default)]
struct Cached {
    servers: Vec<SocketAddr>,
    cache: Cache,
}

impl Upstream {
    /// Asks the servers that the channel says, in their order.
    #[must_use]
    pub fn new(servers: watch::Receiver<Vec<SocketAddr>>) -> Self {
        Self { servers, cache: Mutex::default(), in_flight: Semaphore::new(IN_FLIGHT_MAX) }
    }

    /// The bytes to send to the client: from the cache, from a server, or that there is no answer.
    pub async fn answer(&self, query: &Message, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let limit = limit_bytes(query, transport);
        let servers: Vec<SocketAddr> = self.servers.borrow().iter().copied().take(SERVERS_MAX).collect();
        if servers.is_empty() {
            return encode(&failure(query, ResponseCode::Refused), limit);
        }
        if let Some(kept) = self.with_cache(&servers, |cache| cache.get(query, Instant::now())) {
            return encode(&kept, limit);
        }
        // Full: a client that is told so at once asks again, and the next one is not kept waiting either.
        let Ok(_permit) = self.in_flight.try_acquire() else {
            return encode(&failure(query, ResponseCode::ServFail), limit);
        };
        let Some((mut reply, read)) = ask_in_turn(query, bytes, &servers).await else {
            return encode(&failure(query, ResponseCode::ServFail), limit);
        };
        set_id(&mut reply, query.metadata.id);
        let fits = reply.len() <= limit;
        let truncated = (!fits).then(|| encode(&failure(query, ResponseCode::NoError), 0)).flatten();
        if let Some(read) = read {
            self.with_cache(&servers, |cache| cache.put(query, read, reply.len(), Instant::now()));
        }
        truncated.or(Some(reply))
    }

    /// The cache as these servers filled it.
    fn with_cache<T>(&self, servers: &[SocketAddr], f: impl FnOnce(&mut Cache) -> T) -> T {
        let mut cached = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.servers != servers {
            cached.cache.clear();
            cached.servers = servers.to_vec();
        }
        f(&mut cached.cache)
    }
}

/// The first answer; if every server that spoke failed, the failure of the last one.
async fn ask_in_turn(
    query: &Message,
    bytes: &[u8],
    servers: &[SocketAddr],
) -> Option<(Vec<u8>, Option<Message>)> {
    let mut failed = None;
    for server in servers {
        match timeout(SERVER_WITHIN, ask(query, bytes, *server)).await {
            Ok(Ok((reply, Heard::Answer(read)))) => return Some((reply, read)),
            Ok(Ok((reply, Heard::Failed(read)))) => failed = Some((reply, Some(read))),
            Ok(Ok((_, Heard::Truncated | Heard::Foreign))) => debug!(%server, "No usable answer"),
            Ok(Err(error)) => debug!(%server, %error, "Cannot ask a server"),
            Err(_) => debug!(%server, within = ?SERVER_WITHIN, "A server does not answer"),
        }
    }
    failed
}

/// Asks one server: by UDP, and by TCP when the answer was too large for that.
async fn ask(query: &Message, bytes: &[u8], server: SocketAddr) -> io::Result<(Vec<u8>, Heard)> {
    // Random, as is the port that the kernel chooses: both have to be guessed to forge an answer. (RFC 5452)
    let id = rand::random();
    let mut sent = bytes.to_vec();
    set_id(&mut sent, id);
    let answer = over_udp(query, &sent, id, server).await?;
    match answer.1 {
        Heard::Truncated => over_tcp(query, &sent, id, server).await,
        Heard::Foreign | Heard::Failed(_) | Heard::Answer(_) => Ok(answer),
    }
}

async fn over_udp(query: &Message, sent: &[u8], id: u16, server: SocketAddr) -> io::Result<(Vec<u8>, Heard)> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(sent).await?;
    // The client told how much it takes; a server that sends more is cut, cannot be read, and is heard as
    // foreign.
    let mut buffer = vec![0; usize::from(query.max_payload())];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let heard = hear(query, &buffer[..length], id);
        if !matches!(heard, Heard::Foreign) {
            buffer.truncate(length);
            return Ok((buffer, heard));
        }
    }
}

async fn over_tcp(query: &Message, sent: &[u8], id: u16, server: SocketAddr) -> io::Result<(Vec<u8>, Heard)> {
    let mut stream = TcpStream::connect(server).await?;
    write_framed(&mut stream, sent).await?;
    let reply = read_framed(&mut stream).await?;
    let heard = hear(query, &reply, id);
    Ok((reply, heard))
}

fn set_id(bytes: &mut [u8], id: u16) {
    if let Some(place) = bytes.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

/// Reads one message with its length before it. (RFC 1035, section 4.2.2)
///
/// # Errors
/// The stream's, also at its end.
pub async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes one message with its length before it, in one piece. (RFC 7766, section 8)
///
/// # Errors
/// The stream's, or `InvalidInput` for a message that no length could say.
pub async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    stream.write_all(&[&length.to_be_bytes()[..], message].concat()).await
}
