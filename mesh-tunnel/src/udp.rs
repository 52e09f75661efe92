//! The outer UDP socket: sends many packets in one call, and survives what a network does.
//!
//! The socket outlives the library's connections: it binds a port again before it has let go of the old socket,
//! which fails and leaves the device deaf. Here the same port is the same socket.

use std::{
    io::{self, IoSlice},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use gotatun::{
    packet::{Packet, PacketBufPool},
    udp::{
        UdpRecv, UdpSend, UdpTransportFactory, UdpTransportFactoryParams,
        socket::{SockOpt, UdpSocket},
    },
};
use nix::{
    errno::Errno,
    sys::socket::{
        ControlMessage, MsgFlags, SockaddrStorage, getsockopt, sendmsg, setsockopt, sockopt,
        sockopt::SetUsize,
    },
};
use tokio::io::Interest;
use tracing::{debug, warn};

#[cfg(test)]
mod tests;

/// Packets the library hands over at once: two full segmented sends.
const BATCH_MAX: usize = 2 * SEGMENTS_MAX;
/// The kernel's UDP_MAX_SEGMENTS before 6.9.
const SEGMENTS_MAX: usize = 64;
/// A segmented send is one UDP datagram to the kernel: 65 535 less the headers (IPv6 and UDP, 48), rounded down.
const SEGMENTED_BYTES_MAX: usize = 65_000;
/// A burst of 2 Gbit/s over 25 ms, as wireguard-go asks for.
const SOCKET_BUFFER_BYTES: usize = 7 << 20;
/// After the socket failed to read: long enough not to spin.
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Clone, Copy)]
struct Ipv4MtuDiscover;
nix::setsockopt_impl!(Ipv4MtuDiscover, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, usize, SetUsize);
#[derive(Clone, Copy)]
struct Ipv6MtuDiscover;
nix::setsockopt_impl!(Ipv6MtuDiscover, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, usize, SetUsize);

/// Gives the library its socket. Clones share the one that is bound.
#[derive(Clone, Default)]
pub struct Sockets {
    bound: Arc<Mutex<Option<(u16, UdpSocket)>>>,
}

impl Sockets {
    /// Binds `port` (0: any) for IPv4 and IPv6 and says which it became. The port that is bound already is kept.
    pub fn bind(&self, port: u16, fwmark: u32) -> io::Result<u16> {
        self.socket(port, fwmark).map(|(port, _)| port)
    }

    /// Lets go of the port, once the library has stopped.
    pub fn close(&self) {
        *self.lock() = None;
    }

    fn socket(&self, port: u16, fwmark: u32) -> io::Result<(u16, UdpSocket)> {
        let mut bound = self.lock();
        let (port, socket) = match bound.take() {
            Some((known, socket)) if known == port => (known, socket),
            before => match open(port) {
                Ok(fresh) => fresh,
                Err(error) => {
                    *bound = before;
                    return Err(error);
                }
            },
        };
        // Without CAP_NET_ADMIN nobody may set a mark, not even the one that is there.
        if getsockopt(&socket, sockopt::Mark)? != fwmark {
            setsockopt(&socket, sockopt::Mark, &fwmark)?;
        }
        *bound = Some((port, socket.clone()));
        Ok((port, socket))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(u16, UdpSocket)>> {
        self.bound.lock().expect("nobody panics with the socket in hand")
    }
}

fn open(port: u16) -> io::Result<(u16, UdpSocket)> {
    let options = SockOpt { only_v6: Some(false), ..SockOpt::default() };
    let socket = match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port).into(), options) {
        // No IPv6 in this kernel or namespace.
        Err(error)
            if matches!(
                error.raw_os_error().map(Errno::from_raw),
                Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL)
            ) =>
        {
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port).into(), options)?
        }
        bound => bound?,
    };
    // An outer packet larger than the path is fragmented, not refused: the inner one had no DF, or the agent
    // would have answered it.
    setsockopt(&socket, Ipv4MtuDiscover, &(libc::IP_PMTUDISC_DONT as usize))?;
    if socket.local_addr()?.is_ipv6() {
        setsockopt(&socket, Ipv6MtuDiscover, &(libc::IPV6_PMTUDISC_DONT as usize))?;
    }
    enlarge_buffers(&socket)?;
    if let Err(error) = socket.enable_udp_gro() {
        warn!(%error, "Receiving datagrams one by one");
    }
    Ok((socket.local_addr()?.port(), socket))
}

