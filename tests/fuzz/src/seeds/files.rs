//! Files: good ones, and what damage and malice make of them.

use super::{Seed, lineage, node, seed};
use crate::targets::{PEER, contract, kept_view_owner};
use api::{
    bytes::{ClusterUuid, Nonce},
    key::Key,
    peer::{API_VERSION, Connect, KIND, MeshPeer, MeshPeerSpec, Metadata, Stale},
    record::Record,
};
use bytes::Bytes;
use replica::{kept, view::View};
use std::{fmt::Write as _, time::Instant};
use store::{LeaseGrant, PutRequest, Store};

pub(super) fn all() -> Vec<Seed> {
    [manifests(), mesh_peers(), workloads(), lineages(), configs(), jsons(), dumps(), kept_views(), cni()]
        .concat()
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata:\n  name: cart\n  namespace: shop\n  annotations:\n    \
                       service.cilium.io/global: \"true\"\nspec:\n  clusterIP: 10.101.0.10\n  ports:\n  - {name: http, \
                       port: 80, targetPort: 8080}\n";

const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: a1}\n";

fn manifests() -> Vec<Seed> {
    let of = |why: &str, text: &str| seed("manifest", why, text);
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop, uid: 0}\nspec: {nodeName: a1}\nstatus: \
               {podIPs: [{ip: 10.1.1.7}, {ip: fd00:10:1:1::7}]}\n";
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, namespace: shop, labels: \
                 {kubernetes.io/service-name: cart}}\naddressType: IPv4\nports: [{name: http, port: 8080}]\nendpoints: \
                 [{addresses: [10.1.1.7], nodeName: a1, conditions: {ready: true}}]\n";
    // Each list holds the one before nine times: a thousand million values from 300 bytes.
    let mut laughs = String::from("a0: &a0 [lol]\n");
    for n in 1..10 {
        let before = format!("*a{},", n - 1).repeat(9);
        writeln!(laughs, "a{n}: &a{n} [{}]", before.trim_end_matches(',')).expect("text grows");
    }
    vec![
        of("a-service", SERVICE),
        of("a-pod", pod),
        of("a-slice", slice),
        of("a-vm", WORKLOAD),
        of("a-vm-by-the-name-of-a-node", &format!("{NODE}---\n{}", WORKLOAD.replace("web-1", "a1"))),
        of("a-vm-that-serves-a-service", &format!("{SERVICE}---\n{WORKLOAD}")),
        of("a-peer", &serde_saphyr::to_string(&mesh_peer()).expect("plain data")),
        of(
            "a-list",
            &format!(
                "apiVersion: v1\nkind: List\nitems:\n- {{{}}}\n",
                "apiVersion: v1, kind: Node, metadata: {name: a1}"
            ),
        ),
        of("a-good-one-between-bad-ones", &format!("a: [\n---\n{SERVICE}---\n\tb\n")),
        of("one-object-twice", &format!("{SERVICE}---\n{SERVICE}")),
        of("a-port-that-is-none", &SERVICE.replace("8080", "808080")),
        of("a-number-as-a-name", &SERVICE.replace("name: cart", "name: 1e3")),
        of("a-thousand-million-values", &laughs),
        of("an-anchor-within-itself", "a: &a [*a]\n"),
        of("a-thousand-levels", &"[".repeat(1_000)),
        of(
            "a-thousand-levels-of-blocks",
            &(0..300).fold(String::new(), |text, n| text + &" ".repeat(n) + "- \n"),
        ),
        of("a-key-twice", "apiVersion: v1\napiVersion: v2\nkind: Pod\n"),
        of("a-merge-key", "a: &a {kind: Pod}\n<<: *a\napiVersion: v1\n"),
        of("a-tag", "!!binary aGk=\n"),
        of("windows-lines-and-a-mark", &format!("\u{feff}{}", SERVICE.replace('\n', "\r\n"))),
    ]
}

fn mesh_peer() -> MeshPeer {
    MeshPeer {
        api_version: API_VERSION.to_owned(),
        kind: KIND.to_owned(),
        metadata: Metadata { name: PEER.parse().expect("a name") },
        spec: MeshPeerSpec {
            uuid: ClusterUuid([2; 16]),
            endpoints: vec![String::from("192.0.2.74:2379")],
            through: None,
            trust_bundle: String::from("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"),
            contract: contract(),
            stale: Stale::default(),
            connect: Some(Connect { nonce: Nonce([5; 16]), deadline_s: Some(60) }),
        },
    }
}

