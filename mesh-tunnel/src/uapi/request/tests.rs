use super::*;

const KEY: &str = "0101010101010101010101010101010101010101010101010101010101010101";
const PEER: &str = "0202020202020202020202020202020202020202020202020202020202020202";

fn peer() -> PublicKey {
    PublicKey::from_hex(PEER).expect("64 digits")
}

fn set(lines: &str) -> Result<Request, Malformed> {
    Request::parse(format!("set=1\n{lines}").as_bytes())
}

#[test]
fn get_is_a_line_of_its_own() {
    assert_eq!(Request::parse(b"get=1"), Ok(Request::Get));
    assert_eq!(Request::parse(b"get=1\nfwmark=1"), Err(Malformed::Key { line: 2 }));
}

#[test]
fn a_set_is_read_whole() {
    let read = set(&format!(
        "private_key={KEY}\nlisten_port=51871\nfwmark=28005\nreplace_peers=true\npublic_key={PEER}\nupdate_only=true\n\
         preshared_key={KEY}\nendpoint=[fd00::1]:7\npersistent_keepalive_interval=25\nreplace_allowed_ips=true\n\
         allowed_ip=10.1.2.3/16\nallowed_ip=-fd00::/64\nprotocol_version=1\npublic_key={KEY}\nremove=true"
    ));
    let wanted = Set {
        private_key: Secret::from_hex(KEY),
        listen_port: Some(51871),
        fwmark: Some(28005),
        replace_peers: true,
        peers: vec![
            PeerSet {
                update_only: true,
                replace_allowed_ips: true,
                preshared_key: Secret::from_hex(KEY),
                endpoint: "[fd00::1]:7".parse().ok(),
                keepalive_s: Some(25),
                allowed_ips: vec![
                    AllowedIp::Add("10.1.0.0/16".parse().expect("a net")),
                    AllowedIp::Remove("fd00::/64".parse().expect("a net")),
                ],
                ..PeerSet::of(peer())
            },
            PeerSet { remove: true, ..PeerSet::of(PublicKey::from_hex(KEY).expect("64 digits")) },
        ],
    };
    assert_eq!(read, Ok(Request::Set(wanted)));
}

#[test]
fn what_is_not_understood_is_refused_whole() {
    let long = "00".repeat(33);
    for lines in [
        "listen_port=65536",
        "listen_port=-1",
        "listen_port=+1",
        "listen_port=",
        "listen_port",
        "fwmark=0x10",
        "private_key=00",
        "private_key=zz",
        "replace_peers=false",
        "endpoint=192.0.2.1:1",
        "allowed_ip=10.0.0.0/8",
        "unknown=1",
        " listen_port=1",
        &format!("private_key={long}"),
        &format!("public_key={long}"),
        &format!("public_key={PEER}\nlisten_port=1"),
        &format!("public_key={PEER}\nendpoint=example.org:1"),
        &format!("public_key={PEER}\nendpoint=192.0.2.1"),
        &format!("public_key={PEER}\nendpoint=192.0.2.1:0"),
        &format!("public_key={PEER}\nendpoint=0.0.0.0:1"),
        &format!("public_key={PEER}\nallowed_ip=10.0.0.0"),
        &format!("public_key={PEER}\nallowed_ip=10.0.0.0/33"),
        &format!("public_key={PEER}\nallowed_ip=--10.0.0.0/8"),
        &format!("public_key={PEER}\npersistent_keepalive_interval=off"),
        &format!("public_key={PEER}\npersistent_keepalive_interval=65536"),
        &format!("public_key={PEER}\nremove=yes"),
        &format!("public_key={PEER}\nprotocol_version=2"),
        &format!("public_key={PEER}\n\nallowed_ip=10.0.0.0/8"),
    ] {
        assert!(set(lines).is_err(), "{lines}");
    }
    for text in ["", "\n", "set=2", "get", "hello", "set=1 \n", "SET=1"] {
        assert_eq!(Request::parse(text.as_bytes()), Err(Malformed::NoOperation), "{text}");
    }
    assert_eq!(Request::parse(&[0xff, 0xfe]), Err(Malformed::NotText));
}

#[test]
fn a_refusal_names_the_line_and_never_the_value() {
    let refused = set("fwmark=1\nprivate_key=5ec4e7").expect_err("a short key");
    assert_eq!(refused.to_string(), "line 3: `private_key` does not take this value");
}
