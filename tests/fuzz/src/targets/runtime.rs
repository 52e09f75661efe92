//! What runs beside us on a node.

use datapath::bindings::{Cached, attachment, bind};
use mesh_node_agent::cri;
use prost::Message as _;
use rpc::runtime::v1::PodSandboxStatusResponse;

/// A cached result of a CNI plugin.
pub(super) fn cni(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(Cached::Attached(attached)) = attachment(text) {
        assert!(!attached.addresses.is_empty(), "what attaches no address attaches nothing");
        assert!(attached.namespace.as_ref().is_none_or(|path| path.is_absolute()));
        let bound = bind(&[(String::from("fuzz"), attached)], &[]);
        assert!(bound.pods.is_empty(), "without devices nothing is bound");
    }
}

/// What the container runtime answers of one pod.
pub(super) fn cri(input: &[u8]) {
    let Ok(answer) = PodSandboxStatusResponse::decode(input) else { return };
    if let Ok(Some(sandbox)) = cri::sandbox(answer) {
        assert!(!sandbox.addresses.is_empty(), "a pod without an address is no pod of ours");
        assert!(sandbox.namespace.is_absolute(), "{} is beside us", sandbox.namespace.display());
    }
}
