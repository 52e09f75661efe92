use super::*;
use crate::args::{Cli, Command};
use api::bytes::ClusterUuid;
use clap::Parser;
use daemon::tls::Identity;
use std::{fs, os::unix::fs::PermissionsExt, time::Duration};
use tempfile::TempDir;

fn west() -> ClusterConfig {
    ClusterConfig {
        name: "west".parse().expect("a name"),
        uuid: ClusterUuid([0x11; 16]),
        pod_cidrs: vec!["10.1.0.0/16".parse().expect("a prefix"), "fd01::/64".parse().expect("a prefix")],
        service_cidrs: vec!["10.96.0.0/16".parse().expect("a prefix")],
        mesh_cidrs: vec!["100.64.1.0/24".parse().expect("a prefix")],
        encryption_scope: Default::default(),
        advertise: vec![
            "192.0.2.1:2379".to_owned(),
            "[2001:db8::1]:2379".to_owned(),
            "api.west.example:2379".to_owned(),
        ],
        dial_out: false,
    }
}

#[test]
fn a_new_cluster_has_all_it_needs_and_its_keys_are_roots_alone() {
    let dir = TempDir::new().expect("a directory");
    init(dir.path(), &west(), SystemTime::now()).expect("initialised");
    let layout = Layout::new(dir.path());
    assert_eq!(ClusterConfig::load(&layout).expect("a configuration"), west());
    Identity::load(&layout.server(), Role::Cluster).expect("the server's identity");
    Identity::load(&layout.admin(), Role::Operator).expect("the operator's identity");
    for key in [layout.ca_key(), layout.server().key, layout.admin().key] {
        let mode = fs::metadata(&key).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", key.display());
    }
    let contexts: Contexts =
        serde_saphyr::from_str(&fs::read_to_string(layout.admin_config()).expect("there"))
            .expect("a context file");
    let context = contexts.clusters[0].clone().resolved(&dir.path().join("admin"));
    assert_eq!(context.endpoints, west().advertise);
    Identity::load(&context.identity_paths(), Role::Operator).expect("the context leads to the operator");
}

#[test]
fn a_second_init_changes_nothing_and_says_so() {
    let dir = TempDir::new().expect("a directory");
    init(dir.path(), &west(), SystemTime::now()).expect("initialised");
    let key = fs::read(dir.path().join("ca/key.pem")).expect("there");
    let error = init(dir.path(), &west(), SystemTime::now()).expect_err("refused");
    assert!(error.to_string().contains("nothing of it is overwritten"), "{error:#}");
    fs::remove_file(dir.path().join("cluster.yaml")).expect("removed");
    init(dir.path(), &west(), SystemTime::now()).expect_err("a CA is never overwritten, cluster.yaml or not");
    assert_eq!(fs::read(dir.path().join("ca/key.pem")).expect("there"), key);
}

#[test]
fn every_role_gets_a_certificate_of_its_own() {
    let dir = TempDir::new().expect("a directory");
    init(dir.path(), &west(), SystemTime::now()).expect("initialised");
    for (role, name) in
        [(Role::Node, "w1"), (Role::Operator, "kim"), (Role::Reader, "grafana"), (Role::Cluster, "west")]
    {
        let out = dir.path().join("issued").join(role.as_str());
        let id = issue(dir.path(), role, name, 30, &out, SystemTime::now()).expect("issued");
        assert_eq!(id.to_string(), format!("spiffe://{}/{role}/{name}", west().uuid));
        Identity::load(&crate::pki::identity(&out), role).expect("a valid identity");
        issue(dir.path(), role, name, 30, &out, SystemTime::now()).expect_err("nothing is overwritten");
    }
    let error = issue(dir.path(), Role::Vm, "edge", 30, &dir.path().join("x"), SystemTime::now());
    assert!(error.expect_err("a VM joins").to_string().contains("redeemed its token"));
    issue(dir.path(), Role::Cluster, "east", 30, &dir.path().join("x"), SystemTime::now())
        .expect_err("not our name");
    issue(dir.path(), Role::Node, "W1", 30, &dir.path().join("x"), SystemTime::now())
        .expect_err("not a name");
    assert!(!dir.path().join("x").exists(), "nothing half made");
}

