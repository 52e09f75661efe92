//! What stays when an agent goes, and what the next one makes of it.

use super::{
    super::{
        Attachment, Bpf, Error, MapStep, Program, RouteRow, abi::PIN_VERSION, attachment::function,
        objects::OBJECTS,
    },
    rig::{chain, furnish, ifindex, ip, net, on_a_host, on_each_hook, place},
};
use aya::maps::{HashMap, MapData};
use std::{collections::BTreeSet, fs};

#[test]
fn a_second_agent_finds_the_rows_and_links_of_the_first() {
    on_each_hook(|host| {
        ip("link add up0 type veth peer name up1");
        let at = Attachment { program: Program::UplinkOut, ifindex: ifindex("up0") };
        let mut first = host.open();
        furnish(&mut first, 7, 8, 9);
        first.attach(at).expect("attached");
        let rows = first.observe().expect("rows");
        assert_eq!(rows.routes.len(), 4);
        drop(first);

        let second = host.open();
        assert_eq!(second.observe().expect("rows"), rows);
        assert_eq!(second.attachments().expect("links"), BTreeSet::from([at]));
    });
}

#[test]
fn attaching_again_replaces_and_detaching_twice_is_no_error() {
    on_each_hook(|host| {
        ip("link add up0 type veth peer name up1");
        let at = Attachment { program: Program::FromPod, ifindex: ifindex("up0") };
        let mut bpf = host.open();
        bpf.attach(at).expect("attached");
        bpf.attach(at).expect("replaced");
        assert_eq!(bpf.attachments().expect("links"), BTreeSet::from([at]));
        bpf.detach(at).expect("detached");
        bpf.detach(at).expect("nothing to do");
        assert_eq!(bpf.attachments().expect("links"), BTreeSet::new());
        let gone = Attachment { program: Program::FromPod, ifindex: 4_000 };
        let error = chain(&bpf.attach(gone).expect_err("there is no such device"));
        assert!(error.starts_with("cannot attach `from-pod` at device 4000: "), "{error}");
    });
}

#[test]
fn a_program_is_chosen_by_what_the_frames_of_a_device_look_like_and_who_is_behind_it() {
    on_a_host(|_| {
        ip("link add eth0 type veth peer name eth1");
        ip("link add br0 type bridge");
        ip("tuntap add wan0 mode tun");
        ip("tuntap add tap0 mode tap");
        let cases = [
            ("eth0", "mesh_uplink_out", "mesh_uplink_in"),
            ("br0", "mesh_uplink_out", "mesh_bridge_in"),
            ("tap0", "mesh_uplink_out", "mesh_uplink_in"),
            ("wan0", "mesh_uplink_out_l3", "mesh_uplink_in_l3"),
            ("lo", "mesh_uplink_out", "mesh_uplink_in"),
        ];
        for (device, out, into) in cases {
            let at = |program| function(Attachment { program, ifindex: ifindex(device) }).expect(device);
            assert_eq!((at(Program::UplinkOut), at(Program::UplinkIn)), (out, into), "{device}");
        }
    });
}

