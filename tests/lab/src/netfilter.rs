//! Netfilter's netlink: one attribute at most a message, which is all that the lab says. (netlink(7), linux/netfilter)

use anyhow::{Context, Result, bail};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;

/// `NLM_F_REQUEST`, `NLM_F_ACK`; and `NLMSG_ERROR`, which also acknowledges.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const ERROR: u16 = 2;

/// The headers of netlink, of netfilter, and of an attribute.
const NLMSG_LEN: usize = 16;
const NFGEN_LEN: usize = 4;
const ATTR_LEN: usize = 4;

/// What the kernel says about a packet, without the packet, has some 200 bytes.
const DATAGRAM_MAX: usize = 4_096;

/// A socket to netfilter, of the network namespace that it was opened in.
pub(crate) struct Netfilter {
    pub(crate) socket: Socket,
}

/// What is said: the subsystem and its message, the resource it is about, and an attribute.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    /// `NFNL_SUBSYS_*` and the number of the message there.
    pub(crate) kind: (u8, u8),
    /// For example the number of a queue.
    pub(crate) resource: u16,
    /// Its type and its value.
    pub(crate) attribute: Option<(u16, &'a [u8])>,
}

impl Netfilter {
    /// Opens a socket.
    pub(crate) fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER).context("cannot open a netfilter socket")?;
        socket.bind_auto().context("cannot bind a netfilter socket")?;
        Ok(Self { socket })
    }

    /// Says something, and does not wait for what becomes of it.
    pub(crate) fn tell(&self, message: Message<'_>) -> Result<()> {
        self.send(message, REQUEST)
    }

    /// Says something, and hears whether it was done. The socket must wait, and nothing else may come in meanwhile.
    pub(crate) fn ask(&self, message: Message<'_>) -> Result<()> {
        self.send(message, REQUEST | ACK)?;
        let mut answer = None;
        while answer.is_none() {
            self.receive(|kind, body| {
                if kind == ERROR
                    && let Some(code) = body.first_chunk()
                {
                    answer = Some(i32::from_ne_bytes(*code));
                }
            })
            .context("cannot hear the kernel")?;
        }
        match answer {
            Some(0) | None => Ok(()),
            Some(code) => bail!("the kernel says: {}", Errno::from_raw(-code)),
        }
    }

    /// Takes one datagram: type and body of each message in it.
    pub(crate) fn receive(&self, take: impl FnMut(u16, &[u8])) -> std::io::Result<()> {
        let mut buffer = [0; DATAGRAM_MAX];
        let length = self.socket.recv(&mut &mut buffer[..], 0)?;
        each_message(&buffer[..length.min(DATAGRAM_MAX)], take);
        Ok(())
    }

    fn send(&self, message: Message<'_>, flags: u16) -> Result<()> {
        let sent = self.socket.send_to(&message.encode(flags), &SocketAddr::new(0, 0), 0);
        sent.context("cannot speak to netfilter").map(drop)
    }
}

impl Message<'_> {
    /// The type in netlink's header.
    pub(crate) const fn number(kind: (u8, u8)) -> u16 {
        u16::from_be_bytes([kind.0, kind.1])
    }

    fn encode(self, flags: u16) -> Vec<u8> {
        let attribute_len = |(_, value): (u16, &[u8])| ATTR_LEN + value.len().next_multiple_of(4);
        let length = NLMSG_LEN + NFGEN_LEN + self.attribute.map_or(0, attribute_len);
        let mut bytes = Vec::with_capacity(length);
        bytes.extend(u32::try_from(length).expect("a message is short").to_ne_bytes());
        bytes.extend(Self::number(self.kind).to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        // Sequence number and port: there is one question at a time, and the kernel knows who asks.
        bytes.extend([0; 8]);
        // Any family, version 0.
        bytes.extend([0; 2]);
        bytes.extend(self.resource.to_be_bytes());
        if let Some((kind, value)) = self.attribute {
            bytes.extend(u16::try_from(ATTR_LEN + value.len()).expect("a value is short").to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(length, 0);
        }
        bytes
    }
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

/// The value of an attribute in a message's body.
pub(crate) fn attribute(body: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut attributes = body.get(NFGEN_LEN..)?;
    while let Some(head) = attributes.first_chunk::<ATTR_LEN>() {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        if u16::from_ne_bytes([head[2], head[3]]) == wanted {
            return attributes.get(ATTR_LEN..length);
        }
        attributes = attributes.get(length.max(ATTR_LEN).next_multiple_of(4)..)?;
    }
    None
}
