//! The server's side: a connection becomes one whose peer we know.

use super::{
    Tls,
    certificate::Certificate,
    provider,
    refused::Refused,
    verify::{ClientJudge, Verdict},
    wire::{Origin, Wire},
};
use crate::spiffe::SpiffeId;
use api::bytes::KeyFingerprint;
use rustls::{
    ServerConfig,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;

/// A handshake takes two round trips; whoever needs longer holds a slot that somebody else could use.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// Why a connection was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// We refused the client's certificate.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The client showed none, refused ours, or does not speak TLS.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// It took longer than [`HANDSHAKE_MAX`].
    #[error("the TLS handshake took longer than {HANDSHAKE_MAX:?}")]
    Slow,
}

/// Makes connections of known peers, and of strangers where they are let in.
#[derive(Debug, Clone)]
pub struct Acceptor {
    tls: Tls,
    strangers: bool,
}

#[derive(Debug)]
struct Ours(Arc<CertifiedKey>);

impl ResolvesServerCert for Ours {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl Acceptor {
    /// Accepts as `tls` says at the time of each connection.
    #[must_use]
    pub fn new(tls: Tls) -> Self {
        Self { tls, strangers: false }
    }

    /// Lets clients in that show no certificate, as [`Arrival::Stranger`]s. One that shows a certificate is judged as
    /// ever.
    #[must_use]
    pub fn with_strangers(self) -> Self {
        Self { strangers: true, ..self }
    }

    /// Shakes hands and learns who it is.
    ///
    /// # Errors
    /// [`AcceptError`]: the text names the client's certificate and the reason when we refused it.
    pub async fn accept(&self, wire: Wire, from: Origin) -> Result<Arrival, AcceptError> {
        let verdict = Verdict::default();
        let judge = ClientJudge {
            trust: self.tls.trust().clone(),
            strangers: self.strangers,
            verdict: Arc::clone(&verdict),
        };
        // Our own processes speak 1.3 only; stock etcdctl 3.5 forces 1.2 (its client sets it as the maximum).
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .expect("ring speaks both")
            .with_client_cert_verifier(Arc::new(judge))
            .with_cert_resolver(Arc::new(Ours(Arc::clone(&self.tls.identity().key))));
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would not be judged again. There is no ticketer either (rustls' default).
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let shaken = timeout(HANDSHAKE_MAX, TlsAcceptor::from(Arc::new(config)).accept(wire)).await;
        let stream = shaken.map_err(|_| AcceptError::Slow)?;
        match (stream, verdict.get()) {
            (Ok(stream), Some(Ok(id))) => {
                let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let key = shown.and_then(|leaf| Some(Certificate::read(leaf).ok()?.key));
                let key = key.ok_or_else(|| io::Error::other("the client's certificate is gone"));
                let key = key.map_err(AcceptError::Handshake)?;
                Ok(Arrival::Known(Shaken { stream, info: PeerInfo { id: id.clone(), key, from } }))
            }
            (_, Some(Err(refused))) => Err(refused.clone().into()),
            (Err(error), _) => Err(AcceptError::Handshake(error)),
            (Ok(stream), None) if self.strangers => {
                Ok(Arrival::Stranger(Shaken { stream, info: StrangerInfo { from } }))
            }
            (Ok(_), None) => {
                Err(AcceptError::Handshake(io::Error::other("no client certificate was judged")))
            }
        }
    }
}

/// Who is at the other end: in the extensions of every request of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Verified.
    pub id: SpiffeId,
    /// Which key of that ID: a name may get another.
    pub key: KeyFingerprint,
    /// Where it came from.
    pub from: Origin,
}

/// Nobody we know: in the extensions of every request of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrangerInfo {
    /// Where it came from.
    pub from: Origin,
}

/// Who came.
#[derive(Debug)]
pub enum Arrival {
    /// Its certificate was judged.
    Known(Accepted),
    /// It has shown none.
    Stranger(Stranger),
}

/// A connection whose peer we know.
pub type Accepted = Shaken<PeerInfo>;

/// A connection of somebody without a certificate.
pub type Stranger = Shaken<StrangerInfo>;

/// A connection after its handshake.
#[derive(Debug)]
pub struct Shaken<I> {
    stream: TlsStream<Wire>,
    info: I,
}

impl<I> Shaken<I> {
    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &I {
        &self.info
    }
}

impl<I: Clone + Send + Sync + 'static> Connected for Shaken<I> {
    type ConnectInfo = I;
    fn connect_info(&self) -> I {
        self.info.clone()
    }
}

impl<I: Unpin> AsyncRead for Shaken<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<I: Unpin> AsyncWrite for Shaken<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
