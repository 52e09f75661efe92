//! What a program finds in a place.

use std::fs;
use std::time::Instant;

use lab::{Activity, Lab};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{said, sh, two_clusters};

#[test]
fn a_lab_of_two_clusters_is_up_in_a_few_seconds() {
    let began = Instant::now();
    let _lab = two_clusters("quick");
    assert!(began.elapsed().as_secs() < 15, "took {:?}", began.elapsed());
}

#[test]
fn a_program_is_in_its_places_cgroup_from_its_first_instruction() {
    let lab = two_clusters("cgroup");
    let table = [
        ("underlay", "underlay"),
        ("host/admin", "hosts/admin/host"),
        ("cluster-a/host/control", "cluster-a/control/host"),
        ("cluster-a/node/a1", "cluster-a/a1/host"),
        ("cluster-a/pod/cart-2", "cluster-a/a2/pods/cart-2"),
    ];
    for (place, cgroup) in table {
        // The program that looks is the one that was started: nothing ran before it.
        let own = String::from_utf8(lab.exec(place, ["cat", "/proc/self/cgroup"]).unwrap().stdout).unwrap();
        assert!(own.contains(&format!("0::/mesh-lab/lab-test-cgroup/{cgroup}\n")), "{place}: {own}");
    }
    for process in lab.ps().unwrap() {
        let own = fs::read_to_string(format!("/proc/{}/cgroup", process.pid.unwrap())).unwrap();
        assert!(own.contains("/pods/cart-"), "{}: {own}", process.proc);
    }
}

#[test]
fn a_machine_has_a_file_system_view_of_its_own() {
    let lab = two_clusters("view");
    let a1 = "cluster-a/node/a1";
    assert_eq!(
        said(&lab, a1, "stat -fc %T /sys/fs/cgroup /sys/fs/bpf /run /var/lib/cni"),
        "cgroup2fs\nbpf_fs\ntmpfs\ntmpfs\n"
    );
    assert!(said(&lab, a1, "ls -d /sys/fs/cgroup/pods/*").contains("/sys/fs/cgroup/pods/client\n"));
    assert!(said(&lab, a1, "ls /sys/class/net").contains("cni0"));

    said(
        &lab,
        a1,
        "mkdir -p /run/wireguard && touch /run/wireguard/mesh0.sock /var/lib/mesh/kept /var/lib/left && mkdir /sys/fs/bpf/mesh",
    );
    assert!(
        !sh(&lab, "cluster-a/node/a2", "ls /run/wireguard || ls /var/lib/mesh/kept || ls /sys/fs/bpf/mesh")
            .status
            .success()
    );
    assert!(
        !std::path::Path::new("/run/wireguard/mesh0.sock").exists()
            && !std::path::Path::new("/var/lib/left").exists()
    );
    let state = lab.paths().place(&a1.parse().unwrap()).join("var-lib-mesh/kept");
    assert!(state.exists(), "/var/lib/mesh is a directory of the lab's state: {}", state.display());
    assert!(
        said(&lab, "cluster-a/pod/client", "ls /sys/fs/bpf").contains("mesh"),
        "a pod sees through its node's eyes"
    );
    assert!(said(&lab, a1, &format!("ls {}", lab.paths().state.display())).contains("state.json"));
}

#[test]
fn a_pods_cni_result_is_kept_as_libcni_keeps_it_and_is_true() {
    let lab = two_clusters("cni");
    for (pod, node, v4, v6) in [
        ("cart-1", "a1", "10.1.1.11/24", "fd00:10:1:1::11/64"),
        ("cart-2", "a2", "10.1.2.11/24", "fd00:10:1:2::11/64"),
    ] {
        let node = format!("cluster-a/node/{node}");
        let kept = kept_result(&lab, &node, pod);
        assert_eq!(
            (&kept["kind"], &kept["ifName"], &kept["networkName"]),
            (&"cniCacheV1".into(), &"eth0".into(), &"lab".into())
        );
        let result = &kept["result"];
        let addresses: Vec<_> =
            result["ips"].as_array().unwrap().iter().map(|ip| ip["address"].as_str().unwrap()).collect();
        assert_eq!(addresses, [v4, v6]);

        let interfaces = result["interfaces"].as_array().unwrap();
        let inside = interfaces.iter().find(|it| it["sandbox"] != Value::Null).expect("the pod's end");
        let mac = said(&lab, &format!("cluster-a/pod/{pod}"), "ip -br link show eth0");
        assert!(mac.contains(inside["mac"].as_str().unwrap()), "{mac} is not {inside}");
        let outside: Vec<_> = interfaces.iter().filter(|it| it["sandbox"] == Value::Null).collect();
        for device in outside {
            said(&lab, &node, &format!("ip link show {}", device["name"].as_str().unwrap()));
        }
    }
}

#[test]
fn processes_die_pause_and_start_again_with_the_same_command_line() {
    let lab = two_clusters("processes");
    let cart = "cluster-a/pod/cart-1/http";
    let ask = || sh(&lab, "cluster-a/pod/client", "curl -sS -m1 http://10.1.1.11:8080/");
    assert_eq!(ask().stdout, b"cluster-a/cart-1\n");

    lab.pause(cart).unwrap();
    assert!(!ask().status.success(), "a paused server does not answer");
    assert_eq!(activity(&lab, cart), Activity::Paused);
    lab.resume(cart).unwrap();
    assert_eq!(ask().stdout, b"cluster-a/cart-1\n");

    lab.kill(cart, Signal::SIGKILL).unwrap();
    assert_eq!(activity(&lab, cart), Activity::Gone);
    assert!(!ask().status.success());
    assert!(lab.kill(cart, Signal::SIGKILL).is_err(), "what is gone cannot be killed");
    lab.start(cart).unwrap();
    assert!(lab.start(cart).unwrap_err().to_string().contains("runs already"));
    assert_eq!(ask().stdout, b"cluster-a/cart-1\n");
    lab.restart(cart).unwrap();
    assert_eq!(ask().stdout, b"cluster-a/cart-1\n");
}

fn activity(lab: &Lab, proc: &str) -> Activity {
    lab.ps().unwrap().into_iter().find(|status| status.proc.to_string() == proc).unwrap().activity
}

fn kept_result(lab: &Lab, node: &str, pod: &str) -> Value {
    let text = said(lab, node, &format!("grep -l '\"{pod}\"' /var/lib/cni/results/lab-*-eth0 | xargs cat"));
    serde_json::from_str(&text).unwrap()
}
