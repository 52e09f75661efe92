//! Why a peer's record is refused, and how often it happened.

use api::record::Refusal;
use std::collections::BTreeMap;

/// A rule of the contract, or of the mesh, that a record breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The key names another cluster than the peer.
    ForeignKey,
    /// The key is not one in its canonical form.
    MalformedKey,
    /// The value is not a record of its kind, or breaks a rule of a field.
    MalformedValue,
    /// The peer says that it is another cluster than the one we peered with.
    WrongCluster,
    /// Default, loopback, link-local, multicast, unspecified or reserved.
    SpecialAddress,
    /// It lies in, or covers, a range of our own cluster.
    OurAddress,
    /// It lies in, or covers, what another peer's contract gives to that peer.
    AnotherPeersAddress,
    /// It is, or covers, an address at which a tunnel is dialled.
    TunnelEndpoint,
    /// The contract does not contain it.
    OutsideContract,
    /// The contract does not contain its namespace.
    NamespaceNotAllowed,
    /// Its number does not follow from its facts.
    ForgedIdentity,
    /// A Service that is not global and shared is nobody else's business.
    NotShared,
    /// A node without a mesh address, or a key that is not one.
    Incomplete,
    /// More ports, addresses or text in one record than any honest one has.
    TooLarge,
    /// Its kind is at the contract's limit.
    OverLimit,
    /// Another node of the peer carries an overlapping prefix.
    PrefixTaken,
    /// Another node, of anybody, uses this public key.
    KeyTaken,
}

impl Reason {
    /// The stable code that status and metrics show.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::ForeignKey => "foreign-key",
            Self::MalformedKey => "malformed-key",
            Self::MalformedValue => "malformed-value",
            Self::WrongCluster => "wrong-cluster",
            Self::SpecialAddress => "special-address",
            Self::OurAddress => "our-address",
            Self::AnotherPeersAddress => "another-peers-address",
            Self::TunnelEndpoint => "tunnel-endpoint",
            Self::OutsideContract => "outside-contract",
            Self::NamespaceNotAllowed => "namespace-not-allowed",
            Self::ForgedIdentity => "forged-identity",
            Self::NotShared => "not-shared",
            Self::Incomplete => "incomplete",
            Self::TooLarge => "too-large",
            Self::OverLimit => "over-limit",
            Self::PrefixTaken => "prefix-taken",
            Self::KeyTaken => "key-taken",
        }
    }
}

/// Longest example key that is kept whole, in bytes: a status line, not a place for a peer to fill.
const EXAMPLE_MAX_BYTES: usize = 256;

/// Refusals since the import began, by reason.
#[derive(Debug, Clone, Default)]
pub(super) struct Refusals(BTreeMap<Reason, (u64, String)>);

impl Refusals {
    pub(super) fn count(&mut self, reason: Reason, key: &str) {
        let (count, example) = self.0.entry(reason).or_default();
        *count += 1;
        *example = key[..key.floor_char_boundary(EXAMPLE_MAX_BYTES)].to_owned();
        if key.len() > example.len() {
            example.push('…');
        }
    }

    pub(super) fn list(&self) -> Vec<Refusal> {
        let refusal = |(reason, (count, example)): (&Reason, &(u64, String))| Refusal {
            reason: reason.code().to_owned(),
            count: *count,
            example: example.clone(),
        };
        self.0.iter().map(refusal).collect()
    }
}
