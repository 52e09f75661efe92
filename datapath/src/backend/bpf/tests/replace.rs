//! An agent starts again, while packets flow: its programs take the place of the old ones between two
//! packets.

use super::{
    super::{Attachment, DropReason, Program},
    devices::{packet_socket, pod, silence, tun, until},
    packets::udp,
    rig::{POD_MAC, furnish, ifindex, ip, on_each_hook},
};
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

/// Each replaces all programs at all devices.
const STARTS: usize = 20;

#[test]
fn replacing_the_programs_costs_no_packet_and_opens_no_gap() {
    on_each_hook(|host| {
        silence();
        let (tunnel, pod) = (tun("mesh0"), pod("pod0", POD_MAC));
        ip("link add up0 type veth peer name up1");
        ip("link set up0 up");
        ip("link set up1 up");
        let (own, far) = (packet_socket("up0"), packet_socket("up1"));
        let mut bpf = host.open();
        furnish(&mut bpf, ifindex("pod0"), ifindex("lo"), ifindex("mesh0"));
        let places = [
            (Program::FromTunnel, "mesh0"),
            (Program::ToTunnel, "mesh0"),
            (Program::FromPod, "pod0"),
            (Program::UplinkOut, "up0"),
            (Program::UplinkIn, "up0"),
        ];
        for (program, device) in places {
            bpf.attach(Attachment { program, ifindex: ifindex(device) }).expect("attached");
        }
        let before = bpf.drops().expect("counters")[&DropReason::Plain];
        let started = AtomicUsize::new(0);
        let mut sent = 0_u64;
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..STARTS {
                    drop(host.open());
                    started.fetch_add(1, Ordering::Relaxed);
                }
            });
            while started.load(Ordering::Relaxed) < STARTS {
                let size = usize::try_from(sent % 1_000).expect("small");
                let out = udp("10.1.0.5", "10.2.0.7", size);
                pod.end.send(&out);
                assert_eq!(tunnel.receive(), out[14..], "out of the pod, packet {sent}");
                let into = udp("10.2.0.7", "10.1.0.5", size);
                tunnel.send(&into[14..]);
                assert_eq!(pod.end.receive_to(POD_MAC)[14..], into[14..], "into the pod, packet {sent}");
                own.send_as(&out, "up0");
                sent += 1;
            }
        });
        let dropped = until("the guard's last verdict", || {
            let dropped = bpf.drops().expect("counters")[&DropReason::Plain] - before;
            (dropped >= sent).then_some(dropped)
        });
        assert_eq!(dropped, sent, "each packet was judged once");
        assert_eq!(far.try_receive(), None, "nothing left in plain");
        assert!(
            sent > 10 * u64::try_from(STARTS).expect("20"),
            "{sent} packets in {STARTS} starts show little"
        );
    });
}
