//! A queue of packets from the kernel to us: their numbers come, verdicts go, and the packets stay where they are.
//! (linux/netfilter/nfnetlink_queue.h)

use std::time::Duration;

use anyhow::{Context, Result, bail};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::time::TimeSpec;
use std::os::fd::AsFd;

/// The number that the kernel gave a packet; they grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PacketId(u32);

/// The subsystem of netfilter's netlink. (`NFNL_SUBSYS_QUEUE`)
const SUBSYSTEM: u16 = 3 << 8;

/// Messages: a packet, the configuration, and one verdict for a packet and all those before it. (`NFQNL_MSG_*`)
const PACKET: u16 = SUBSYSTEM;
const CONFIG: u16 = SUBSYSTEM | 2;
const VERDICT_BATCH: u16 = SUBSYSTEM | 3;

/// Attributes of a configuration: command, what is copied of a packet, and how many are held. (`NFQA_CFG_*`)
const CFG_COMMAND: u16 = 1;
const CFG_PARAMS: u16 = 2;
const CFG_HELD_MAX: u16 = 3;

/// The first attribute of a packet, and the one of a verdict. (`NFQA_*`)
const PACKET_HEADER: u16 = 1;
const VERDICT_HEADER: u16 = 2;

/// Values: `NFQNL_CFG_CMD_BIND`, `NFQNL_COPY_META`, `NF_ACCEPT`.
const BIND: u8 = 1;
const COPY_META: u8 = 1;
const ACCEPT: u32 = 1;

/// `NLMSG_ERROR`, which also acknowledges; `NLM_F_REQUEST` and `NLM_F_ACK`.
const ERROR: u16 = 2;
const REQUEST: u16 = 1;
const ACK: u16 = 4;

/// Headers of netlink and of netfilter: lengths, and what comes before an attribute's value.
const NLMSG_LEN: usize = 16;
const NFGEN_LEN: usize = 4;
const ATTR_LEN: usize = 4;

/// A message about a packet has some 200 bytes without the packet.
const MESSAGE_MAX: usize = 4_096;

/// Room for the messages of all packets that are held, in case we come late to read them: 1 KiB each, as the kernel
/// counts.
const ROOM_PER_PACKET: usize = 1_024;

/// A queue that this process reads.
pub(super) struct Queue {
    socket: Socket,
    number: u16,
}

impl Queue {
    /// Takes the queue of this number; the kernel holds so many packets and drops those beyond.
    pub(super) fn open(number: u16, held_max: u32) -> Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER).context("cannot open a netfilter socket")?;
        socket.bind_auto().context("cannot bind a netfilter socket")?;
        let room = ROOM_PER_PACKET * usize::try_from(held_max).context("it fits")?;
        setsockopt(&socket, RcvBufForce, &room).context("cannot enlarge the queue's socket")?;
        // A message that was lost is a packet that was lost, which is all that the error would say.
        socket.set_no_enobufs(true).context("cannot have the queue's socket lose quietly")?;
        let queue = Self { socket, number };
        queue.configure(CFG_COMMAND, &[BIND, 0, 0, 0])?;
        queue.configure(CFG_PARAMS, &[0, 0, 0, 0, COPY_META])?;
        queue.configure(CFG_HELD_MAX, &held_max.to_be_bytes())?;
        queue.socket.set_non_blocking(true).context("cannot unblock the queue's socket")?;
        Ok(queue)
    }

    /// Waits until there are messages, or for so long. None: for as long as it takes.
    pub(super) fn wait(&self, within: Option<Duration>) -> Result<()> {
        let mut readable = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut readable, within.map(TimeSpec::from_duration), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("cannot wait for packets"),
        }
    }

    /// Takes the numbers of all packets that wait to be told.
    pub(super) fn receive(&self, mut take: impl FnMut(PacketId)) -> Result<()> {
        let mut buffer = [0; MESSAGE_MAX];
        loop {
            match self.socket.recv(&mut &mut buffer[..], 0) {
                Ok(length) => each_message(&buffer[..length.min(MESSAGE_MAX)], |kind, body| {
                    if kind == PACKET
                        && let Some(id) = packet_id(body)
                    {
                        take(id);
                    }
                }),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("cannot read the queue"),
            }
        }
    }

    /// Lets a packet and all those before it go on.
    pub(super) fn release_up_to(&self, last: PacketId) -> Result<()> {
        let verdict = [ACCEPT.to_be_bytes(), last.0.to_be_bytes()].concat();
        self.send(VERDICT_BATCH, REQUEST, VERDICT_HEADER, &verdict)
    }

    fn configure(&self, attribute: u16, value: &[u8]) -> Result<()> {
        self.send(CONFIG, REQUEST | ACK, attribute, value)?;
        let mut buffer = [0; MESSAGE_MAX];
        let mut answer = None;
        while answer.is_none() {
            let length = self.socket.recv(&mut &mut buffer[..], 0).context("cannot hear the kernel")?;
            each_message(&buffer[..length.min(MESSAGE_MAX)], |kind, body| {
                if kind == ERROR
                    && let Some(code) = body.first_chunk()
                {
                    answer = Some(i32::from_ne_bytes(*code));
                }
            });
        }
        match answer {
            Some(0) | None => Ok(()),
            Some(code) => bail!("cannot take the queue {}: {}", self.number, Errno::from_raw(-code)),
        }
    }

    fn send(&self, kind: u16, flags: u16, attribute: u16, value: &[u8]) -> Result<()> {
        let message = message(kind, flags, self.number, attribute, value);
        self.socket
            .send_to(&message, &SocketAddr::new(0, 0), 0)
            .with_context(|| format!("cannot speak about the queue {}", self.number))
            .map(drop)
    }
}

/// A message with one attribute.
fn message(kind: u16, flags: u16, queue: u16, attribute: u16, value: &[u8]) -> Vec<u8> {
    let padded = value.len().next_multiple_of(4);
    let length = NLMSG_LEN + NFGEN_LEN + ATTR_LEN + padded;
    let mut message = Vec::with_capacity(length);
    message.extend(u32::try_from(length).expect("a message is short").to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and port: there is one question at a time, and the kernel knows who asks.
    message.extend([0; 8]);
    // Any family, version 0.
    message.extend([0; 2]);
    message.extend(queue.to_be_bytes());
    message.extend(u16::try_from(ATTR_LEN + value.len()).expect("a value is short").to_ne_bytes());
    message.extend(attribute.to_ne_bytes());
    message.extend(value);
    message.resize(length, 0);
    message
}

/// Type and body of each message in a datagram.
fn each_message(mut datagram: &[u8], mut take: impl FnMut(u16, &[u8])) {
    while let Some(head) = datagram.first_chunk::<NLMSG_LEN>() {
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some(body) = datagram.get(NLMSG_LEN..length) else { return };
        take(u16::from_ne_bytes([head[4], head[5]]), body);
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// The number of a packet: the first field of its header attribute.
fn packet_id(body: &[u8]) -> Option<PacketId> {
    let mut attributes = body.get(NFGEN_LEN..)?;
    while let Some(head) = attributes.first_chunk::<ATTR_LEN>() {
        let (length, kind) =
            (usize::from(u16::from_ne_bytes([head[0], head[1]])), u16::from_ne_bytes([head[2], head[3]]));
        if kind == PACKET_HEADER {
            return Some(PacketId(u32::from_be_bytes(*attributes.get(ATTR_LEN..)?.first_chunk()?)));
        }
        attributes = attributes.get(length.max(ATTR_LEN).next_multiple_of(4)..)?;
    }
    None
}
