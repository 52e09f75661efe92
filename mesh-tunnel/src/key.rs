//! WireGuard keys: 32 bytes, written in hex on the wire of the UAPI.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
};

use gotatun::x25519;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes in a WireGuard key of any sort.
pub const KEY_BYTES: usize = 32;

/// A peer's public key. It names the peer, orders it, and may be printed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// Reads 64 hex digits; `None` for anything else.
    pub fn from_hex(hex: &str) -> Option<Self> {
        let mut bytes = [0; KEY_BYTES];
        hex::decode_to_slice(hex, &mut bytes).ok().map(|()| Self(bytes))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The key as the WireGuard library takes it.
    pub fn to_x25519(self) -> x25519::PublicKey {
        x25519::PublicKey::from(self.0)
    }
}

impl From<x25519::PublicKey> for PublicKey {
    fn from(key: x25519::PublicKey) -> Self {
        Self(key.to_bytes())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", hex::encode(&self.0[..4]))
    }
}

/// A private or pre-shared key: wiped when dropped, and never printed by `Debug`.
///
/// Equality is not constant-time: both sides come from root over a socket only root can open.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; KEY_BYTES]);

impl Secret {
    /// Reads 64 hex digits; `None` for anything else.
    pub fn from_hex(hex: &str) -> Option<Self> {
        let mut bytes = [0; KEY_BYTES];
        let read = hex::decode_to_slice(hex, &mut bytes).ok().map(|()| Self(bytes));
        bytes.zeroize();
        read
    }

    /// A new private key, of the system's randomness.
    pub fn generate() -> io::Result<Self> {
        let mut key = Self([0; KEY_BYTES]);
        File::open("/dev/urandom")?.read_exact(&mut key.0)?;
        Ok(key)
    }

    /// 64 hex digits, in a buffer that wipes itself.
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(self.0))
    }

    /// Whether this is the all-zero key, which says "none" in the UAPI.
    pub fn is_zero(&self) -> bool {
        self.0 == [0; KEY_BYTES]
    }

    /// The private key as the WireGuard library takes it.
    pub fn to_x25519(&self) -> x25519::StaticSecret {
        x25519::StaticSecret::from(self.0)
    }

    /// The pre-shared key as the WireGuard library takes it.
    pub fn to_bytes(&self) -> [u8; KEY_BYTES] {
        self.0
    }

    /// The public key that belongs to this private key.
    pub fn public(&self) -> PublicKey {
        x25519::PublicKey::from(&self.to_x25519()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
