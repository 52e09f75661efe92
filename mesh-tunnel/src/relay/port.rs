//! The relay's own device: it has the port's datagrams that are for itself, and nothing inside.

use std::{io, net::SocketAddr, sync::Arc};

use gotatun::{
    packet::{Ip, Packet, PacketBufPool},
    tun::{IpRecv, IpSend, MtuWatcher},
    udp::{UdpRecv, UdpTransportFactory, UdpTransportFactoryParams},
};
use tokio::sync::{Mutex, mpsc};

use crate::udp::Sender;

/// Datagrams for the device that wait: a handshake and a keepalive of each of 256 nodes. One that is too many is lost,
/// and repeated by its sender.
const INBOX_MAX: usize = 512;
/// Nothing of this size ever comes; a device has one.
const MTU_BYTES: u16 = 1280;

/// A datagram, and where it came from.
pub type Received = (Packet, SocketAddr);

/// What the device has of the port.
#[derive(Clone)]
pub struct Port {
    /// Nothing once the port is closed: the library keeps what it was given for longer than it needs it.
    sender: Arc<std::sync::Mutex<Option<Sender>>>,
    /// Locked by the device that runs; another one takes it over.
    inbox: Arc<Mutex<mpsc::Receiver<Received>>>,
}

impl Port {
    /// The device's end, and that of whoever gives it its datagrams.
    pub fn new(sender: Sender) -> (Self, mpsc::Sender<Received>) {
        let (outbox, inbox) = mpsc::channel(INBOX_MAX);
        let sender = Arc::new(std::sync::Mutex::new(Some(sender)));
        (Self { sender, inbox: Arc::new(Mutex::new(inbox)) }, outbox)
    }

    /// Lets go of the socket, once the device has stopped.
    pub fn close(&self) {
        *self.slot() = None;
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Sender>> {
        self.sender.lock().expect("nobody panics with the sender in hand")
    }
}

impl UdpTransportFactory for Port {
    type Send = Sender;
    type Recv = Self;

    async fn bind(&mut self, _: &UdpTransportFactoryParams) -> io::Result<(Sender, Self)> {
        let sender = self.slot().clone().ok_or(io::ErrorKind::NotConnected)?;
        Ok((sender, self.clone()))
    }
}

impl UdpRecv for Port {
    type RecvManyBuf = ();

    async fn recv_from(&mut self, _: &mut PacketBufPool) -> io::Result<Received> {
        match self.inbox.lock().await.recv().await {
            Some(received) => Ok(received),
            // The port is closed, so nothing comes any more; an error would be logged as one.
            None => std::future::pending().await,
        }
    }
}

/// Nobody has an address behind the relay: what comes out is dropped, and nothing goes in.
#[derive(Debug, Clone, Copy)]
pub struct Nothing;

impl IpSend for Nothing {
    async fn send(&mut self, _: Packet<Ip>) -> io::Result<()> {
        Ok(())
    }
}

impl IpRecv for Nothing {
    async fn recv<'a>(
        &'a mut self,
        _: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        std::future::pending::<io::Result<std::iter::Empty<Packet<Ip>>>>().await
    }

    fn mtu(&self) -> MtuWatcher {
        MtuWatcher::new(MTU_BYTES)
    }
}
