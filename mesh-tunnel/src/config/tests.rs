use super::*;
use crate::uapi::{
    reply::{self, Counters},
    request::Request,
};
use proptest::prelude::*;
use std::{
    str::FromStr as _,
    time::{Duration, UNIX_EPOCH},
};

const A: &str = "aa01010101010101010101010101010101010101010101010101010101010101";
const B: &str = "bb02020202020202020202020202020202020202020202020202020202020202";
const OURS: &str = "cc03030303030303030303030303030303030303030303030303030303030303";

fn key(hex: &str) -> PublicKey {
    PublicKey::from_hex(hex).expect("64 digits")
}

/// A configuration with a request on top; `@A` and `@B` start a peer.
fn with(config: &Config, request: &str) -> Config {
    let text = request.replace("@A", &format!("public_key={A}")).replace("@B", &format!("public_key={B}"));
    match Request::parse(format!("set=1\n{}", text.replace(' ', "\n")).as_bytes()) {
        Ok(Request::Set(set)) => config.with(set),
        other => panic!("not a set: {other:?}"),
    }
}

fn running() -> Config {
    with(
        &Config::default(),
        &format!(
            "private_key={OURS} listen_port=51871 fwmark=28005 \
             @A endpoint=192.0.2.1:51871 allowed_ip=10.1.0.0/16 allowed_ip=fd01::/64 \
             @B endpoint=[2001:db8::2]:51871 persistent_keepalive_interval=25 allowed_ip=10.2.0.0/16"
        ),
    )
}

fn addresses(config: &Config, peer: &str) -> Vec<String> {
    config.peers()[&key(peer)].allowed_ips.iter().map(ToString::to_string).collect()
}

fn change(endpoint: bool, keepalive: bool, allowed_ips: AllowedIpsChange) -> PeerChange {
    PeerChange { preshared_key: false, endpoint, keepalive, allowed_ips }
}

#[test]
fn a_set_that_repeats_what_is_there_makes_no_step() {
    let config = running();
    for request in [
        "listen_port=51871 fwmark=28005",
        &format!("private_key={OURS}"),
        "@A endpoint=192.0.2.1:51871 allowed_ip=10.1.0.0/16",
        "@A replace_allowed_ips=true allowed_ip=fd01::/64 allowed_ip=10.1.0.0/16",
        "@B persistent_keepalive_interval=25",
        "@A allowed_ip=-10.99.0.0/16",
        "@A allowed_ip=-10.2.0.0/16",
    ] {
        assert_eq!(steps(&config, &with(&config, request)), [], "{request}");
    }
}

#[test]
fn an_address_leaves_its_former_owner_at_once_and_never_returns() {
    let config = running();
    let moved = with(&config, "@B allowed_ip=10.1.0.0/16");
    assert_eq!(addresses(&moved, A), ["fd01::/64"]);
    assert_eq!(addresses(&moved, B), ["10.1.0.0/16", "10.2.0.0/16"]);
    assert_eq!(
        steps(&config, &moved),
        [
            Step::Modify(
                key(B),
                change(false, false, AllowedIpsChange::Added(vec!["10.1.0.0/16".parse().expect("a net")]))
            ),
            Step::Modify(key(A), change(false, false, AllowedIpsChange::Removed)),
        ]
    );
    // Whatever is asked of A later but for the address itself, it stays with B.
    for request in [
        "@A endpoint=192.0.2.9:1",
        "@A allowed_ip=-10.1.0.0/16",
        "@A allowed_ip=10.3.0.0/16",
        "@A remove=true",
    ] {
        let later = with(&moved, request);
        assert_eq!(addresses(&later, B), ["10.1.0.0/16", "10.2.0.0/16"], "{request}");
    }
}

