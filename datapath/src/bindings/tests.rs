use super::{Inside, Sandbox, Watch, attachment, read};
use crate::uplinks::{Link, LinkKind};
use expect_test::{Expect, expect};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::{fs, os::fd::AsFd, path::Path};

/// As Debian's `bridge` plugin answers and libcni 1.1 keeps it.
const BRIDGE: &str = r#"{"kind":"cniCacheV1","containerId":"c1","config":"eyJjbmlWZXJzaW9uIjoiMS4wLjAifQ==","ifName":"eth0",
    "networkName":"pods","cniArgs":[["IgnoreUnknown","1"]],"capabilityArgs":null,"result":{"cniVersion":"1.0.0","dns":{},
    "interfaces":[{"mac":"5e:00:00:00:00:01","name":"cni0"},{"mac":"5e:00:00:00:00:02","name":"veth1"},
    {"mac":"0a:58:0a:01:01:05","name":"eth0","sandbox":"/var/run/netns/cni-1"}],
    "ips":[{"address":"10.1.1.5/24","gateway":"10.1.1.1","interface":2},
    {"address":"fd00:10:1:1::5/64","gateway":"fd00:10:1:1::1","interface":2}],"routes":[{"dst":"0.0.0.0/0"}]}}"#;

/// As `ptp` answers.
const PTP: &str = r#"{"kind":"cniCacheV1","containerId":"c2","ifName":"eth0","networkName":"pods","result":{"cniVersion":"1.0.0",
    "interfaces":[{"name":"veth2","mac":"5e:00:00:00:00:03"},{"name":"eth0","mac":"0a:58:0a:01:01:06","sandbox":"/proc/9/ns/net"}],
    "ips":[{"interface":1,"address":"10.1.1.6/24","gateway":"10.1.1.1"}]}}"#;

const LOOPBACK: &str = r#"{"kind":"cniCacheV1","containerId":"c1","ifName":"lo","networkName":"cni-loopback","result":{
    "cniVersion":"1.0.0","interfaces":[{"name":"lo","mac":"00:00:00:00:00:00","sandbox":"/var/run/netns/cni-1"}],
    "ips":[{"address":"127.0.0.1/8","interface":0}]}}"#;

