use super::*;
use crate::dns::scene::{Listed, view};
use proptest::prelude::*;
use replica::service::Silent;
use std::fmt::Write as _;

const CART: &str = "
    service east shop/cart global 10.101.0.10 fd00:101::10 http:80/TCP :7/UDP
    service east shop/till 10.101.0.11 dns:53/UDP dns:53/TCP
";

#[test]
fn a_service_is_named_by_its_frontends_and_only_a_global_one_in_the_clusterset() {
    let zone = zone(CART);
    for (question, answer) in [
        ("cart.shop.svc.cluster.local A", "10.101.0.10"),
        ("cart.shop.svc.cluster.local AAAA", "fd00:101::10"),
        ("CART.Shop.SVC.cluster.LOCAL A", "10.101.0.10"),
        ("cart.shop.svc.clusterset.local A", "10.101.0.10"),
        ("till.shop.svc.cluster.local A", "10.101.0.11"),
        ("till.shop.svc.cluster.local AAAA", "no data"),
        ("till.shop.svc.clusterset.local A", "no name"),
        ("cart.shop.svc.cluster.local MX", "no data"),
        ("cart.shop.svc.cluster.local ANY", "10.101.0.10 fd00:101::10"),
        ("cart.other.svc.cluster.local A", "no name"),
        ("nothing.shop.svc.cluster.local A", "no name"),
        ("x.cart.shop.svc.cluster.local A", "no name"),
    ] {
        assert_eq!(ask(&zone, question), answer, "{question}");
    }
}

#[test]
fn a_named_port_has_an_srv_record_and_one_without_a_name_has_none() {
    let zone = zone(CART);
    for (question, answer) in [
        ("_http._tcp.cart.shop.svc.cluster.local SRV", "0 100 80 cart.shop.svc.cluster.local."),
        ("_http._tcp.cart.shop.svc.clusterset.local SRV", "0 100 80 cart.shop.svc.clusterset.local."),
        ("_dns._udp.till.shop.svc.cluster.local SRV", "0 100 53 till.shop.svc.cluster.local."),
        ("_dns._tcp.till.shop.svc.cluster.local SRV", "0 100 53 till.shop.svc.cluster.local."),
        ("_http._udp.cart.shop.svc.cluster.local SRV", "no name"),
        ("_http._tcp.cart.shop.svc.cluster.local A", "no data"),
        ("_7._udp.cart.shop.svc.cluster.local SRV", "no name"),
    ] {
        assert_eq!(ask(&zone, question), answer, "{question}");
    }
}

#[test]
fn a_headless_service_is_named_by_its_ready_backends_and_each_of_them_by_its_hostname() {
    let zone = zone(
        "headless east shop/db global
         backend east shop/db 10.1.1.11 hostname=db-0 sql:5432/TCP
         backend east shop/db 10.1.1.12 hostname=db-1 sql:5432/TCP unready
         backend east shop/db 10.1.1.13 sql:5432/TCP
         peer west
         headless west shop/db global
         backend west shop/db 10.2.1.11 hostname=db-0 sql:5433/TCP
         headless east shop/empty
         backend east shop/empty 10.1.1.14 unready",
    );
    for (question, answer) in [
        ("db.shop.svc.cluster.local A", "10.1.1.11 10.1.1.13 10.2.1.11"),
        ("db.shop.svc.clusterset.local A", "10.1.1.11 10.1.1.13 10.2.1.11"),
        ("db.shop.svc.cluster.local AAAA", "no data"),
        // A hostname is unique in one cluster: without a cluster's name it is the own one's.
        ("db-0.db.shop.svc.cluster.local A", "10.1.1.11"),
        ("db-0.db.shop.svc.clusterset.local A", "no name"),
        ("db-0.east.db.shop.svc.clusterset.local A", "10.1.1.11"),
        ("db-0.west.db.shop.svc.clusterset.local A", "10.2.1.11"),
        ("db-0.west.db.shop.svc.cluster.local A", "no name"),
        ("db-1.db.shop.svc.cluster.local A", "no name"),
        ("_sql._tcp.db.shop.svc.cluster.local SRV", "0 100 5432 db-0.db.shop.svc.cluster.local."),
        (
            "_sql._tcp.db.shop.svc.clusterset.local SRV",
            "0 100 5432 db-0.east.db.shop.svc.clusterset.local. 0 100 5433 db-0.west.db.shop.svc.clusterset.local.",
        ),
        ("11.1.1.10.in-addr.arpa PTR", "db-0.db.shop.svc.cluster.local."),
        // The specification wants a name that is not there, not one without addresses. (section 2.4.1)
        ("empty.shop.svc.cluster.local A", "no name"),
    ] {
        assert_eq!(ask(&zone, question), answer, "{question}");
    }
}

