//! A WireGuard device as a value: handshakes, sessions, timers and roaming, and no cryptography.
//!
//! Its datagrams have their real sizes, indices and mac1, so that the real relay reads them; whose a handshake is stands where
//! the ephemeral key would be. A stamp of a handshake and a cookie there are not: nobody replays anything here. (WireGuard
//! whitepaper, sections 5.4 and 6)

use api::bytes::PublicKey;
use blake2::{
    Blake2s256, Blake2sMac, Digest as _,
    digest::{Mac as _, consts::U16},
};
use datapath::host::TunnelState;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

const INITIATION_BYTES: usize = 148;
const RESPONSE_BYTES: usize = 92;
/// Header and tag of a data message; a keepalive has nothing between.
const HEADER_BYTES: usize = 16;
const TAG_BYTES: usize = 16;
/// A side holds the previous, the current and the next one.
const SESSIONS_MAX: usize = 3;
/// Packets that wait for a session.
const STAGED_MAX: usize = 128;

/// Where a datagram goes, and its bytes.
pub type Datagram = (SocketAddr, Vec<u8>);

/// One end of tunnels.
#[derive(Debug)]
pub struct WireGuard {
    /// Its own.
    pub key: PublicKey,
    /// The other ends.
    pub peers: BTreeMap<PublicKey, Peer>,
    next_index: u32,
}

/// Another end.
#[derive(Debug, Default)]
pub struct Peer {
    /// Where its datagrams go.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives; 0: none.
    pub keepalive_s: u16,
    /// In the order in which they were confirmed, the newest last.
    sessions: Vec<Session>,
    calling: Option<Calling>,
    staged: Vec<Vec<u8>>,
    rx_bytes: u64,
    tx_bytes: u64,
    last_handshake: Option<Instant>,
    /// The last authenticated packet, either way.
    traversed_at: Option<Instant>,
    /// Since when something was sent that nothing came for.
    unanswered_since: Option<Instant>,
    /// What was heard since this wants a word, if there is none of ours to send.
    owes_since: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    ours: u32,
    theirs: u32,
    since: Instant,
    initiated: bool,
    /// A responder sends nothing before the initiator has shown that it has the session.
    confirmed: bool,
}

/// A handshake that we began.
#[derive(Debug, Clone, Copy)]
struct Calling {
    index: u32,
    began_at: Instant,
    sent_at: Instant,
}

impl WireGuard {
    /// A device without peers; no two choose the same indices.
    #[must_use]
    pub fn new(key: PublicKey) -> Self {
        Self { key, peers: BTreeMap::new(), next_index: u32::from(key.0[0]) << 24 }
    }

    /// What it has counted.
    #[must_use]
    pub fn states(&self, now: Instant) -> BTreeMap<PublicKey, TunnelState> {
        let state = |peer: &Peer| TunnelState {
            endpoint: peer.endpoint,
            handshake_age: peer.last_handshake.map(|at| now.saturating_duration_since(at)),
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
        };
        self.peers.iter().map(|(key, peer)| (*key, state(peer))).collect()
    }

    /// Whether one of its datagrams was for this peer.
    #[must_use]
    pub fn is_for(&self, peer: &PublicKey, datagram: &[u8]) -> bool {
        match datagram[0] {
            1 | 2 => is_signed_for(datagram, peer),
            _ => self
                .peers
                .get(peer)
                .is_some_and(|peer| peer.sessions.iter().any(|session| session.theirs == word(datagram, 4))),
        }
    }

    /// Sends a packet to a peer, or keeps it until there is a session.
    pub fn send(&mut self, now: Instant, to: &PublicKey, packet: &[u8]) -> Vec<Datagram> {
        let Some(peer) = self.peers.get_mut(to).filter(|peer| peer.endpoint.is_some()) else {
            return Vec::new();
        };
        let Some(session) = peer.current(now) else {
            if peer.staged.len() < STAGED_MAX {
                peer.staged.push(packet.to_vec());
            }
            return self.call(now, to, false).into_iter().collect();
        };
        peer.unanswered_since.get_or_insert(now);
        let mut out = vec![peer.seal(now, session, packet)];
        if session.initiated && now.saturating_duration_since(session.since) >= REKEY_AFTER_TIME {
            out.extend(self.call(now, to, false));
        }
        out
    }

