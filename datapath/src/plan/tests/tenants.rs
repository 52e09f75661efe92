//! Who of a host is told apart from it.

use super::{check, fresh, holding, image, lines};
use crate::plan::{Completeness, plan};
use expect_test::expect;

const TENANTS: &str = "peer west 10.2.1.0/24; above 1; above 5; tenant 100.64.1.2 cgroup 7; \
                       tenant 100.64.1.3 user 1000; seen 9";

#[test]
fn who_is_who_is_known_before_anybody_has_an_address_or_a_way() {
    check(
        &image(TENANTS),
        &fresh(),
        expect![[r#"
        attach from-tunnel to device 9
        attach to-tunnel to device 9
        hold tenants apart
        cgroup 1 is above tenants
        cgroup 5 is above tenants
        cgroup 7 is 100.64.1.2
        user 1000 is 100.64.1.3
        2 tenants as of cgroup 9
        close 10.2.1.0/24
        add route unreachable 10.2.1.0/24
        bring mesh0 up (device 9)
        add address 100.64.1.1 to mesh0
        add address 100.64.1.2 to mesh0
        add address 100.64.1.3 to mesh0
        tell the programs: mesh0 is device 9, we are 100.64.1.1
        add rule for IPv4
        masquerade forwarded traffic to 100.64.1.1, 100.64.1.2 stays, 100.64.1.3 stays
        tunnel: listen on port 51871
        tunnel: add peer 77… 10.2.1.0/24
        route 10.2.1.0/24 over mesh0 mtu 1420 src 100.64.1.1
        open 10.2.1.0/24 through the tunnel, mtu 1420
        100.64.1.1 is this host
        100.64.1.2 is a tenant
        100.64.1.3 is a tenant
    "#]],
    );
}

#[test]
fn a_unit_that_starts_anew_is_known_before_its_cgroup_counts_as_seen() {
    check(
        &image(&TENANTS.replace("cgroup 7", "cgroup 7 cgroup 12").replace("seen 9", "seen 12")),
        &holding(&image(TENANTS)),
        expect![[r#"
            cgroup 12 is 100.64.1.2
            2 tenants as of cgroup 12
        "#]],
    );
}

#[test]
fn a_program_that_is_taken_off_the_list_is_told_apart_until_its_address_is_nobodys() {
    check(
        &image("peer west 10.2.1.0/24"),
        &holding(&image(TENANTS)),
        expect![[r#"
        masquerade forwarded traffic to 100.64.1.1
        100.64.1.2 is nobody here
        100.64.1.3 is nobody here
        remove address 100.64.1.2 from mesh0
        remove address 100.64.1.3 from mesh0
        0 tenants as of cgroup 0
        cgroup 1 is nobody
        cgroup 5 is nobody
        cgroup 7 is nobody
        user 1000 is nobody
        hold nobody apart
    "#]],
    );
}

#[test]
fn before_the_view_is_complete_nobody_is_let_together() {
    let steps = plan(&image("peer west 10.2.1.0/24"), &holding(&image(TENANTS)), Completeness::Partial);
    assert_eq!(lines(&steps), "");
}