#[test]
fn a_name_without_records_is_there_while_there_is_one_below_it() {
    let zone = zone(CART);
    for question in
        ["shop.svc.cluster.local A", "svc.cluster.local A", "_tcp.cart.shop.svc.cluster.local SRV"]
    {
        assert_eq!(ask(&zone, question), "no data", "{question}");
    }
    for question in ["hop.svc.cluster.local A", "pod.cluster.local A", "_udp.cart.shop.svc.cluster.local A"] {
        assert_eq!(ask(&zone, question), "no name", "{question}");
    }
}

#[test]
fn an_address_of_the_frontends_range_has_its_services_name_or_none_and_other_ranges_are_not_ours() {
    let zone = zone(CART);
    for (question, answer) in [
        ("10.0.101.10.in-addr.arpa PTR", "cart.shop.svc.cluster.local."),
        ("12.0.101.10.in-addr.arpa PTR", "no name"),
        ("1.0.0.127.in-addr.arpa PTR", "elsewhere"),
        (
            "0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.1.0.0.0.d.f.ip6.arpa PTR",
            "cart.shop.svc.cluster.local.",
        ),
        ("example.com A", "elsewhere"),
        ("cluster.local.example.com A", "elsewhere"),
        ("xcluster.local A", "elsewhere"),
        ("local A", "elsewhere"),
    ] {
        assert_eq!(ask(&zone, question), answer, "{question}");
    }
}

#[test]
fn the_apex_has_an_soa_and_the_version_of_the_rules_a_name() {
    let zone = zone(CART);
    let soa = ask(&zone, "cluster.local SOA");
    assert_eq!(soa, "ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5");
    assert_eq!(ask(&zone, "clusterset.local A"), "no data");
    assert_eq!(ask(&zone, "dns-version.cluster.local TXT"), "1.1.0");
}

#[test]
fn until_the_store_was_listed_absence_is_unknown_and_what_is_known_is_answered() {
    let zone = Zone::of(&view(CART, Listed::NotYet), &Silent::new(), Domain::default());
    for (question, answer) in [
        ("cart.shop.svc.cluster.local A", "10.101.0.10"),
        ("till.shop.svc.cluster.local AAAA", "unknown"),
        ("nothing.shop.svc.cluster.local A", "unknown"),
        ("12.0.101.10.in-addr.arpa PTR", "unknown"),
        ("example.com A", "elsewhere"),
    ] {
        assert_eq!(ask(&zone, question), answer, "{question}");
    }
    let nothing = Zone::unknown(Domain::default());
    assert_eq!(ask(&nothing, "cart.shop.svc.cluster.local A"), "unknown");
}

#[test]
fn a_cluster_may_have_another_domain_and_then_cluster_local_is_the_rest_of_the_worlds() {
    let domain = "mesh.example.com".parse().unwrap();
    let zone = Zone::of(&view(CART, Listed::Yes), &Silent::new(), domain);
    assert_eq!(ask(&zone, "cart.shop.svc.mesh.example.com A"), "10.101.0.10");
    assert_eq!(ask(&zone, "cart.shop.svc.cluster.local A"), "elsewhere");
    assert_eq!(ask(&zone, "www.example.com A"), "elsewhere");
    for bad in ["", ".", "-x.local", "a..b", "under_score.local"] {
        assert_eq!(bad.parse::<Domain>(), Err(BadDomain(bad.to_owned())), "`{bad}`");
    }
}

