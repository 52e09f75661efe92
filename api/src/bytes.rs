//! Fixed-size opaque values: cluster UUIDs, object UIDs, identities, nonces, boots.

use sha2::{Digest as _, Sha256};
use std::{fmt, str::FromStr};

/// The bytes of `kind` do not have the length it needs, or are not its hexadecimal text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {kind} is {expected} bytes, and this is not one")]
pub struct BadLength {
    /// What was expected.
    pub kind: &'static str,
    /// Its length in bytes.
    pub expected: usize,
}

macro_rules! opaque {
    ($(#[$doc:meta])* $name:ident, $len:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Takes the value from the wire.
            ///
            /// # Errors
            /// When the length differs.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, BadLength> {
                bytes.try_into().map(Self).map_err(|_| BadLength { kind: $kind, expected: $len })
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

macro_rules! as_hex {
    ($name:ident, $len:literal, $kind:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl FromStr for $name {
            type Err = BadLength;
            fn from_str(text: &str) -> Result<Self, BadLength> {
                let mut bytes = [0; $len];
                // One text a value: upper case would make a second key of the same thing.
                let lower = !text.bytes().any(|b| b.is_ascii_uppercase());
                match hex::decode_to_slice(text, &mut bytes) {
                    Ok(()) if lower => Ok(Self(bytes)),
                    Ok(()) | Err(_) => Err(BadLength { kind: $kind, expected: $len }),
                }
            }
        }
    };
}

macro_rules! as_uuid {
    ($name:ident, $kind:literal) => {
        /// Lower-case text with hyphens (RFC 9562, section 4).
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let h = hex::encode(self.0);
                write!(f, "{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..])
            }
        }

        impl FromStr for $name {
            type Err = BadLength;
            fn from_str(text: &str) -> Result<Self, BadLength> {
                let bad = || BadLength { kind: $kind, expected: 16 };
                let hyphens =
                    text.len() == 36 && [8, 13, 18, 23].iter().all(|&at| text.as_bytes()[at] == b'-');
                let digits: String = text.chars().filter(|&c| c != '-').collect();
                let mut bytes = [0; 16];
                if !hyphens || text.bytes().any(|b| b.is_ascii_uppercase()) {
                    return Err(bad());
                }
                hex::decode_to_slice(&digits, &mut bytes).map_err(|_| bad())?;
                Ok(Self(bytes))
            }
        }
    };
}

opaque!(
    /// The immutable UUID of a cluster: its SPIFFE trust domain. A name is only a label of it.
    ClusterUuid, 16, "cluster UUID"
);
as_uuid!(ClusterUuid, "cluster UUID");
opaque!(
    /// The UID of the Kubernetes object (or manifest) a record was made from: a delete hits only its own.
    Uid, 16, "object UID"
);
as_uuid!(Uid, "object UID");
opaque!(
    /// A content-addressed identity: see [`crate::identity`].
    IdentityId, 16, "identity"
);
as_hex!(IdentityId, 16, "identity");
opaque!(
    /// Names one run of a store: two runs with the same revisions are told apart by it.
    BootId, 16, "boot id"
);
as_hex!(BootId, 16, "boot id");
opaque!(
    /// Names one run of a VM's agent: two machines that were cloned with one key are told apart by it.
    Instance, 16, "instance"
);
as_hex!(Instance, 16, "instance");
opaque!(
    /// SHA-256 of the SubjectPublicKeyInfo of a certificate (RFC 5280, section 4.1.2.7): which TLS key it is.
    KeyFingerprint, 32, "key fingerprint"
);
as_hex!(KeyFingerprint, 32, "key fingerprint");

impl KeyFingerprint {
    /// Of a SubjectPublicKeyInfo, DER.
    #[must_use]
    pub fn of(subject_public_key_info: &[u8]) -> Self {
        Self(Sha256::digest(subject_public_key_info).into())
    }
}
opaque!(
    /// Names one `meshctl connect`, the same on both sides.
    Nonce, 16, "nonce"
);
as_hex!(Nonce, 16, "nonce");
opaque!(
    /// SHA-256 of a peering contract's canonical encoding.
    ContractHash, 32, "contract hash"
);
as_hex!(ContractHash, 32, "contract hash");
/// What a token is worth. It has no text form and shows itself in no log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 16]);

impl Secret {
    /// Takes the value from the wire, or from a random source.
    ///
    /// # Errors
    /// When the length differs.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, BadLength> {
        bytes.try_into().map(Self).map_err(|_| BadLength { kind: "secret", expected: 16 })
    }

    /// To be sent over a verified connection.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// What is kept of it: 128 random bits need no salt and no slow hash.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash(Sha256::digest(self.0).into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

opaque!(
    /// SHA-256 of a [`Secret`].
    SecretHash, 32, "secret's hash"
);
as_hex!(SecretHash, 32, "secret's hash");
opaque!(
    /// A WireGuard public key (Curve25519).
    PublicKey, 32, "public key"
);
as_hex!(PublicKey, 32, "public key");
