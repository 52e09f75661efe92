//! The relay: passes WireGuard's datagrams on, unopened, between nodes of which neither can dial the other.
//!
//! ```text
//!   node a ──(NAT)──▶ port ──▶ Relay::take ──▶ port ──(NAT)──▶ node b
//!                                  │ ours
//!                                  ▼
//!                      a device of its own: who is where
//! ```
//!
//! Each node has the relay itself as a WireGuard peer, without any address inside: its handshakes and keepalives prove
//! where the node is now, by the same socket and so by the same mapping of its NAT box. So nothing is ever sent to an
//! address because a datagram said so:
//!
//! - an initiation is passed on when its sender's address is a node's, and mac1 shows that it is for a node that this
//!   one may talk to; what comes from nobody's address is for our own device, or for nobody;
//! - a session is known by its handshake: the indices of an initiation and its response tell where the rest belongs;
//! - a node that moved is followed at once when it proved it to our device, all its sessions with it; before, it is
//!   nobody there. A forged datagram moves nothing.
//!
//! One datagram in is at most the same datagram out, so nothing is amplified. Everything is bounded: pairs, handshakes
//! in flight, sessions, bytes a second. [`Relay`] is pure: time comes as an argument.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::key::PublicKey;

mod bucket;
mod message;
pub(crate) mod port;
pub(crate) mod service;
pub mod text;

#[cfg(test)]
mod tests;

use bucket::Bucket;
use message::{Mac1Key, Message, Signed};

/// Pairs that may talk: 128 nodes on each side of one relay. A request that names them all has 2.2 MB.
pub const PAIRS_MAX: usize = 16_384;
/// Mbit/s that a pair may use, unless another figure is given.
pub const MBIT_PER_S: u32 = 100;
/// A pair may use so much of its second at once: a window of TCP on a path of 100 ms.
const BYTES_BURST: Duration = Duration::from_millis(200);
/// A node repeats an initiation that is not answered after 5 s, with another index. (REKEY_TIMEOUT, 6.1)
const CALL_EVERY: Duration = Duration::from_secs(5);
/// An answer may come so late: twice of what the initiator still waits for.
const CALL_LASTS: Duration = Duration::from_secs(10);
/// Initiations of one pair that wait for an answer: those of both sides, twice.
const CALLS_MAX: usize = 4;
/// No session is used longer than 180 s (REJECT_AFTER_TIME, 6.1); the sides count from other moments than we.
const SESSION_LASTS: Duration = Duration::from_secs(190);
/// Sessions of one pair: a side holds three (previous, current, next), and both may begin at once.
const SESSIONS_MAX: usize = 6;

/// Two nodes that may talk, in the order of their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair(PublicKey, PublicKey);

impl Pair {
    /// `None` when both are one.
    pub fn new(one: PublicKey, other: PublicKey) -> Option<Self> {
        (one != other).then(|| Self(one.min(other), one.max(other)))
    }

    /// Both, in their order.
    pub fn sides(&self) -> [PublicKey; 2] {
        [self.0, self.1]
    }
}

/// What is to be done with a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Pass it on, as it is.
    To(SocketAddr),
    /// It is for our own device, or for nobody: the device knows.
    Ours,
    /// Drop it.
    Refused(Refusal),
}

/// Why a datagram goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// It is no message of WireGuard's.
    Malformed,
    /// A handshake from an address that no node has proved to have.
    Stranger,
    /// A handshake for nobody whom its sender may talk to.
    NotAllowed,
    /// Nobody knows where its receiver is.
    NotLocated,
    /// An answer that nobody waits for.
    Unasked,
    /// Its index is in use between others.
    Taken,
    /// The pair has used up its bytes, or the sender its handshakes.
    OverRate,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed",
            Self::Stranger => "stranger",
            Self::NotAllowed => "not_allowed",
            Self::NotLocated => "not_located",
            Self::Unasked => "unasked",
            Self::Taken => "taken",
            Self::OverRate => "over_rate",
        })
    }
}

