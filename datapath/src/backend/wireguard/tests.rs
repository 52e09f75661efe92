use std::{
    os::unix::fs::PermissionsExt as _,
    time::{Duration, UNIX_EPOCH},
};

use super::*;

const NOW: Duration = Duration::from_secs(1_000_000);

fn key(byte: u8) -> PublicKey {
    PublicKey([byte; 32])
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a net")
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn peer(endpoint: &str, nets: &[&str]) -> Peer {
    Peer {
        endpoint: (!endpoint.is_empty()).then(|| address(endpoint)),
        allowed_ips: nets.iter().map(|text| net(text)).collect(),
        keepalive_s: 25,
    }
}

/// Peer 1 has 10.1/16 and fd01::/64, peer 2 has 10.2/16, peer 3 dials us.
fn device() -> Device {
    Device {
        private_key: PrivateKey::from_base64("SGb+ojrRNDuMePufwtIYhXzA//k6wF3R21tEBgKlzlM=").expect("a key"),
        port: 51871,
        fwmark: 0x6d65,
        peers: BTreeMap::from([
            (key(1), peer("192.0.2.1:51871", &["10.1.0.0/16", "fd01::/64"])),
            (key(2), peer("[2001:db8::2]:51871", &["10.2.0.0/16"])),
            (key(3), peer("", &["10.3.0.0/16"])),
        ]),
    }
}

/// What a tunnel looks like that was made from this, by this process.
fn observed(device: &Device) -> Observed {
    let peers = device.peers.iter().map(|(key, peer)| {
        let observed = PeerObserved {
            endpoint: peer.endpoint,
            asked_endpoint: peer.endpoint,
            allowed_ips: peer.allowed_ips.clone(),
            keepalive_s: peer.keepalive_s,
            ..PeerObserved::default()
        };
        (*key, observed)
    });
    Observed {
        at: UNIX_EPOCH + NOW,
        public_key: Some(device.private_key.public()),
        port: Some(device.port),
        fwmark: device.fwmark,
        peers: peers.collect(),
    }
}

/// The steps after `edit` changed what is wanted.
fn steps_to(edit: impl FnOnce(&mut Device)) -> Vec<Step> {
    let mut wanted = device();
    edit(&mut wanted);
    plan(&wanted, &observed(&device()))
}

fn allowed(device: &mut Device, byte: u8) -> &mut BTreeSet<IpNet> {
    &mut device.peers.get_mut(&key(byte)).expect("a peer").allowed_ips
}

#[test]
fn what_is_as_wanted_makes_no_step() {
    assert_eq!(plan(&device(), &observed(&device())), []);
}

#[test]
fn an_empty_tunnel_gets_everything() {
    let empty = Observed { at: UNIX_EPOCH, public_key: None, port: None, fwmark: 0, peers: BTreeMap::new() };
    let steps = plan(&device(), &empty);
    assert!(matches!(steps[0], Step::SetDevice { port: 51871, fwmark: 0x6d65, .. }));
    let added: Vec<_> = steps[1..]
        .iter()
        .map(|step| match step {
            Step::AddPeer { key, peer } => (*key, peer.clone()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(added, device().peers.into_iter().collect::<Vec<_>>());
}

#[test]
fn each_difference_is_one_step_of_its_own() {
    type Edit = fn(&mut Device);
    let cases: [(Edit, Step); 6] = [
        (
            |d| assert!(allowed(d, 1).insert(net("10.9.0.0/16"))),
            Step::AddAllowedIp { key: key(1), net: net("10.9.0.0/16") },
        ),
        (
            |d| assert!(allowed(d, 1).remove(&net("10.1.0.0/16"))),
            Step::RemoveAllowedIp { key: key(1), net: net("10.1.0.0/16") },
        ),
        (
            |d| d.peers.get_mut(&key(2)).expect("a peer").keepalive_s = 0,
            Step::SetKeepalive { key: key(2), keepalive_s: 0 },
        ),
        (
            |d| d.peers.get_mut(&key(2)).expect("a peer").endpoint = Some(address("192.0.2.2:1")),
            Step::SetEndpoint { key: key(2), endpoint: address("192.0.2.2:1") },
        ),
        (|d| drop(d.peers.remove(&key(2))), Step::RemovePeer { key: key(2) }),
        (
            |d| drop(d.peers.insert(key(4), peer("", &["10.4.0.0/16"]))),
            Step::AddPeer { key: key(4), peer: peer("", &["10.4.0.0/16"]) },
        ),
    ];
    for (edit, step) in cases {
        assert_eq!(steps_to(edit), [step]);
    }
    assert!(matches!(steps_to(|d| d.port = 1)[..], [Step::SetDevice { port: 1, .. }]));
    assert!(matches!(steps_to(|d| d.private_key = PrivateKey::generate())[..], [Step::SetDevice { .. }]));
}

#[test]
fn an_address_moves_in_the_one_step_that_gives_it_to_its_new_owner() {
    assert_eq!(
        steps_to(|d| {
            allowed(d, 1).remove(&net("10.1.0.0/16"));
            allowed(d, 2).insert(net("10.1.0.0/16"));
        }),
        [Step::AddAllowedIp { key: key(2), net: net("10.1.0.0/16") }]
    );
    // Also when its former owner goes, which comes last.
    assert_eq!(
        steps_to(|d| {
            let gone = d.peers.remove(&key(1)).expect("a peer");
            d.peers.insert(key(4), Peer { endpoint: None, ..gone });
        }),
        [
            Step::AddPeer { key: key(4), peer: peer("", &["10.1.0.0/16", "fd01::/64"]) },
            Step::RemovePeer { key: key(1) },
        ]
    );
}

#[test]
fn two_claims_of_one_address_do_not_flap() {
    let mut wanted = device();
    allowed(&mut wanted, 2).insert(net("10.1.0.0/16"));
    assert_eq!(plan(&wanted, &observed(&device())), []);
}

#[test]
fn a_learnt_endpoint_stays_while_its_session_is_fresh() {
    let configured = Some(address("192.0.2.1:51871"));
    let learnt = address("198.51.100.7:4242");
    let other = Some(address("192.0.2.99:51871"));
    let set = |to: Option<SocketAddr>| to.map(|endpoint| Step::SetEndpoint { key: key(1), endpoint });
    // (what is wanted, what we asked for, age of the session) → what is set
    let cases = [
        (configured, configured, Some(10), None),
        (configured, configured, Some(179), None),
        (configured, configured, Some(180), set(configured)),
        (configured, configured, None, set(configured)),
        // An agent that has just started does not know what it asked for.
        (configured, None, Some(10), None),
        (configured, None, None, set(configured)),
        // What is wanted has changed.
        (other, configured, Some(10), set(other)),
        (None, configured, Some(10), None),
    ];
    for (wanted_endpoint, asked, age_s, step) in cases {
        let mut wanted = device();
        wanted.peers.get_mut(&key(1)).expect("a peer").endpoint = wanted_endpoint;
        let mut seen = observed(&device());
        let peer = seen.peers.get_mut(&key(1)).expect("a peer");
        peer.endpoint = Some(learnt);
        peer.asked_endpoint = asked;
        peer.last_handshake = age_s.map(|age| seen.at - Duration::from_secs(age));
        assert_eq!(plan(&wanted, &seen), Vec::from_iter(step), "{wanted_endpoint:?} {asked:?} {age_s:?}");
    }
}

#[test]
fn an_answer_is_read_as_it_is_said() {
    let private = device().private_key;
    let answer = format!(
        "private_key={}\nlisten_port=51871\nfwmark=28005\npublic_key={}\nendpoint=[2001:db8::2]:7\n\
         persistent_keepalive_interval=25\nallowed_ip=10.1.0.0/16\nallowed_ip=fd01::/64\n\
         last_handshake_time_sec=12\nlast_handshake_time_nsec=500000000\nrx_bytes=3\ntx_bytes=4\n\
         an_extension=of somebody\nprotocol_version=1\npublic_key={}\nlast_handshake_time_sec=0\n\
         last_handshake_time_nsec=0\nerrno=0\n\n",
        private.to_hex().as_str(),
        key(1),
        key(2)
    );
    let (seen, errno) = uapi::parse(&answer, UNIX_EPOCH).expect("an answer");
    let first = PeerObserved {
        endpoint: Some(address("[2001:db8::2]:7")),
        asked_endpoint: None,
        allowed_ips: [net("10.1.0.0/16"), net("fd01::/64")].into(),
        keepalive_s: 25,
        last_handshake: Some(UNIX_EPOCH + Duration::from_millis(12_500)),
        rx_bytes: 3,
        tx_bytes: 4,
    };
    assert_eq!(errno, 0);
    assert_eq!(seen.public_key, Some(private.public()));
    assert_eq!((seen.port, seen.fwmark), (Some(51871), 0x6d65));
    assert_eq!(seen.peers, BTreeMap::from([(key(1), first), (key(2), PeerObserved::default())]));
    assert_eq!(uapi::parse("errno=22\n\n", UNIX_EPOCH).map(|(_, errno)| errno), Ok(22));
    for garbled in ["", "hello\n", "listen_port=70000\nerrno=0\n", "private_key=5ec4e7\nerrno=0\n"] {
        let what = uapi::parse(garbled, UNIX_EPOCH).expect_err(garbled);
        assert!(!what.contains("5ec4e7"));
    }
}

#[test]
fn a_tunnel_that_nobody_serves_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let error = Tunnel::open_at(dir.path(), "mesh0").expect_err("nobody is there");
    assert_eq!(
        error.to_string(),
        format!(
            "mesh-tunnel does not answer for mesh0 at {}/mesh0.sock; is its unit running?",
            dir.path().display()
        )
    );
}

#[test]
fn a_private_key_is_made_once_and_kept_for_its_owner() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state/private.key");
    let made = load_or_create_private_key(&path).expect("a key");
    assert_eq!(load_or_create_private_key(&path).expect("a key"), made);
    let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let left: Vec<_> = std::fs::read_dir(path.parent().expect("a directory")).expect("a directory").collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_damaged_or_exposed_key_is_not_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("private.key");
    std::fs::write(&path, "not a key\n").expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    assert!(matches!(load_or_create_private_key(&path), Err(KeyError::Damaged(_))));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    assert!(matches!(load_or_create_private_key(&path), Err(KeyError::Exposed { mode: 0o644, .. })));
    assert_eq!(std::fs::read_to_string(&path).expect("read"), "not a key\n");
}

#[test]
fn a_private_key_is_not_printed() {
    let key = device().private_key;
    let printed = format!("{:?}", device());
    assert!(!printed.contains(key.to_base64().as_str()) && !printed.contains(key.to_hex().as_str()));
    assert_eq!(format!("{key:?}"), format!("PrivateKey(of {})", key.public()));
}
