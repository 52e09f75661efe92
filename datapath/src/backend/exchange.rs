//! Requests to a netlink family that rtnetlink does not know, and the messages of its answers.

use netlink_packet_core::{
    NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::Socket;
use std::io;
use zeroize::Zeroizing;

/// Sends one request and hands it back. Its bytes are wiped, as they may hold a key; the rest is for its owner to wipe.
pub(super) fn ask<M: NetlinkSerializable>(
    socket: &Socket,
    flags: u16,
    sequence: u32,
    message: M,
) -> io::Result<M> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let mut bytes = Zeroizing::new(vec![0; message.buffer_len()]);
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    match message.payload {
        NetlinkPayload::InnerMessage(message) => Ok(message),
        _ => unreachable!("it was put in above"),
    }
}

/// The messages of one datagram.
pub(super) fn messages<M: NetlinkDeserializable>(
    mut bytes: &[u8],
) -> impl Iterator<Item = anyhow::Result<NetlinkMessage<M>>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let message = NetlinkMessage::<M>::deserialize(bytes);
        let length = message.as_ref().map_or(bytes.len(), |message| message.header.length as usize);
        // Messages begin at multiples of four (netlink(7), NLMSG_ALIGN).
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message.map_err(|error| anyhow::anyhow!("cannot read the kernel's answer: {error}")))
    })
}
