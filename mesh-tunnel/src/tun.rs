//! The persistent TUN device, and its packets as the WireGuard library wants them.
//!
//! One reader and one writer: several readers reorder packets, and TCP throttles. With `IFF_VNET_HDR` one read
//! brings up to 64 KiB of one flow, which is cut here, and packets of one flow are joined before they are written.

use std::{io, sync::Arc, time::Duration};

use bytes::BytesMut;
use gotatun::{
    packet::{Ip, Packet, PacketBufPool},
    tun::{IpRecv, IpSend, MtuWatcher},
};
use nix::errno::Errno;
use tokio::sync::{Mutex, Notify, mpsc};
use tracing::{debug, error};
use tun_rs::{AsyncDevice, DeviceBuilder, GROTable, IDEAL_BATCH_SIZE, VIRTIO_NET_HDR_LEN};

/// The largest IP packet. Packets above the MTU do come in: a BPF redirect checks none.
const PACKET_BYTES_MAX: usize = 65_535;
/// Segments of one read: 64 KiB at 256 bytes; a flow with smaller segments than that is cut by the kernel's own
/// limit before (its smallest path MTU for TCP is 552).
const SEGMENTS_MAX: usize = 256;
/// Packets between the library and the writer: eight of its batches.
const WRITE_QUEUE_MAX: usize = 1024;
/// After a read or write failed: long enough not to spin, short enough for the queue of the device (500 packets).
const PAUSE: Duration = Duration::from_millis(1);

/// Why the TUN device cannot be had, in one line each with what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The kernel has no TUN, or the container does not show it.
    #[error("there is no /dev/net/tun; load the module (modprobe tun) or give the container the device")]
    NoTun,
    /// Not root.
    #[error("making {0} needs CAP_NET_ADMIN; run as root")]
    NotAllowed(String),
    /// A process holds the device.
    #[error("{0} is served by another process; stop that one first")]
    Busy(String),
    /// A device of this name that we cannot take over.
    #[error(
        "{0} exists and is not a TUN with one queue; remove it with `ip link del {0}` or choose another --interface"
    )]
    Foreign(String),
    /// Anything else.
    #[error("cannot open the TUN device {0}")]
    Other(String, #[source] io::Error),
}

/// The open TUN device. Clones share it.
#[derive(Clone)]
pub struct Tun {
    reader: Arc<Mutex<Reader>>,
    writer: mpsc::Sender<Packet<Ip>>,
    mtu: u16,
}

impl Tun {
    /// Makes `interface`, or takes over the one a dead process left, and sets it up with `mtu` bytes.
    ///
    /// It stays when this process goes (IFF_PERSIST), with its index, addresses, routes and tc programs; packets
    /// to it are then dropped. `gone` hears when somebody deletes it.
    pub fn open(interface: &str, mtu: u16, gone: Arc<Notify>) -> Result<Self, OpenError> {
        let open = || {
            let device =
                DeviceBuilder::new().name(interface).offload(true).mtu(mtu).enable(true).build_async()?;
            device.persist()?;
            io::Result::Ok(device)
        };
        let device = Arc::new(open().map_err(|error| explain(interface, error))?);
        let (writer, queue) = mpsc::channel(WRITE_QUEUE_MAX);
        tokio::spawn(write_all(device.clone(), queue, gone.clone()));
        Ok(Self { reader: Arc::new(Mutex::new(Reader::new(device, gone))), writer, mtu })
    }
}

fn explain(interface: &str, error: io::Error) -> OpenError {
    let interface = interface.to_owned();
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO) => OpenError::NoTun,
        Some(Errno::EPERM | Errno::EACCES) => OpenError::NotAllowed(interface),
        Some(Errno::EBUSY) => OpenError::Busy(interface),
        Some(Errno::EINVAL) => OpenError::Foreign(interface),
        // An errno is open-ended; the source says the rest.
        Some(_) | None => OpenError::Other(interface, error),
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EBADFD | Errno::ENODEV | Errno::EBADF))
}

