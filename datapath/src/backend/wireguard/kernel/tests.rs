use super::{
    super::{Peer, PrivateKey},
    requests::{Request, pack, park, remove},
    *,
};
use netlink_packet_core::Emitable as _;

fn key(byte: u8) -> PublicKey {
    PublicKey([byte; 32])
}

fn net_of(number: u32) -> IpNet {
    IpNet::new(IpAddr::V6((u128::from(number) + (0xfd << 120)).into()), 128).expect("a length of IPv6")
}

/// What a request says, a line a peer; keys by their first byte, those that nobody knows as `??`.
fn said(requests: &[Request]) -> String {
    let attribute = |attribute: &WireguardPeerAttribute| match attribute {
        WireguardPeerAttribute::PublicKey(key) if key.iter().all(|byte| *byte == key[0]) => {
            key[0].to_string()
        }
        WireguardPeerAttribute::PublicKey(_) => "??".to_owned(),
        WireguardPeerAttribute::Flags(flags) => format!("{flags:?}").replace("WireguardPeerFlags", ""),
        WireguardPeerAttribute::AllowedIps(nets) => {
            let flag = |net: &WireguardAllowedIp| {
                net.iter().any(|attribute| matches!(attribute, WireguardAllowedIpAttr::Flags(_)))
            };
            let nets: Vec<_> = nets
                .iter()
                .map(|found| format!("{}{}", if flag(found) { "-" } else { "" }, net(found).expect("a net")))
                .collect();
            nets.join(" ")
        }
        other => format!("{other:?}"),
    };
    let mut lines = String::new();
    for request in requests {
        lines += "set\n";
        for part in request {
            match part {
                WireguardAttribute::Peers(peers) => {
                    for peer in peers {
                        let words: Vec<_> = peer.iter().map(attribute).collect();
                        lines += &format!("  {}\n", words.join(" "));
                    }
                }
                WireguardAttribute::PrivateKey(_) => lines += "  private key\n",
                other => lines += &format!("  {other:?}\n"),
            }
        }
    }
    lines
}

#[test]
fn a_step_says_what_it_names_and_replaces_nothing() {
    let peer = Peer {
        endpoint: "192.0.2.1:7".parse().ok(),
        allowed_ips: ["10.1.0.0/16".parse().expect("a net"), "fd01::/64".parse().expect("a net")].into(),
        keepalive_s: 5,
    };
    let steps = [
        Step::AddPeer { key: key(1), peer },
        Step::SetEndpoint { key: key(2), endpoint: "[2001:db8::1]:7".parse().expect("an address") },
        Step::AddAllowedIp { key: key(2), net: "10.2.0.0/16".parse().expect("a net") },
        Step::SetKeepalive { key: key(2), keepalive_s: 0 },
        Step::SetDevice { private_key: PrivateKey::generate(), port: 51871, fwmark: 9 },
        Step::RemovePeer { key: key(3) },
    ];
    // The device comes before the peers of its message, so it begins a new one.
    expect_test::expect![[r#"
        set
          1 PersistentKeepalive(5) Endpoint(192.0.2.1:7) 10.1.0.0/16 fd01::/64
          2 (UpdateOnly) Endpoint([2001:db8::1]:7)
          2 (UpdateOnly) 10.2.0.0/16
          2 (UpdateOnly) PersistentKeepalive(0)
        set
          private key
          ListenPort(51871)
          Fwmark(9)
          3 (RemoveMe)
    "#]]
    .assert_eq(&said(&pack(&steps)));
}

#[test]
fn an_address_is_removed_by_a_flag_or_with_a_peer_that_nobody_knows() {
    let net = |text: &str| text.parse().expect("a net");
    let steps = [
        Step::RemoveAllowedIp { key: key(1), net: net("10.1.0.0/16") },
        Step::RemoveAllowedIp { key: key(2), net: net("10.2.0.0/16") },
        Step::RemoveAllowedIp { key: key(2), net: net("fd02::/64") },
    ];
    expect_test::expect![[r#"
        set
          1 (UpdateOnly) -10.1.0.0/16
          2 (UpdateOnly) -10.2.0.0/16
          2 (UpdateOnly) -fd02::/64
    "#]]
    .assert_eq(&said(&remove(&steps)));
    // The second has another owner by now.
    let owned = park(&steps, |found, key_of| !(*found == net("10.2.0.0/16") && *key_of == key(2)));
    expect_test::expect![[r#"
        set
          ?? 10.1.0.0/16 fd02::/64
          ?? (RemoveMe)
    "#]]
    .assert_eq(&said(&owned));
    assert_eq!(said(&park(&steps, |_, _| false)), "", "nothing to do is no request");
}

#[test]
fn many_peers_and_peers_with_many_addresses_fit_into_messages_and_none_is_lost() {
    let peer = |from: u32, count: u32| Peer {
        endpoint: "[2001:db8::1]:51871".parse().ok(),
        allowed_ips: (from..from + count).map(net_of).collect(),
        keepalive_s: 5,
    };
    let mut steps: Vec<Step> =
        (0..1_000).map(|at| Step::AddPeer { key: key((at % 250) as u8), peer: peer(at * 10, 10) }).collect();
    steps.push(Step::AddPeer { key: key(251), peer: peer(100_000, 5_000) });
    let requests = pack(&steps);
    let mut nets = Vec::new();
    for request in &requests {
        // A length in netlink has 16 bits.
        assert!(
            request.as_slice().buffer_len() < usize::from(u16::MAX),
            "{}",
            request.as_slice().buffer_len()
        );
        for part in request {
            let WireguardAttribute::Peers(peers) = part else { continue };
            let attributes = peers.iter().flat_map(|peer| peer.iter());
            nets.extend(attributes.filter_map(|attribute| match attribute {
                WireguardPeerAttribute::AllowedIps(nets) => Some(nets.iter().filter_map(net)),
                _ => None,
            }));
        }
    }
    assert_eq!(nets.into_iter().flatten().count(), 15_000);
}
