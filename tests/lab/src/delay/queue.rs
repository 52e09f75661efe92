//! A queue of packets from the kernel to us: their numbers come, verdicts go, and the packets stay where they are.
//! (linux/netfilter/nfnetlink_queue.h)

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::time::TimeSpec;

use crate::netfilter::{Message, Netfilter, attribute};

/// The number that the kernel gave a packet; they grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PacketId(u32);

/// Messages of `NFNL_SUBSYS_QUEUE`: a packet, the configuration, one verdict for a packet and all those before it.
const PACKET: (u8, u8) = (3, 0);
const CONFIG: (u8, u8) = (3, 2);
const VERDICT_BATCH: (u8, u8) = (3, 3);

/// Attributes of a configuration: command, what is copied of a packet, and how many are held. (`NFQA_CFG_*`)
const CFG_COMMAND: u16 = 1;
const CFG_PARAMS: u16 = 2;
const CFG_HELD_MAX: u16 = 3;

/// The attribute of a packet that begins with its number, and the one of a verdict. (`NFQA_*`)
const PACKET_HEADER: u16 = 1;
const VERDICT_HEADER: u16 = 2;

/// Values: `NFQNL_CFG_CMD_BIND`, `NFQNL_COPY_META`, `NF_ACCEPT`.
const BIND: u8 = 1;
const COPY_META: u8 = 1;
const ACCEPT: u32 = 1;

/// Room for the messages of all packets that are held, in case we come late to read them: 1 KiB each, as the kernel
/// counts.
const ROOM_PER_PACKET: usize = 1_024;

/// A queue that this process reads.
pub(super) struct Queue {
    netfilter: Netfilter,
    number: u16,
}

impl Queue {
    /// Takes the queue of this number; the kernel holds so many packets and drops those beyond.
    pub(super) fn open(number: u16, held_max: u32) -> Result<Self> {
        let netfilter = Netfilter::open()?;
        let room = ROOM_PER_PACKET * usize::try_from(held_max).context("it fits")?;
        setsockopt(&netfilter.socket, RcvBufForce, &room).context("cannot enlarge the queue's socket")?;
        let configuration: [(u16, &[u8]); 3] = [
            (CFG_COMMAND, &[BIND, 0, 0, 0]),
            (CFG_PARAMS, &[0, 0, 0, 0, COPY_META]),
            (CFG_HELD_MAX, &held_max.to_be_bytes()),
        ];
        for attribute in configuration {
            netfilter
                .ask(Message { kind: CONFIG, resource: number, attribute: Some(attribute) })
                .with_context(|| format!("cannot take the queue {number}"))?;
        }
        // A message that was lost is a packet that was lost, which is all that the error would say.
        netfilter.socket.set_no_enobufs(true).context("cannot have the queue's socket lose quietly")?;
        netfilter.socket.set_non_blocking(true).context("cannot unblock the queue's socket")?;
        Ok(Self { netfilter, number })
    }

    /// Waits until there are messages, or for so long. None: for as long as it takes.
    pub(super) fn wait(&self, within: Option<Duration>) -> Result<()> {
        let mut readable = [PollFd::new(self.netfilter.socket.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut readable, within.map(TimeSpec::from_duration), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("cannot wait for packets"),
        }
    }

    /// Takes the numbers of all packets that wait to be told.
    pub(super) fn receive(&self, mut take: impl FnMut(PacketId)) -> Result<()> {
        loop {
            let received = self.netfilter.receive(|kind, body| {
                if kind == Message::number(PACKET)
                    && let Some(id) = attribute(body, PACKET_HEADER).and_then(<[u8]>::first_chunk)
                {
                    take(PacketId(u32::from_be_bytes(*id)));
                }
            });
            match received {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("cannot read the queue"),
            }
        }
    }

    /// Lets a packet and all those before it go on.
    pub(super) fn release_up_to(&self, last: PacketId) -> Result<()> {
        let verdict = [ACCEPT.to_be_bytes(), last.0.to_be_bytes()].concat();
        let attribute = Some((VERDICT_HEADER, &verdict[..]));
        self.netfilter.tell(Message { kind: VERDICT_BATCH, resource: self.number, attribute })
    }
}
