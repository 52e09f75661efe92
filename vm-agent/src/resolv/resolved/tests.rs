use super::*;
use crate::dns::zone::Domain;
use expect_test::expect;
use std::fmt::Write as _;

fn wanted(server: &str) -> Wanted {
    Wanted::new(server.parse().unwrap(), "mesh0", Some(&"shop".parse().unwrap()), &Domain::default())
}

#[test]
fn it_is_told_our_address_and_the_meshs_domains_and_that_nothing_else_is_ours() {
    let wanted = wanted("127.0.0.153:53");
    let mut lines = String::new();
    for setting in SETTINGS {
        writeln!(lines, "{PROGRAM} {setting} mesh0 {}", arguments(&wanted, setting).join(" ")).unwrap();
    }
    expect![[r#"
        resolvectl domain mesh0 shop.svc.cluster.local svc.cluster.local cluster.local ~clusterset.local
        resolvectl default-route mesh0 no
        resolvectl dnssec mesh0 no
        resolvectl dnsovertls mesh0 no
        resolvectl llmnr mesh0 no
        resolvectl dns mesh0 127.0.0.153
    "#]]
    .assert_eq(&lines);
    assert_eq!(arguments(&self::wanted("127.0.0.153:5353"), "dns"), ["127.0.0.153:5353"]);
}

#[test]
fn what_it_knows_is_read_from_what_it_says() {
    assert_eq!(values("Link 5 (mesh0): 127.0.0.153\n"), ["127.0.0.153"]);
    assert_eq!(values("Link 5 (mesh0): a.local ~b.local\n"), ["a.local", "~b.local"]);
    assert_eq!(values("Link 5 (mesh0):\n"), Vec::<&str>::new());
}