    fn call(&mut self, now: Instant, to: &PublicKey, is_retry: bool) -> Option<Datagram> {
        let peer = self.peers.get_mut(to)?;
        let at = peer.endpoint?;
        let began_at = peer.calling.filter(|_| is_retry).map_or(now, |calling| calling.began_at);
        if peer.calling.is_some_and(|it| now.saturating_duration_since(it.sent_at) < REKEY_TIMEOUT) {
            return None;
        }
        self.next_index += 1;
        peer.calling = Some(Calling { index: self.next_index, began_at, sent_at: now });
        let mut message = vec![0; INITIATION_BYTES];
        message[0] = 1;
        message[4..8].copy_from_slice(&self.next_index.to_le_bytes());
        message[8..40].copy_from_slice(&self.key.0);
        sign(&mut message, to);
        peer.count_sent(now, message.len());
        Some((at, message))
    }

    /// Everything that is due.
    pub fn tick(&mut self, now: Instant) -> Vec<Datagram> {
        let keys: Vec<_> = self.peers.keys().copied().collect();
        keys.iter().flat_map(|key| self.tick_peer(now, key)).collect()
    }

    fn tick_peer(&mut self, now: Instant, key: &PublicKey) -> Vec<Datagram> {
        let mut out = Vec::new();
        let peer = self.peers.get_mut(key).expect("it was listed");
        let since = |at: Instant| now.saturating_duration_since(at);
        if let Some(calling) = peer.calling.filter(|calling| since(calling.sent_at) >= REKEY_TIMEOUT) {
            if since(calling.began_at) >= REKEY_ATTEMPT_TIME {
                peer.calling = None;
                peer.staged.clear();
            } else {
                out.extend(self.call(now, key, true));
            }
        }
        let peer = self.peers.get_mut(key).expect("it is there");
        if peer.unanswered_since.is_some_and(|at| since(at) >= KEEPALIVE_TIMEOUT + REKEY_TIMEOUT) {
            peer.unanswered_since = None;
            out.extend(self.call(now, key, false));
        }
        let peer = self.peers.get_mut(key).expect("it is there");
        let every = Duration::from_secs(u64::from(peer.keepalive_s));
        let is_due = peer.keepalive_s > 0 && peer.traversed_at.is_none_or(|at| since(at) >= every);
        let owes = peer.owes_since.is_some_and(|at| since(at) >= KEEPALIVE_TIMEOUT);
        if is_due || owes {
            peer.owes_since = None;
            match peer.current(now).filter(|_| peer.endpoint.is_some()) {
                Some(session) => out.push(peer.seal(now, session, &[])),
                None if is_due => out.extend(self.call(now, key, false)),
                None => {}
            }
        }
        out
    }

    /// Takes a datagram: what it answers, and the packet that was inside, with who sent it.
    pub fn take(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
    ) -> (Vec<Datagram>, Option<(PublicKey, Vec<u8>)>) {
        match (datagram[0], datagram.len()) {
            (1, INITIATION_BYTES) => (self.answer(now, from, datagram).into_iter().collect(), None),
            (2, RESPONSE_BYTES) => (self.begin(now, from, datagram), None),
            _ => self.open(now, from, datagram),
        }
    }

