use super::{Masquerade, read, script};
use expect_test::expect;
use std::collections::BTreeSet;

/// As nft 1.0.6 lists it.
const LISTED: &str = r#"{"nftables": [
    {"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}},
    {"table": {"family": "inet", "name": "mesh", "handle": 1}},
    {"chain": {"family": "inet", "table": "mesh", "name": "postrouting", "handle": 1, "type": "nat",
               "hook": "postrouting", "prio": 90, "policy": "accept"}},
    {"rule": {"family": "inet", "table": "mesh", "chain": "postrouting", "handle": 2, "expr": [
        {"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "mesh0"}},
        {"match": {"op": "==", "left": {"meta": {"key": "nfproto"}}, "right": "ipv4"}},
        {"snat": {"family": "ip", "addr": "100.64.1.1"}}]}},
    {"rule": {"family": "inet", "table": "mesh", "chain": "postrouting", "handle": 3, "expr": [
        {"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "mesh0"}},
        {"match": {"op": "==", "left": {"meta": {"key": "nfproto"}}, "right": "ipv6"}},
        {"snat": {"family": "ip6", "addr": "fd64:1::1"}}]}}]}"#;

fn both() -> Masquerade {
    Masquerade::To { v4: "100.64.1.1".parse().ok(), v6: "fd64:1::1".parse().ok(), kept: BTreeSet::new() }
}

/// The same with two tenants.
fn with_tenants() -> Masquerade {
    let kept = ["100.64.1.2", "fd64:1::2"].map(|kept| kept.parse().unwrap());
    Masquerade::To { v4: "100.64.1.1".parse().ok(), v6: "fd64:1::1".parse().ok(), kept: kept.into() }
}

/// The rules that keep their addresses, as nft 1.0.6 lists them, before the first of the others.
fn listed_with_tenants() -> String {
    let rule = |family: &str, own: &str| {
        format!(
            r#"{{"rule": {{"family": "inet", "table": "mesh", "chain": "postrouting", "handle": 9, "expr": [
                {{"match": {{"op": "==", "left": {{"meta": {{"key": "oifname"}}}}, "right": "mesh0"}}}},
                {{"match": {{"op": "==", "left": {{"payload": {{"protocol": "{family}", "field": "saddr"}}}}, "right": "{own}"}}}},
                {{"snat": {{"family": "{family}", "addr": "{own}"}}}}]}}}},
            {{"rule""#
        )
    };
    let tenants = [rule("ip", "100.64.1.2"), rule("ip6", "fd64:1::2")];
    tenants.iter().rev().fold(LISTED.to_owned(), |text, rule| text.replacen(r#"{"rule""#, rule, 1))
}

#[test]
fn the_table_is_replaced_whole() {
    expect![[r#"
        add table inet mesh
        delete table inet mesh
        add table inet mesh
        add chain inet mesh postrouting { type nat hook postrouting priority 90; policy accept; }
        add rule inet mesh postrouting oifname "mesh0" meta nfproto ipv4 snat ip to 100.64.1.1
        add rule inet mesh postrouting oifname "mesh0" meta nfproto ipv6 snat ip6 to fd64:1::1
    "#]]
    .assert_eq(&script(&both()));
    expect![[r#"
        add table inet mesh
        delete table inet mesh
        add table inet mesh
        add chain inet mesh postrouting { type nat hook postrouting priority 90; policy accept; }
        add rule inet mesh postrouting oifname "mesh0" ip saddr 100.64.1.2 snat ip to 100.64.1.2
        add rule inet mesh postrouting oifname "mesh0" ip6 saddr fd64:1::2 snat ip6 to fd64:1::2
        add rule inet mesh postrouting oifname "mesh0" meta nfproto ipv4 snat ip to 100.64.1.1
        add rule inet mesh postrouting oifname "mesh0" meta nfproto ipv6 snat ip6 to fd64:1::1
    "#]]
    .assert_eq(&script(&with_tenants()));
    expect![[r#"
        add table inet mesh
        delete table inet mesh
    "#]]
    .assert_eq(&script(&Masquerade::Absent));
}

#[test]
fn what_we_wrote_is_read_back_and_what_somebody_changed_is_foreign() {
    let table = [
        ("as written", LISTED.to_owned(), both()),
        ("as written with tenants", listed_with_tenants(), with_tenants()),
        (
            "a tenant's, to another",
            listed_with_tenants().replacen("64.1.2", "64.1.3", 1),
            Masquerade::Foreign,
        ),
        ("a tenant's, turned", listed_with_tenants().replacen("saddr", "daddr", 1), Masquerade::Foreign),
        ("another chain policy", LISTED.replace(r#""accept""#, r#""drop""#), Masquerade::Foreign),
        ("another device", LISTED.replacen("mesh0", "eth0", 1), Masquerade::Foreign),
        ("another family", LISTED.replacen("ipv4", "ipv6", 1), Masquerade::Foreign),
        ("the sense turned", LISTED.replacen("==", "!=", 1), Masquerade::Foreign),
        ("another hook", LISTED.replacen(r#""prio": 90"#, r#""prio": 100"#, 1), Masquerade::Foreign),
        (
            "emptied",
            r#"{"nftables": [{"table": {"family": "inet", "name": "mesh"}}]}"#.to_owned(),
            Masquerade::Foreign,
        ),
        ("nonsense", r#"{"nftables": 7}"#.to_owned(), Masquerade::Foreign),
    ];
    for (what, text, wanted) in table {
        assert_eq!(read(&serde_json::from_str(&text).unwrap()), wanted, "{what}");
    }
}
