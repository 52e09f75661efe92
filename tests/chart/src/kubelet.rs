//! What of a kubelet forwards ports: the API server hands a client's WebSocket on to it, whatever the pod.

use anyhow::{Context as _, Result, bail};
use futures::{SinkExt as _, StreamExt as _};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
        http::HeaderValue,
    },
};

/// Channels of the first port (`k8s.io/apiserver/pkg/util/wsstream`): what it carries, and why it cannot.
const DATA: u8 = 0;
const ERROR: u8 = 1;

/// A node's kubelet on loopback, until it is dropped.
#[derive(Debug)]
pub struct Kubelet {
    port: u16,
    task: JoinHandle<()>,
}

impl Kubelet {
    /// Forwards whatever port it is asked for to `target`.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on loopback")?;
        let port = listener.local_addr()?.port();
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                // One that fails ends its own connection, which is what a client sees of it.
                tokio::spawn(async move { drop(forward(acceptor, tcp, target).await) });
            }
        });
        Ok(Self { port, task })
    }

    /// Where a Node says that it is.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(acceptor: TlsAcceptor, tcp: TcpStream, target: SocketAddr) -> Result<()> {
    let mut port = None;
    // The callback's type is the library's.
    #[allow(clippy::result_large_err)]
    let answer = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        let asked = request.uri().query().unwrap_or_default().split('&');
        port = asked
            .filter_map(|it| it.strip_prefix("ports=").or(it.strip_prefix("port="))?.parse::<u16>().ok())
            .next();
        response
            .headers_mut()
            .insert("sec-websocket-protocol", HeaderValue::from_static("v4.channel.k8s.io"));
        Ok(response)
    };
    let mut socket = accept_hdr_async(acceptor.accept(tcp).await?, answer).await?;
    let Some(port) = port else { bail!("no port is asked for") };
    // Each channel begins with the number of its port.
    for channel in [DATA, ERROR] {
        let [low, high] = port.to_le_bytes();
        socket.send(Message::binary(vec![channel, low, high])).await?;
    }
    let mut pod = TcpStream::connect(target).await?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            read = pod.read(&mut buffer) => match read? {
                0 => return Ok(socket.close(None).await?),
                count => socket.send(Message::binary([&[DATA], &buffer[..count]].concat())).await?,
            },
            message = socket.next() => match message {
                Some(Ok(Message::Binary(bytes))) if bytes.first() == Some(&DATA) => pod.write_all(&bytes[1..]).await?,
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
            },
        }
    }
}
