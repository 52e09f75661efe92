mod random;

use std::sync::Arc;

use bytes::BytesMut;
use gotatun::{
    noise::{Tunn, TunnResult, index_table::IndexTable, rate_limiter::RateLimiter},
    packet::{Packet, WgKind},
};

use super::*;
use crate::key::Secret;

const ALICE: &str = "192.0.2.1:1111";
const BOB: &str = "192.0.2.2:2222";
const EVE: &str = "203.0.113.9:9999";
/// More than any test sends in a second, unless it says otherwise.
const PLENTY: u64 = 1 << 40;

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

pub(super) fn secret(name: u8) -> Secret {
    Secret::from_hex(&format!("{name:02x}").repeat(32)).expect("64 hex digits")
}

pub(super) fn public(name: u8) -> PublicKey {
    secret(name).public()
}

pub(super) fn pair(one: u8, other: u8) -> Pair {
    Pair::new(public(one), public(other)).expect("two keys")
}

/// One end of a real WireGuard session.
struct End(Tunn);

impl End {
    fn new(own: u8, other: u8) -> Self {
        let limiter = Arc::new(RateLimiter::new(&public(own).to_x25519(), 1_000));
        let (own, other) = (secret(own).to_x25519(), public(other).to_x25519());
        Self(Tunn::new(own, other, None, None, IndexTable::from_os_rng(), limiter))
    }

    fn calls(&mut self) -> Vec<u8> {
        bytes(self.0.format_handshake_initiation(true).expect("it is forced").into())
    }

    fn says(&mut self, text: &str) -> Vec<u8> {
        let packet = Packet::from_bytes(ip(text));
        bytes(self.0.encapsulate_with_session(packet).unwrap_or_else(|_| panic!("no session")).into())
    }

    /// What it answers.
    fn hears(&mut self, datagram: &[u8]) -> TunnResult {
        let packet = Packet::from_bytes(BytesMut::from(datagram)).try_into_wg().expect("WireGuard's");
        self.0.handle_incoming_packet(packet)
    }

    fn answers(&mut self, datagram: &[u8]) -> Vec<u8> {
        match self.hears(datagram) {
            TunnResult::WriteToNetwork(answer) => bytes(answer),
            other => panic!("no answer: {other:?}"),
        }
    }

    fn reads(&mut self, datagram: &[u8]) -> Vec<u8> {
        match self.hears(datagram) {
            TunnResult::WriteToTunnel(packet) => packet[20..].to_vec(),
            other => panic!("nothing inside: {other:?}"),
        }
    }
}

fn bytes(message: WgKind) -> Vec<u8> {
    Packet::from(message).to_vec()
}

/// The smallest IPv4 packet around a text.
fn ip(text: &str) -> BytesMut {
    let mut packet = BytesMut::zeroed(20);
    packet[0] = 0x45;
    packet[3] = u8::try_from(20 + text.len()).expect("a short text");
    packet.extend_from_slice(text.as_bytes());
    packet
}

/// A relay of key 9 between Alice (1) and Bob (2), who are where they say.
struct Rig {
    relay: Relay,
    now: Instant,
    alice: End,
    bob: End,
}

impl Rig {
    fn new() -> Self {
        Self::with_rate(PLENTY)
    }

    fn with_rate(bytes_per_s: u64) -> Self {
        let mut relay = Relay::new(&public(9), bytes_per_s);
        relay.allow(&BTreeSet::from([pair(1, 2)]));
        relay.locate(&public(1), at(ALICE));
        relay.locate(&public(2), at(BOB));
        Self { relay, now: Instant::now(), alice: End::new(1, 2), bob: End::new(2, 1) }
    }

    fn take(&mut self, from: &str, datagram: &[u8]) -> Verdict {
        self.relay.take(self.now, at(from), datagram)
    }

