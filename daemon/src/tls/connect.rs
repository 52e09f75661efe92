//! The client's side: a gRPC channel to the one server we mean.

use super::{
    Tls, provider,
    refused::Refused,
    trust::{BundleError, TrustStore},
    verify::{ServerJudge, Verdict},
    wire::Wire,
};
use crate::spiffe::{Role, SpiffeId};
use api::{bytes::ClusterUuid, name::ClusterName};
use hyper_util::rt::TokioIo;
use rustls::{
    AlertDescription, ClientConfig, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    pki_types::ServerName,
    sign::CertifiedKey,
};
use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};

/// Dialing and shaking hands together.
pub const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A dead path is noticed within interval plus timeout: 10 s, the time after which data counts as stale.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long an HTTP/2 ping may take.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Which server we mean: a cluster's apiserver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    trust_domain: Option<ClusterUuid>,
    name: Option<ClusterName>,
}

impl Expected {
    /// The apiserver of this cluster, whatever it is called: for those who know its UUID from their own certificate.
    #[must_use]
    pub fn cluster_of(trust_domain: ClusterUuid) -> Self {
        Self { trust_domain: Some(trust_domain), name: None }
    }

    /// The apiserver of this cluster with this name: for peers.
    #[must_use]
    pub fn cluster(trust_domain: ClusterUuid, name: ClusterName) -> Self {
        Self { trust_domain: Some(trust_domain), name: Some(name) }
    }

