//! Not one byte in plain: IPv4 and IPv6, TCP and UDP, with the tunnel's process alive, dead and alive again.

use std::net::UdpSocket;

use e2e::{A, B, both, clean, report};
use lab::traffic::CANARY;
use lab::{Rule, Sniffer, Watch};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::story::{CARTS_OF_B, PODS_OF_A, SHOWN, Story, eventually};

#[test]
fn nothing_between_the_clusters_passes_in_plain_and_the_sniffer_would_see_it() {
    let story = Story::connected("sniffer");
    story.carts("cluster-a/pod/client", &A, both);

    // The sniffer is proven: what the pod says is there to be read at the pod's own device.
    let own = story.sniff_device("cluster-a/pod/client", "canary-of-a-pod");
    let peer = story.sniff_device("cluster-b/pod/cart-1", "canary-of-a-pod");
    let underlay = story.sniff(&["canary-of-a-pod", "cluster-b/cart"]).unwrap();
    for pod in PODS_OF_A {
        for cart in CARTS_OF_B {
            let answer = story.curl(pod, &format!("http://{cart}:8080/canary-of-a-pod"));
            assert!(answer.as_ref().is_ok_and(|who| who.starts_with(B.name)), "{pod} {cart} TCP: {answer:?}");
            let bare = cart.trim_matches(['[', ']']);
            let answer = story.udp(pod, bare, 8080, "canary-of-a-pod");
            assert!(
                answer.as_ref().is_some_and(|who| who.starts_with(B.name)),
                "{pod} {cart} UDP: {answer:?}"
            );
        }
        // By the Service's name, too; the canary is the answer of cluster-b's pods.
        for cart in [A.cart, A.cart_v6] {
            story.ask_until(pod, &format!("http://{cart}/"), SHOWN, both).unwrap();
        }
    }
    let seen = clean(underlay).unwrap();
    assert!(seen.frames.contains_key(&lab::Class::Wireguard), "it passed somewhere: {seen}");
    for (whose, sniffer) in [("the pod", own), ("the peer", peer)] {
        let hits = sniffer.stop().unwrap().canary_hits;
        // TCP and UDP, IPv4 and IPv6.
        assert!(hits >= 4, "at the device of {whose} the canary is readable, and it was seen {hits} times");
    }

    // And a plain packet is not overlooked.
    let underlay = story.sniff(&["planted"]).unwrap();
    let socket = story.lab.inside("cluster-a/node/a1", || UdpSocket::bind("192.0.2.11:0")).unwrap().unwrap();
    socket.send_to(b"planted", "192.0.2.75:9").unwrap();
    let seen = underlay.stop().unwrap();
    assert!(seen.check().is_err() && seen.canary_hits > 0 && seen.violations > 0, "{seen}");
}

#[test]
fn a_dead_tunnel_process_costs_packets_and_leaks_none_and_a_new_one_goes_on_without_any_agent() {
    let story = Story::connected("tunnel");
    // From now on nobody may help: what goes on, goes on by what the tunnel and the kernel hold.
    for cluster in [A, B] {
        story.kill_control(&cluster).unwrap();
    }
    // While nobody listens on a node's WireGuard port, its kernel says so to the others, quoting ciphertext.
    let nodes = [A, B].into_iter().flat_map(|c| c.nodes.map(|node| format!("{}/node/{node}", c.name)));
    let unreachable = Rule::Icmp { between: nodes.map(|node| node.parse().unwrap()).collect() };
    let rules = [e2e::underlay_rules().unwrap(), vec![unreachable]].concat();
    let watch =
        Watch::underlay().allow(rules).canary(CANARY).canary("canary-of-a-pod").canary("cluster-b/cart");
    let underlay = Sniffer::start(&story.lab, watch).unwrap();
    let shell = "cluster-b/pod/shell";
    // Each side ends when the other, or we, say so.
    let receiver =
        story.traffic(shell, &["udp-seq", "receive", "--port", "9001", "--seconds", "90"]).unwrap();
    let target = "10.2.2.10:9001";
    let args = ["udp-seq", "send", "--target", target, "--rate", "200", "--seconds", "90"];
    let sender = story.traffic("cluster-a/pod/client", &args).unwrap();
    let tunnelled = || story.mesh0("tx_packets");
    let start = tunnelled();
    eventually("the stream goes through the tunnel", SHOWN, || more_than(tunnelled(), start + 100));

    story.kill9("cluster-a/node/a1/tunnel");
    let dropped = || story.mesh0("tx_dropped");
    let before = dropped();
    eventually("what the dead tunnel's device is given is counted", SHOWN, || {
        more_than(dropped(), before + 100)
    });
    for cart in CARTS_OF_B {
        let answer = story.curl("cluster-a/pod/client", &format!("http://{cart}:8080/canary-of-a-pod"));
        assert!(answer.is_err(), "{cart} was reached without a tunnel: {answer:?}");
    }
    let answer = story.curl("cluster-a/node/a1", "http://10.2.1.11:8080/canary-of-a-pod");
    assert!(answer.is_err(), "the node itself reached cluster-b without a tunnel: {answer:?}");

    story.lab.start("cluster-a/node/a1/tunnel").unwrap();
    for cart in CARTS_OF_B {
        eventually("the tunnel works again, from its own file", SHOWN, || {
            story.curl("cluster-a/pod/client", &format!("http://{cart}:8080/canary-of-a-pod"))
        });
    }
    kill(Pid::from_raw(sender.id().cast_signed()), Signal::SIGTERM).unwrap();
    report(sender).unwrap();
    let stream = report(receiver).unwrap();
    let went_on = stream["finished"] == true && stream["lost"].as_u64() > Some(100);
    assert!(went_on, "the stream loses what the dead tunnel was given, and goes on to its end: {stream}");
    clean(underlay).unwrap();
}

impl Story {
    /// A counter of the tunnel's device on cluster-a's first node.
    fn mesh0(&self, counter: &str) -> u64 {
        let path = format!("cat /sys/class/net/mesh0/statistics/{counter}");
        self.said("cluster-a/node/a1", &path).trim().parse().expect("a counter is a number")
    }
}

fn more_than(seen: u64, least: u64) -> Result<(), String> {
    if seen > least { Ok(()) } else { Err(format!("{seen}, and at least {least} are due")) }
}