#[test]
fn bridged_and_routed_pods_are_bound_to_their_host_side_devices() {
    check(
        &[("a", BRIDGE), ("b", PTP)],
        expect![[r#"
            10.1.1.5 → veth1 (21) 0a:58:0a:01:01:05 of c1
            10.1.1.6 → veth2 (22) 0a:58:0a:01:01:06 of c2
            fd00:10:1:1::5 → veth1 (21) 0a:58:0a:01:01:05 of c1
            devices {21, 22}
        "#]],
    );
}

#[test]
fn two_claims_of_one_address_close_both_and_spoil_nothing_else() {
    let again = PTP.replace("10.1.1.6", "10.1.1.5");
    check(
        &[("a", BRIDGE), ("b", &again)],
        expect![[r#"
            fd00:10:1:1::5 → veth1 (21) 0a:58:0a:01:01:05 of c1
            devices {21, 22}
            10.1.1.5 is claimed by a and b: closed for all of them
        "#]],
    );
}

#[test]
fn a_bad_file_spoils_only_itself() {
    let huge = format!("{{\"kind\":\"{}\"}}", "x".repeat(300_000));
    check(
        &[
            ("0-garbage", "\u{0}\u{1}{"),
            ("1-huge", &huge),
            ("2-mac", &PTP.replace("0a:58:0a:01:01:06", "0a:58:0a:01:01")),
            ("3-group", &PTP.replace("0a:58:0a:01:01:06", "ff:ff:ff:ff:ff:ff")),
            ("4-index", &PTP.replace(r#""interface":1"#, r#""interface":7"#)),
            ("5-negative", &PTP.replace(r#""interface":1"#, r#""interface":-1"#)),
            ("6-address", &PTP.replace("10.1.1.6/24", "10.1.1.6")),
            ("7-multicast", &PTP.replace("10.1.1.6/24", "224.0.0.1/32")),
            ("8-device", &PTP.replace("veth2", "veth9")),
            ("9-bridge", &PTP.replace("veth2", "cni0")),
            ("a", BRIDGE),
            ("b-kind", &PTP.replace("cniCacheV1", "cniCacheV9")),
            ("c-lo", LOOPBACK),
            ("d-many", &many()),
        ],
        expect![[r#"
            10.1.1.5 → veth1 (21) 0a:58:0a:01:01:05 of c1
            fd00:10:1:1::5 → veth1 (21) 0a:58:0a:01:01:05 of c1
            devices {21}
            0-garbage: not a cached CNI result: expected value at line 1 column 1
            1-huge: cannot read it: larger than 262144 bytes
            2-mac: result.interfaces[].mac is wrong: `0a:58:0a:01:01` is no MAC address
            3-group: result.interfaces[].mac is wrong: `ff:ff:ff:ff:ff:ff` is no MAC address
            4-index: result.ips[].interface is wrong: 7 of 2 interfaces
            5-negative: result.ips[].interface is wrong: -1 of 2 interfaces
            6-address: result.ips[].address is wrong: `10.1.1.6` is no address with a prefix length
            7-multicast: result.ips[].address is wrong: 224.0.0.1 cannot be a pod's
            d-many: result.interfaces is wrong: 33 of them, at most 32
            8-device: none of the devices veth9 is here
            9-bridge: none of the devices cni0 is here
        "#]],
    );
}

#[test]
fn the_container_runtime_names_the_pods_of_which_the_cni_says_nothing() {
    let sandbox = |id: &str, address: &str| Sandbox {
        id: id.to_owned(),
        addresses: [address.parse().unwrap()].into(),
        namespace: format!("/run/netns/{id}").into(),
    };
    let inside = Inside { ifindex: 2, peer: 22, mac: [0x0a, 0x58, 0x0a, 1, 1, 6], nsid: 6 };
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), BRIDGE).unwrap();
    let runtime = [
        // The CNI's word on c1 counts, and the runtime's is no second claim.
        (sandbox("c1", "10.1.1.5"), Inside { peer: 21, nsid: 5, ..inside }),
        (sandbox("c2", "10.1.1.6"), inside),
        // Of two claims of one address neither counts, whoever makes them.
        (sandbox("c3", "fd00:10:1:1::5"), inside),
        // What leads elsewhere: to another device, from another namespace, to another device there.
        (sandbox("c4", "10.1.1.7"), Inside { peer: 23, ..inside }),
        (sandbox("c5", "10.1.1.8"), Inside { nsid: 5, ..inside }),
        (sandbox("c6", "10.1.1.9"), Inside { ifindex: 3, ..inside }),
        (sandbox("c7", "10.1.1.10"), Inside { mac: [0xff; 6], ..inside }),
        (sandbox("c8", "224.0.0.1"), inside),
    ];
    expect![[r#"
        10.1.1.5 → veth1 (21) 0a:58:0a:01:01:05 of c1
        10.1.1.6 → veth2 (22) 0a:58:0a:01:01:06 of c2
        devices {21, 22}
        sandbox c4: no veth of this host leads to eth0 of /run/netns/c4
        sandbox c5: no veth of this host leads to eth0 of /run/netns/c5
        sandbox c6: no veth of this host leads to eth0 of /run/netns/c6
        sandbox c7: eth0 of /run/netns/c7 has no usable MAC address
        sandbox c8: 224.0.0.1 cannot be a pod's
        fd00:10:1:1::5 is claimed by a and sandbox c3: closed for all of them
    "#]]
    .assert_eq(&text(dir.path(), &runtime));
}

/// As Calico answers, and the AWS VPC CNI.
const WITHOUT_MAC: [(&str, &str); 2] = [
    (
        "calico",
        r#"{"kind":"cniCacheV1","containerId":"c2","ifName":"eth0","networkName":"k8s-pod-network","result":{
            "interfaces":[{"name":"cali12d4a061371"}],"ips":[{"address":"10.1.1.6/32"}]}}"#,
    ),
    (
        "aws",
        r#"{"kind":"cniCacheV1","containerId":"c2","ifName":"eth0","networkName":"aws-cni","result":{
            "interfaces":[{"name":"eni97d1f4"},{"name":"eth0","sandbox":"/run/netns/c2"},{"name":"dummy97d1f4","mac":"0"}],
            "ips":[{"address":"10.1.1.6/32","interface":1}]}}"#,
    ),
];

#[test]
fn where_the_cni_names_no_mac_the_container_runtime_has_to_know() {
    for (name, file) in WITHOUT_MAC {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(name), file).unwrap();
        let sandbox = Sandbox {
            id: "c2".to_owned(),
            addresses: ["10.1.1.6".parse().unwrap()].into(),
            namespace: "/run/netns/c2".into(),
        };
        let inside = Inside { ifindex: 2, peer: 22, mac: [0x0a, 0x58, 0x0a, 1, 1, 6], nsid: 6 };
        let bound = "10.1.1.6 → veth2 (22) 0a:58:0a:01:01:06 of c2\ndevices {22}\n";
        assert_eq!(text(dir.path(), &[(sandbox, inside)]), bound, "{name}");
        let said = text(dir.path(), &[]);
        assert!(said.starts_with(&format!("devices {{}}\n{name}: it does not say which device")), "{said}");
        assert!(said.trim_end().ends_with("start the agent with --cri-socket"), "{said}");
    }
}

#[test]
fn a_node_without_pods_has_no_directory() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(read(&dir.path().join("none"), &[], &links()).unwrap(), super::Bindings::default());
}

#[test]
fn the_watch_sees_a_file_also_in_a_directory_that_comes_later() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("cni/results");
    let mut watch = Watch::on(&dir).unwrap();
    assert!(!watch.changed().unwrap());

    fs::create_dir_all(&dir).unwrap();
    wait(&watch);
    assert!(watch.changed().unwrap());
    fs::write(dir.join("a"), BRIDGE).unwrap();
    wait(&watch);
    assert!(watch.changed().unwrap());
    fs::remove_file(dir.join("a")).unwrap();
    wait(&watch);
    assert!(watch.changed().unwrap());
    assert!(!watch.changed().unwrap());
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(text in ".*", cut in 0..BRIDGE.len()) {
        attachment(&text).ok();
        let at = (0..=cut).rev().find(|at| BRIDGE.is_char_boundary(*at)).unwrap();
        proptest::prop_assert!(attachment(&BRIDGE[..at]).is_err());
    }
}

fn check(files: &[(&str, &str)], wanted: Expect) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    fs::create_dir(dir.path().join("directory")).unwrap();
    wanted.assert_eq(&text(dir.path(), &[]));
}

fn text(dir: &Path, runtime: &[(Sandbox, Inside)]) -> String {
    let bindings = read(dir, runtime, &links()).unwrap();
    let line = |(address, binding): (&std::net::IpAddr, &super::Binding)| {
        let mac = binding.pod.mac.map(|byte| format!("{byte:02x}")).join(":");
        format!(
            "{address} → {} ({}) {mac} of {}\n",
            binding.device, binding.pod.ifindex, binding.container_id
        )
    };
    let pods: String = bindings.pods.iter().map(line).collect();
    let problems: String = bindings.problems.iter().map(|problem| format!("{problem}\n")).collect();
    format!("{pods}devices {:?}\n{problems}", bindings.devices)
}

fn links() -> Vec<Link> {
    let link = |ifindex, name: &str, kind| Link { ifindex, name: name.to_owned(), kind, ..Link::default() };
    vec![
        link(2, "eth0", LinkKind::Other),
        link(20, "cni0", LinkKind::Bridge),
        Link { peer: Some((5, 2)), ..link(21, "veth1", LinkKind::Veth) },
        Link { peer: Some((6, 2)), ..link(22, "veth2", LinkKind::Veth) },
    ]
}

fn many() -> String {
    let interfaces = vec![r#"{"name":"veth2"}"#; 33].join(",");
    format!(r#"{{"kind":"cniCacheV1","result":{{"interfaces":[{interfaces}],"ips":[]}}}}"#)
}

fn wait(watch: &Watch) {
    let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::from(10_000_u16)).unwrap(), 1, "nothing was reported");
}