#[test]
fn a_pinned_map_of_another_make_is_refused_and_named() {
    on_a_host(|host| {
        drop(host.open());
        let pin = host.pins.join(PIN_VERSION).join("mesh_services");
        fs::remove_file(&pin).expect("the pin");
        HashMap::<MapData, u32, u64>::create(8, 0).expect("a map").pin(&pin).expect("a pin");
        let Err(error) = host.try_open(&host.cgroup, host.hook) else { panic!("it was taken") };
        assert!(matches!(error, Error::Geometry { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("mesh_services has type 1, keys of 4 and values of 8 bytes, 8 entries"),
            "{text}"
        );
        assert!(pin.exists(), "the other pins are somebody's");
    });
}

#[test]
fn a_cgroup_that_is_none_is_refused_before_anything_is_pinned() {
    on_a_host(|host| {
        let Err(error) = host.try_open("/tmp".as_ref(), host.hook) else { panic!("it was taken") };
        assert!(error.to_string().contains("/tmp is not a cgroup v2 directory"), "{error}");
        assert!(!host.pins.exists());
    });
}

#[test]
fn another_cgroup_root_moves_the_socket_programs() {
    on_a_host(|host| {
        drop(host.open());
        let pin = host.pins.join(PIN_VERSION).join("links/mesh_connect4");
        let before = place(&pin);
        let inner = host.cgroup.join("inner");
        fs::create_dir(&inner).expect("a cgroup");
        let moved = host.try_open(&inner, host.hook);
        assert!(moved.is_ok());
        assert_ne!(place(&pin), before);
        drop(moved);
        fs::remove_dir(&inner).expect("nothing holds it");
    });
}

#[test]
fn every_row_reads_back_as_it_was_written() {
    on_a_host(|host| {
        use super::super::{BackendKey, SetRef};
        use crate::image::Frontend;
        use api::record::Protocol;
        let mut bpf = host.open();
        assert_eq!(bpf.observe().expect("rows"), super::super::Rows::default());
        furnish(&mut bpf, 7, 8, 9);
        let http = Frontend { address: "10.96.0.1".parse().expect("ip"), protocol: Protocol::Tcp, port: 80 };
        let dns = Frontend { address: "fd96::1".parse().expect("ip"), protocol: Protocol::Udp, port: 53 };
        let steps = [
            MapStep::PutService(http, SetRef { set: 3, count: 1 }),
            MapStep::PutService(dns, SetRef { set: 0, count: 0 }),
            MapStep::PutServiceAddress(http.address),
            MapStep::PutAffinity(dns, 10_800),
            MapStep::PutBackend(BackendKey { set: 3, slot: 0 }, "10.2.0.7:8080".parse().expect("address")),
            MapStep::PutBackend(BackendKey { set: 4, slot: 1 }, "[fd02::7]:5353".parse().expect("address")),
        ];
        for step in &steps {
            bpf.apply(step).expect("written");
        }
        expect_test::expect![[r#"
            10.2.0.0/16 Routed { mtu_bytes: 1420 }
            10.3.0.0/16 Closed
            fd02::/64 Routed { mtu_bytes: 1420 }
            fd03::/64 Closed
            10.1.0.5 Pod { ifindex: 7, mac: [2, 0, 0, 0, 0, 5] }
            10.1.0.6 Pod { ifindex: 8, mac: [2, 0, 0, 0, 0, 5] }
            10.1.255.1 Node
            fd01::5 Pod { ifindex: 7, mac: [2, 0, 0, 0, 0, 5] }
            fd01::ffff Node
            10.96.0.1:80/TCP SetRef { set: 3, count: 1 }
            fd96::1:53/UDP SetRef { set: 0, count: 0 }
            other ports of 10.96.0.1 refuse
            clients of fd96::1:53/UDP return for 10800 s
            set 3 slot 0 10.2.0.7:8080
            set 4 slot 1 [fd02::7]:5353
            ConfigRow { mesh_ifindex: Some(9), mesh_v4: Some(10.1.255.1), mesh_v6: Some(fd01::ffff) }
        "#]]
        .assert_eq(&print(&bpf));

        let undo = [
            MapStep::RemoveService(http),
            MapStep::RemoveServiceAddress(http.address),
            MapStep::RemoveAffinity(dns),
            MapStep::RemoveBackend(BackendKey { set: 3, slot: 0 }),
            MapStep::RemoveRoute(net("10.2.0.0/16")),
            MapStep::RemoveLocal("fd01::5".parse().expect("ip")),
        ];
        for step in undo.iter().chain(&undo) {
            bpf.apply(step).expect("removed, or not there");
        }
        let rows = bpf.observe().expect("rows");
        assert_eq!((rows.services.len(), rows.service_addresses.len(), rows.backends.len()), (1, 0, 1));
        assert_eq!((rows.routes.len(), rows.locals.len(), rows.affinity.len()), (3, 4, 0));
    });
}

#[test]
fn a_row_that_would_swallow_others_or_cannot_be_answered_is_refused() {
    on_a_host(|host| {
        let mut bpf = host.open();
        let routed = |mtu_bytes| RouteRow::Routed { mtu_bytes };
        let cases = [
            (net("::/0"), routed(1420), "it covers the IPv4 addresses"),
            (net("::ffff:10.2.0.0/112"), routed(1420), "it covers the IPv4 addresses"),
            (net("10.2.0.0/16"), routed(1199), "a path carries at least 1200 bytes"),
        ];
        for (prefix, row, reason) in cases {
            let error = bpf.apply(&MapStep::PutRoute(prefix, row)).expect_err(reason);
            assert!(error.to_string().ends_with(reason), "{error}");
        }
    });
}

#[test]
fn a_full_map_is_an_error_of_its_own_that_names_it() {
    on_a_host(|host| {
        use super::super::BackendKey;
        let mut bpf = host.open();
        let to = "10.2.0.7:80".parse().expect("address");
        let mut full = None;
        // The kernel may let a few more into an unfilled bucket's list; it never counts past the limit.
        for slot in 0..=262_144 {
            if let Err(error) = bpf.apply(&MapStep::PutBackend(BackendKey { set: 1, slot }, to)) {
                full = Some((slot, error));
                break;
            }
        }
        let (slot, error) = full.expect("the map has an end");
        assert_eq!(slot, 262_144);
        assert!(matches!(error, Error::Full { map: "mesh_backends", max_entries: 262_144, .. }), "{error}");
    });
}

#[test]
fn the_layouts_are_those_of_the_object() {
    // Sizes of keys and values as the compiler wrote them into the objects' BTF.
    use super::super::abi;
    let expected = [
        ("mesh_routes", 4 + size_of::<abi::Addr>(), size_of::<abi::Route>()),
        ("mesh_local", size_of::<abi::Addr>(), size_of::<abi::Local>()),
        ("mesh_services", size_of::<abi::FrontendKey>(), size_of::<abi::SetRefValue>()),
        ("mesh_affinity", size_of::<abi::FrontendKey>(), 4),
        ("mesh_backends", size_of::<abi::BackendKeyRow>(), size_of::<abi::Endpoint>()),
        ("mesh_config", 4, size_of::<abi::Config>()),
        ("mesh_drops", 4, 8),
        ("mesh_jumps", 4, 4),
    ];
    let objects = OBJECTS.map(|object| aya_obj::Object::parse(object).expect("an object"));
    for (name, key, value) in expected {
        let map = objects.iter().find_map(|o| o.maps.get(name)).expect(name);
        assert_eq!((map.key_size() as usize, map.value_size() as usize), (key, value), "{name}");
    }
    let drops = objects[1].maps["mesh_drops"].max_entries();
    assert_eq!(drops as usize, super::super::DropReason::ALL.len());
}

fn print(bpf: &Bpf) -> String {
    let rows = bpf.observe().expect("rows");
    let mut lines = Vec::new();
    lines.extend(rows.routes.iter().map(|(net, row)| format!("{net} {row:?}")));
    lines.extend(rows.locals.iter().map(|(ip, row)| format!("{ip} {row:?}")));
    lines.extend(
        rows.services.iter().map(|(f, set)| format!("{}:{}/{} {set:?}", f.address, f.port, f.protocol)),
    );
    lines.extend(rows.service_addresses.iter().map(|ip| format!("other ports of {ip} refuse")));
    let returning = |(f, s): (&crate::image::Frontend, &u32)| {
        format!("clients of {}:{}/{} return for {s} s", f.address, f.port, f.protocol)
    };
    lines.extend(rows.affinity.iter().map(returning));
    lines.extend(rows.backends.iter().map(|(key, to)| format!("set {} slot {} {to}", key.set, key.slot)));
    lines.push(format!("{:?}", rows.config));
    lines.join("\n") + "\n"
}
