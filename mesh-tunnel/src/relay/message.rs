//! What of a WireGuard message is not encrypted: its type, its indices, and for whom a handshake is.
//!
//! (WireGuard whitepaper, section 5.4)

use blake2::{
    Blake2s256, Blake2sMac, Digest as _,
    digest::{Mac as _, consts::U16},
};

use crate::key::PublicKey;

const INITIATION_BYTES: usize = 148;
const RESPONSE_BYTES: usize = 92;
const COOKIE_REPLY_BYTES: usize = 64;
/// Header and tag: a keepalive has nothing between them.
const DATA_BYTES_MIN: usize = 32;
/// mac1 and mac2 end a handshake message.
const MAC_BYTES: usize = 16;

/// A message as far as whoever passes it on can read it. A sender chose its own index; the receiver's is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// Type 1: the first message of a handshake.
    Initiation { sender: u32, signed: Signed<'a> },
    /// Type 2: its answer.
    Response { sender: u32, receiver: u32, signed: Signed<'a> },
    /// Type 3: come again with this cookie.
    CookieReply { receiver: u32 },
    /// Type 4: a packet, or a keepalive.
    Data { receiver: u32 },
}

/// The part of a handshake message that mac1 covers, and mac1. (5.4.4)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signed<'a> {
    covered: &'a [u8],
    mac1: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads a datagram; `None` if it is no message of WireGuard's.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_le_bytes(datagram.get(at..at + 4)?.try_into().ok()?));
        match (word(0)?, datagram.len()) {
            (1, INITIATION_BYTES) => {
                Some(Self::Initiation { sender: word(4)?, signed: Signed::of(datagram) })
            }
            (2, RESPONSE_BYTES) => {
                Some(Self::Response { sender: word(4)?, receiver: word(8)?, signed: Signed::of(datagram) })
            }
            (3, COOKIE_REPLY_BYTES) => Some(Self::CookieReply { receiver: word(4)? }),
            (4, DATA_BYTES_MIN..) => Some(Self::Data { receiver: word(4)? }),
            _ => None,
        }
    }
}

impl<'a> Signed<'a> {
    fn of(handshake: &'a [u8]) -> Self {
        let (covered, macs) = handshake.split_at(handshake.len() - 2 * MAC_BYTES);
        Self { covered, mac1: &macs[..MAC_BYTES] }
    }
}

/// What mac1 of every handshake message to one receiver is made with. Whoever knows the receiver's public key has it.
#[derive(Debug, Clone)]
pub struct Mac1Key([u8; 32]);

impl Mac1Key {
    /// That of a receiver.
    pub fn of(receiver: &PublicKey) -> Self {
        let hash = Blake2s256::new_with_prefix(b"mac1----").chain_update(receiver.as_bytes());
        Self(hash.finalize().into())
    }

    /// Whether this handshake message was made for this receiver.
    pub fn signed(&self, message: Signed<'_>) -> bool {
        let mac = Blake2sMac::<U16>::new_from_slice(&self.0).expect("BLAKE2s takes keys of up to 32 bytes");
        mac.chain_update(message.covered).verify_slice(message.mac1).is_ok()
    }
}

#[cfg(test)]
impl From<Mac1Key> for [u8; 32] {
    fn from(key: Mac1Key) -> Self {
        key.0
    }
}
