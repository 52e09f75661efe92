//! An agent whose maps are of another make than those that it finds.

use super::{
    super::{
        Attachment, Bpf, DropReason, MapStep, Program, RouteRow, Rows, abi::PIN_VERSION, raw::LinkPlace,
    },
    rig::{Host, furnish, ifindex, ip, net, on_each_hook, place},
};
use std::{collections::BTreeSet, fs, net::UdpSocket, path::PathBuf};

/// A version that never was: its maps are of today's make, and this agent does not know it.
const EARLIER: &str = "v0";

/// A host with an uplink, guarded by an agent of an earlier version that is gone; once for each hook.
fn with_an_earlier_version(test: impl Fn(&Host, Attachment) + Send + Sync) {
    on_each_hook(|host| {
        ip("link add up0 type veth peer name up1");
        ip("link set up1 up");
        ip("link set up0 up");
        ip("address add 192.0.2.1/24 dev up0");
        ip("route add 10.3.0.0/16 via 192.0.2.2");
        ip("neighbour add 192.0.2.2 lladdr 02:00:00:00:00:09 dev up0");
        let guard = Attachment { program: Program::UplinkOut, ifindex: ifindex("up0") };
        let mut bpf = host.open();
        furnish(&mut bpf, 7, 8, 9);
        bpf.attach(guard).expect("attached");
        drop(bpf);
        fs::rename(host.pins.join(PIN_VERSION), earlier(host)).expect("a BPF file system renames");
        test(host, guard);
    });
}

fn earlier(host: &Host) -> PathBuf {
    host.pins.join(EARLIER)
}

/// How many of three packets to a closed prefix this agent's own programs refuse.
fn refused(bpf: &Bpf) -> u64 {
    let plain = || bpf.drops().expect("counters")[&DropReason::Plain];
    let before = plain();
    let socket = UdpSocket::bind("192.0.2.1:0").expect("a socket");
    for _ in 0..3 {
        // Whether a sender hears of it is the kernel's business.
        socket.send_to(b"plain", "10.3.0.1:9").ok();
    }
    plain() - before
}

#[test]
fn the_earlier_programs_work_on_until_they_are_succeeded() {
    with_an_earlier_version(|host, guard| {
        let mut bpf = host.open();
        assert!(!bpf.began_empty(), "what is pinned is newer than any disk");
        assert_eq!(bpf.observe().expect("rows"), Rows::default());
        assert_eq!(bpf.attachments().expect("links"), BTreeSet::from([guard]));
        bpf.attach(guard).expect("it stands");
        furnish(&mut bpf, 7, 8, 9);
        assert_eq!(refused(&bpf), 0, "the earlier guard counts in maps of its own");

        assert!(bpf.succeed().expect("succeeded"));
        assert_eq!(refused(&bpf), 3);
        assert!(!earlier(host).exists());
        assert_eq!(bpf.attachments().expect("links"), BTreeSet::from([guard]));
        assert_ne!(place(&host.pins.join(PIN_VERSION).join("links/mesh_connect4")), LinkPlace::Other);
        assert!(!bpf.succeed().expect("there is nobody left to succeed"));
        drop(bpf);
        assert_eq!(refused(&host.open()), 3);
    });
}

#[test]
fn a_succession_that_was_cut_short_is_finished_by_the_next_agent() {
    with_an_earlier_version(|host, guard| {
        let bpf = host.open();
        bpf.links.take_over().expect("taken over");
        drop(bpf);
        let mut bpf = host.open();
        furnish(&mut bpf, 7, 8, 9);
        assert_eq!(refused(&bpf), 0, "the earlier guard is there, wherever its pin is");
        assert!(bpf.succeed().expect("succeeded"));
        assert_eq!(refused(&bpf), 3);
        assert!(!earlier(host).exists());
        assert_eq!(bpf.attachments().expect("links"), BTreeSet::from([guard]));
    });
}

#[test]
fn a_device_that_no_earlier_version_had_gets_its_program_at_once() {
    with_an_earlier_version(|host, guard| {
        ip("link add up2 type veth peer name up3");
        ip("link set up3 up");
        ip("link set up2 up");
        ip("neighbour add 10.3.0.1 lladdr 02:00:00:00:00:09 dev up2");
        let new = Attachment { program: Program::UplinkOut, ifindex: ifindex("up2") };
        let mut bpf = host.open();
        bpf.attach(new).expect("attached");
        ip("route replace 10.3.0.0/16 dev up2 src 192.0.2.1");
        assert_eq!(bpf.attachments().expect("places"), BTreeSet::from([guard, new]));
        bpf.apply(&MapStep::PutRoute(net("10.3.0.0/16"), RouteRow::Closed)).expect("a row");
        assert_eq!(refused(&bpf), 3);

        bpf.detach(guard).expect("detached, whoever attached it");
        assert_eq!(bpf.attachments().expect("links"), BTreeSet::from([new]));
    });
}

#[test]
fn what_is_no_version_beside_ours_is_let_alone() {
    with_an_earlier_version(|host, _| {
        let foreign = host.pins.join("vendor");
        fs::create_dir(&foreign).expect("a directory");
        let mut bpf = host.open();
        bpf.succeed().expect("succeeded");
        assert!(foreign.exists() && !earlier(host).exists());
    });
}
