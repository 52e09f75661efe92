//! A peer that announces what it may not: refused, counted, named; and nobody else is spoiled.

use std::time::Duration;

use e2e::{A, B, both, report};
use lab::cached;

use crate::story::{SHOWN, Story, eventually};

/// What cluster-b's operator puts into cluster-b's store: key, whose value it gets, and what cluster-a says to it.
const LIES: [(&str, Value, &str); 9] = [
    ("endpoints/shop/10.2.9.9", Value::Garbage, "malformed-value"),
    ("backends/shop/cart/10.02.9.9", Value::Of("backends/shop/cart/10.2.1.11"), "malformed-key"),
    ("backends/shop/cart/10.1.1.10", Value::Of("backends/shop/cart/10.2.1.11"), "our-address"),
    ("backends/shop/cart/10.9.9.9", Value::Of("backends/shop/cart/10.2.1.11"), "outside-contract"),
    ("backends/shop/cart/169.254.169.254", Value::Of("backends/shop/cart/10.2.1.11"), "special-address"),
    ("endpoints/shop/10.1.1.10", Value::Of("endpoints/shop/10.2.1.10"), "our-address"),
    ("nodes/b9", Value::Of("nodes/b1"), "prefix-taken"),
    ("keys/b9", Value::Of("keys/b1"), "key-taken"),
    ("identities/shop/00000000000000000000000000000000", Value::OfAny("identities/shop/"), "forged-identity"),
];

/// Between two comparisons of a publisher.
const RECHECK: Duration = Duration::from_secs(30);

enum Value {
    Garbage,
    Of(&'static str),
    OfAny(&'static str),
}

#[test]
fn a_peer_that_announces_what_it_may_not_is_refused_counted_and_named_and_local_service_goes_on() {
    let story = Story::connected("hostile");
    story.carts("cluster-a/pod/client", &A, both);
    let cart = format!("{}:80", A.cart);
    let args = ["connect-loop", "--target", &cart, "--http", "--interval-ms", "50", "--seconds", "90"];
    let connections = story.traffic("cluster-a/pod/client", &args).unwrap();

    for (key, value, reason) in LIES {
        let key = format!("mesh/v1/cluster-b/{key}");
        match value {
            Value::Garbage => etcd(&story, &format!("put {key} -- 'no record at all'")),
            Value::Of(other) => copy(&story, &format!("get mesh/v1/cluster-b/{other}"), &key),
            Value::OfAny(prefix) => {
                copy(&story, &format!("get --prefix --limit=1 mesh/v1/cluster-b/{prefix}"), &key);
            }
        }
        eventually("status names the reason and the key", SHOWN, || {
            let (code, table, _) = story.try_ctl(&["status", A.name]);
            let named = |line: &str| line.contains(&format!("({reason})")) && line.contains(&key);
            if code == 1 && table.lines().any(named) {
                Ok(())
            } else {
                Err(format!("{key}, {reason}: {table}"))
            }
        });
    }
    let (_, status) = story.status();
    let peer = &status[0]["peers"][0];
    assert!(peer["refused"].as_u64() >= Some(LIES.len() as u64), "each is counted: {peer}");
    assert_eq!(peer["tunnelsUp"], 4, "no tunnel is spoiled: {peer}");

    // What it says of us stays where it said it: we read its own name alone.
    copy(
        &story,
        "get mesh/v1/cluster-b/endpoints/shop/10.2.1.10",
        "mesh/v1/cluster-a/endpoints/shop/10.1.9.9",
    );
    // Another cluster's description under its own name: the last thing that it is believed.
    let of_us = "get mesh/v1/cluster-a/cluster";
    copy(&story, of_us, "mesh/v1/cluster-b/cluster");
    eventually("a peer that says it is somebody else is named", SHOWN, || {
        let (code, table, _) = story.try_ctl(&["status", A.name]);
        if code == 1 && table.contains("(wrong-cluster)") { Ok(()) } else { Err(table) }
    });
    let why = story.ctl(&["why", "shop/cart", "--cluster", A.name]);
    for address in ["10.1.1.10", "10.9.9.9", "169.254.169.254", "10.1.9.9"] {
        assert!(!why.contains(address), "{address} got in: {why}");
    }

    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(connections.id().cast_signed()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    let connections = report(connections).unwrap();
    assert!(
        connections["failures"] == 0,
        "the clients of both clusters' backends saw nothing of it: {connections}"
    );
    // Its own nodes have believed all of that, until its publisher has compared the store with what there is.
    let cart = format!("http://{}/", B.cart);
    story.ask_until("cluster-b/pod/client", &cart, RECHECK + SHOWN, both).unwrap();
}

/// Gives a key of cluster-b's store the value of another.
fn copy(story: &Story, get: &str, to: &str) {
    etcd(story, &format!("{get} --print-value-only | head -c -1 | ETCDCTL put {to}"));
}

/// Runs etcdctl as cluster-b's operator; `ETCDCTL` in the line stands for another one.
fn etcd(story: &Story, line: &str) {
    let admin = story.dir().join("cluster-b/data/admin");
    let admin = admin.display();
    let etcdctl = format!(
        "{} --endpoints={} --cacert={admin}/bundle.pem --cert={admin}/cert.pem --key={admin}/key.pem",
        cached("etcd-3.5.1/etcdctl", "ci/etcd.sh").unwrap().display(),
        B.apiserver
    );
    let line = line.replace("ETCDCTL", &etcdctl);
    let said = story.said("host/admin", &format!("set -o pipefail; {etcdctl} {line}"));
    assert_eq!(said.trim(), "OK", "{line}");
}