#[test]
fn a_certificate_is_due_when_a_third_of_its_life_remains() {
    let dir = TempDir::new().expect("a directory");
    let born = SystemTime::now();
    init(dir.path(), &west(), born).expect("initialised");
    let identity = Identity::load(&Layout::new(dir.path()).server(), Role::Cluster).expect("an identity");
    let due = |days: u64| identity.certificate().due_for_renewal(born + Duration::from_secs(days * 86_400));
    assert_eq!([due(0), due(240), due(250), due(400)], [false, false, true, true]);
}

#[test]
fn ranges_that_cannot_be_a_clusters_are_refused_by_field() {
    type Change = fn(&mut ClusterConfig);
    let cases: [(Change, &str); 9] = [
        (|c| c.pod_cidrs.clear(), "podCidrs: at least one prefix is needed"),
        (
            |c| c.pod_cidrs = prefixes("10.1.2.3/16"),
            "podCidrs: 10.1.2.3/16 has host bits set; did you mean 10.1.0.0/16?",
        ),
        (|c| c.pod_cidrs = prefixes("0.0.0.0/0"), "podCidrs: 0.0.0.0/0 is every address there is"),
        (
            |c| c.mesh_cidrs = prefixes("169.254.8.0/24"),
            "meshCidrs: 169.254.8.0/24 covers link-local addresses",
        ),
        (|c| c.mesh_cidrs = prefixes("127.0.0.0/8"), "meshCidrs: 127.0.0.0/8 covers loopback addresses"),
        (|c| c.mesh_cidrs = prefixes("ff00::/12"), "meshCidrs: ff00::/12 covers multicast addresses"),
        (
            |c| c.mesh_cidrs = prefixes("10.1.8.0/24"),
            "podCidrs: 10.1.0.0/16 overlaps 10.1.8.0/24 of meshCidrs",
        ),
        (|c| c.advertise.clear(), "advertise: at least one host:port is needed"),
        (
            |c| c.advertise = vec!["2001:db8::1:2379".into()],
            "advertise: `2001:db8::1:2379` is not host:port (IPv6 in brackets)",
        ),
    ];
    for (change, says) in cases {
        let mut config = west();
        change(&mut config);
        assert_eq!(config.check().expect_err("refused").to_string(), says);
    }
    west().check().expect("accepted");
}

fn prefixes(text: &str) -> Vec<ipnet::IpNet> {
    vec![text.parse().expect("a prefix")]
}

#[test]
fn peers_do_not_dial_a_cluster_that_says_so_or_advertises_nothing() {
    let made = |more: &[&str]| {
        let line = "clustermesh-apiserver init --data-dir /d --cluster-name west --pod-cidr 10.1.0.0/16 --service-cidr \
                    10.96.0.0/16 --mesh-cidr 100.64.1.0/24";
        let cli = Cli::try_parse_from(line.split(' ').chain(more.iter().copied())).expect("a command line");
        let Command::Init(args) = cli.command else { panic!("init") };
        let config = args.config(ClusterUuid([1; 16]));
        let written = config.to_yaml().expect("YAML");
        assert_eq!(serde_saphyr::from_str::<ClusterConfig>(&written).expect("read back"), config);
        (config.advertise.join(","), config.for_peers().join(","))
    };
    let at = "192.0.2.1:2379";
    assert_eq!(made(&["--advertise", at]), (at.to_owned(), at.to_owned()));
    assert_eq!(made(&["--advertise", at, "--dial-out"]), (at.to_owned(), String::new()));
    assert_eq!(made(&[]), ("localhost:2379".to_owned(), String::new()));
}