    /// Alice calls Bob, and both have a session.
    fn connect(&mut self) {
        let call = self.alice.calls();
        assert_eq!(self.take(ALICE, &call), to(BOB));
        let answer = self.bob.answers(&call);
        assert_eq!(self.take(BOB, &answer), to(ALICE));
        let first = self.alice.answers(&answer);
        assert_eq!(self.take(ALICE, &first), to(BOB));
        drop(self.bob.hears(&first));
    }

    fn talk(&mut self, alice: &str, bob: &str) {
        let said = self.alice.says("hello");
        assert_eq!(self.take(alice, &said), to(bob));
        assert_eq!(self.bob.reads(&said), b"hello");
        let said = self.bob.says("well");
        assert_eq!(self.take(bob, &said), to(alice));
        assert_eq!(self.alice.reads(&said), b"well");
    }
}

fn to(text: &str) -> Verdict {
    Verdict::To(at(text))
}

fn refused(refusal: Refusal) -> Verdict {
    Verdict::Refused(refusal)
}

#[test]
fn two_that_may_talk_have_a_session_whoever_begins() {
    let mut rig = Rig::new();
    rig.connect();
    rig.talk(ALICE, BOB);

    let call = rig.bob.calls();
    assert_eq!(rig.take(BOB, &call), to(ALICE));
    let answer = rig.alice.answers(&call);
    assert_eq!(rig.take(ALICE, &answer), to(BOB));
    let first = rig.bob.answers(&answer);
    assert_eq!(rig.take(BOB, &first), to(ALICE));
    drop(rig.alice.hears(&first));
    rig.talk(ALICE, BOB);
    let [(_, counters)] = rig.relay.pairs().collect::<Vec<_>>()[..] else { panic!("one pair") };
    assert_eq!(counters.datagrams, 10);
    assert_eq!(rig.relay.refused(), &BTreeMap::new());
}

#[test]
fn both_may_begin_at_once() {
    let mut rig = Rig::new();
    let calls = [rig.alice.calls(), rig.bob.calls()];
    assert_eq!(rig.take(ALICE, &calls[0]), to(BOB));
    assert_eq!(rig.take(BOB, &calls[1]), to(ALICE));
    let answers = [rig.bob.answers(&calls[0]), rig.alice.answers(&calls[1])];
    assert_eq!(rig.take(BOB, &answers[0]), to(ALICE));
    assert_eq!(rig.take(ALICE, &answers[1]), to(BOB));
}

#[test]
fn nobody_is_passed_on_who_did_not_prove_where_it_is() {
    let mut rig = Rig::new();
    // Eve repeats Alice's own initiation, and has one of her own that is well made.
    let call = rig.alice.calls();
    assert_eq!(rig.take(EVE, &call), refused(Refusal::Stranger));
    assert_eq!(rig.take(EVE, &End::new(5, 2).calls()), refused(Refusal::Stranger));
    // Eve is a party now, and may talk to another; not to Bob.
    rig.relay.allow(&BTreeSet::from([pair(1, 2), pair(5, 1)]));
    rig.relay.locate(&public(5), at(EVE));
    assert_eq!(rig.take(EVE, &End::new(5, 2).calls()), refused(Refusal::NotAllowed));
    assert_eq!(rig.take(EVE, &End::new(5, 1).calls()), to(ALICE));
}

#[test]
fn what_is_for_the_relay_itself_is_given_to_its_device() {
    let mut rig = Rig::new();
    let mut proof = End::new(1, 9);
    for from in [ALICE, EVE] {
        assert_eq!(rig.take(from, &proof.calls()), Verdict::Ours);
    }
    // Whoever moved says so by a keepalive in a session with the device.
    assert_eq!(rig.take(EVE, &data(77)), Verdict::Ours);
    assert_eq!(rig.take(ALICE, &data(77)), Verdict::Ours);
}