    pub(super) fn matches(&self, id: &SpiffeId) -> bool {
        id.role() == Role::Cluster
            && self.trust_domain.is_none_or(|domain| id.trust_domain() == domain)
            && self.name.as_ref().is_none_or(|name| name.as_str() == id.name())
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_ref().map_or("*", ClusterName::as_str);
        match self.trust_domain {
            Some(domain) => write!(f, "spiffe://{domain}/cluster/{name}"),
            None => write!(f, "spiffe://*/cluster/{name}"),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not `host:port`.
    #[error("`{0}` is not host:port")]
    Endpoint(String),
    /// Nobody answers there.
    #[error("cannot reach {endpoint}")]
    Unreachable {
        /// Where.
        endpoint: String,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// Somebody answers whom we do not believe.
    #[error("cannot trust {endpoint}")]
    Refused {
        /// Where.
        endpoint: String,
        /// Which certificate, and why.
        source: Refused,
    },
    /// We have no bundle to hold anybody against.
    #[error("cannot use the trust bundle")]
    Bundle(#[source] BundleError),
    /// There was nothing to try.
    #[error("there is no endpoint to connect to")]
    NoEndpoint,
}

/// A channel to a server that we verified, at every reconnect again.
#[derive(Debug, Clone)]
pub struct Connection {
    /// For any tonic client.
    pub channel: Channel,
    /// Who answered at first.
    pub server: SpiffeId,
    /// Where, as `host:port`.
    pub endpoint: String,
}

/// Connects to `endpoint` (`host:port`) and makes sure that it is `expected`.
///
/// The channel reconnects by itself and verifies each time. A server that refuses *our* certificate says so only after
/// the handshake (TLS 1.3): the first call then fails with a text that names our certificate.
///
/// # Errors
/// [`ConnectError`]; [`Refused`] in it names the server's certificate and the reason.
pub async fn connect(tls: &Tls, endpoint: &str, expected: &Expected) -> Result<Connection, ConnectError> {
    dial(Us::Known(tls.clone()), endpoint, expected).await
}

/// Connects over whatever `open` opens, within `within`, and makes sure that it is `expected`. `place` stands where an
/// endpoint would, for people.
///
/// The channel opens another wire when one has ended. It sends no pings: whoever carries the wire sees when it breaks,
/// and ends it.
///
/// # Errors
/// As [`connect`].
pub async fn connect_over<O, F>(
    tls: &Tls,
    place: &str,
    expected: &Expected,
    within: Duration,
    open: O,
) -> Result<Connection, ConnectError>
where
    O: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<Wire>> + Send + 'static,
{
    // The wire leads where it leads; HTTP wants a host's name.
    let endpoint = Endpoint::from_static("http://pipe.invalid").connect_timeout(within);
    Dialer::new(Us::Known(tls.clone()), place, expected).connect(endpoint, open).await
}

/// Connects to an apiserver before we have a certificate: whichever one our bundle vouches for.
///
/// # Errors
/// As [`connect`].
pub async fn connect_as_stranger(bundle_pem: &str, endpoint: &str) -> Result<Connection, ConnectError> {
    let trust = TrustStore::first_contact(bundle_pem).map_err(ConnectError::Bundle)?;
    dial(Us::Stranger(trust), endpoint, &Expected { trust_domain: None, name: None }).await
}

async fn dial(us: Us, endpoint: &str, expected: &Expected) -> Result<Connection, ConnectError> {
    let bad = || ConnectError::Endpoint(endpoint.chars().take(128).collect());
    let (host, port) = endpoint.rsplit_once(':').ok_or_else(bad)?;
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(bad());
    }
    // `http`: what the channel sees is plain, because the connector below already speaks TLS.
    let uri: Uri = format!("http://{endpoint}").parse().map_err(|_| bad())?;
    let channel = Endpoint::from(uri)
        .connect_timeout(CONNECT_MAX)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let address: Arc<str> = endpoint.into();
    let open = move || {
        let address = Arc::clone(&address);
        async move { tcp(&address).await }
    };
    Dialer::new(us, endpoint, expected).connect(channel, open).await
}

async fn tcp(endpoint: &str) -> io::Result<Wire> {
    let tcp = TcpStream::connect(endpoint).await?;
    tcp.set_nodelay(true)?;
    Ok(Box::new(tcp))
}

/// Connects to the first of several endpoints of one server that answers.
///
/// # Errors
/// The error of the last endpoint, when none answers.
pub async fn connect_any<S: AsRef<str>>(
    tls: &Tls,
    endpoints: &[S],
    expected: &Expected,
) -> Result<Connection, ConnectError> {
    let mut last = ConnectError::NoEndpoint;
    for endpoint in endpoints {
        match connect(tls, endpoint.as_ref(), expected).await {
            Ok(connection) => return Ok(connection),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Who dials.
#[derive(Debug, Clone)]
enum Us {
    Known(Tls),
    Stranger(TrustStore),
}

#[derive(Debug, Clone)]
struct Dialer {
    us: Us,
    expected: Expected,
    endpoint: Arc<str>,
    last: Arc<Mutex<Option<Result<SpiffeId, Refused>>>>,
}

#[derive(Debug)]
struct Ours(Arc<CertifiedKey>);

impl ResolvesClientCert for Ours {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl Dialer {
    fn new(us: Us, place: &str, expected: &Expected) -> Self {
        Self { us, expected: expected.clone(), endpoint: place.into(), last: Arc::new(Mutex::new(None)) }
    }

    /// Makes a channel whose every connection goes over a wire of its own and is shaken hands on.
    async fn connect<O, F>(self, channel: Endpoint, open: O) -> Result<Connection, ConnectError>
    where
        O: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<Wire>> + Send + 'static,
    {
        let (endpoint, last) = (self.endpoint.to_string(), Arc::clone(&self.last));
        let connector = tower::service_fn(move |_: Uri| {
            let (dialer, opening) = (self.clone(), open());
            async move { dialer.shake(opening.await?).await.map(TokioIo::new) }
        });
        let connected = channel.connect_with_connector(connector).await;
        let verdict = last.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (connected, verdict) {
            (Ok(channel), Some(Ok(server))) => Ok(Connection { channel, server, endpoint }),
            (_, Some(Err(source))) => Err(ConnectError::Refused { endpoint, source }),
            (Err(source), _) => Err(ConnectError::Unreachable { endpoint, source: source.into() }),
            (Ok(_), None) => {
                Err(ConnectError::Unreachable { endpoint, source: "no server certificate was judged".into() })
            }
        }
    }

    async fn shake(&self, wire: Wire) -> io::Result<Explained> {
        let (trust, identity) = match &self.us {
            Us::Known(tls) => (tls.trust().clone(), Some(tls.identity())),
            Us::Stranger(trust) => (trust.clone(), None),
        };
        let verdict = Verdict::default();
        let judge = ServerJudge { trust, expected: self.expected.clone(), verdict: Arc::clone(&verdict) };
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring speaks TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(judge));
        let mut config = match &identity {
            Some(identity) => config.with_client_cert_resolver(Arc::new(Ours(Arc::clone(&identity.key)))),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        // The ID in the certificate says who it is; the name that TLS wants is not sent anywhere it could matter.
        config.enable_sni = false;
        let nobody = ServerName::try_from("mesh.invalid").expect("a valid DNS name");
        let shaken = TlsConnector::from(Arc::new(config)).connect(nobody, wire).await;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = verdict.get().cloned();
        let ours = identity.map_or_else(|| "(none)".to_owned(), |identity| identity.certificate().describe());
        let explain = Explain { ours, endpoint: Arc::clone(&self.endpoint) };
        match (shaken, verdict.get()) {
            (Ok(stream), _) => Ok(Explained { stream, explain }),
            (Err(_), Some(Err(refused))) => Err(io::Error::new(io::ErrorKind::InvalidData, refused.clone())),
            (Err(error), _) => Err(explain.error(error)),
        }
    }
}

/// Turns the alert with which a server refuses us into a sentence.
#[derive(Debug)]
struct Explain {
    ours: String,
    endpoint: Arc<str>,
}

impl Explain {
    fn error(&self, error: io::Error) -> io::Error {
        let alert = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => *alert,
            Some(_) | None => return error,
        };
        let why = match alert {
            AlertDescription::CertificateExpired => "it is expired or not yet valid by the server's clock",
            AlertDescription::UnknownCA => {
                "no CA of its trust domain in the server's trust store has signed it"
            }
            AlertDescription::AccessDenied => "the server does not accept its role or name",
            AlertDescription::CertificateRequired | AlertDescription::BadCertificate => {
                "the server cannot use it"
            }
            // A foreign enum with a hundred variants, of which these concern certificates.
            other => {
                let text = format!("{} ended the TLS connection with alert {other:?}", self.endpoint);
                return io::Error::new(error.kind(), text);
            }
        };
        let text = format!("the server {} refuses our own certificate {}: {why}", self.endpoint, self.ours);
        io::Error::new(error.kind(), text)
    }

    fn poll<T>(&self, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        poll.map_err(|error| self.error(error))
    }
}

/// A TLS stream whose errors say who refused whom.
#[derive(Debug)]
struct Explained {
    stream: TlsStream<Wire>,
    explain: Explain,
}

impl AsyncRead for Explained {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.explain.poll(polled)
    }
}

impl AsyncWrite for Explained {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.explain.poll(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.explain.poll(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.explain.poll(polled)
    }
}