    fn answer(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> Option<Datagram> {
        let who = PublicKey(datagram[8..40].try_into().expect("32 bytes"));
        let peer = self.peers.get_mut(&who).filter(|_| is_signed_for(datagram, &self.key))?;
        self.next_index += 1;
        let theirs = word(datagram, 4);
        let session =
            Session { ours: self.next_index, theirs, since: now, initiated: false, confirmed: false };
        peer.add(session);
        let mut message = vec![0; RESPONSE_BYTES];
        message[0] = 2;
        message[4..8].copy_from_slice(&session.ours.to_le_bytes());
        message[8..12].copy_from_slice(&theirs.to_le_bytes());
        sign(&mut message, &who);
        peer.hear(now, from, datagram.len());
        peer.count_sent(now, message.len());
        Some((from, message))
    }

    fn begin(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> Vec<Datagram> {
        let (theirs, ours) = (word(datagram, 4), word(datagram, 8));
        let is_called = |peer: &&mut Peer| peer.calling.is_some_and(|calling| calling.index == ours);
        let Some(peer) = self.peers.values_mut().find(is_called) else { return Vec::new() };
        let session = Session { ours, theirs, since: now, initiated: true, confirmed: true };
        peer.add(session);
        (peer.calling, peer.last_handshake) = (None, Some(now));
        peer.hear(now, from, datagram.len());
        peer.flush(now, session)
    }

    fn open(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
    ) -> (Vec<Datagram>, Option<(PublicKey, Vec<u8>)>) {
        let index = word(datagram, 4);
        let mut of = self.peers.iter_mut();
        let has = |peer: &Peer| peer.sessions.iter().position(|session| session.ours == index);
        let Some((key, peer, at)) = of.find_map(|(key, peer)| has(peer).map(|at| (*key, peer, at))) else {
            return (Vec::new(), None);
        };
        if now.saturating_duration_since(peer.sessions[at].since) >= REJECT_AFTER_TIME {
            return (Vec::new(), None);
        }
        peer.hear(now, from, datagram.len());
        let mut out = Vec::new();
        if !peer.sessions[at].confirmed {
            let session = Session { confirmed: true, ..peer.sessions.remove(at) };
            peer.sessions.push(session);
            (peer.calling, peer.last_handshake) = (None, Some(now));
            if !peer.staged.is_empty() {
                out = peer.flush(now, session);
            }
        }
        let packet = &datagram[HEADER_BYTES..datagram.len() - TAG_BYTES];
        if packet.is_empty() {
            return (out, None);
        }
        peer.owes_since.get_or_insert(now);
        (out, Some((key, packet.to_vec())))
    }
}

impl Peer {
    /// One that was just made.
    #[must_use]
    pub fn new(endpoint: Option<SocketAddr>, keepalive_s: u16) -> Self {
        Self { endpoint, keepalive_s, ..Self::default() }
    }

    /// Its session is young enough to prove that the endpoint works.
    #[must_use]
    pub fn is_fresh(&self, now: Instant) -> bool {
        self.last_handshake.is_some_and(|at| now.saturating_duration_since(at) < REJECT_AFTER_TIME)
    }

    fn current(&self, now: Instant) -> Option<Session> {
        let is_good =
            |it: &&Session| it.confirmed && now.saturating_duration_since(it.since) < REJECT_AFTER_TIME;
        self.sessions.iter().rev().find(is_good).copied()
    }

    fn add(&mut self, session: Session) {
        if self.sessions.len() == SESSIONS_MAX {
            self.sessions.remove(0);
        }
        self.sessions.push(session);
    }

    fn seal(&mut self, now: Instant, session: Session, packet: &[u8]) -> Datagram {
        let padded = packet.len().next_multiple_of(16);
        let mut message = vec![0; HEADER_BYTES + padded + TAG_BYTES];
        message[0] = 4;
        message[4..8].copy_from_slice(&session.theirs.to_le_bytes());
        message[HEADER_BYTES..HEADER_BYTES + packet.len()].copy_from_slice(packet);
        self.owes_since = None;
        self.count_sent(now, message.len());
        (self.endpoint.expect("only who has an endpoint is sent to"), message)
    }

    /// What waited, or a keepalive, which shows the other side that we have the session.
    fn flush(&mut self, now: Instant, session: Session) -> Vec<Datagram> {
        let staged = std::mem::take(&mut self.staged);
        if staged.is_empty() {
            return vec![self.seal(now, session, &[])];
        }
        self.unanswered_since.get_or_insert(now);
        staged.iter().map(|packet| self.seal(now, session, packet)).collect()
    }

    /// An authenticated datagram: whoever sent it is where it came from.
    fn hear(&mut self, now: Instant, from: SocketAddr, bytes: usize) {
        self.endpoint = Some(from);
        self.rx_bytes += bytes as u64;
        (self.traversed_at, self.unanswered_since) = (Some(now), None);
    }

    fn count_sent(&mut self, now: Instant, bytes: usize) {
        self.tx_bytes += bytes as u64;
        self.traversed_at = Some(now);
    }
}

fn word(datagram: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(datagram[at..at + 4].try_into().expect("four bytes"))
}

/// mac1, the last but one field of a handshake message. (5.4.4)
fn sign(message: &mut [u8], receiver: &PublicKey) {
    let at = message.len() - 32;
    let mac1 = mac1(&message[..at], receiver);
    message[at..at + 16].copy_from_slice(&mac1);
}

fn is_signed_for(message: &[u8], receiver: &PublicKey) -> bool {
    let at = message.len() - 32;
    mac1(&message[..at], receiver) == message[at..at + 16]
}

fn mac1(covered: &[u8], receiver: &PublicKey) -> [u8; 16] {
    let key = Blake2s256::new_with_prefix(b"mac1----").chain_update(receiver.0).finalize();
    let mac = Blake2sMac::<U16>::new_from_slice(&key).expect("BLAKE2s takes keys of up to 32 bytes");
    mac.chain_update(covered).finalize().into_bytes().into()
}