fn mesh_peers() -> Vec<Seed> {
    let good = serde_json::to_string(&mesh_peer()).expect("plain data");
    let of = |why: &str, text: &str| seed("mesh-peer", why, text);
    vec![
        of("a-peer", &good),
        of("cut-off", &good[..good.len() / 2]),
        of("a-limit-below-zero", &good.replace("10000", "-1")),
        of("a-limit-beyond-all", &good.replace("10000", "1e400")),
        of("a-range-that-is-none", &good.replace("/16", "/33")),
        of("ten-thousand-levels", &"[".repeat(10_000)),
    ]
}

/// A VM's enrolment.
const WORKLOAD: &str = "apiVersion: clustermesh.io/v1alpha1\nkind: ExternalWorkload\nmetadata: {name: web-1, namespace: \
                        shop}\nspec:\n  labels: {app: web}\n  serviceAccount: legacy\n  namespaces: [shop, billing]\n  \
                        serve:\n  - {service: cart, port: 8080}\n  - {service: cart, portName: dns, port: 5353}\n";

fn workloads() -> Vec<Seed> {
    let of = |why: &str, text: &str| seed("external-workload", why, text);
    vec![
        of("a-vm", WORKLOAD),
        of("a-port-of-zero", &WORKLOAD.replace("8080", "0")),
        of("a-label-that-is-a-number", &WORKLOAD.replace("app: web", "app: 1e3")),
        of("a-name-with-a-slash", &WORKLOAD.replace("web-1", "web/1")),
        of("a-field-too-many", &format!("{WORKLOAD}  colour: red\n")),
        of("a-spec-of-nothing", &WORKLOAD[..WORKLOAD.find("spec").expect("it has one")]),
        of("ten-thousand-services", &format!("{WORKLOAD}{}", "  - {service: a, port: 1}\n".repeat(10_000))),
        of("cut-off", &WORKLOAD[..WORKLOAD.len() / 2]),
    ]
}

fn lineages() -> Vec<Seed> {
    let of = |why: &str, text: &str| seed("lineage", why, text);
    let (a, b) = ("0a".repeat(16), "0b".repeat(16));
    vec![
        of("two-boots", &format!("{a} 1\n{b} 42\n")),
        of("an-older-copy", &format!("{a} 100\n{b} 42\n")),
        of("a-boot-twice", &format!("{a} 1\n{a} 1\n")),
        of("a-revision-of-zero", &format!("{a} 0\n")),
        of("a-revision-below-all", &format!("{a} {}\n", i64::MIN)),
        of("a-revision-above-all", &format!("{a} {}\n", i64::MAX)),
        of("a-name-cut-off", &format!("{a} 1\n0b0b 42\n")),
        of("more-boots-than-are-kept", &format!("{a} 1\n").repeat(2_000)),
        of("zeros-as-after-a-power-cut", &"\0".repeat(64)),
        of("nothing", ""),
    ]
}

fn configs() -> Vec<Seed> {
    let uuid = ClusterUuid([1; 16]);
    let good = format!(
        "name: east\nuuid: {uuid}\npodCidrs: [10.1.0.0/16]\nserviceCidrs: [10.101.0.0/16]\nmeshCidrs: \
         [100.64.1.0/24]\nencryptionScope: all\nadvertise: ['192.0.2.10:2379']\n"
    );
    let of = |why: &str, text: &str| seed("cluster-config", why, text);
    vec![
        of("a-cluster", &good),
        of("overlapping-ranges", &good.replace("10.101.0.0/16", "10.1.128.0/17")),
        of("a-field-too-many", &format!("{good}colour: red\n")),
        of("a-whole-range", &good.replace("10.1.0.0/16", "0.0.0.0/0")),
        of("an-address-of-no-port", &good.replace(":2379", "")),
        of("nothing", ""),
    ]
}

