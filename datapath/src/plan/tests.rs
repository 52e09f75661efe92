mod moments;
mod tenants;

use super::{Completeness, FWMARK, plan};
use crate::{
    apply::{
        apply,
        model::{Model, Sizes},
    },
    backend::bpf::BackendKey,
    image::{Elsewhere, Frontend, Image, Pod, Reach, Tenant, Upkeep},
    observe::{Balanced, Device, Observed, TunnelObserved},
    step::Step,
};
use api::{bytes::PublicKey, record::Protocol};
use expect_test::{Expect, expect};
use std::{collections::BTreeSet, fmt::Write as _, net::SocketAddr};

#[test]
fn a_fresh_host_closes_before_it_opens() {
    check(
        &image("peer west 10.2.1.0/24; pod 10.1.1.5 device 7; uplink 2; service 10.101.0.9:80 10.2.1.5:8080"),
        &fresh(),
        expect![[r#"
            attach from-tunnel to device 9
            attach to-tunnel to device 9
            attach uplink-out to device 2
            attach uplink-in to device 2
            close 10.2.1.0/24
            add route unreachable 10.2.1.0/24
            bring mesh0 up (device 9)
            add address 100.64.1.1 to mesh0
            tell the programs: mesh0 is device 9, we are 100.64.1.1
            add rule for IPv4
            masquerade forwarded traffic to 100.64.1.1
            tunnel: listen on port 51871
            tunnel: add peer 77… 10.2.1.0/24
            route 10.2.1.0/24 over mesh0 mtu 1420 src 100.64.1.1
            open 10.2.1.0/24 through the tunnel, mtu 1420
            attach from-pod to device 7
            10.1.1.5 is the pod behind device 7
            100.64.1.1 is this host
            fill set 1: 10.2.1.5:8080
            10.101.0.9:80/TCP → set 1 of 1
            other ports of 10.101.0.9 refuse
        "#]],
    );
}

#[test]
fn what_leaves_goes_the_same_way_back() {
    let before =
        image("peer west 10.2.1.0/24; pod 10.1.1.5 device 7; uplink 2; service 10.101.0.9:80 10.2.1.5:8080");
    check(
        &image("uplink 2"),
        &holding(&before),
        expect![[r#"
            forget 10.101.0.9:80/TCP
            10.101.0.9 is no service any more
            empty set 1 of 1
            10.1.1.5 is nobody here
            detach from-pod from device 7
            close 10.2.1.0/24
            remove route 10.2.1.0/24 over mesh0
            tunnel: remove peer 77…
            remove rule for IPv4
            remove route unreachable 10.2.1.0/24
            forget 10.2.1.0/24
        "#]],
    );
}

#[test]
fn a_disconnected_peers_prefix_stays_closed() {
    check(
        &image("closed 10.2.0.0/16"),
        &holding(&image("peer west 10.2.0.0/16")),
        expect![[r#"
            close 10.2.0.0/16
            remove route 10.2.0.0/16 over mesh0
            tunnel: remove peer 77…
        "#]],
    );
}

#[test]
fn changed_backends_are_written_beside_the_old_ones_and_swapped() {
    check(
        &image("service 10.101.0.9:80 10.1.0.1:80 10.1.0.2:80"),
        &holding(&image("service 10.101.0.9:80 10.1.0.1:80")),
        expect![[r#"
            fill set 2: 10.1.0.1:80 10.1.0.2:80
            10.101.0.9:80/TCP → set 2 of 2
            empty set 1 of 1
        "#]],
    );
}

#[test]
fn clients_keep_their_backend_from_before_the_service_is_there_until_it_goes() {
    let with = |more: &str| image(&format!("service 10.101.0.9:80 10.1.0.1:80{more}"));
    check(
        &with("; affinity 10.101.0.9:80 10800"),
        &holding(&image("")),
        expect![[r#"
        fill set 1: 10.1.0.1:80
        clients of 10.101.0.9:80/TCP keep their backend for 10800 s
        10.101.0.9:80/TCP → set 1 of 1
        other ports of 10.101.0.9 refuse
    "#]],
    );
    check(
        &with("; affinity 10.101.0.9:80 60"),
        &holding(&with("; affinity 10.101.0.9:80 10800")),
        expect![[r#"
            clients of 10.101.0.9:80/TCP keep their backend for 60 s
        "#]],
    );
    check(
        &with(""),
        &holding(&with("; affinity 10.101.0.9:80 60")),
        expect![[r#"
        clients of 10.101.0.9:80/TCP keep no backend
    "#]],
    );
    check(
        &image(""),
        &holding(&with("; affinity 10.101.0.9:80 60")),
        expect![[r#"
        forget 10.101.0.9:80/TCP
        clients of 10.101.0.9:80/TCP keep no backend
        10.101.0.9 is no service any more
        empty set 1 of 1
    "#]],
    );
}

#[test]
fn udp_sockets_to_a_backend_that_no_service_has_any_more_are_closed_after_the_swap() {
    let before = "udp 10.101.0.9:53 10.1.0.1:53 10.1.0.2:53; udp 10.101.0.8:53 10.1.0.2:53; service 10.101.0.9:80 10.1.0.3:80";
    check(
        &image(
            "udp 10.101.0.9:53 10.1.0.4:53; udp 10.101.0.8:53 10.1.0.2:53; service 10.101.0.9:80 10.1.0.4:80; namespace /run/netns/a",
        ),
        &holding(&image(before)),
        expect![[r#"
            fill set 4: 10.1.0.4:80
            fill set 5: 10.1.0.4:53
            10.101.0.9:80/TCP → set 4 of 1
            10.101.0.9:53/UDP → set 5 of 1
            close the UDP sockets of 2 namespaces to 10.1.0.1:53
            empty set 2 of 1
            empty set 3 of 2
        "#]],
    );
    // Not while something may only be late.
    let steps = plan(&image("namespace /run/netns/a"), &holding(&image(before)), Completeness::Partial);
    assert!(!steps.iter().any(|step| matches!(step, Step::CloseUdp { .. })), "{}", lines(&steps));
}

#[test]
fn equal_backends_are_one_set() {
    check(
        &image("service 10.101.0.9:80 10.1.0.1:80; service 10.101.0.9:81 10.1.0.1:80; service 10.101.0.8:80"),
        &holding(&image("")),
        expect![[r#"
            fill set 1: 10.1.0.1:80
            10.101.0.8:80/TCP → set 0 of 0
            10.101.0.9:80/TCP → set 1 of 1
            10.101.0.9:81/TCP → set 1 of 1
            other ports of 10.101.0.8 refuse
            other ports of 10.101.0.9 refuse
        "#]],
    );
}

#[test]
fn a_set_that_another_frontend_still_uses_stays() {
    let before = image("service 10.101.0.9:80 10.1.0.1:80; service 10.101.0.9:81 10.1.0.1:80");
    check(
        &image("service 10.101.0.9:80 10.1.0.2:80; service 10.101.0.9:81 10.1.0.1:80"),
        &holding(&before),
        expect![[r#"
            fill set 2: 10.1.0.2:80
            10.101.0.9:80/TCP → set 2 of 1
        "#]],
    );
}

#[test]
fn where_the_last_plan_was_not_carried_out_whole_what_nobody_needs_goes_first() {
    let before = "peer west 10.2.1.0/24; closed 10.2.0.0/16; closed 10.3.0.0/16; closed 10.4.0.0/16;
        service 10.101.0.9:80 10.1.0.1:80; service 10.101.0.8:80 10.1.0.1:80 10.1.0.2:80;
        udp 10.101.0.7:53 10.2.1.5:53; service 10.101.0.6:80 10.4.0.1:80";
    let mut host = holding(&image(before));
    host.short_of_room = true;
    check(&image(before), &host, expect![""]);
    // One service grows, the others may not keep what they have. A prefix that guards nothing goes first, those with a
    // backend that services move from go last.
    check(
        &image(
            "peer west 10.2.1.0/24; closed 10.5.0.0/16;
             service 10.101.0.9:80 10.1.0.1:80 10.1.0.3:80; service 10.101.0.8:80 10.1.0.2:80;
             udp 10.101.0.7:53 10.2.1.6:53; service 10.101.0.6:80 10.1.0.9:80",
        ),
        &host,
        expect![[r#"
            forget 10.3.0.0/16
            10.101.0.6:80/TCP → set 0 of 0
            10.101.0.7:53/UDP → set 0 of 0
            10.101.0.8:80/TCP → set 0 of 0
            empty set 1 of 1
            empty set 2 of 1
            empty set 3 of 2
            close the UDP sockets of 1 namespaces to 10.2.1.5:53
            close 10.5.0.0/16
            add route unreachable 10.5.0.0/16
            fill set 5: 10.1.0.9:80
            fill set 6: 10.2.1.6:53
            fill set 7: 10.1.0.2:80
            fill set 8: 10.1.0.1:80 10.1.0.3:80
            10.101.0.6:80/TCP → set 5 of 1
            10.101.0.7:53/UDP → set 6 of 1
            10.101.0.8:80/TCP → set 7 of 1
            10.101.0.9:80/TCP → set 8 of 2
            close the UDP sockets of 1 namespaces to 10.2.1.5:53
            empty set 4 of 1
            remove route unreachable 10.2.0.0/16
            remove route unreachable 10.3.0.0/16
            remove route unreachable 10.4.0.0/16
            forget 10.2.0.0/16
            forget 10.4.0.0/16
        "#]],
    );
}

#[test]
fn a_full_map_gets_room_from_what_nobody_needs_any_more() {
    // All four maps are full before, and would be after: nothing fits beside what is there.
    let before = image(
        "closed 10.2.0.0/16; pod 10.1.1.5 device 7; service 10.101.0.9:80 10.1.0.1:80 10.1.0.2:80 10.1.0.3:80",
    );
    let after = image(
        "closed 10.3.0.0/16; pod 10.1.1.6 device 8; service 10.101.0.8:80 10.1.0.1:80 10.1.0.2:80 10.1.0.4:80",
    );
    let sizes = Sizes { routes: 1, locals: 2, services: 2, backends: 3 };
    let mut host = holding(&before);
    let mut problems = Vec::new();
    for _ in 0..3 {
        let mut model = Model::of(host.clone()).sized(sizes);
        let outcome = apply(&plan(&after, &host, Completeness::Complete), &mut model);
        host = Observed { short_of_room: outcome.short_of_room, ..model.observed };
        problems.push(outcome.problems.join("\n"));
    }
    expect![[r#"
        cannot close 10.3.0.0/16: cannot add PutRoute(10.3.0.0/16, Closed) to map mesh_routes: its 1 entries are in use
        cannot 10.1.1.6 is the pod behind device 8: cannot add PutLocal(10.1.1.6, Pod { ifindex: 8, mac: [2, 0, 0, 0, 0, 1] }) to map mesh_local: its 2 entries are in use
        cannot fill set 2: 10.1.0.1:80 10.1.0.2:80 10.1.0.4:80: cannot add PutBackend(BackendKey { set: 2, slot: 0 }, 10.1.0.1:80) to map mesh_backends: its 3 entries are in use
        cannot other ports of 10.101.0.8 refuse: cannot add PutServiceAddress(10.101.0.8) to map mesh_services: its 2 entries are in use
        4 steps wait for those
        --

        --
    "#]].assert_eq(&problems.join("\n--\n"));
    assert_eq!(lines(&plan(&after, &host, Completeness::Complete)), "");
}

#[test]
fn a_set_that_was_left_half_written_is_swept() {
    let image = image("service 10.101.0.9:80 10.1.0.1:80");
    let mut host = holding(&image);
    let lost = BackendKey { set: 5, slot: 3 };
    host.rows.backends.insert(lost, "10.1.0.7:80".parse().unwrap());
    check(
        &image,
        &host,
        expect![[r#"
            empty set 5 of 1
        "#]],
    );
}

#[test]
fn a_prefix_that_moves_to_another_peer_is_never_without_an_owner() {
    check(
        &image("peer east 10.2.1.0/24"),
        &holding(&image("peer west 10.2.1.0/24")),
        expect![[r#"
            tunnel: add peer 65… 10.2.1.0/24
            tunnel: remove peer 77…
        "#]],
    );
}

#[test]
fn a_longer_prefix_under_a_routed_one_is_not_cut_while_it_changes_hands() {
    check(
        &image("peer west 10.2.0.0/16; peer east 10.2.1.0/24"),
        &holding(&image("peer west 10.2.0.0/16")),
        expect![[r#"
            tunnel: add peer 65… 10.2.1.0/24
            route 10.2.1.0/24 over mesh0 mtu 1420 src 100.64.1.1
            add route unreachable 10.2.1.0/24
            open 10.2.1.0/24 through the tunnel, mtu 1420
        "#]],
    );
    check(
        &image("peer west 10.2.0.0/16"),
        &holding(&image("peer west 10.2.0.0/16; peer east 10.2.1.0/24")),
        expect![[r#"
            remove route unreachable 10.2.1.0/24
            remove route 10.2.1.0/24 over mesh0
            tunnel: remove peer 65…
            forget 10.2.1.0/24
        "#]],
    );
}

#[test]
fn a_path_is_no_wider_than_the_device() {
    let mut host = holding(&image("peer west 10.2.1.0/24"));
    host.device = host.device.map(|device| Device { mtu_bytes: 1380, ..device });
    check(
        &image("peer west 10.2.1.0/24"),
        &host,
        expect![[r#"
            route 10.2.1.0/24 over mesh0 mtu 1380 src 100.64.1.1
            open 10.2.1.0/24 through the tunnel, mtu 1380
        "#]],
    );
}

#[test]
fn a_path_that_is_smaller_than_ipv6_knows_is_so_to_the_programs_and_not_to_the_stack() {
    let mut wanted = image("peer west 10.2.1.0/24 fd02:1::/64");
    for reach in wanted.prefixes.values_mut().filter(|reach| matches!(reach, Reach::Tunnel { .. })) {
        *reach = Reach::Tunnel { mtu_bytes: 1232 };
    }
    check(
        &wanted,
        &holding(&image("peer west 10.2.1.0/24 fd02:1::/64")),
        expect![[r#"
            route 10.2.1.0/24 over mesh0 mtu 1232 src 100.64.1.1
            route fd02:1::/64 over mesh0 mtu 1280
            open 10.2.1.0/24 through the tunnel, mtu 1232
            open fd02:1::/64 through the tunnel, mtu 1232
        "#]],
    );
}

#[test]
fn without_the_device_everything_that_needs_it_waits_and_the_rest_is_closed() {
    let host = Observed { device: None, tunnel: None, ..fresh() };
    check(
        &image("peer west 10.2.1.0/24"),
        &host,
        expect![[r#"
            close 10.2.1.0/24
            add route unreachable 10.2.1.0/24
            tell the programs: mesh0 is device 0, we are 100.64.1.1
            add rule for IPv4
            masquerade forwarded traffic to 100.64.1.1
            open 10.2.1.0/24 through the tunnel, mtu 1420
            100.64.1.1 is this host
        "#]],
    );
}

#[test]
fn a_pods_address_that_moves_to_another_device_does_so_in_one_step() {
    check(
        &image("pod 10.1.1.5 device 8"),
        &holding(&image("pod 10.1.1.5 device 7")),
        expect![[r#"
            attach from-pod to device 8
            10.1.1.5 is the pod behind device 8
            detach from-pod from device 7
        "#]],
    );
}

#[test]
fn a_learnt_endpoint_stays_while_its_session_is_fresh() {
    let image = image("peer west 10.2.1.0/24 at 192.0.2.65:51871");
    let roamed = |fresh, asked: Option<&str>| {
        let mut host = holding(&image);
        let peer = host.tunnel.as_mut().unwrap().peers.get_mut(&key("west")).unwrap();
        peer.endpoint = Some("203.0.113.9:1234".parse().unwrap());
        peer.asked_endpoint = asked.map(|asked| asked.parse().unwrap());
        peer.is_fresh = fresh;
        host
    };
    let dials = || {
        expect![[r#"
            tunnel: dial 77… at 192.0.2.65:51871
        "#]]
    };
    check(&image, &roamed(true, Some("192.0.2.65:51871")), expect![""]);
    check(&image, &roamed(true, None), expect![""]);
    check(&image, &roamed(false, Some("192.0.2.65:51871")), dials());
    check(&image, &roamed(true, Some("192.0.2.64:51871")), dials());
}

#[test]
fn the_session_of_a_tunnel_on_demand_stays_goes_along_or_begins_anew_as_the_image_says() {
    let image = |upkeep: &str| image(&format!("peer west 10.2.1.0/24 {upkeep}"));
    let learnt = |is_fresh: bool| {
        let mut learnt = holding(&image("at 192.0.2.65:51871; straight west"));
        let peer = learnt.tunnel.as_mut().unwrap().peers.get_mut(&key("west")).unwrap();
        peer.endpoint = Some("203.0.113.9:1234".parse().unwrap());
        peer.is_fresh = is_fresh;
        learnt
    };
    let parked = image("at 192.0.2.65:51871; parked west");
    check(
        &parked,
        &learnt(true),
        expect![[r#"
            tunnel: no keepalives to 77…
        "#]],
    );
    check(
        &parked,
        &learnt(false),
        expect![[r#"
            tunnel: dial 77… at 192.0.2.65:51871
            tunnel: no keepalives to 77…
        "#]],
    );
    for is_fresh in [true, false] {
        check(
            &image("at 192.0.2.65:51871; straight west"),
            &learnt(is_fresh),
            expect![[r#"
                tunnel: dial 77… at 192.0.2.65:51871
            "#]],
        );
        check(
            &image("at 192.0.2.65:51871; leaving west"),
            &learnt(is_fresh),
            expect![[r#"
                tunnel: make peer 77… anew, of clock epoch 0 at 192.0.2.65:51871 10.2.1.0/24
                tunnel: dial 77… at 192.0.2.65:51871
            "#]],
        );
    }
    check(&image("at 203.0.113.9:1234; leaving west"), &learnt(true), expect![""]);
    check(&image("; straight west"), &learnt(true), expect![""]);
    let mut quiet = holding(&image("at 192.0.2.65:51871; parked west"));
    check(
        &image("at 192.0.2.65:51871"),
        &quiet,
        expect![[r#"
        tunnel: keep 77… alive
    "#]],
    );
    quiet.tunnel.as_mut().unwrap().peers.clear();
    check(
        &image("at 192.0.2.65:51871; parked west"),
        &quiet,
        expect![[r#"
        tunnel: add peer 77… at 192.0.2.65:51871 10.2.1.0/24
    "#]],
    );
}

#[test]
fn the_mark_of_our_datagrams_means_nothing_to_others() {
    for (whose, bits) in [
        ("kube-proxy's masquerade", 0x4000),
        ("kube-proxy's drop", 0x8000),
        ("portmap's masquerade", 0x2000),
        ("Cilium", 0x0f00),
        ("AWS CNI", 0x80),
        ("Calico, Tailscale", 0xffff_0000),
    ] {
        assert_eq!(FWMARK & bits, 0, "{whose}");
    }
}

#[test]
fn a_peer_whose_clock_went_back_is_made_anew_once_where_it_was_found_and_with_what_it_has() {
    let with = |prefixes: &str, epoch: u64| {
        image(&format!("peer west {prefixes} at 192.0.2.65:51871; clock west {epoch}"))
    };
    let mut learnt = holding(&with("10.2.1.0/24", 0));
    let peer = learnt.tunnel.as_mut().unwrap().peers.get_mut(&key("west")).unwrap();
    peer.endpoint = Some("198.51.100.7:4500".parse().unwrap());
    peer.is_fresh = true;
    let steps = lines(&plan(&with("10.2.1.0/24", 1), &learnt, Completeness::Partial));
    expect![[r#"
        tunnel: make peer 77… anew, of clock epoch 1 at 198.51.100.7:4500 10.2.1.0/24
    "#]]
    .assert_eq(&steps);
    check(
        &with("10.2.1.0/24", 2),
        &holding(&with("10.2.1.0/24 10.2.3.0/24", 1)),
        expect![[r#"
            tunnel: make peer 77… anew, of clock epoch 2 at 192.0.2.65:51871 10.2.1.0/24 10.2.3.0/24
            close 10.2.3.0/24
            remove route 10.2.3.0/24 over mesh0
            tunnel: 10.2.3.0/24 does not belong to 77…
            remove route unreachable 10.2.3.0/24
            forget 10.2.3.0/24
        "#]],
    );
    // A record from before the clock went back, as a view from the disk has it.
    check(&with("10.2.1.0/24", 1), &holding(&with("10.2.1.0/24", 2)), expect![""]);
    // A device without the peer knows no stamp of it.
    check(
        &with("10.2.1.0/24", 2),
        &holding(&image("closed 10.2.1.0/24")),
        expect![[r#"
        tunnel: add peer 77… at 192.0.2.65:51871 10.2.1.0/24
        route 10.2.1.0/24 over mesh0 mtu 1420 src 100.64.1.1
        open 10.2.1.0/24 through the tunnel, mtu 1420
    "#]],
    );
}

#[test]
fn where_nftables_balances_its_table_follows_the_rows_and_services_have_a_route_and_a_source() {
    let by_nftables = |is_current, image: &Image| {
        let balanced = Balanced::ByNftables { is_current };
        let empty = Observed { balanced, ..fresh() };
        let mut model = Model::of(empty.clone());
        apply(&plan(image, &empty, Completeness::Complete), &mut model);
        Observed { balanced, ..model.observed }
    };
    let before = image("peer west 10.2.1.0/24; service 10.101.0.9:80 10.2.1.5:80");
    check(
        &before,
        &by_nftables(true, &image("peer west 10.2.1.0/24")),
        expect![[r#"
        close 10.101.0.9/32
        add route unreachable 10.101.0.9/32
        route 10.101.0.9/32 over mesh0 mtu 1420 src 100.64.1.1
        open 10.101.0.9/32 through the tunnel, mtu 1420
        fill set 1: 10.2.1.5:80
        10.101.0.9:80/TCP → set 1 of 1
        other ports of 10.101.0.9 refuse
        balance by nftables as the maps say
    "#]],
    );
    check(&before, &by_nftables(true, &before), expect![""]);
    // Somebody else's change of the table, or another agent's table.
    check(
        &before,
        &by_nftables(false, &before),
        expect![[r#"
        balance by nftables as the maps say
    "#]],
    );
    check(
        &image("peer west 10.2.1.0/24; udp 10.101.0.9:80 10.2.1.6:80"),
        &by_nftables(true, &image("peer west 10.2.1.0/24; udp 10.101.0.9:80 10.2.1.5:80")),
        expect![[r#"
            fill set 2: 10.2.1.6:80
            10.101.0.9:80/UDP → set 2 of 1
            balance by nftables as the maps say
            close the UDP sockets of 1 namespaces to 10.2.1.5:80
            empty set 1 of 1
        "#]],
    );
}

#[test]
fn nothing_is_swept_before_the_view_is_complete() {
    let before =
        image("peer west 10.2.1.0/24; pod 10.1.1.5 device 7; service 10.101.0.9:80 10.2.1.5:80 10.2.1.6:80");
    let steps = |image| lines(&plan(&image, &holding(&before), Completeness::Partial));
    expect![""].assert_eq(&steps(Image { mesh_addresses: BTreeSet::new(), ..image("") }));
    // A service may grow, not shrink.
    expect![""].assert_eq(&steps(image("service 10.101.0.9:80 10.2.1.5:80")));
    expect![[r#"
        fill set 2: 10.2.1.5:80 10.2.1.6:80 10.2.1.7:80
        10.101.0.9:80/TCP → set 2 of 3
        empty set 1 of 2
    "#]]
    .assert_eq(&steps(image("service 10.101.0.9:80 10.2.1.5:80 10.2.1.6:80 10.2.1.7:80")));
}

/// What is planned for a host, and that nothing is left to plan afterwards.
fn check(image: &Image, host: &Observed, steps: Expect) {
    let planned = plan(image, host, Completeness::Complete);
    steps.assert_eq(&lines(&planned));
    let mut model = Model::of(host.clone());
    assert_eq!(apply(&planned, &mut model).problems, Vec::<String>::new());
    assert_eq!(
        lines(&plan(image, &model.observed, Completeness::Complete)),
        "",
        "a second plan finds something left"
    );
}

#[test]
fn the_relay_is_told_all_pairs_and_keeps_those_that_may_only_be_late() {
    let pair = |other: &str| crate::image::RelayPair::new(key("a"), key(other)).unwrap();
    let mut desired = image("");
    desired.relay = [pair("b"), pair("c")].into();
    let relays = |observed: &Observed, completeness| {
        let steps = plan(&desired, observed, completeness);
        steps.into_iter().find_map(|step| match step {
            Step::Relay { pairs } => Some(pairs),
            _ => None,
        })
    };
    assert_eq!(relays(&fresh(), Completeness::Complete), None, "this host runs none");
    let there = |pairs: BTreeSet<_>| Observed { relay: Some(pairs), ..fresh() };
    let empty = there(BTreeSet::new());
    assert_eq!(relays(&empty, Completeness::Complete), Some(desired.relay.clone()));
    let older = there([pair("c"), pair("d")].into());
    assert_eq!(relays(&older, Completeness::Complete), Some(desired.relay.clone()));
    assert_eq!(relays(&older, Completeness::Partial), Some([pair("b"), pair("c"), pair("d")].into()));
    assert_eq!(relays(&there(desired.relay.clone()), Completeness::Complete), None);
}

/// A host with a device and a tunnel that nobody has configured.
fn fresh() -> Observed {
    Observed {
        device: Some(Device { ifindex: 9, up: false, mtu_bytes: 1420 }),
        tunnel: Some(TunnelObserved { own_key: Some(key("own")), ..TunnelObserved::default() }),
        ..Observed::default()
    }
}

/// A host that holds an image.
fn holding(image: &Image) -> Observed {
    let mut model = Model::of(fresh());
    let outcome = apply(&plan(image, &fresh(), Completeness::Complete), &mut model);
    assert_eq!(outcome.problems, Vec::<String>::new());
    model.observed
}

/// `peer NAME PREFIX… [at ENDPOINT]`, `clock PEER EPOCH`, `quiet PEER`, `used PEER`, `closed PREFIX`, `pod ADDRESS device INDEX`, `uplink INDEX`,
/// `service FRONTEND BACKEND…`, `tenant ADDRESS [cgroup ID] [user UID]…`, separated by semicolons.
fn image(text: &str) -> Image {
    let mut image = Image { mesh_addresses: ["100.64.1.1".parse().unwrap()].into(), ..Image::default() };
    image.tunnel.listen_port = Some(51871);
    for item in text.split(';').map(str::trim).filter(|item| !item.is_empty()) {
        let words: Vec<&str> = item.split_whitespace().collect();
        match words.as_slice() {
            ["peer", name, rest @ ..] => {
                let peer = image.tunnel.peers.entry(key(name)).or_default();
                let (prefixes, endpoint) = match rest {
                    [prefixes @ .., "at", endpoint] => (prefixes, Some(endpoint.parse().unwrap())),
                    prefixes => (prefixes, None),
                };
                peer.endpoint = endpoint;
                for prefix in prefixes {
                    peer.allowed.insert(prefix.parse().unwrap());
                    image.prefixes.insert(prefix.parse().unwrap(), Reach::Tunnel { mtu_bytes: 1420 });
                }
            }
            ["clock", name, epoch] => {
                let peer = image.tunnel.peers.get_mut(&key(name)).expect("a clock is of a peer");
                peer.clock_epoch = epoch.parse().unwrap();
            }
            [upkeep @ ("parked" | "straight" | "leaving"), name] => {
                let peer = image.tunnel.peers.get_mut(&key(name)).expect("an upkeep is of a peer");
                let elsewhere = match *upkeep {
                    "parked" => Elsewhere::Stays,
                    "straight" => Elsewhere::GoesAlong,
                    _ => Elsewhere::BeginsAnew,
                };
                peer.upkeep = Upkeep::OnDemand { keepalive: *upkeep != "parked", elsewhere };
            }
            ["closed", prefix] => drop(image.prefixes.insert(prefix.parse().unwrap(), Reach::Closed)),
            ["pod", address, "device", ifindex] => {
                let ifindex = ifindex.parse().unwrap();
                image.pods.insert(address.parse().unwrap(), Pod { ifindex, mac: [2, 0, 0, 0, 0, 1] });
                image.pod_devices.insert(ifindex);
            }
            ["uplink", ifindex] => drop(image.uplinks.insert(ifindex.parse().unwrap())),
            ["service", frontend, backends @ ..] => {
                let at: SocketAddr = frontend.parse().unwrap();
                let frontend = Frontend { address: at.ip(), protocol: Protocol::Tcp, port: at.port() };
                image.services.insert(frontend, backends.iter().map(|b| b.parse().unwrap()).collect());
            }
            ["udp", frontend, backends @ ..] => {
                let at: SocketAddr = frontend.parse().unwrap();
                let frontend = Frontend { address: at.ip(), protocol: Protocol::Udp, port: at.port() };
                image.services.insert(frontend, backends.iter().map(|b| b.parse().unwrap()).collect());
            }
            ["namespace", path] => drop(image.namespaces.insert(path.into())),
            ["affinity", frontend, seconds] => {
                let at: SocketAddr = frontend.parse().unwrap();
                let frontend = Frontend { address: at.ip(), protocol: Protocol::Tcp, port: at.port() };
                image.session_affinity.insert(frontend, seconds.parse().unwrap());
            }
            ["above", cgroup] => drop(image.tenancy.above.insert(cgroup.parse().unwrap())),
            ["seen", cgroup] => image.tenancy.newest_cgroup = cgroup.parse().unwrap(),
            ["tenant", address, who @ ..] => {
                let mut tenant = Tenant { addresses: [address.parse().unwrap()].into(), ..Tenant::default() };
                for who in who.chunks(2) {
                    match who {
                        ["cgroup", cgroup] => drop(tenant.cgroups.insert(cgroup.parse().unwrap())),
                        ["user", uid] => drop(tenant.users.insert(uid.parse().unwrap())),
                        other => panic!("cannot read {other:?}"),
                    }
                }
                image.tenancy.tenants.push(tenant);
            }
            other => panic!("cannot read {other:?}"),
        }
    }
    image
}

fn key(name: &str) -> PublicKey {
    let mut bytes = [0; 32];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    PublicKey(bytes)
}

/// One line a step; of a key only what tells it apart here.
fn lines(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        let step = step.to_string();
        let words = step.split(' ').map(|word| match word.len() {
            64 => format!("{}…", &word[..2]),
            _ => word.to_owned(),
        });
        writeln!(text, "{}", words.collect::<Vec<_>>().join(" ")).unwrap();
    }
    text
}
