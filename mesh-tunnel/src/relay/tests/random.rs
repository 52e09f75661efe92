//! Whatever comes, in whatever order.

use blake2::{
    Blake2sMac,
    digest::{Mac as _, consts::U16},
};
use proptest::prelude::*;

use super::*;

/// Something that happens to a relay.
#[derive(Debug, Clone)]
enum Event {
    Allow(Vec<(u8, u8)>),
    Locate(u8, u16),
    /// A call, from a port, that is made well for this receiver.
    Call(u16, u8, u32),
    /// An answer to this index, made well for this caller.
    Answer(u16, u8, u32, u32),
    Data(u16, u32),
    Cookie(u16, u32),
    Garbage(u16, Vec<u8>),
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let (name, port, index) = (1..6_u8, 1..8_u16, 0..6_u32);
    prop_oneof![
        1 => prop::collection::vec((name.clone(), name.clone()), 0..6).prop_map(Event::Allow),
        3 => (name.clone(), port.clone()).prop_map(|(name, port)| Event::Locate(name, port)),
        6 => (port.clone(), name.clone(), index.clone()).prop_map(|(p, n, i)| Event::Call(p, n, i)),
        6 => (port.clone(), name, index.clone(), index.clone()).prop_map(|(p, n, i, c)| Event::Answer(p, n, i, c)),
        6 => (port.clone(), index.clone()).prop_map(|(port, index)| Event::Data(port, index)),
        2 => (port.clone(), index).prop_map(|(port, index)| Event::Cookie(port, index)),
        1 => (port, prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(p, bytes)| Event::Garbage(p, bytes)),
        1 => (0..200_u64).prop_map(Event::Wait),
    ]
}

/// A handshake message of this length and type, with indices and mac1 and nothing else.
fn handshake(kind: u8, length: usize, indices: &[u32], receiver: u8) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    indices.iter().for_each(|index| message.extend_from_slice(&index.to_le_bytes()));
    message.resize(length, 0);
    let key = <[u8; 32]>::from(Mac1Key::of(&public(receiver)));
    let mac = Blake2sMac::<U16>::new_from_slice(&key).expect("a key").chain_update(&message[..length - 32]);
    message[length - 32..length - 16].copy_from_slice(&mac.finalize().into_bytes());
    message
}

proptest! {
    #[test]
    fn whatever_comes_only_partners_are_sent_to_and_all_tables_stay_within_their_bounds(
        events in prop::collection::vec(event(), 1..120)
    ) {
        let mut relay = Relay::new(&public(9), PLENTY);
        let mut now = Instant::now();
        let mut allowed = BTreeSet::new();
        let mut located: BTreeMap<u8, u16> = BTreeMap::new();
        let place = |port: u16| SocketAddr::from(([192, 0, 2, 1], port));
        for event in events {
            let (port, datagram) = match event {
                Event::Allow(pairs) => {
                    allowed = pairs.iter().filter(|(a, b)| a != b).map(|(a, b)| (*a.min(b), *a.max(b))).collect();
                    relay.allow(&allowed.iter().map(|(a, b)| pair(*a, *b)).collect());
                    located.retain(|name, _| allowed.iter().any(|(a, b)| a == name || b == name));
                    continue;
                }
                Event::Locate(name, port) => {
                    relay.locate(&public(name), place(port));
                    if allowed.iter().any(|(a, b)| *a == name || *b == name) {
                        located.retain(|_, there| *there != port);
                        located.insert(name, port);
                    }
                    continue;
                }
                Event::Wait(seconds) => {
                    now += Duration::from_secs(seconds);
                    continue;
                }
                Event::Call(port, receiver, index) => (port, handshake(1, 148, &[index], receiver)),
                Event::Answer(port, caller, index, call) => (port, handshake(2, 92, &[index, call], caller)),
                Event::Data(port, index) => (port, data(index)),
                Event::Cookie(port, index) => (port, cookie(index)),
                Event::Garbage(port, bytes) => (port, bytes),
            };
            if let Verdict::To(at) = relay.take(now, place(port), &datagram) {
                let who = |port: u16| located.iter().find(|(_, there)| **there == port).map(|(name, _)| *name);
                let (from, to) = (who(port), who(at.port()));
                let (Some(from), Some(to)) = (from, to) else {
                    return Err(TestCaseError::fail(format!("{from:?} → {to:?}: nobody is there")));
                };
                prop_assert!(allowed.contains(&(from.min(to), from.max(to))), "{from} → {to}");
            }
            prop_assert!(relay.calls.len() <= CALLS_MAX * allowed.len());
            prop_assert!(relay.legs.len() <= 2 * SESSIONS_MAX * allowed.len());
            let listed: usize = relay.pairs.values().map(|link| link.calls.len() + 2 * link.sessions.len()).sum();
            prop_assert_eq!(relay.calls.len() + relay.legs.len(), listed, "what is in a table is in a pair");
        }
    }
}
