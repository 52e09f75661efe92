//! Filters of `clsact` beside those of others, who may do with a device what they like.

use super::{
    super::{Attachment, Bpf, Hook, Program, abi::PIN_VERSION},
    devices::{End, packet_socket, silence, until},
    packets::udp,
    rig::{Host, chain, counted, furnish, hooks, ifindex, ip, on_a_host_by},
};
use crate::backend::netlink::{Direction, FilterPlace, Netlink};
use std::{collections::BTreeSet, fs, process::Command};

/// Accepts everything, and thereby ends what comes behind it.
const ACCEPT: &str = "bpf bytecode 1,6\u{a0}0\u{a0}0\u{a0}4294967295 flowid 1:1";

/// `tc` with these arguments, in this thread's network namespace; says what it said.
fn tc(arguments: &str) -> String {
    let arguments = arguments.split(' ').map(|argument| argument.replace('\u{a0}', " "));
    let output = Command::new("tc").args(arguments).output().expect("iproute2");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    text
}

/// A host with an uplink, up0.
struct World<'h> {
    host: &'h Host,
    guard: Attachment,
    /// Sends as the host's stack would.
    own: End,
    /// The far end of the wire.
    far: End,
}

fn world(test: impl FnOnce(World<'_>) + Send) {
    on_a_host_by(Hook::Clsact, |host| {
        silence();
        ip("link add up0 type veth peer name up1");
        ip("link set up0 up");
        ip("link set up1 up");
        let guard = Attachment { program: Program::UplinkOut, ifindex: ifindex("up0") };
        test(World { host, guard, own: packet_socket("up0"), far: packet_socket("up1") });
    });
}

impl World<'_> {
    /// An agent with the guard at the uplink.
    fn guarded(&self) -> Bpf {
        let mut bpf = self.host.open();
        furnish(&mut bpf, ifindex("lo"), ifindex("lo"), ifindex("lo"));
        bpf.attach(self.guard).expect("attached");
        bpf
    }

    /// What becomes of a packet to the mesh that wants to leave in plain: the reason that was counted.
    fn plain(&self, bpf: &Bpf) -> String {
        let before = bpf.drops().expect("counters");
        self.own.send_as(&udp("10.1.0.5", "10.2.0.7", 9), "up0");
        let reason = counted(&before, &bpf.drops().expect("counters"));
        // A pair of devices hands over in a softirq of the same CPU, before sendto(2) returns.
        assert_eq!(self.far.try_receive().is_some(), reason.is_empty());
        reason
    }

    fn filters(&self) -> Vec<String> {
        let netlink = Netlink::open().expect("a socket");
        let at = FilterPlace { ifindex: self.guard.ifindex, direction: Direction::Egress, priority: 1 };
        let filters = netlink.filters(at).expect("an answer");
        filters.into_iter().map(|filter| format!("{:#x} {}", filter.handle, filter.name)).collect()
    }
}

#[test]
fn ours_is_asked_before_somebody_elses_whoever_came_first() {
    world(|world| {
        tc("qdisc add dev up0 clsact");
        tc(&format!("filter add dev up0 egress pref 1 handle 1 {ACCEPT}"));
        let mut bpf = world.guarded();
        assert_eq!(world.plain(&bpf), "plain");
        assert_eq!(world.filters(), ["0x6d06 mesh/uplink-out", "0x1 "]);

        tc(&format!("filter add dev up0 egress pref 1 handle 2 {ACCEPT}"));
        assert_eq!(world.plain(&bpf), "", "it went round the guard");
        assert_eq!(bpf.attachments().expect("filters"), BTreeSet::new(), "and that is seen");
        bpf.attach(world.guard).expect("attached");
        assert_eq!(world.plain(&bpf), "plain");
        assert_eq!(world.filters(), ["0x6d07 mesh/uplink-out", "0x2 ", "0x1 "]);
        assert_eq!(bpf.attachments().expect("filters"), BTreeSet::from([world.guard]));
    });
}

#[test]
fn what_is_somebody_elses_stays() {
    world(|world| {
        tc("qdisc add dev up0 clsact");
        for place in ["egress pref 1 handle 1", "egress pref 9", "ingress pref 1 handle 0x6d06"] {
            tc(&format!("filter add dev up0 {place} {ACCEPT}"));
        }
        let before = tc("filter show dev up0 egress") + &tc("filter show dev up0 ingress");
        let mut bpf = world.guarded();
        bpf.detach(world.guard).expect("detached");
        bpf.detach(world.guard).expect("nothing to do");
        assert_eq!(tc("filter show dev up0 egress") + &tc("filter show dev up0 ingress"), before);
        assert!(tc("qdisc show dev up0").contains("clsact"));
    });
}

