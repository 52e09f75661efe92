//! The chosen inputs, each with the reason why it is there as its name.

mod etcd;
mod files;
mod names;
mod peer;
mod runtime;
mod tunnel;

use api::{
    bytes::{BootId, ClusterUuid, PublicKey, Secret},
    record::{Boot, Lineage, Node, Record, Synced, TunnelKey},
    token::{Invited, Token},
};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, SanType};
use rustls::pki_types::PrivatePkcs8KeyDer;

/// One input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// Of this target.
    pub target: &'static str,
    /// Why it is there, as a file name.
    pub why: String,
    /// The bytes.
    pub input: Vec<u8>,
}

fn seed(target: &'static str, why: &str, input: impl Into<Vec<u8>>) -> Seed {
    Seed { target, why: why.to_owned(), input: input.into() }
}

/// All of them. The same bytes at each call.
#[must_use]
pub fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    seeds.extend(keys());
    seeds.extend(records());
    seeds.extend(names());
    seeds.extend(certificates());
    seeds.extend(etcd::requests());
    seeds.extend(etcd::turns());
    seeds.extend(etcd::syncs());
    seeds.extend(peer::conversations());
    seeds.extend(files::all());
    seeds.extend(runtime::cri());
    seeds.extend(tokens());
    seeds.extend(names::queries());
    seeds.extend(names::answers());
    seeds.extend(tunnel::uapi());
    seeds.extend(tunnel::relay());
    seeds
}

fn keys() -> Vec<Seed> {
    let of = |(why, key): (&str, &str)| seed("key", why, key);
    [
        ("a-cluster", "mesh/v1/west/cluster"),
        ("a-peering", "mesh/v1/west/peerings/east"),
        ("a-synced-kind", "mesh/v1/west/synced/backends"),
        ("an-identity-of-32-digits", "mesh/v1/west/identities/shop/0123456789abcdef0123456789abcdef"),
        ("an-identity-in-capitals", "mesh/v1/west/identities/shop/0123456789ABCDEF0123456789ABCDEF"),
        ("a-backend-of-v6", "mesh/v1/west/backends/shop/cart/fd00:10:2::7"),
        ("an-address-of-another-spelling", "mesh/v1/west/endpoints/shop/fd00:10:2:0:0:0:0:7"),
        ("an-address-of-v4-in-v6", "mesh/v1/west/endpoints/shop/::ffff:10.2.0.7"),
        ("an-address-with-a-leading-zero", "mesh/v1/west/endpoints/shop/10.2.0.07"),
        ("a-local-key", "mesh-local/v1/applied/e1"),
        ("a-part-too-many", "mesh/v1/west/nodes/e1/"),
        ("an-empty-part", "mesh/v1//nodes/e1"),
        ("another-version", "mesh/v2/west/nodes/e1"),
        ("no-text", "mesh/v1/west/nodes/\u{0}"),
    ]
    .into_iter()
    .map(of)
    .chain([seed("key", "not-utf-8", b"mesh/v1/west/nodes/\xff".as_slice())])
    .collect()
}

fn node(address: &str, prefix: &str) -> Node {
    Node {
        mesh_addresses: vec![address.parse().expect("an address")],
        prefixes: vec![prefix.parse().expect("a prefix")],
        endpoints: vec!["198.51.100.1".parse().expect("an address")],
        zone: String::from("zone-1"),
        relay: vec![],
    }
}

fn tunnel_key() -> TunnelKey {
    TunnelKey {
        public_key: PublicKey([3; 32]),
        port: 51871,
        clock_epoch: 0,
        relay_key: None,
        on_demand: false,
    }
}

fn lineage(id: u8) -> Lineage {
    Lineage { boots: vec![Boot { id: BootId([id; 16]), first_revision: 1 }] }
}

fn records() -> Vec<Seed> {
    let of =
        |why: &str, key: &str, value: &[u8]| seed("record", why, [key.as_bytes(), b"\n", value].concat());
    let good = |why: &str, key: &str, record: Record| of(why, key, &record.encode());
    let node_key = "mesh/v1/west/nodes/w1";
    let whole = Record::from(node("100.64.2.1", "10.2.1.0/24")).encode();
    vec![
        good("a-node", node_key, node("100.64.2.1", "10.2.1.0/24").into()),
        good("a-lineage", "mesh/v1/west/lineage", lineage(2).into()),
        good("a-kind-that-is-complete", "mesh/v1/west/synced/nodes", Synced { boot: BootId([2; 16]) }.into()),
        good("a-tunnel-key", "mesh/v1/west/keys/w1", tunnel_key().into()),
        of("a-node-cut-off", node_key, &whole[..whole.len() / 2]),
        of("a-field-of-a-later-version", node_key, &[&whole[..], &[0xf8, 0x07, 0x01]].concat()),
        // Field 1, two gigabytes.
        of("a-length-beyond-the-end", node_key, &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x07]),
        of("a-varint-without-end", node_key, &[0x80; 16]),
        of("an-empty-lineage", "mesh/v1/west/lineage", &[]),
        of("a-prefix-longer-than-its-family", node_key, &[0x12, 0x08, 0x0a, 0x04, 10, 2, 0, 0, 0x10, 33]),
        of("an-address-of-five-bytes", node_key, &[0x0a, 0x05, 10, 2, 0, 0, 1]),
    ]
}

