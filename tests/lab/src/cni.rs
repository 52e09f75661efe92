//! Attaching a pod with a CNI plugin, and writing the result where and as libcni keeps it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::place::Name;
use crate::topology::{Cni, DualNet, Node, Pod};

/// Where Debian installs the plugins.
pub const PLUGIN_DIR: &str = "/usr/lib/cni";

/// Where libcni keeps results. (containernetworking/cni, libcni/api.go: `CacheDir`)
pub const RESULT_DIR: &str = "/var/lib/cni/results";

/// The network's name, as in a node's `/etc/cni/net.d`.
const NETWORK: &str = "lab";

/// The interface inside a pod.
const POD_INTERFACE: &str = "eth0";

/// One call of a plugin.
#[derive(Debug, Clone, PartialEq)]
pub struct Attachment {
    /// The plugin's program.
    pub plugin: String,
    /// The sandbox's id: 64 hex digits, as runtimes make them.
    pub container_id: String,
    /// `CNI_ARGS`, as a kubelet's runtime gives them.
    pub args: Vec<(String, String)>,
    /// The network's configuration, on the plugin's standard input.
    pub config: Value,
    /// `/proc/<pid>/ns/net` of the pod's holder.
    pub netns: String,
}

/// How to attach a pod to its node.
#[must_use]
pub fn attachment(
    lab: &Name,
    cluster: &Name,
    pod_name: &Name,
    pod: &Pod,
    node: &Node,
    holder: i32,
) -> Attachment {
    let container_id = hex(&Sha256::digest(format!("{lab}/{cluster}/{pod_name}")));
    let plugin = match node.cni {
        Cni::Bridge => "bridge",
        Cni::Ptp => "ptp",
    };
    let args = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", pod.namespace.as_str()),
        ("K8S_POD_NAME", pod_name.as_str()),
        ("K8S_POD_INFRA_CONTAINER_ID", &container_id),
    ];
    Attachment {
        plugin: format!("{PLUGIN_DIR}/{plugin}"),
        args: args.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec(),
        config: config(plugin, node.pod_cidrs.value, pod),
        netns: format!("/proc/{holder}/ns/net"),
        container_id,
    }
}

impl Attachment {
    /// The environment that the CNI specification gives a plugin.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let args: Vec<_> = self.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
        vec![
            ("CNI_COMMAND", "ADD".to_owned()),
            ("CNI_CONTAINERID", self.container_id.clone()),
            ("CNI_NETNS", self.netns.clone()),
            ("CNI_IFNAME", POD_INTERFACE.to_owned()),
            ("CNI_PATH", PLUGIN_DIR.to_owned()),
            ("CNI_ARGS", args.join(";")),
        ]
    }

    /// The file that libcni would keep the result in: `<network>-<container>-<interface>`.
    #[must_use]
    pub fn result_path(&self) -> String {
        format!("{RESULT_DIR}/{NETWORK}-{}-{POD_INTERFACE}", self.container_id)
    }

    /// What libcni would write there (`cachedInfo`).
    #[must_use]
    pub fn cached(&self, result: &Value) -> Value {
        json!({
            "kind": "cniCacheV1",
            "containerId": self.container_id,
            "config": STANDARD.encode(self.config.to_string()),
            "ifName": POD_INTERFACE,
            "networkName": NETWORK,
            "cniArgs": self.args,
            "capabilityArgs": { "ips": self.config["runtimeConfig"]["ips"] },
            "result": result,
        })
    }
}

/// The network's configuration with the pod's addresses asked for by the `ips` capability.
fn config(plugin: &str, pods: DualNet, pod: &Pod) -> Value {
    let [v4, v6] = pods.both();
    let fixed = [
        format!("{}/{}", pod.ips.value.v4, pods.v4.prefix_len()),
        format!("{}/{}", pod.ips.value.v6, pods.v6.prefix_len()),
    ];
    let mut config = json!({
        "cniVersion": "1.0.0",
        "name": NETWORK,
        "type": plugin,
        "ipMasq": true,
        "capabilities": { "ips": true },
        "runtimeConfig": { "ips": fixed },
        "ipam": {
            "type": "host-local",
            "ranges": [[{ "subnet": v4 }], [{ "subnet": v6 }]],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
        },
    });
    if plugin == "bridge" {
        config["bridge"] = json!("cni0");
        config["isGateway"] = json!(true);
        config["hairpinMode"] = json!(true);
    }
    config
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