#[test]
fn an_answer_is_passed_on_to_whom_it_was_made_for_once() {
    let mut rig = Rig::new();
    let call = rig.alice.calls();
    let mut answer = rig.bob.answers(&call);
    assert_eq!(rig.take(BOB, &answer), refused(Refusal::Unasked), "nobody has called yet");
    assert_eq!(rig.take(ALICE, &call), to(BOB));
    assert_eq!(rig.take(EVE, &answer), refused(Refusal::Stranger));
    assert_eq!(rig.take(ALICE, &answer), refused(Refusal::Unasked), "nobody answers himself");
    let last = answer.len() - 20;
    answer[last] ^= 1;
    assert_eq!(rig.take(BOB, &answer), refused(Refusal::NotAllowed), "mac1 is not the caller's");
    answer[last] ^= 1;
    assert_eq!(rig.take(BOB, &answer), to(ALICE));
    assert_eq!(rig.take(BOB, &answer), refused(Refusal::Unasked));
}

#[test]
fn a_call_that_was_not_answered_in_time_is_forgotten() {
    let mut rig = Rig::new();
    let call = rig.alice.calls();
    assert_eq!(rig.take(ALICE, &call), to(BOB));
    rig.now += CALL_LASTS;
    let answer = rig.bob.answers(&call);
    assert_eq!(rig.take(BOB, &answer), refused(Refusal::Unasked));
}

#[test]
fn a_session_ends_when_wireguards_own_does() {
    let mut rig = Rig::new();
    rig.connect();
    rig.now += Duration::from_secs(180);
    rig.talk(ALICE, BOB);
    rig.now += Duration::from_secs(10);
    let said = rig.alice.says("too late");
    assert_eq!(rig.take(ALICE, &said), Verdict::Ours, "nobody else has such an index");
}

#[test]
fn a_cookie_finds_its_way_to_whom_it_was_made_for() {
    let mut rig = Rig::new();
    let call = rig.alice.calls();
    assert_eq!(rig.take(ALICE, &call), to(BOB));
    // In the place of an answer.
    assert_eq!(rig.take(BOB, &cookie(index(&call))), to(ALICE));
    let answer = rig.bob.answers(&call);
    assert_eq!(rig.take(BOB, &answer), to(ALICE));
    // To the answer itself.
    assert_eq!(rig.take(ALICE, &cookie(index(&answer))), to(BOB));
    assert_eq!(rig.take(EVE, &cookie(index(&answer))), Verdict::Ours);
}

#[test]
fn a_forged_call_does_not_redirect_a_running_session() {
    let mut rig = Rig::new();
    rig.connect();
    // Even with Alice's own key, until the relay's device is shown it.
    let call = End::new(1, 2).calls();
    assert_eq!(rig.take(EVE, &call), refused(Refusal::Stranger));
    let said = rig.alice.says("hello");
    assert_eq!(rig.take(EVE, &said), Verdict::Ours, "a repeated packet from elsewhere moves nothing");
    rig.talk(ALICE, BOB);
}

#[test]
fn sessions_follow_a_node_that_proved_where_it_is_now() {
    let mut rig = Rig::new();
    rig.connect();
    let elsewhere = "192.0.2.1:4444";
    assert_eq!(rig.relay.locate(&public(1), at(elsewhere)), None);
    rig.talk(elsewhere, BOB);
    assert_eq!(rig.take(ALICE, &data(1)), Verdict::Ours, "where it was is nobody now");
    // Its box gives the old port to another.
    assert_eq!(rig.relay.locate(&public(2), at(elsewhere)), Some(public(1)));
    let said = rig.alice.says("lost");
    assert_eq!(rig.take(ALICE, &said), Verdict::Ours);
    rig.relay.locate(&public(1), at(ALICE));
    rig.talk(ALICE, elsewhere);
}