fn names() -> Vec<Seed> {
    let domain = ClusterUuid([0xab; 16]);
    let of = |(why, text): (&str, String)| seed("spiffe-id", why, text);
    [
        ("a-node", format!("spiffe://{domain}/node/e1")),
        ("a-cluster", format!("spiffe://{domain}/cluster/east")),
        ("a-domain-in-capitals", format!("spiffe://{}/node/e1", domain.to_string().to_uppercase())),
        ("a-domain-without-hyphens", format!("spiffe://{}/node/e1", domain.to_string().replace('-', ""))),
        ("a-cluster-with-dots", format!("spiffe://{domain}/cluster/east.example")),
        ("a-name-of-254-characters", format!("spiffe://{domain}/node/{}", "a".repeat(254))),
        ("a-path-too-long", format!("spiffe://{domain}/node/e1/x")),
        ("a-scheme-in-capitals", format!("SPIFFE://{domain}/node/e1")),
        ("a-port", format!("spiffe://{domain}:443/node/e1")),
        ("an-escape", format!("spiffe://{domain}/node/e%31")),
        ("no-role", format!("spiffe://{domain}/root/e1")),
    ]
    .into_iter()
    .map(of)
    .collect()
}

fn tokens() -> Vec<Seed> {
    let of = |why: &str, text: &str| seed("token", why, text);
    let token = |invites: Invited| {
        Token {
            invites,
            cluster: "core".parse().expect("a name"),
            uuid: ClusterUuid([7; 16]),
            endpoints: vec![String::from("192.0.2.10:2379"), String::from("[fd00::10]:2379")],
            ca: vec![vec![0x30; 420]],
            expires_s: 1_800_000_000,
            secret: Secret::from_slice(&[9; 16]).expect("16 bytes"),
        }
        .to_string()
    };
    let vm = token(Invited::Vm("web-1".parse().expect("a name")));
    let peer = token(Invited::Peer);
    vec![
        of("for-a-vm", &vm),
        of("for-another-administrator", &peer),
        of("a-vms-that-says-it-is-a-peers", &vm.replace("mesh-vm-", "mesh-peer-")),
        of("a-peers-that-says-it-is-a-vms", &peer.replace("mesh-peer-", "mesh-vm-")),
        of("broken-over-two-lines", &format!("{}\n{}", &vm[..80], &vm[80..])),
        of("cut-off", &vm[..vm.len() / 2]),
        of("longer-than-any", &format!("mesh-vm-{}", "A".repeat(100_000))),
        of("padded", &format!("{vm}==")),
        of("of-another-kind", "eyJhbGciOi"),
    ]
}

/// A key that everybody knows, so that the corpus is the same each time: PKCS #8 of an Ed25519 seed of ones. (RFC 8410)
fn known_key() -> KeyPair {
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend([1; 32]);
    let der = PrivatePkcs8KeyDer::from(der);
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ED25519).expect("this is PKCS #8")
}

fn certificates() -> Vec<Seed> {
    let domain = ClusterUuid([0xab; 16]);
    let id = format!("spiffe://{domain}/node/e1");
    let uri = |text: &str| SanType::URI(text.try_into().expect("ASCII"));
    let der = |names: Vec<SanType>, subject: &str| {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.distinguished_name.push(rcgen::DnType::CommonName, subject);
        params.self_signed(&known_key()).expect("a certificate").der().to_vec()
    };
    let good = der(vec![uri(&id)], "node e1");
    let request = CertificateParams::default().serialize_request(&known_key()).expect("a request");
    let request = request.pem().expect("PEM");
    let of = |why: &str, der: Vec<u8>| seed("certificate", why, der);
    let pem = |why: &str, text: &str| seed("certificate-request", why, text);
    vec![
        of("a-node", good.clone()),
        of("cut-off", good[..good.len() / 2].to_vec()),
        of("bytes-after-its-end", [&good[..], &[0; 32]].concat()),
        of("no-name", der(Vec::new(), "nobody")),
        of("two-names", der(vec![uri(&id), uri("https://example.com")], "two")),
        of("a-host-name", der(vec![SanType::DnsName("e1".try_into().expect("ASCII"))], "host")),
        of("an-id-of-no-role", der(vec![uri(&format!("spiffe://{domain}/root/e1"))], "root")),
        of("a-subject-that-writes-to-a-terminal", der(vec![], "\u{1b}[2J\r\nERROR")),
        // A sequence that says it is longer than any memory.
        of("a-length-beyond-the-end", vec![0x30, 0x88, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        of("nested-without-end", [0x30, 0x80].repeat(512)),
        pem("a-request", &request),
        pem("a-request-cut-off", &request[..request.len() / 2]),
        pem("another-label", &request.replace("CERTIFICATE REQUEST", "PRIVATE KEY")),
        pem(
            "a-request-without-content",
            "-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n",
        ),
    ]
}