#[test]
fn two_peers_can_swap_their_addresses_in_one_set() {
    let config = running();
    let swapped = with(&config, "@A allowed_ip=10.2.0.0/16 @B allowed_ip=10.1.0.0/16");
    assert_eq!(addresses(&swapped, A), ["10.2.0.0/16", "fd01::/64"]);
    assert_eq!(addresses(&swapped, B), ["10.1.0.0/16"]);
    let steps = steps(&config, &swapped);
    let exchange = |peer| Step::Modify(key(peer), change(false, false, AllowedIpsChange::Exchanged));
    assert_eq!(steps, [exchange(A), exchange(B)]);
    assert_eq!(pieces(&steps).len(), 1, "no packet comes between, when an address would be nobody's");
}

/// What the library does with a step, as far as addresses go: touching a peer takes back all that it lists.
#[derive(Default)]
struct Library {
    peers: BTreeMap<PublicKey, BTreeSet<IpNet>>,
    routes: BTreeMap<IpNet, PublicKey>,
}

impl Library {
    fn of(config: &Config) -> Self {
        let peers = config.peers.iter().map(|(key, peer)| (*key, peer.allowed_ips.clone())).collect();
        Self { peers, routes: config.owners.clone() }
    }

    fn take(&mut self, step: &Step, wanted: &Config) {
        let (Step::Add(key) | Step::Modify(key, _) | Step::Remove(key)) = step else { return };
        self.routes.retain(|_, owner| owner != key);
        if let Step::Remove(_) = step {
            self.peers.remove(key);
            return;
        }
        let list = self.peers.entry(*key).or_default();
        match step {
            Step::Modify(_, PeerChange { allowed_ips: AllowedIpsChange::Same, .. }) => {}
            Step::Modify(_, PeerChange { allowed_ips: AllowedIpsChange::Added(nets), .. }) => {
                list.extend(nets);
            }
            _ => list.clone_from(&wanted.peers[key].allowed_ips),
        }
        self.routes.extend(list.iter().map(|net| (*net, *key)));
    }
}

proptest! {
    /// From any configuration to any other: addresses end where they belong, and one that has an owner before and
    /// after has one between all pieces.
    #[test]
    fn an_address_is_never_nobodys_on_its_way(from in any_config(), to in any_config()) {
        let mut library = Library::of(&from);
        let steps = steps(&from, &to);
        for piece in pieces(&steps) {
            for step in piece {
                library.take(step, &to);
            }
            for net in from.owners.keys().filter(|net| to.owners.contains_key(net)) {
                prop_assert!(library.routes.contains_key(net), "{net} after {piece:?} of {steps:?}");
            }
        }
        prop_assert_eq!(library.routes, to.owners);
    }
}

/// Five peers over six addresses, so that they meet.
fn any_config() -> impl Strategy<Value = Config> {
    prop::collection::btree_map(0..5_u8, (prop::collection::vec(0..6_u8, 0..4), 0..2_u16), 0..5).prop_map(
        |peers| {
            let peers = peers.into_iter().map(|(peer, (nets, keepalive_s))| PeerSet {
                keepalive_s: Some(keepalive_s),
                allowed_ips: nets
                    .iter()
                    .map(|net| AllowedIp::Add(IpNet::from_str(&format!("10.{net}.0.0/16")).expect("a net")))
                    .collect(),
                ..PeerSet::of(key(&format!("{peer:02x}").repeat(32)))
            });
            let set = Set {
                private_key: Secret::from_hex(OURS),
                listen_port: Some(51871),
                peers: peers.collect(),
                ..Set::default()
            };
            Config::default().with(set)
        },
    )
}

