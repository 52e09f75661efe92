use super::*;
use expect_test::expect;
use proptest::prelude::*;

const KEPT: &str = "/etc/resolv.conf.mesh-vm-agent";

fn ours() -> Vec<String> {
    ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"].map(str::to_owned).to_vec()
}

#[test]
fn a_file_is_read_as_libc_reads_it() {
    let conf = ResolvConf::parse(
        "# by dhclient\n; another comment\nnameserver 192.0.2.1\nnameserver\t2001:db8::1  \nnameserver nonsense\n\
         nameserver fe80::1%eth0\n nameserver 192.0.2.9\ndomain one.example\nsearch a.example b.example\n\
         options ndots:2 timeout:1\nsortlist 192.0.2.0\n",
    );
    let server = |address: &str, interface: Option<&str>| Nameserver {
        address: address.parse().unwrap(),
        interface: interface.map(str::to_owned),
    };
    assert_eq!(
        conf.nameservers,
        [server("192.0.2.1", None), server("2001:db8::1", None), server("fe80::1", Some("eth0"))]
    );
    assert_eq!(conf.search.as_deref().unwrap(), ["a.example", "b.example"], "the last one counts");
    let last = ResolvConf::parse("search a.example b.example\ndomain one.example\n");
    assert_eq!(last.search.unwrap(), ["one.example"]);
    assert_eq!(ResolvConf::parse("").servers(), [server("127.0.0.1", None)]);
}

#[test]
fn our_file_names_us_alone_searches_the_mesh_first_and_keeps_the_hosts_options() {
    let conf = ResolvConf::parse("nameserver 192.0.2.1\nsearch corp.example\noptions timeout:1\n");
    expect![[r#"
        # Written by mesh-vm-agent, which asks the servers that were here before for all that is not the mesh's.
        # What was here is kept in /etc/resolv.conf.mesh-vm-agent, and comes back when the agent stops. Edit that file, not this one.
        nameserver 127.0.0.153
        search shop.svc.cluster.local svc.cluster.local cluster.local corp.example
        options timeout:1
    "#]]
    .assert_eq(&conf.with_us("127.0.0.153".parse().unwrap(), &ours(), "web-1", KEPT));
}

#[test]
fn a_host_that_searched_the_domain_of_its_name_still_does() {
    let conf = ResolvConf::parse("nameserver 192.0.2.1\n");
    for (host, last) in [("web-1.corp.example", "corp.example"), ("web-1", "cluster.local")] {
        let text = conf.with_us("127.0.0.153".parse().unwrap(), &ours(), host, KEPT);
        let search = ResolvConf::parse(&text).search.unwrap();
        assert_eq!(search.last().unwrap(), last, "{host}");
    }
    // An empty list says that nothing is searched, and so it is.
    let conf = ResolvConf::parse("search\n");
    assert_eq!(conf.search_list("web-1.corp.example"), Vec::<String>::new());
}

#[test]
fn a_file_of_ours_is_known_by_its_first_line() {
    let text = ResolvConf::default().with_us("127.0.0.153".parse().unwrap(), &ours(), "web-1", KEPT);
    assert!(is_ours(&text) && !is_ours("") && !is_ours("nameserver 127.0.0.153\n"));
}

#[test]
fn where_both_lists_are_too_long_ours_gives_way() {
    let hosts = |n: usize| (0..n).map(|n| format!("d{n}.example")).collect::<Vec<_>>();
    for (n, ours_left) in [(0, 3), (3, 3), (4, 2), (5, 1), (6, 0), (9, 0)] {
        let all = search(&ours(), &hosts(n));
        assert_eq!(all, [&ours()[..ours_left], &hosts(n)].concat(), "{n} of the host's");
    }
    let long = vec![format!("{}.example", "x".repeat(220))];
    assert_eq!(search(&ours(), &long), [&ours()[..1], &long].concat());
    // What both have stands where the host has it.
    let same = vec!["CLUSTER.local".to_owned()];
    assert_eq!(search(&ours(), &same), ["shop.svc.cluster.local", "svc.cluster.local", "CLUSTER.local"]);
}

proptest! {
    #[test]
    fn no_file_is_too_strange_and_ours_says_of_it_what_it_said(text in "([a-z#;]{0,3}(nameserver|search|options)?[ \t%.:0-9a-f]{0,12}\n){0,6}") {
        let conf = ResolvConf::parse(&text);
        let ours = ResolvConf::parse(&conf.with_us("127.0.0.153".parse().unwrap(), &ours(), "web-1", KEPT));
        prop_assert_eq!(&ours.others, &conf.others);
        prop_assert_eq!(ours.nameservers.len(), 1);
        prop_assert!(ours.search.unwrap_or_default().ends_with(&conf.search.unwrap_or_default()));
    }
}
