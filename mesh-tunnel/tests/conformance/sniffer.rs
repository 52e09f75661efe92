//! Every frame that a host's devices see, and on which one.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt::RcvBufForce,
};

use crate::lab::Place;

/// No frame of a test is lost: some thousand small packets, counted at their size in kernel memory.
const BUFFER_BYTES: usize = 64 << 20;

/// Sees what comes and goes in one place, from its making on.
pub struct Sniffer(OwnedFd);

/// One frame, from its IP header on a device without link layer, from its Ethernet header on others.
pub struct Frame {
    pub ifindex: usize,
    pub bytes: Vec<u8>,
}

impl Frame {
    pub fn has(&self, text: &[u8]) -> bool {
        self.bytes.windows(text.len()).any(|window| window == text)
    }
}

impl Sniffer {
    pub fn new(place: &Place) -> Self {
        let fd = place.run(|| {
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        });
        let fd = fd.expect("root opens packet sockets");
        setsockopt(&fd, RcvBufForce, &BUFFER_BYTES).expect("root has the memory");
        Self(fd)
    }

    /// The frames seen so far up to the one that has this text, which must come.
    pub fn until(&self, text: &[u8]) -> Vec<Frame> {
        let mut frames = vec![];
        let mut buffer = vec![0; 65_536];
        loop {
            let (bytes, from) =
                recvfrom::<LinkAddr>(self.0.as_raw_fd(), &mut buffer).expect("a packet socket receives");
            let ifindex = from.expect("a frame has a device").ifindex();
            frames.push(Frame { ifindex, bytes: buffer[..bytes].to_vec() });
            if frames.last().is_some_and(|frame| frame.has(text)) {
                return frames;
            }
        }
    }
}