struct Reader {
    device: Arc<AsyncDevice>,
    gone: Arc<Notify>,
    raw: Vec<u8>,
    /// Zeroed pages that are only touched as far as packets reach.
    segments: Vec<Vec<u8>>,
    sizes: Vec<usize>,
}

impl Reader {
    fn new(device: Arc<AsyncDevice>, gone: Arc<Notify>) -> Self {
        Self {
            device,
            gone,
            raw: vec![0; VIRTIO_NET_HDR_LEN + PACKET_BYTES_MAX],
            segments: (0..SEGMENTS_MAX).map(|_| vec![0; PACKET_BYTES_MAX]).collect(),
            sizes: vec![0; SEGMENTS_MAX],
        }
    }

    /// The packets of one read. Fails only when the device is gone: a packet that cannot be cut is dropped.
    async fn read(&mut self) -> io::Result<&[Vec<u8>]> {
        loop {
            match self.device.recv_multiple(&mut self.raw, &mut self.segments, &mut self.sizes, 0).await {
                Ok(count) => return Ok(&self.segments[..count]),
                Err(error) if is_gone(&error) => {
                    self.gone.notify_one();
                    return Err(error);
                }
                Err(error) => {
                    debug!(%error, "Dropped a packet from the TUN");
                    // Without an errno it was the packet; with one it was the device, and may be again.
                    if error.raw_os_error().is_some() {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }
}

impl IpRecv for Tun {
    async fn recv<'a>(
        &'a mut self,
        pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        // The lock is free but for the moment in which a device is built anew over this TUN.
        let mut reader = self.reader.lock().await;
        let count = reader.read().await?.len();
        let packets: Vec<_> = (0..count)
            .filter_map(|index| {
                let mut packet = pool.get();
                packet.buf_mut().clear();
                packet.buf_mut().extend_from_slice(&reader.segments[index][..reader.sizes[index]]);
                packet.try_into_ip().ok()
            })
            .collect();
        Ok(packets.into_iter())
    }

    fn mtu(&self) -> MtuWatcher {
        MtuWatcher::new(self.mtu)
    }
}

impl IpSend for Tun {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        // The writer outlives every device; a full queue is back-pressure.
        self.writer.send(packet).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Writes what is decrypted, packets of one flow joined. Errors stay here: one that reached the library would stop it.
async fn write_all(device: Arc<AsyncDevice>, mut queue: mpsc::Receiver<Packet<Ip>>, gone: Arc<Notify>) {
    let mut table = GROTable::default();
    let mut batch = Vec::with_capacity(IDEAL_BATCH_SIZE);
    // Joining appends to the first packet of a flow, so each has room for the largest.
    let mut buffers: Vec<BytesMut> = (0..IDEAL_BATCH_SIZE)
        .map(|_| BytesMut::with_capacity(VIRTIO_NET_HDR_LEN + PACKET_BYTES_MAX))
        .collect();
    loop {
        batch.clear();
        let count = queue.recv_many(&mut batch, IDEAL_BATCH_SIZE).await;
        if count == 0 {
            return;
        }
        for (packet, buffer) in batch.drain(..).zip(&mut buffers) {
            buffer.clear();
            buffer.resize(VIRTIO_NET_HDR_LEN, 0);
            buffer.extend_from_slice(&packet.into_bytes());
        }
        match device.send_multiple(&mut table, &mut buffers[..count], VIRTIO_NET_HDR_LEN).await {
            Ok(_) => {}
            Err(error) if is_gone(&error) => {
                error!(%error, "The TUN device was deleted");
                gone.notify_one();
                return;
            }
            // The interface is down, or a packet inside is not one that the kernel takes.
            Err(error) => debug!(%error, "Dropped packets to the TUN"),
        }
    }
}