/// To what we ask for, or, without CAP_NET_ADMIN, to what the system allows to everybody.
fn enlarge_buffers(socket: &UdpSocket) -> io::Result<()> {
    let forced = setsockopt(socket, sockopt::RcvBufForce, &SOCKET_BUFFER_BYTES)
        .and_then(|()| setsockopt(socket, sockopt::SndBufForce, &SOCKET_BUFFER_BYTES));
    if let Err(error) = forced {
        setsockopt(socket, sockopt::RcvBuf, &SOCKET_BUFFER_BYTES)?;
        setsockopt(socket, sockopt::SndBuf, &SOCKET_BUFFER_BYTES)?;
        // The kernel says twice of what it was asked for: the rest is for its own bookkeeping. (socket(7), SO_RCVBUF)
        let [receive_bytes, send_bytes] =
            [getsockopt(socket, sockopt::RcvBuf)?, getsockopt(socket, sockopt::SndBuf)?].map(|it| it / 2);
        if receive_bytes.min(send_bytes) < SOCKET_BUFFER_BYTES {
            warn!(
                %error,
                receive_bytes,
                send_bytes,
                "Small socket buffers, bursts may be lost: raise net.core.rmem_max and net.core.wmem_max to {SOCKET_BUFFER_BYTES}"
            );
        }
    }
    Ok(())
}

impl UdpTransportFactory for Sockets {
    type Send = Sender;
    type Recv = Receiver;

    async fn bind(&mut self, params: &UdpTransportFactoryParams) -> io::Result<(Sender, Receiver)> {
        let (_, socket) = self.socket(params.port, params.fwmark.unwrap_or_default())?;
        Ok((Sender(socket.clone()), Receiver(socket)))
    }
}

/// Sends datagrams; packets of one size to one place go in one call.
#[derive(Clone)]
pub struct Sender(UdpSocket);

impl Sender {
    /// Sends equal packets (the last may be shorter) as one segmented datagram.
    async fn send_segmented(&self, packets: &[(Packet, SocketAddr)]) -> io::Result<()> {
        let (first, to) = packets.first().expect("a group has a packet");
        let to = SockaddrStorage::from(*to);
        let segment = u16::try_from(first.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let socket = self.0.socket();
        socket
            .async_io(Interest::WRITABLE, || {
                let parts: Vec<IoSlice<'_>> =
                    packets.iter().map(|(packet, _)| IoSlice::new(packet)).collect();
                let control = [ControlMessage::UdpGsoSegments(&segment)];
                sendmsg(socket.as_raw_fd(), &parts, &control, MsgFlags::MSG_DONTWAIT, Some(&to))?;
                Ok(())
            })
            .await
    }

    async fn send_each(&self, packets: &[(Packet, SocketAddr)]) {
        for (packet, to) in packets {
            if let Err(error) = self.0.socket().send_to(packet, *to).await {
                debug!(%error, %to, "Dropped a datagram");
            }
        }
    }
}

impl UdpSend for Sender {
    type SendManyBuf = ();

    async fn send_to(&self, packet: Packet, to: SocketAddr) -> io::Result<()> {
        self.0.socket().send_to(&packet, to).await.map(drop)
    }

    fn max_number_of_packets_to_send(&self) -> usize {
        BATCH_MAX
    }

    /// Never fails: one peer that cannot be reached does not cost another its packets.
    async fn send_many_to(&self, _: &mut (), packets: &mut Vec<(Packet, SocketAddr)>) -> io::Result<()> {
        let mut rest = packets.as_slice();
        while !rest.is_empty() {
            let (group, others) = rest.split_at(group_len(rest));
            // A segment above the path MTU is refused (it cannot be fragmented), as are all by a device
            // without checksums: then one by one.
            if group.len() == 1 || self.send_segmented(group).await.is_err() {
                self.send_each(group).await;
            }
            rest = others;
        }
        packets.clear();
        Ok(())
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.0.local_addr().map(Some)
    }

    fn set_fwmark(&self, mark: u32) -> io::Result<()> {
        Ok(setsockopt(&self.0, sockopt::Mark, &mark)?)
    }
}

/// How many packets from the first on fit one segmented send: same destination, same size, a shorter one ends it.
fn group_len(packets: &[(Packet, SocketAddr)]) -> usize {
    let Some((first, to)) = packets.first() else { return 0 };
    let mut bytes = first.len();
    let mut previous = first.len();
    for (count, (packet, other)) in packets.iter().enumerate().skip(1).take(SEGMENTS_MAX - 1) {
        bytes += packet.len();
        if other != to || previous < first.len() || packet.len() > first.len() || bytes > SEGMENTED_BYTES_MAX
        {
            return count;
        }
        previous = packet.len();
    }
    packets.len().min(SEGMENTS_MAX)
}

/// Receives datagrams. Never fails: an error that reached the library would stop the device for good.
pub struct Receiver(UdpSocket);

impl UdpRecv for Receiver {
    type RecvManyBuf = <UdpSocket as UdpRecv>::RecvManyBuf;

    async fn recv_from(&mut self, pool: &mut PacketBufPool) -> io::Result<(Packet, SocketAddr)> {
        loop {
            match self.0.recv_from(pool).await {
                Ok(received) => return Ok(received),
                Err(error) => pause(&error).await,
            }
        }
    }

    async fn recv_many_from(
        &mut self,
        buffers: &mut Self::RecvManyBuf,
        pool: &mut PacketBufPool,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        while let Err(error) = self.0.recv_many_from(buffers, pool, packets).await {
            pause(&error).await;
        }
        Ok(())
    }
}

async fn pause(error: &io::Error) {
    debug!(%error, "Cannot receive");
    tokio::time::sleep(PAUSE).await;
}
