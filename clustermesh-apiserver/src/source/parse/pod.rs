//! Pod → whose addresses these are.

use super::{Fault, address, labels, port};
use crate::{path, source::object::Pod};
use k8s_openapi::api::core::v1 as core;
use std::net::IpAddr;

pub(super) fn pod(object: &core::Pod, warnings: &mut Vec<Fault>) -> Result<Pod, Fault> {
    let labels = labels(&object.metadata)?;
    let terminating = object.metadata.deletion_timestamp.is_some();
    let mut pod = Pod {
        node: None,
        ips: ips(object)?,
        host_network: false,
        service_account: "default".to_owned(),
        labels,
        ports: Vec::new(),
        finished: false,
        terminating,
    };
    let phase = object.status.as_ref().and_then(|s| s.phase.as_deref());
    pod.finished = matches!(phase, Some("Succeeded" | "Failed"));
    let Some(spec) = &object.spec else { return Ok(pod) };
    pod.host_network = spec.host_network.unwrap_or(false);
    if let Some(name) = spec.node_name.as_deref().filter(|name| !name.is_empty()) {
        pod.node = Some(name.parse().map_err(|e| Fault::new(path!["spec", "nodeName"], format!("{e}")))?);
    }
    let account = spec.service_account_name.as_deref().or(spec.service_account.as_deref());
    if let Some(account) = account.filter(|name| !name.is_empty()) {
        account.clone_into(&mut pod.service_account);
    }
    for (c, container) in spec.containers.iter().enumerate() {
        for (p, entry) in container.ports.iter().flatten().enumerate() {
            let path = |field: &str| path!["spec", "containers", c, "ports", p, field];
            let name = entry.name.as_deref();
            let parsed = port(
                name,
                entry.container_port,
                entry.protocol.as_deref(),
                &path,
                "containerPort",
                warnings,
            )?;
            pod.ports.extend(parsed.filter(|p| p.name.is_some()));
        }
    }
    pod.ports.sort();
    pod.ports.dedup();
    Ok(pod)
}

fn ips(object: &core::Pod) -> Result<Vec<IpAddr>, Fault> {
    let Some(status) = &object.status else { return Ok(Vec::new()) };
    let mut ips = Vec::new();
    for (i, entry) in status.pod_ips.iter().flatten().enumerate() {
        ips.push(address(&entry.ip, || path!["status", "podIPs", i, "ip"])?);
    }
    if let (true, Some(ip)) = (ips.is_empty(), status.pod_ip.as_deref().filter(|ip| !ip.is_empty())) {
        ips.push(address(ip, || path!["status", "podIP"])?);
    }
    Ok(ips)
}