#[test]
fn a_change_touches_only_what_it_names() {
    let config = running();
    let cases = [
        ("@A endpoint=192.0.2.9:1", change(true, false, AllowedIpsChange::Same)),
        ("@A persistent_keepalive_interval=5", change(false, true, AllowedIpsChange::Same)),
        (
            "@A allowed_ip=10.7.0.0/16",
            change(false, false, AllowedIpsChange::Added(vec!["10.7.0.0/16".parse().expect("a net")])),
        ),
        ("@A allowed_ip=-10.1.0.0/16", change(false, false, AllowedIpsChange::Removed)),
        ("@A replace_allowed_ips=true", change(false, false, AllowedIpsChange::Removed)),
    ];
    for (request, wanted) in cases {
        assert_eq!(steps(&config, &with(&config, request)), [Step::Modify(key(A), wanted)], "{request}");
    }
    assert_eq!(steps(&config, &with(&config, "fwmark=0")), [Step::Fwmark]);
    assert_eq!(steps(&config, &with(&config, "listen_port=1")), [Step::Port]);
    assert_eq!(steps(&config, &with(&config, "@A remove=true")), [Step::Remove(key(A))]);
    assert_eq!(steps(&config, &with(&config, "replace_peers=true @B")).last(), Some(&Step::Remove(key(A))));
}

#[test]
fn a_peer_is_added_but_not_by_an_update() {
    let config = with(&running(), "@A remove=true");
    assert_eq!(steps(&config, &with(&config, "@A allowed_ip=10.1.0.0/16")), [Step::Add(key(A))]);
    assert_eq!(steps(&config, &with(&config, "@A update_only=true allowed_ip=10.2.0.0/16")), []);
}

#[test]
fn the_device_runs_when_it_has_a_key_and_a_port() {
    let empty = Config::default();
    let keyed = with(&empty, &format!("private_key={OURS}"));
    assert_eq!(steps(&empty, &keyed), []);
    let whole = with(&keyed, "listen_port=51871");
    assert_eq!(steps(&keyed, &whole), [Step::Start]);
    assert_eq!(steps(&whole, &with(&whole, &format!("private_key={A}"))), [Step::Start]);
    let unset = with(&whole, &format!("private_key={}", "0".repeat(64)));
    assert_eq!(steps(&whole, &unset), [Step::Stop]);
}

#[test]
fn our_own_key_is_nobodys_peer() {
    let own = Secret::from_hex(OURS).expect("64 digits").public();
    let config = with(&running(), &format!("public_key={own} allowed_ip=10.1.0.0/16"));
    assert!(!config.peers().contains_key(&own));
}

#[test]
fn the_state_file_says_the_whole_configuration() {
    let config = with(&running(), &format!("@A preshared_key={B}"));
    let Ok(Request::Set(set)) = Request::parse(reply::as_set(&config).as_bytes()) else {
        panic!("the state file is a set request");
    };
    assert_eq!(Config::default().with(set), config);
}

#[test]
fn get_says_what_control_tools_read() {
    let mut config = running();
    assert!(config.learn_endpoint(&key(A), "192.0.2.77:4".parse().expect("an address")));
    assert!(!config.learn_endpoint(&key(A), "192.0.2.77:4".parse().expect("an address")));
    let counters = BTreeMap::from([(
        key(B),
        Counters { since_handshake: Some(Duration::from_millis(1_500)), rx_bytes: 7, tx_bytes: 8 },
    )]);
    let text = reply::observed(&config, &counters, UNIX_EPOCH + Duration::from_secs(100));
    assert_eq!(
        text.as_str(),
        format!(
            "private_key={OURS}\nlisten_port=51871\nfwmark=28005\n\
             public_key={A}\nendpoint=192.0.2.77:4\npersistent_keepalive_interval=0\n\
             allowed_ip=10.1.0.0/16\nallowed_ip=fd01::/64\n\
             last_handshake_time_sec=0\nlast_handshake_time_nsec=0\nrx_bytes=0\ntx_bytes=0\nprotocol_version=1\n\
             public_key={B}\nendpoint=[2001:db8::2]:51871\npersistent_keepalive_interval=25\n\
             allowed_ip=10.2.0.0/16\n\
             last_handshake_time_sec=98\nlast_handshake_time_nsec=500000000\nrx_bytes=7\ntx_bytes=8\nprotocol_version=1\n"
        )
    );
}

#[test]
fn keys_are_not_printed() {
    let printed = format!("{:?}", with(&running(), &format!("@A preshared_key={B}")));
    assert!(!printed.contains(OURS) && !printed.contains(B), "{printed}");
}
