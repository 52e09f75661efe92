//! Configurations of a tunnel and of a relay as text.

use super::{Seed, seed};

pub(super) fn uapi() -> Vec<Seed> {
    let of = |why: &str, text: &str| seed("uapi", why, text);
    let (own, a, b) = ("01".repeat(32), "0a".repeat(32), "0b".repeat(32));
    let peers = format!(
        "public_key={a}\nendpoint=192.0.2.1:51871\npersistent_keepalive_interval=25\nallowed_ip=10.2.1.0/24\n\
         allowed_ip=fd00:10:2:1::/64\npublic_key={b}\nallowed_ip=10.2.2.0/24\n"
    );
    let good = format!("set=1\nprivate_key={own}\nlisten_port=51871\nfwmark=27973\n{peers}");
    vec![
        of("a-device-with-two-peers", &good),
        of("a-question", "get=1"),
        of("a-question-with-more", "get=1\nset=1"),
        of("an-address-that-moves", &format!("{good}allowed_ip=10.2.1.0/24\n")),
        of("an-address-taken-from-another", &format!("{good}allowed_ip=-10.2.1.0/24\n")),
        of("an-address-with-host-bits", &good.replace("10.2.1.0/24", "10.2.1.77/24")),
        of("a-prefix-longer-than-its-family", &good.replace("10.2.1.0/24", "10.2.1.0/33")),
        of(
            "a-peer-removed-and-named-again",
            &format!("{good}remove=true\npublic_key={b}\nupdate_only=true\n"),
        ),
        of("every-address-replaced", &format!("{good}public_key={a}\nreplace_allowed_ips=true\n")),
        of("a-key-of-zeros", &good.replace(&own, &"00".repeat(32))),
        of("a-key-cut-off", &good.replace(&own, "0101")),
        of("a-port-beyond-all", &good.replace("51871", "65536")),
        of("a-port-with-a-sign", &good.replace("listen_port=", "listen_port=+")),
        of("an-endpoint-of-a-zone", &good.replace("192.0.2.1:51871", "[fe80::1%3]:51871")),
        of("an-endpoint-of-nobody", &good.replace("192.0.2.1:51871", "0.0.0.0:0")),
        of("a-peer-s-line-before-any-peer", "set=1\nallowed_ip=10.2.1.0/24\n"),
        of(
            "two-addresses-that-change-places",
            &format!(
                "{good}\nset=1\npublic_key={a}\nallowed_ip=10.2.2.0/24\npublic_key={b}\nallowed_ip=10.2.1.0/24\n"
            ),
        ),
        of("another-port-and-mark", &format!("{good}\nset=1\nlisten_port=0\nfwmark=0\n")),
        of("another-key", &format!("{good}\nset=1\nprivate_key={a}\n")),
        of("no-key-any-more", &format!("{good}\nset=1\nprivate_key={}\n", "00".repeat(32))),
        of("every-peer-replaced", &format!("{good}\nset=1\nreplace_peers=true\npublic_key={a}\n")),
        of("nothing-new", &format!("{good}\n{good}")),
        of("windows-lines", &good.replace('\n', "\r\n")),
        of("no-operation", &peers),
        seed("uapi", "not-utf-8", b"set=1\nprivate_key=\xff".as_slice()),
    ]
}

pub(super) fn relay() -> Vec<Seed> {
    let of = |why: &str, text: &str| seed("relay", why, text);
    let (own, a, b, c) = ("01".repeat(32), "0a".repeat(32), "0b".repeat(32), "0c".repeat(32));
    let pairs = format!("pair={a},{b}\npair={c},{a}\n");
    let kept = format!(
        "private_key={own}\nparty={a}\nendpoint=192.0.2.7:4711\nparty={b}\nendpoint=[2001:db8::7]:51871\n{pairs}"
    );
    let numbered: String = (1..=300).map(|number| format!("pair={a},{number:064x}\n")).collect();
    vec![
        of("two-pairs", &format!("set=1\n{pairs}")),
        of("no-pairs", "set=1"),
        of("a-question", "get=1"),
        of("three-hundred-pairs-of-one-node", &format!("set=1\n{numbered}")),
        of("a-pair-twice", &format!("set=1\npair={a},{b}\npair={b},{a}\n")),
        of("a-node-with-itself", &format!("set=1\npair={a},{a}\n")),
        of("a-pair-of-three", &format!("set=1\npair={a},{b},{c}\n")),
        of("a-key-cut-off", &format!("set=1\npair={a},0b0b\n")),
        of("a-line-of-the-device", &format!("set=1\npublic_key={a}\n")),
        of("a-file", &kept),
        of("a-file-without-its-key", &pairs),
        of("a-file-of-two-at-one-place", &kept.replace("[2001:db8::7]:51871", "192.0.2.7:4711")),
        of("a-file-of-one-at-two-places", &kept.replace(&format!("party={b}"), &format!("party={a}"))),
        of("a-file-of-a-place-of-nobody", &format!("private_key={own}\nendpoint=192.0.2.7:4711\n")),
        of("a-file-of-a-zone", &kept.replace("[2001:db8::7]", "[fe80::7%4294967295]")),
        of("a-file-cut-off", &kept[..kept.len() / 2]),
        seed("relay", "not-utf-8", b"set=1\npair=\xff".as_slice()),
    ]
}
