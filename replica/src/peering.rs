//! One side of a connect: from our object and what the peer says to what we publish and what becomes of the object.
//!
//! ```text
//!  object written ─▶ prepared ──the other's record, same nonce──▶ active, unconfirmed ──it is active, too──▶ confirmed
//!                       │ deadline                                     │ it vanished                          │ it vanished
//!                       ▼                                              ▼                                      ▼
//!                  object removed                                object removed                 stays; the peer disconnected
//! ```
//!
//! `meshctl connect` only writes two objects with one nonce; the two apiservers finish or undo it between them, each
//! of them and meshctl free to die at any step. Whoever is active has seen the other prepared, and does not give up by
//! himself after that: the other may have gone on. He gives up when he sees that the other did not, and the other
//! cannot be confirmed without having seen him active. So with the sides in contact again both end active, or neither
//! has an object. What is lost with a peer's session or store is [`Told::Unknown`], which decides nothing.
//!
//! An object declared by hand has no nonce. It is active as it stands, and never removed by us.

use crate::{Now, import::Told};
use api::{
    bytes::{ContractHash, Nonce},
    peer::MeshPeer,
    record::{PeerState, Peering, Phase},
};
use std::{fmt, time::Duration};

/// A connect that did not meet its other half within this time is undone, whatever the clock says that wrote its
/// deadline.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(60);

/// What our `MeshPeer` object says of its connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object {
    /// Of the connect; none when it was declared by hand.
    pub nonce: Option<Nonce>,
    /// Unix time by which a prepared object must have met its other half; none when it is active.
    pub deadline_s: Option<u64>,
    /// Of what we hold the peer to.
    pub contract_hash: ContractHash,
}

impl From<&MeshPeer> for Object {
    fn from(object: &MeshPeer) -> Self {
        Self {
            nonce: object.nonce(),
            deadline_s: object.spec.connect.as_ref().and_then(|connect| connect.deadline_s),
            contract_hash: object.spec.contract.hash(),
        }
    }
}

/// What becomes of the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// It stays as it is.
    Keep,
    /// Write it again without its deadline.
    Activate,
    /// Remove it, if it still has this nonce.
    Remove(Gone),
}

/// Why an object is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// The other side did not show itself in time.
    Expired,
    /// The other side gave up before it was active.
    NeverActive,
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "the other side did not show itself before the connect's deadline",
            Self::NeverActive => "the other side gave the connect up before it was active",
        })
    }
}

/// What is known of the other side, for status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Other {
    /// There is no session to it, or it is not complete.
    Unknown,
    /// It has no peering with us: not yet, or no longer.
    Absent,
    /// It is in another connect than we are.
    AnotherConnect,
    /// It has prepared.
    Prepared,
    /// It is active.
    Active,
}

/// What follows from all that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// To stand under our `peerings/<peer>`.
    pub publish: Peering,
    /// What becomes of the object.
    pub wish: Wish,
    /// To stand in our verdict about the peer: active once both sides are, and from then on we import.
    pub phase: Phase,
    /// The other side.
    pub other: Other,
}

/// Our side of one peering.
#[derive(Debug, Clone)]
pub struct Side {
    nonce: Option<Nonce>,
    first_seen: Now,
    /// The other side was seen active in this connect. Survives in our verdict's phase and nonce.
    confirmed: bool,
}

impl Side {
    /// A side that begins, or goes on from the verdict that our store holds. A verdict is written while the object is
    /// prepared, so an active object without one is of a store that was lost, and not of a connect that is under way.
    #[must_use]
    pub fn new(object: &Object, held: Option<&PeerState>, now: Now) -> Self {
        let confirmed = match held {
            Some(held) => held.phase == Phase::Active && held.nonce == object.nonce,
            None => object.deadline_s.is_none(),
        };
        Self { nonce: object.nonce, first_seen: now, confirmed }
    }

    /// Decides, from our object as it is, the peer's record about us as it is told, and the time.
    pub fn decide(&mut self, object: &Object, told: Told<'_, Peering>, now: Now, unix_s: u64) -> Decision {
        if object.nonce != self.nonce {
            // Another connect was written over this one.
            *self = Self { nonce: object.nonce, first_seen: now, confirmed: false };
        }
        let other = self.other(told);
        let publish_phase = if object.deadline_s.is_some() { Phase::Prepared } else { Phase::Active };
        let wish = match (publish_phase, object.nonce) {
            (_, None) => Wish::Keep,
            (Phase::Prepared, Some(_)) => self.prepared(object, other, now, unix_s),
            (Phase::Active, Some(_)) => self.active(other),
        };
        let phase = if self.confirmed || object.nonce.is_none() { publish_phase } else { Phase::Prepared };
        let publish =
            Peering { nonce: object.nonce, phase: publish_phase, contract_hash: object.contract_hash };
        Decision { publish, wish, phase, other }
    }

    /// When to decide again though nothing was heard.
    #[must_use]
    pub fn poll_timeout(&self, object: &Object, now: Now, unix_s: u64) -> Option<Now> {
        let left = Duration::from_secs(object.deadline_s?.saturating_sub(unix_s));
        Some((now + left).min(self.first_seen + CONNECT_WITHIN))
    }

    fn other(&self, told: Told<'_, Peering>) -> Other {
        match told {
            Told::Unknown => Other::Unknown,
            Told::Absent => Other::Absent,
            Told::Present(record) if record.nonce != self.nonce => Other::AnotherConnect,
            Told::Present(record) => match record.phase {
                Phase::Prepared => Other::Prepared,
                Phase::Active => Other::Active,
            },
        }
    }

    fn prepared(&self, object: &Object, other: Other, now: Now, unix_s: u64) -> Wish {
        let expired = object.deadline_s.is_some_and(|deadline_s| unix_s >= deadline_s)
            || now.since(self.first_seen) >= CONNECT_WITHIN;
        match other {
            Other::Prepared | Other::Active => Wish::Activate,
            Other::Unknown | Other::Absent | Other::AnotherConnect if expired => Wish::Remove(Gone::Expired),
            Other::Unknown | Other::Absent | Other::AnotherConnect => Wish::Keep,
        }
    }

    fn active(&mut self, other: Other) -> Wish {
        match other {
            Other::Active => {
                self.confirmed = true;
                Wish::Keep
            }
            Other::Absent | Other::AnotherConnect if !self.confirmed => Wish::Remove(Gone::NeverActive),
            Other::Unknown | Other::Absent | Other::AnotherConnect | Other::Prepared => Wish::Keep,
        }
    }
}

#[cfg(test)]
mod tests;
