//! The packet socket: every frame of a network namespace, with the link it was seen on. (packet(7))

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::net::if_::if_nameindex;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout, RxqOvfl};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg,
    setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::enter::in_network;
use crate::process::ProcessId;

/// The largest frame: offloads hand 64 KiB of IP packet and an Ethernet header from device to device.
const FRAME_MAX: usize = 65_535 + 256;

/// What may wait to be read: half a second of 1 Gbit/s.
const QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// How often a quiet sniffer looks whether it should stop.
const PATIENCE_MS: i64 = 20;

/// The packet went out of the device, as seen from the namespace. (packet(7): PACKET_OUTGOING)
const OUTGOING: u8 = 4;

/// A packet socket inside a place.
pub(super) struct PacketSocket {
    fd: OwnedFd,
    /// By interface index: how frames seen there are labelled, coming in and going out.
    links: BTreeMap<usize, [String; 2]>,
    buffer: Vec<u8>,
    missed: u64,
}

/// What a look at the socket found.
pub(super) enum Heard<'a> {
    /// A frame on a watched link.
    Frame(Captured<'a>),
    /// A frame on another link.
    Elsewhere,
    /// Nothing for 20 ms.
    Silence,
}

/// A frame as it was seen.
pub(super) struct Captured<'a> {
    pub(super) link: &'a str,
    pub(super) bytes: &'a [u8],
    /// Whether there was more of it than is read.
    pub(super) truncated: bool,
}

impl PacketSocket {
    /// Opens a socket in a place that sees these links: the interface's name, and how frames are labelled that come in and
    /// go out. None named: all but loopback.
    pub(super) fn open(holder: ProcessId, links: Vec<(String, [String; 2])>) -> Result<Self> {
        let (fd, present) = in_network(holder, || -> Result<_> {
            let present: BTreeMap<String, usize> = if_nameindex()
                .context("cannot list the devices")?
                .iter()
                .map(|device| (device.name().to_string_lossy().into_owned(), device.index() as usize))
                .collect();
            let every = SockProtocol::EthAll;
            let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, every)
                .context("cannot open a packet socket")?;
            Ok((fd, present))
        })??;
        let links = if links.is_empty() {
            let labels = |name: &String| [format!("into {name}"), format!("out of {name}")];
            present.keys().filter(|name| *name != "lo").map(|name| (name.clone(), labels(name))).collect()
        } else {
            links
        };
        let mut labels = BTreeMap::new();
        for (name, both) in links {
            let Some(index) = present.get(&name) else {
                bail!("there is no device {name} to watch what goes {}", both[0])
            };
            labels.insert(*index, both);
        }
        setsockopt(&fd, RcvBufForce, &QUEUE_BYTES).context("cannot enlarge the socket's queue")?;
        setsockopt(&fd, RxqOvfl, &1).context("cannot count what is missed")?;
        setsockopt(&fd, ReceiveTimeout, &TimeVal::milliseconds(PATIENCE_MS))
            .context("cannot set the patience")?;
        Ok(Self { fd, links: labels, buffer: vec![0; FRAME_MAX], missed: 0 })
    }

    /// Takes the next frame, or waits 20 ms for one.
    pub(super) fn receive(&mut self) -> Result<Heard<'_>> {
        let mut control = cmsg_space!(u32);
        let mut slices = [IoSliceMut::new(&mut self.buffer)];
        let received =
            recvmsg::<LinkAddr>(self.fd.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty());
        let received = match received {
            Ok(received) => received,
            Err(Errno::EAGAIN) => return Ok(Heard::Silence),
            Err(Errno::EINTR) => return Ok(Heard::Elsewhere),
            Err(error) => return Err(error).context("cannot read the packet socket"),
        };
        for message in received.cmsgs().context("cannot read how much was missed")? {
            if let ControlMessageOwned::RxqOvfl(missed) = message {
                self.missed = u64::from(missed);
            }
        }
        let truncated = received.flags.contains(MsgFlags::MSG_TRUNC);
        let (length, from) = (received.bytes, received.address.context("a frame without a link")?);
        let Some(labels) = self.links.get(&from.ifindex()) else { return Ok(Heard::Elsewhere) };
        let link = &labels[usize::from(from.pkttype() == OUTGOING)];
        Ok(Heard::Frame(Captured { link, bytes: &self.buffer[..length], truncated }))
    }

    /// Frames that the kernel had to drop because we were too slow.
    pub(super) fn missed(&self) -> u64 {
        self.missed
    }
}