fn jsons() -> Vec<Seed> {
    let allocation =
        |address: &str| format!("{{\"nodes\":{{\"a1\":{{\"addresses\":[\"{address}\"],\"lastSeenS\":1}}}}}}");
    vec![
        seed("closed", "two-peers", r#"{"north":["10.3.0.0/16"],"west":["10.2.0.0/16","fd00:10:2::/48"]}"#),
        seed("closed", "a-range-with-host-bits", r#"{"west":["10.2.0.7/16"]}"#),
        seed("closed", "a-name-that-is-none", r#"{"WEST":["10.2.0.0/16"]}"#),
        seed("closed", "a-peer-twice", r#"{"west":["10.2.0.0/16"],"west":[]}"#),
        seed("closed", "cut-off", r#"{"west":["10.2.0"#),
        seed("closed", "zeros-as-after-a-power-cut", vec![0; 64]),
        seed("memory", "a-node", allocation("100.64.1.1")),
        seed("memory", "an-address-of-another-range", allocation("10.9.9.9")),
        seed("memory", "an-object-that-was-seen", r#"{"firstSeenS":{"Pod shop/p":18446744073709551615}}"#),
        seed("memory", "a-time-before-the-epoch", r#"{"firstSeenS":{"Pod shop/p":-1}}"#),
        seed("memory", "empty", "{}"),
        seed("memory", "zeros-as-after-a-power-cut", vec![0; 64]),
    ]
}

/// A store without its sum, and with the zeros at its end.
fn dump() -> Vec<u8> {
    let mut store = Store::default();
    let now = Instant::now();
    store.lease_grant(&LeaseGrant { id: 7, ttl_s: 60, owner: Bytes::new() }, now).expect("a lease");
    for (key, value, lease) in [("a", "1", 0), ("b", "2", 7), ("a", "3", 0)] {
        let request = PutRequest { key: key.into(), value: value.into(), lease, ..PutRequest::default() };
        store.put(&request, now).expect("a put");
    }
    let batch = store.take_batch();
    store.commit(&batch);
    let mut bytes = Vec::new();
    store.dump([1; 16]).write(&mut bytes).expect("memory takes what is written");
    bytes.truncate(bytes.len() - 32);
    bytes
}

fn dumps() -> Vec<Seed> {
    let good = dump();
    let with = |why: &str, at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        seed("dump", why, bytes)
    };
    // magic 16, origin 16, compacted 8, revision 8, rows 8, leases 8, then the first row: revision 8, sub 4, length 4.
    vec![
        seed("dump", "three-rows-and-a-lease", good.clone()),
        with("compacted-beyond-its-end", 39, 200),
        with("more-rows-than-there-are", 48, 0xff),
        with("more-leases-than-there-are", 56, 0xff),
        with("a-row-of-a-revision-below-zero", 64, 0xff),
        with("a-row-longer-than-the-file", 76, 0xff),
        with("a-key-that-changes-twice", 75, 1),
        seed("dump", "nothing-but-the-head", &good[..64]),
        seed("dump", "something-else", b"SQLite format 3\0".as_slice()),
    ]
}

fn kept_views() -> Vec<Seed> {
    let owner = kept_view_owner();
    let key = |text: &str| Key::parse(text.as_bytes()).expect("a key");
    let records: Vec<(Key, Record, u64)> = vec![
        (key("mesh/v1/east/lineage"), lineage(1).into(), 2),
        (key("mesh/v1/east/nodes/a1"), node("100.64.1.1", "10.1.1.0/24").into(), 3),
    ];
    let view = View::restored("east".parse().expect("a name"), records);
    let mut good = kept::encode(&view, &owner, 1_700_000_000_000).expect("it is small");
    good.truncate(good.len() - 32);
    let with = |why: &str, at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        seed("kept-view", why, bytes)
    };
    // magic 8, version 2, UUID 16, then the cluster's name with its length in 4 bytes.
    vec![
        seed("kept-view", "two-records", good.clone()),
        seed("kept-view", "cut-off", &good[..good.len() - 9]),
        with("another-version", 8, 9),
        with("another-cluster", 10, 9),
        with("a-name-longer-than-the-file", 29, 0xff),
        with("a-name-that-is-no-text", 30, 0xff),
        seed(
            "kept-view",
            "a-record-of-a-later-version",
            [&good[..], &[1, 0, 0, 0, b'x', 0, 0, 0, 0], &[0; 8]].concat(),
        ),
    ]
}

fn cni() -> Vec<Seed> {
    let good = r#"{"kind":"cniCacheV1","containerId":"c1","result":{"interfaces":[{"name":"cni0","mac":"02:00:00:00:00:01"},{"name":"veth1","mac":"02:00:00:00:00:02"},{"name":"eth0","mac":"02:00:00:00:00:03","sandbox":"/var/run/netns/c1"}],"ips":[{"address":"10.1.1.7/24","interface":2}]}}"#;
    let of = |why: &str, text: &str| seed("cni", why, text);
    vec![
        of("a-pod-at-a-bridge", good),
        of("an-interface-that-is-not-there", &good.replace("\"interface\":2", "\"interface\":9")),
        of("an-interface-below-zero", &good.replace("\"interface\":2", "\"interface\":-1")),
        of("no-interface-said", &good.replace(",\"interface\":2", "")),
        of("an-address-of-everybody", &good.replace("10.1.1.7/24", "224.0.0.1/4")),
        of("a-mac-of-everybody", &good.replace("02:00:00:00:00:03", "ff:ff:ff:ff:ff:ff")),
        of("a-namespace-beside-us", &good.replace("/var/run/netns/c1", "../../etc")),
        of("another-kind", &good.replace("cniCacheV1", "cniCacheV9")),
        of("a-thousand-levels", &format!("{{\"kind\":{}", "[".repeat(1_000))),
    ]
}
