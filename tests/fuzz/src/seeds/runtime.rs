//! Answers of a container runtime.

use super::{Seed, seed};
use prost::Message as _;
use rpc::runtime::v1::{
    LinuxPodSandboxStatus, Namespace, NamespaceMode, NamespaceOption, PodIp, PodSandboxNetworkStatus,
    PodSandboxState, PodSandboxStatus, PodSandboxStatusResponse,
};

/// As containerd says where a pod's network namespace is.
const INFO: &str =
    r#"{"pid":77,"runtimeSpec":{"linux":{"namespaces":[{"type":"network","path":"/var/run/netns/c1"}]}}}"#;

fn answer(addresses: &[&str], mode: NamespaceMode, info: &str) -> Vec<u8> {
    let mut addresses = addresses.iter().map(|ip| (*ip).to_owned());
    let network = PodSandboxNetworkStatus {
        ip: addresses.next().unwrap_or_default(),
        additional_ips: addresses.map(|ip| PodIp { ip }).collect(),
    };
    let options = Some(NamespaceOption { network: mode.into() });
    let status = PodSandboxStatus {
        id: String::from("c1"),
        state: PodSandboxState::SandboxReady.into(),
        network: Some(network),
        linux: Some(LinuxPodSandboxStatus { namespaces: Some(Namespace { options }) }),
    };
    let info = [(String::from("info"), info.to_owned())].into();
    PodSandboxStatusResponse { status: Some(status), info }.encode_to_vec()
}

pub(super) fn cri() -> Vec<Seed> {
    let pod = |why: &str, addresses: &[&str], info: &str| {
        seed("cri", why, answer(addresses, NamespaceMode::Pod, info))
    };
    let good = answer(&["10.1.1.7"], NamespaceMode::Pod, INFO);
    vec![
        pod("a-pod-of-two-families", &["10.1.1.7", "fd00:10:1:1::7"], INFO),
        pod("a-pod-without-an-address", &[], INFO),
        pod("an-address-that-is-none", &["10.1.1.777"], INFO),
        pod("a-process-instead-of-a-namespace", &["10.1.1.7"], r#"{"pid":77}"#),
        pod("neither-process-nor-namespace", &["10.1.1.7"], r#"{"pid":0}"#),
        pod("a-namespace-beside-us", &["10.1.1.7"], &INFO.replace("/var/run/netns/c1", "../../etc")),
        pod("a-report-of-a-thousand-levels", &["10.1.1.7"], &"[".repeat(1_000)),
        pod("a-process-below-zero", &["10.1.1.7"], r#"{"pid":-1}"#),
        seed("cri", "a-pod-of-the-nodes-network", answer(&["10.1.1.7"], NamespaceMode::Node, INFO)),
        seed("cri", "cut-off", &good[..good.len() / 2]),
        seed("cri", "no-status", PodSandboxStatusResponse::default().encode_to_vec()),
    ]
}
