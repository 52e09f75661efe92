//! An agent with a fixture in the place of a view: it composes an image, reconciles until nothing is left, and ends.

use api::{bytes::PublicKey, record::Protocol};
use datapath::{
    backend::{
        bpf::{Balancer, Hook, PacketHook, default_cgroup_root},
        wireguard::PrivateKey,
    },
    bindings,
    host::{Datapath, Options, PIN_DIR, TunnelDevice},
    image::{Frontend, Image, Reach, TunnelPeer},
    plan::Completeness,
    uplinks::uplinks,
};
use std::{collections::BTreeSet, fmt, net::IpAddr, path::Path, str::FromStr};

/// Carries a [`Wish`] to the agent.
pub const IMAGE: &str = "DATAPATH_TEST_IMAGE";

/// Own addresses, by node.
const MESH: [[&str; 2]; 2] = [["100.64.1.1", "fd64:1::1"], ["100.64.2.1", "fd64:2::1"]];
/// Pods' prefixes, by node.
const PODS: [[&str; 2]; 2] = [["10.1.1.0/24", "fd00:10:1:1::/64"], ["10.2.1.0/24", "fd00:10:2:1::/64"]];
/// What the clusters announced.
const CLUSTERS: [[&str; 4]; 2] = [
    ["10.1.0.0/16", "fd00:10:1::/48", "100.64.1.0/24", "fd64:1::/112"],
    ["10.2.0.0/16", "fd00:10:2::/48", "100.64.2.0/24", "fd64:2::/112"],
];
const ENDPOINTS: [&str; 2] = ["192.0.2.11", "192.0.2.75"];
const PORT: u16 = 51871;

/// What an agent is to do.
pub struct Wish {
    /// `connected`, `disconnected` or `empty`.
    pub scene: String,
    /// 0 or 1.
    pub node: usize,
    /// Its own.
    pub private_key: PrivateKey,
    /// The other's.
    pub peer: PublicKey,
    /// None: what the agent chooses.
    pub hook: Option<Hook>,
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.private_key.to_base64();
        let hook = self.hook.map_or("auto", Hook::name);
        write!(f, "{} {} {} {} {hook}", self.scene, self.node, key.as_str(), self.peer)
    }
}

impl FromStr for Wish {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let [scene, node, key, peer, hook] = text.split(' ').collect::<Vec<_>>()[..] else {
            anyhow::bail!("not a wish")
        };
        Ok(Self {
            scene: scene.to_owned(),
            node: node.parse()?,
            private_key: PrivateKey::from_base64(key).ok_or_else(|| anyhow::anyhow!("not a key"))?,
            peer: peer.parse()?,
            hook: Hook::ALL.into_iter().find(|known| known.name() == hook),
        })
    }
}

/// Does it, and says in one line what became of it; a second line has what is left to do.
pub fn run(wish: &Wish) -> String {
    let mut datapath = Datapath::open(Options {
        pin_dir: PIN_DIR.into(),
        cgroup_root: default_cgroup_root(),
        private_key: wish.private_key.clone(),
        tunnel_device: TunnelDevice::Auto,
        packet_hook: wish.hook.map_or(PacketHook::Auto, PacketHook::Only),
        balancer: Balancer::Auto,
        // Of each node alone.
        clock_epochs: "/run/clock-epochs.json".into(),
    })
    .unwrap();
    let image = image(&datapath, wish);
    for step in datapath.pending(&image, Completeness::Complete).unwrap() {
        println!("  {step}");
    }
    let report = datapath.reconcile(&image, Completeness::Complete);
    let left = datapath.pending(&image, Completeness::Complete).unwrap();
    let left: Vec<String> = left.iter().map(ToString::to_string).collect();
    assert!(left.is_empty(), "left after a reconcile: {left:#?}, problems {:?}", report.problems);
    format!(
        "changed {}, problems {:?}, drops {:?}, tunnel {}, hook {}",
        report.changed,
        report.problems,
        report.drops,
        datapath.tunnel_kind(),
        datapath.packet_hook()
    )
}

fn image(datapath: &Datapath, wish: &Wish) -> Image {
    if wish.scene == "empty" {
        return Image::default();
    }
    let other = 1 - wish.node;
    let links = datapath.links().unwrap();
    let bound = bindings::read(Path::new(bindings::RESULTS_DIR), &[], &links).unwrap();
    assert_eq!(bound.problems, Vec::<String>::new());
    assert_eq!(bound.pods.len(), 4, "{bound:?}");

    let connected = wish.scene == "connected";
    let mut image = Image {
        mesh_addresses: MESH[wish.node].iter().map(|own| own.parse().unwrap()).collect(),
        pods: bound.pods.iter().map(|(address, binding)| (*address, binding.pod)).collect(),
        uplinks: uplinks(&links, &[ENDPOINTS[wish.node].parse().unwrap()].into(), &bound.devices),
        pod_devices: bound.devices,
        ..Image::default()
    };
    assert!(!image.uplinks.is_empty());
    image.tunnel.listen_port = Some(PORT);
    for prefix in CLUSTERS[other] {
        image.prefixes.insert(prefix.parse().unwrap(), Reach::Closed);
    }
    let hosts = MESH[other].map(|address| address.parse::<IpAddr>().unwrap().into());
    let carried = PODS[other].map(|prefix| prefix.parse().unwrap());
    let reached: BTreeSet<_> = hosts.into_iter().chain(carried).collect();
    if connected {
        let reach = Reach::Tunnel { mtu_bytes: 1420 };
        image.prefixes.extend(reached.iter().map(|prefix| (*prefix, reach)));
        let endpoint = Some(format!("{}:{PORT}", ENDPOINTS[other]).parse().unwrap());
        image
            .tunnel
            .peers
            .insert(wish.peer, TunnelPeer { endpoint, allowed: reached, ..TunnelPeer::default() });
    }
    let mut serve = |frontend: &str, backend: Option<&str>| {
        let at: std::net::SocketAddr = frontend.parse().unwrap();
        let frontend = Frontend { address: at.ip(), protocol: Protocol::Tcp, port: at.port() };
        let backends = backend.into_iter().map(|backend| backend.parse().unwrap());
        image.services.insert(frontend, backends.filter(|_| connected).collect());
    };
    if wish.node == 0 {
        serve("10.101.0.80:80", Some("10.2.1.11:8080"));
        serve("[fd00:101::80]:80", Some("[fd00:10:2:1::11]:8080"));
        serve("10.101.0.81:80", None);
    }
    image
}