/// What passed between two nodes, both ways, since they may talk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Passed on.
    pub datagrams: u64,
    /// Their bytes, without UDP's and IP's.
    pub bytes: u64,
    /// Not passed on, as the pair had used up its bytes.
    pub over_rate: u64,
}

/// Who may talk to whom, who is where, and which sessions there are.
#[derive(Debug)]
pub struct Relay {
    own: Mac1Key,
    bytes_per_s: u64,
    pairs: BTreeMap<Pair, Link>,
    parties: BTreeMap<PublicKey, Party>,
    /// Who is at an address: the same facts as in `parties`.
    whereabouts: BTreeMap<SocketAddr, PublicKey>,
    /// Initiations that wait for an answer.
    calls: BTreeMap<Ticket, Leg>,
    /// Both directions of each session.
    legs: BTreeMap<Ticket, Leg>,
    refused: BTreeMap<Refusal, u64>,
}

/// The index that somebody writes on a message, and who that is: where it goes follows from both.
type Ticket = (u32, PublicKey);

/// To whom, and since when.
#[derive(Debug, Clone, Copy)]
struct Leg {
    to: PublicKey,
    since: Instant,
}

/// A node that may talk to others.
#[derive(Debug)]
struct Party {
    mac1: Mac1Key,
    at: Option<SocketAddr>,
    partners: BTreeSet<PublicKey>,
    handshakes: Bucket,
}

/// Two nodes that may talk.
#[derive(Debug)]
struct Link {
    calls: VecDeque<Ticket>,
    sessions: VecDeque<[Ticket; 2]>,
    bytes: Bucket,
    counters: Counters,
}

