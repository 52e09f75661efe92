//! UDP sockets that are connected to a backend that is gone: they are closed, by the kernel's `SOCK_DESTROY`.
//!
//! A TCP connection learns by itself that its other end is gone. A UDP client that connected once would send into the
//! void until it is restarted; closed, its next call fails (ECONNABORTED where it receives, EDESTADDRREQ where it sends),
//! and what it connects next is balanced anew.
//! (sock_diag(7); the kernel has it since 4.5, for UDP since 4.9, with CONFIG_INET_DIAG_DESTROY)

use super::exchange::{ask, messages};
use anyhow::{Context, bail};
use netlink_packet_core::{ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_UDP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use nix::sched::{CloneFlags, setns};
use std::{
    collections::BTreeSet,
    fs::File,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    thread,
};

#[cfg(test)]
mod tests;

/// Sockets of one namespace that are closed at once; there are 65,536 ports, and who has more comes again.
const SOCKETS_MAX: usize = 65_536;

/// Closes the UDP sockets of this host's own network namespace and of these that are connected to one of the backends;
/// returns how many they were.
///
/// # Errors
/// The first namespace in which it failed, after all were tried. One that is gone has no sockets.
pub fn close_udp(namespaces: &BTreeSet<PathBuf>, backends: &BTreeSet<SocketAddr>) -> anyhow::Result<usize> {
    let all = std::iter::once(None).chain(namespaces.iter().map(|path| Some(path.as_path())));
    let mut closed = 0;
    let mut failed = Ok(());
    for namespace in all {
        match close_in(namespace, backends) {
            Ok(count) => closed += count,
            Err(error) if failed.is_ok() => failed = Err(error),
            Err(_) => {}
        }
    }
    failed.map(|()| closed)
}

fn close_in(namespace: Option<&Path>, backends: &BTreeSet<SocketAddr>) -> anyhow::Result<usize> {
    let Some(path) = namespace else { return sweep(backends).context("cannot close sockets of this host") };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    // A thread of its own: the namespace is a thread's, and this one ends with it.
    let swept = thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(file, CloneFlags::CLONE_NEWNET)?;
            sweep(backends)
        });
        inside.join().unwrap_or_else(|_| bail!("closing sockets panicked"))
    });
    swept.with_context(|| format!("cannot close sockets in {}", path.display()))
}

/// Both families: a v4-mapped socket is one of IPv6 and is connected to an IPv4 backend.
fn sweep(backends: &BTreeSet<SocketAddr>) -> anyhow::Result<usize> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    let mut closed = 0;
    for family in [AF_INET, AF_INET6] {
        for id in connected(&socket, family, backends)? {
            closed += usize::from(destroy(&socket, family, id)?);
        }
    }
    Ok(closed)
}

/// The sockets of a family that are connected to one of the backends.
fn connected(socket: &Socket, family: u8, backends: &BTreeSet<SocketAddr>) -> anyhow::Result<Vec<SocketId>> {
    let any = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    ask(socket, NLM_F_DUMP, 0, SockDiagMessage::InetRequest(request(family, any)))?;
    let mut found = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        for message in messages::<SockDiagMessage>(&bytes) {
            match message?.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(answer)) => {
                    let id = answer.header.socket_id;
                    let to = SocketAddr::new(id.destination_address.to_canonical(), id.destination_port);
                    if backends.contains(&to) && found.len() < SOCKETS_MAX {
                        found.push(id);
                    }
                }
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()).context("cannot list sockets"),
                other => bail!("cannot list sockets: the kernel answered {other:?}"),
            }
        }
    }
}

/// False when it was gone already.
fn destroy(socket: &Socket, family: u8, id: SocketId) -> anyhow::Result<bool> {
    ask(socket, NLM_F_ACK, 0, SockDiagDestroy::new(SockDiagMessage::InetRequest(request(family, id))))?;
    let (bytes, _) = socket.recv_from_full()?;
    let message = messages::<SockDiagMessage>(&bytes).next();
    match message.context("cannot close a socket: the kernel answered nothing")??.payload {
        NetlinkPayload::Error(ErrorMessage { code: None, .. }) => Ok(true),
        NetlinkPayload::Error(error) if error.to_io().raw_os_error() == Some(libc::ENOENT) => Ok(false),
        NetlinkPayload::Error(error) => Err(error.to_io()).context("cannot close a socket"),
        other => bail!("cannot close a socket: the kernel answered {other:?}"),
    }
}

fn request(family: u8, socket_id: SocketId) -> InetRequest {
    let states = StateFlags::all();
    InetRequest { family, protocol: IPPROTO_UDP, extensions: ExtensionFlags::empty(), states, socket_id }
}