#[test]
fn who_may_not_talk_any_more_is_cut_at_once_and_nobody_else() {
    let mut rig = Rig::new();
    rig.relay.allow(&BTreeSet::from([pair(1, 2), pair(1, 3)]));
    rig.connect();
    rig.relay.allow(&BTreeSet::from([pair(1, 2), pair(2, 4)]));
    rig.talk(ALICE, BOB);
    rig.relay.allow(&BTreeSet::from([pair(1, 3), pair(2, 4)]));
    let said = rig.alice.says("hello");
    assert_eq!(rig.take(ALICE, &said), Verdict::Ours);
    assert_eq!(rig.take(ALICE, &End::new(1, 2).calls()), refused(Refusal::NotAllowed));
    rig.relay.allow(&BTreeSet::new());
    assert_eq!(rig.take(ALICE, &End::new(1, 2).calls()), refused(Refusal::Stranger));
    assert_eq!(rig.relay.parties().count(), 0);
    assert!(rig.relay.legs.is_empty() && rig.relay.calls.is_empty() && rig.relay.whereabouts.is_empty());
}

#[test]
fn a_pair_has_its_rate_and_leaves_the_others_theirs() {
    let mut rig = Rig::with_rate(10_000);
    rig.relay.allow(&BTreeSet::from([pair(1, 2), pair(1, 3)]));
    rig.connect();
    rig.now += Duration::from_secs(1);
    let said = rig.alice.says("hello");
    let passed = |rig: &mut Rig| (0..100).filter(|_| rig.take(ALICE, &said) == to(BOB)).count();
    // 2 000 bytes at once, in datagrams of 57.
    let burst = 2_000 / said.len();
    assert_eq!(passed(&mut rig), burst);
    rig.now += BYTES_BURST / 2;
    assert!(burst / 2 - passed(&mut rig) <= 1);
    assert_eq!(rig.take(ALICE, &said), refused(Refusal::OverRate));
    rig.relay.locate(&public(3), at(EVE));
    assert_eq!(rig.take(ALICE, &End::new(1, 3).calls()), to(EVE));
}

#[test]
fn looking_for_receivers_has_its_rate() {
    let mut rig = Rig::new();
    let call = End::new(1, 7).calls();
    let looked =
        |rig: &mut Rig| (0..100).filter(|_| rig.take(ALICE, &call) == refused(Refusal::NotAllowed)).count();
    assert_eq!(looked(&mut rig), 5, "one a second, and five at once");
    rig.now += CALL_EVERY;
    assert_eq!(looked(&mut rig), 5);
}

#[test]
fn full_tables_let_go_of_the_oldest() {
    let mut rig = Rig::new();
    rig.connect();
    let first = rig.alice.says("the first session");
    for _ in 0..SESSIONS_MAX {
        assert_eq!(rig.take(ALICE, &first), to(BOB));
        rig.now += CALL_EVERY;
        rig.alice = End::new(1, 2);
        rig.bob = End::new(2, 1);
        rig.connect();
    }
    assert_eq!(rig.take(ALICE, &first), Verdict::Ours, "it was one too many");
    rig.talk(ALICE, BOB);
    assert_eq!(rig.relay.legs.len(), 2 * SESSIONS_MAX);

    let calls: Vec<_> = (0..=CALLS_MAX).map(|_| rig.alice.calls()).collect();
    for call in &calls {
        rig.now += CALL_EVERY;
        assert_eq!(rig.take(ALICE, call), to(BOB));
    }
    assert_eq!(rig.relay.calls.len(), CALLS_MAX);
}

/// A message of type 4 for this index, with nothing that anybody could decrypt.
fn data(receiver: u32) -> Vec<u8> {
    [&[4, 0, 0, 0][..], &receiver.to_le_bytes(), &[0; 24]].concat()
}

fn cookie(receiver: u32) -> Vec<u8> {
    [&[3, 0, 0, 0][..], &receiver.to_le_bytes(), &[0; 56]].concat()
}

/// The index that the sender of a handshake message chose.
fn index(handshake: &[u8]) -> u32 {
    u32::from_le_bytes(handshake[4..8].try_into().expect("four bytes"))
}