#[test]
fn a_name_has_no_more_records_than_a_message_takes() {
    let mut scene = "headless east shop/db\n".to_owned();
    for n in 0..=ADDRESSES_MAX {
        let (high, low) = (n / 256, n % 256);
        writeln!(scene, "backend east shop/db 10.1.{high}.{low} hostname=db-{n} sql:5432/TCP").unwrap();
    }
    let zone = zone(&scene);
    let count = |question: &str, of| match zone.answer(&Name::from_ascii(question).unwrap(), of) {
        Answer::Records(records) => records.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(count("db.shop.svc.cluster.local.", RecordType::A), ADDRESSES_MAX);
    assert_eq!(count("_sql._tcp.db.shop.svc.cluster.local.", RecordType::SRV), SRV_MAX);
}

proptest! {
    /// The zone is built from Services to names; the reference goes from a question's labels to the Services.
    #[test]
    fn the_zone_says_what_a_search_through_all_services_says(
        services in prop::collection::btree_map((word(), word()), (any::<bool>(), prop::collection::vec(port(), 0..3)), 0..5),
        question in prop::collection::vec(prop_oneof![word(), Just("_http"), Just("_tcp"), Just("svc")], 0..5),
        clusterset in any::<bool>(),
        of in prop_oneof![Just(RecordType::A), Just(RecordType::SRV)],
    ) {
        let mut scene = String::new();
        for (n, ((namespace, name), (global, ports))) in services.iter().enumerate() {
            let global = if *global { "global" } else { "" };
            writeln!(scene, "service east {namespace}/{name} {global} 10.101.0.{n} {}", ports.join(" ")).unwrap();
        }
        let domain = if clusterset { "clusterset.local" } else { "cluster.local" };
        let labels: Vec<&str> = question.iter().copied().chain(["svc"]).collect();
        let asked = format!("{}.{domain} {of}", labels.join("."));
        let found = reference(&services, &question, clusterset, of, domain);
        prop_assert_eq!(ask(&zone(&scene), &asked), found, "{}\n{}", asked, scene);
    }
}

type Services = BTreeMap<(&'static str, &'static str), (bool, Vec<&'static str>)>;

fn reference(services: &Services, labels: &[&str], clusterset: bool, of: RecordType, domain: &str) -> String {
    let visible = || services.iter().enumerate().filter(|(_, (_, (global, _)))| *global || !clusterset);
    // Everything that has a name, as its labels with a type and data.
    let mut all: Vec<(Vec<&str>, RecordType, String)> = Vec::new();
    for (n, ((namespace, name), (_, ports))) in visible() {
        all.push((vec![name, namespace], RecordType::A, format!("10.101.0.{n}")));
        if ports.contains(&"http:80/TCP") {
            let target = format!("0 100 80 {name}.{namespace}.svc.{domain}.");
            all.push((vec!["_http", "_tcp", name, namespace], RecordType::SRV, target));
        }
    }
    let data: Vec<&str> =
        all.iter().filter(|one| one.0 == labels && one.1 == of).map(|one| one.2.as_str()).collect();
    if !data.is_empty() {
        return data.join(" ");
    }
    let there = all.iter().any(|one| one.0.ends_with(labels));
    if there { "no data" } else { "no name" }.to_owned()
}

fn word() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("a"), Just("b"), Just("svc")]
}

fn port() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("http:80/TCP"), Just(":81/TCP")]
}

fn zone(text: &str) -> Zone {
    Zone::of(&view(text, Listed::Yes), &Silent::new(), Domain::default())
}

/// `NAME TYPE` → the data, in order, or why there is none.
fn ask(zone: &Zone, question: &str) -> String {
    let (name, of) = question.split_once(' ').expect("NAME TYPE");
    let name = Name::from_ascii(format!("{name}.")).expect("a name");
    if !zone.owns(&name) {
        return "elsewhere".to_owned();
    }
    match zone.answer(&name, of.parse().expect("a type")) {
        Answer::Records(records) => {
            records.iter().map(|data| data.to_string().replace('"', "")).collect::<Vec<_>>().join(" ")
        }
        Answer::NoData => "no data".to_owned(),
        Answer::NoName => "no name".to_owned(),
        Answer::Unknown => "unknown".to_owned(),
    }
}
