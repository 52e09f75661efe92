//! A server that says who it is, over HTTP and UDP.

use std::net::{Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::{StatusCode, Uri};
use tokio::net::{TcpListener, UdpSocket};

use super::the_end;

/// The largest UDP payload. (RFC 768, RFC 791)
const UDP_MAX: usize = 65_507;

/// Where a client learns its own address.
const FROM: &str = "/from";

/// Answers every GET with `name` and a line feed, one for `/from` with the client's address, and every UDP packet with
/// `name`, a space and the packet.
///
/// # Errors
/// The port is taken.
pub async fn serve(name: String, port: u16, seconds: Option<f64>) -> Result<()> {
    let address = (Ipv6Addr::UNSPECIFIED, port);
    let tcp =
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on TCP port {port}"))?;
    let udp = UdpSocket::bind(address).await.with_context(|| format!("cannot listen on UDP port {port}"))?;
    let answer = format!("{name}\n");
    let app =
        Router::new().fallback(move |ConnectInfo(from): ConnectInfo<SocketAddr>, asked: Uri| async move {
            (
                StatusCode::OK,
                if asked.path() == FROM { format!("{}\n", from.ip().to_canonical()) } else { answer },
            )
        });
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::select! {
        result = async { axum::serve(tcp, app).await } => result.context("the HTTP server ended"),
        result = echo(udp, &name) => result,
        result = the_end(seconds) => result,
    }
}

async fn echo(socket: UdpSocket, name: &str) -> Result<()> {
    let mut packet = vec![0; UDP_MAX];
    loop {
        let (length, from) = socket.recv_from(&mut packet).await.context("cannot receive")?;
        let mut answer = format!("{name} ").into_bytes();
        answer.extend_from_slice(&packet[..length]);
        answer.truncate(UDP_MAX);
        // A client that is gone is its own problem.
        let _ = socket.send_to(&answer, from).await;
    }
}
