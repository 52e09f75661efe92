//! What a connection's bytes go over: TCP, or a pipe that somebody else's connection carries.

use std::{fmt, net::SocketAddr};
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Duplex for T {}

/// Whatever carries a connection. Who is at the other end is for TLS to find out, over any of them.
pub type Wire = Box<dyn Duplex>;

/// Where a connection came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// By TCP, from there.
    Address(SocketAddr),
    /// Through a connection that we opened ourselves, to this server.
    Pipe(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Pipe(through) => write!(f, "a pipe through {through}"),
        }
    }
}
