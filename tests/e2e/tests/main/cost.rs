//! What a peering costs the link between two apiservers, while nothing changes and per change: IP packets of both
//! directions, with TCP's acknowledgements and HTTP/2's pings; and what two nodes send each other while nobody uses them.
//! Measurements, whose figures stand in docs/operations.md.

use crate::{
    edge::{EDGE, edge},
    story::{SHOWN, Story, eventually},
};
use e2e::A;
use serde_json::Value;
use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

/// Twenty heartbeats: the two clocks that make packets, of 2 s and of 5 s, have both gone round several times.
const WINDOW: Duration = Duration::from_secs(40);

/// What it may cost while nothing changes, in bytes an hour: a tenth of a link of 64 kbit/s.
const IDLE_MAX: u64 = 64_000 / 8 * 3_600 / 10;

/// Backends that come at once.
const CHANGES: usize = 100;
/// What one of them may cost, in bytes.
const CHANGE_MAX: u64 = 1_500;

#[test]
#[ignore = "measures for two minutes: cargo test -p e2e --test main -- --ignored --nocapture cost::"]
fn a_peering_costs_a_thin_link_little_while_nothing_changes_and_per_change() {
    let dialled = Story::connected("cost");
    let (idle, change) = measure(&dialled);
    drop(dialled);
    let piped = edge("cost-edge");
    piped.connect();
    let (idle_edge, change_edge) = measure(&piped);
    println!("both dial:      {idle} bytes an hour, {change} bytes a backend");
    println!("one dials out:  {idle_edge} bytes an hour, {change_edge} bytes a backend");
    assert!(idle < IDLE_MAX && idle_edge < IDLE_MAX, "{idle} {idle_edge}");
    assert!(change < CHANGE_MAX && change_edge < CHANGE_MAX, "{change} {change_edge}");
}

/// Bytes an hour while nothing changes, and bytes of a backend that comes.
fn measure(story: &Story) -> (u64, u64) {
    story.well();
    count(story);
    // A measurement takes its time: what is counted is what clocks make.
    let (before, began) = (counted(story), Instant::now());
    story.said(CONTROL, &format!("sleep {}", WINDOW.as_secs()));
    let idle = per_hour(counted(story) - before, began.elapsed());

    let (before, began) = (counted(story), Instant::now());
    let backends = (0..CHANGES).map(|n| ([1, 100 + n], true));
    story.write(&EDGE, "many.yaml", &service("many", "10.102.0.99", backends)).unwrap();
    eventually("the backends are there", SHOWN, || {
        let (_, status) = story.status();
        let of_a = status.as_array().into_iter().flatten().find(|it| it["cluster"] == A.name);
        let backends = of_a.map(|it| it["peers"][0]["backends"].as_u64().unwrap_or(0)).unwrap_or(0);
        if backends > CHANGES as u64 { Ok(()) } else { Err(status.to_string()) }
    });
    let bytes = counted(story) - before;
    let meanwhile = idle * u64::try_from(began.elapsed().as_millis()).expect("short") / 3_600_000;
    (idle, bytes.saturating_sub(meanwhile) / CHANGES as u64)
}

/// Where the apiserver is that counts; the other one is cluster-a's.
pub const CONTROL: &str = "cluster-b/host/control";

fn per_hour(bytes: u64, within: Duration) -> u64 {
    bytes * 3_600_000 / u64::try_from(within.as_millis()).expect("short").max(1)
}

#[test]
#[ignore = "measures for three minutes: cargo test -p e2e --test main -- --ignored --nocapture cost::"]
fn two_nodes_that_nobody_uses_cost_a_thin_link_little() {
    let story = Story::connected("cost-nodes");
    story.well();
    // The first of what is done rarely is done at once.
    story.said(NODE, &format!("sleep {}", NODES_WINDOW.as_secs() / 2));
    count_at(&story, NODE, OTHER_NODE);
    let began = Instant::now();
    story.said(NODE, &format!("sleep {}", NODES_WINDOW.as_secs()));
    let bytes = counted_at(&story, NODE) as f64 / began.elapsed().as_secs_f64();
    println!("two nodes:      {bytes:.0} bytes a second");
    assert!(bytes > 0. && bytes < NODES_MAX, "{bytes}");
}

/// Two nodes, and how the one is told from others by the other.
const NODE: &str = "cluster-b/node/b1";
const OTHER_NODE: &str = "192.0.2.11";
/// Confirmations of the path's MTU are a minute apart, keepalives and round trips seconds.
const NODES_WINDOW: Duration = Duration::from_secs(120);
/// Of two nodes in both directions together, in bytes a second: two directions of 64 kbit/s have a tenth for five such pairs.
const NODES_MAX: f64 = 300.;

/// From now on counts what the two apiservers say to each other.
pub fn count(story: &Story) {
    count_at(story, CONTROL, A.apiserver.split(':').next().expect("host:port"));
}

/// From now on counts what a place and an address say to each other.
fn count_at(story: &Story, place: &str, peer: &str) {
    let rules = format!(
        "table inet cost {{
           chain sent {{ type filter hook output priority 0; ip daddr {peer} counter; }}
           chain received {{ type filter hook input priority 0; ip saddr {peer} counter; }}
         }}"
    );
    story.said(place, &format!("nft -f - <<< '{rules}'"));
}

/// Bytes of IP packets since [`count`]: what cluster-b's apiserver sent, also what was lost then, and what it received.
pub fn counted(story: &Story) -> u64 {
    counted_at(story, CONTROL)
}

fn counted_at(story: &Story, place: &str) -> u64 {
    let listed = story.said(place, "nft -j list table inet cost");
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    let rules =
        listed["nftables"].as_array().expect("a list").iter().filter_map(|it| it["rule"]["expr"].as_array());
    rules.flatten().filter_map(|it| it["counter"]["bytes"].as_u64()).sum()
}

/// A global Service and its backends, each by the last two bytes of its address and whether it is ready. They are nowhere: what
/// it costs to say so is the same.
pub fn service(name: &str, address: &str, backends: impl Iterator<Item = ([usize; 2], bool)>) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop, annotations: \
         {{service.cilium.io/global: 'true'}}}}\n\
         spec: {{clusterIP: {address}, ports: [{{name: http, port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-1, namespace: shop, \
         labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\n\
         ports: [{{name: http, port: 8080}}]\nendpoints:\n"
    );
    for ([c, d], ready) in backends {
        writeln!(text, "  - {{addresses: [10.2.{c}.{d}], conditions: {{ready: {ready}}}}}").expect("a text");
    }
    text
}