impl Relay {
    /// A relay of this public key, between nobody. Each pair may use so many bytes a second, both ways counted.
    pub fn new(own: &PublicKey, bytes_per_s: u64) -> Self {
        Self {
            own: Mac1Key::of(own),
            bytes_per_s,
            pairs: BTreeMap::new(),
            parties: BTreeMap::new(),
            whereabouts: BTreeMap::new(),
            calls: BTreeMap::new(),
            legs: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// These may talk from now on, and no others. Sessions of pairs that stay go on; those of others end here and now.
    pub fn allow(&mut self, pairs: &BTreeSet<Pair>) {
        let gone: Vec<Pair> = self.pairs.keys().filter(|pair| !pairs.contains(pair)).copied().collect();
        for pair in gone {
            let link = self.pairs.remove(&pair).expect("it was listed");
            for ticket in &link.calls {
                self.calls.remove(ticket);
            }
            for ticket in link.sessions.iter().flatten() {
                self.legs.remove(ticket);
            }
        }
        for pair in pairs {
            self.pairs.entry(*pair).or_insert_with(|| Link::new(self.bytes_per_s));
        }
        self.seat(pairs);
    }

    /// Everybody in a pair is a party, and nobody else.
    fn seat(&mut self, pairs: &BTreeSet<Pair>) {
        let mut partners: BTreeMap<PublicKey, BTreeSet<PublicKey>> = BTreeMap::new();
        for Pair(one, other) in pairs {
            partners.entry(*one).or_default().insert(*other);
            partners.entry(*other).or_default().insert(*one);
        }
        self.parties.retain(|key, _| partners.contains_key(key));
        self.whereabouts.retain(|_, key| partners.contains_key(key));
        for (key, partners) in partners {
            let party = self.parties.entry(key).or_insert_with(|| Party::new(&key));
            if party.partners != partners {
                party.handshakes = handshakes(partners.len());
                party.partners = partners;
            }
        }
    }

    /// A party proved that it is here. Whoever was here before is here no more: says who that is.
    pub fn locate(&mut self, party: &PublicKey, at: SocketAddr) -> Option<PublicKey> {
        let known = self.parties.get_mut(party)?;
        if known.at == Some(at) {
            return None;
        }
        if let Some(before) = known.at.replace(at) {
            self.whereabouts.remove(&before);
        }
        let displaced = self.whereabouts.insert(at, *party)?;
        self.parties.get_mut(&displaced).expect("who is somewhere is a party").at = None;
        Some(displaced)
    }

    /// What is to be done with a datagram that came from an address.
    pub fn take(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> Verdict {
        let verdict = match self.receiver(now, from, datagram) {
            Ok(Some((sender, receiver))) => self.pass_on(now, (sender, receiver), datagram.len() as u64),
            Ok(None) => return Verdict::Ours,
            Err(refusal) => Err(refusal),
        };
        verdict.map_or_else(
            |refusal| {
                *self.refused.entry(refusal).or_default() += 1;
                Verdict::Refused(refusal)
            },
            Verdict::To,
        )
    }

    /// Who sent it, and whom it is for; `None`: for our own device, if for anybody.
    fn receiver(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Result<Option<(PublicKey, PublicKey)>, Refusal> {
        let message = Message::parse(datagram).ok_or(Refusal::Malformed)?;
        let sender = self.whereabouts.get(&from).copied();
        let receiver = match (message, sender) {
            (Message::Initiation { signed, .. } | Message::Response { signed, .. }, _)
                if self.own.signed(signed) =>
            {
                None
            }
            (Message::Initiation { .. } | Message::Response { .. }, None) => return Err(Refusal::Stranger),
            (Message::Initiation { sender: index, signed }, Some(sender)) => {
                Some(self.call(now, sender, index, signed)?)
            }
            (Message::Response { sender: index, receiver, signed }, Some(sender)) => {
                Some(self.answer(now, sender, index, receiver, signed)?)
            }
            (Message::CookieReply { receiver }, Some(sender)) => {
                let ticket = (receiver, sender);
                // It answers an initiation, or a response: that is the second message of a session.
                self.called(now, ticket).or_else(|| self.onward(now, ticket))
            }
            (Message::Data { receiver }, Some(sender)) => self.onward(now, (receiver, sender)),
            // A party that moved says so to our device, by just such a message.
            (Message::CookieReply { .. } | Message::Data { .. }, None) => None,
        };
        Ok(sender.zip(receiver))
    }

    /// An initiation: whom of its partners the sender calls. The answer finds its way back by the index.
    fn call(
        &mut self,
        now: Instant,
        caller: PublicKey,
        index: u32,
        signed: Signed<'_>,
    ) -> Result<PublicKey, Refusal> {
        let party = self.parties.get_mut(&caller).ok_or(Refusal::Stranger)?;
        // Looking for its receiver is the one costly thing here: a MAC for each partner.
        if !party.handshakes.take(now, 1) {
            return Err(Refusal::OverRate);
        }
        let is_for = |partner: &&PublicKey| self.parties[*partner].mac1.signed(signed);
        let callee = *self.parties[&caller].partners.iter().find(is_for).ok_or(Refusal::NotAllowed)?;
        let ticket = (index, callee);
        if self.calls.get(&ticket).is_some_and(|call| call.to != caller) {
            return Err(Refusal::Taken);
        }
        let link = Pair::new(caller, callee).and_then(|pair| self.pairs.get_mut(&pair));
        let link = link.ok_or(Refusal::NotAllowed)?;
        link.calls.retain(|known| *known != ticket);
        if link.calls.len() == CALLS_MAX
            && let Some(oldest) = link.calls.pop_front()
        {
            self.calls.remove(&oldest);
        }
        link.calls.push_back(ticket);
        self.calls.insert(ticket, Leg { to: caller, since: now });
        Ok(callee)
    }

    /// A response: with it, both sides have a session.
    fn answer(
        &mut self,
        now: Instant,
        callee: PublicKey,
        index: u32,
        call: u32,
        signed: Signed<'_>,
    ) -> Result<PublicKey, Refusal> {
        let caller = self.called(now, (call, callee)).ok_or(Refusal::Unasked)?;
        if !self.parties.get(&caller).is_some_and(|party| party.mac1.signed(signed)) {
            return Err(Refusal::NotAllowed);
        }
        let link = Pair::new(caller, callee).and_then(|pair| self.pairs.get_mut(&pair));
        let link = link.ok_or(Refusal::NotAllowed)?;
        let tickets = [(index, caller), (call, callee)];
        if tickets.iter().any(|ticket| self.legs.contains_key(ticket)) {
            return Err(Refusal::Taken);
        }
        link.calls.retain(|known| *known != (call, callee));
        self.calls.remove(&(call, callee));
        if link.sessions.len() == SESSIONS_MAX
            && let Some(oldest) = link.sessions.pop_front()
        {
            for ticket in &oldest {
                self.legs.remove(ticket);
            }
        }
        link.sessions.push_back(tickets);
        let [from_caller, from_callee] = tickets;
        self.legs.insert(from_caller, Leg { to: callee, since: now });
        self.legs.insert(from_callee, Leg { to: caller, since: now });
        Ok(caller)
    }

    /// Who waits for this answer.
    fn called(&self, now: Instant, ticket: Ticket) -> Option<PublicKey> {
        self.calls.get(&ticket).filter(|call| now < call.since + CALL_LASTS).map(|call| call.to)
    }

    /// The other side of the session.
    fn onward(&self, now: Instant, ticket: Ticket) -> Option<PublicKey> {
        self.legs.get(&ticket).filter(|leg| now < leg.since + SESSION_LASTS).map(|leg| leg.to)
    }

    fn pass_on(
        &mut self,
        now: Instant,
        (sender, receiver): (PublicKey, PublicKey),
        bytes: u64,
    ) -> Result<SocketAddr, Refusal> {
        let at = self.parties.get(&receiver).and_then(|party| party.at).ok_or(Refusal::NotLocated)?;
        let link = Pair::new(sender, receiver).and_then(|pair| self.pairs.get_mut(&pair));
        let link = link.ok_or(Refusal::NotAllowed)?;
        if !link.bytes.take(now, bytes) {
            link.counters.over_rate += 1;
            return Err(Refusal::OverRate);
        }
        link.counters.datagrams += 1;
        link.counters.bytes += bytes;
        Ok(at)
    }

    /// Bytes a second that each pair may use, both ways counted.
    pub fn bytes_per_s(&self) -> u64 {
        self.bytes_per_s
    }

    /// Who may talk, and what passed.
    pub fn pairs(&self) -> impl Iterator<Item = (&Pair, Counters)> {
        self.pairs.iter().map(|(pair, link)| (pair, link.counters))
    }

    /// Everybody in a pair, and where that is.
    pub fn parties(&self) -> impl Iterator<Item = (&PublicKey, Option<SocketAddr>)> {
        self.parties.iter().map(|(key, party)| (key, party.at))
    }

    /// How many datagrams went nowhere, by reason.
    pub fn refused(&self) -> &BTreeMap<Refusal, u64> {
        &self.refused
    }
}

impl Party {
    fn new(key: &PublicKey) -> Self {
        Self { mac1: Mac1Key::of(key), at: None, partners: BTreeSet::new(), handshakes: handshakes(0) }
    }
}

/// A party calls each of its partners once in [`CALL_EVERY`], all of them at once after a start; it may do twice that.
fn handshakes(partners: usize) -> Bucket {
    Bucket::new((2 * partners as u64).div_ceil(CALL_EVERY.as_secs()), CALL_EVERY)
}

impl Link {
    fn new(bytes_per_s: u64) -> Self {
        Self {
            calls: VecDeque::new(),
            sessions: VecDeque::new(),
            bytes: Bucket::new(bytes_per_s, BYTES_BURST),
            counters: Counters::default(),
        }
    }
}