#[test]
fn a_device_that_cannot_take_ours_first_is_named_with_what_holds_it() {
    world(|world| {
        let mut bpf = world.host.open();
        tc("qdisc add dev up1 clsact");
        tc("filter add dev up1 ingress pref 1 protocol ip u32 match u32 0 0 flowid 1:1");
        tc("qdisc add dev up0 ingress");
        let cases = [
            (
                "up1",
                Program::UplinkIn,
                "a `u32` filter holds priority 1, which ours needs to be asked first: its owner",
            ),
            (
                "up0",
                Program::UplinkOut,
                "it has an `ingress` qdisc, which takes no filters for egress: its owner",
            ),
        ];
        for (device, program, reason) in cases {
            let error = bpf.attach(Attachment { program, ifindex: ifindex(device) }).expect_err(device);
            assert!(chain(&error).contains(reason), "{}", chain(&error));
        }
        // Beside what is in nobody's way.
        let into = Attachment { program: Program::UplinkIn, ifindex: ifindex("up0") };
        bpf.attach(into).expect("an `ingress` qdisc takes filters for ingress");
        assert_eq!(bpf.attachments().expect("filters"), BTreeSet::from([into]));
    });
}

#[test]
fn a_filter_that_somebody_removed_is_missed_and_put_back() {
    world(|world| {
        let mut bpf = world.guarded();
        tc("qdisc del dev up0 clsact");
        assert_eq!(bpf.attachments().expect("filters"), BTreeSet::new());
        bpf.attach(world.guard).expect("attached");
        assert_eq!(world.plain(&bpf), "plain");
    });
}

#[test]
fn a_stub_that_lost_its_array_hands_on_until_the_next_agent_puts_its_own() {
    world(|world| {
        let first = world.guarded();
        fs::remove_dir_all(world.host.pins.join(PIN_VERSION)).expect("the pins");
        // Who removes the pins removes the programs; the kernel empties the array in a work queue.
        until("an empty array", || world.plain(&first).is_empty().then_some(()));
        drop(first);
        let second = world.guarded();
        assert_eq!(world.plain(&second), "plain");
        assert_eq!(world.filters(), ["0x6d07 mesh/uplink-out"]);
    });
}

#[test]
fn what_an_agent_left_half_exchanged_is_one_filter_again() {
    world(|world| {
        let mut bpf = world.guarded();
        let netlink = Netlink::open().expect("a socket");
        let at = FilterPlace { ifindex: world.guard.ifindex, direction: Direction::Egress, priority: 1 };
        let stale = bpf.objects.packet("mesh_uplink_out");
        netlink.add_filter(at, 0x6d07, "mesh/uplink-out", stale).expect("added");
        assert_eq!(world.filters(), ["0x6d07 mesh/uplink-out", "0x6d06 mesh/uplink-out"]);
        bpf.attach(world.guard).expect("attached");
        assert_eq!(world.filters(), ["0x6d06 mesh/uplink-out"]);
        assert_eq!(world.plain(&bpf), "plain");
    });
}

#[test]
fn a_run_without_anything_to_guard_finds_what_an_earlier_one_left() {
    world(|world| {
        drop(world.guarded());
        let mut later = world.host.open();
        assert_eq!(later.attachments().expect("filters"), BTreeSet::from([world.guard]));
        later.detach(world.guard).expect("detached");
        assert_eq!(world.filters(), Vec::<String>::new());
    });
}

/// In module `tcx` by its name, as it needs both.
mod tcx {
    use super::*;

    #[test]
    fn the_other_hook_takes_over_and_leaves_nothing_of_the_first() {
        assert_eq!(hooks().count(), 2);
        world(|world| {
            let pins = world.host.pins.join(PIN_VERSION);
            drop(world.guarded());
            for _ in 0..2 {
                let linked = world.host.open_by(Hook::Tcx);
                assert_eq!(linked.attachments().expect("links"), BTreeSet::from([world.guard]));
                assert_eq!(world.filters(), Vec::<String>::new());
                assert!(!pins.join("mesh_jumps").exists() && !pins.join("stubs").exists());
                assert_eq!(world.plain(&linked), "plain");
                drop(linked);

                let filtered = world.host.open_by(Hook::Clsact);
                assert_eq!(filtered.attachments().expect("filters"), BTreeSet::from([world.guard]));
                assert_eq!(filtered.links.packet().expect("links"), BTreeSet::new());
                assert_eq!(world.plain(&filtered), "plain");
            }
        });
    }
}
