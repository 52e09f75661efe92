//! Service → frontends, ports, and what its annotations say.

use super::{Fault, address, annotations, port};
use crate::{path, source::object::Service};
use k8s_openapi::api::core::v1 as core;

/// How Kubernetes spells a headless Service.
const HEADLESS: &str = "None";

pub(super) fn service(object: &core::Service, warnings: &mut Vec<Fault>) -> Result<Service, Fault> {
    let said = annotations::service(&object.metadata, warnings);
    let mut service = Service {
        frontends: Vec::new(),
        ports: Vec::new(),
        headless: false,
        external_name: false,
        global: said.global,
        shared: said.shared,
        affinity: said.affinity,
    };
    let Some(spec) = &object.spec else { return Ok(service) };
    service.external_name = spec.type_.as_deref() == Some("ExternalName");
    if service.external_name && said.global {
        let text = "an ExternalName Service has no backends and is never global";
        warnings.push(Fault::new(path!["spec", "type"], text));
    }
    service.headless = spec.cluster_ip.as_deref() == Some(HEADLESS)
        || spec.cluster_ips.iter().flatten().any(|ip| ip == HEADLESS);
    if !service.headless {
        for (i, ip) in spec.cluster_ips.iter().flatten().enumerate() {
            service.frontends.push(address(ip, || path!["spec", "clusterIPs", i])?);
        }
        if let (true, Some(ip)) = (service.frontends.is_empty(), spec.cluster_ip.as_deref()) {
            service.frontends.push(address(ip, || path!["spec", "clusterIP"])?);
        }
        if service.frontends.is_empty() && !service.external_name {
            let text =
                "no clusterIP, and nobody gives one out here: the Service cannot be reached by address";
            warnings.push(Fault::new(path!["spec", "clusterIP"], text));
        }
    }
    for (i, entry) in spec.ports.iter().flatten().enumerate() {
        let path = |field: &str| path!["spec", "ports", i, field];
        let name = entry.name.as_deref();
        service.ports.extend(port(name, entry.port, entry.protocol.as_deref(), &path, "port", warnings)?);
    }
    Ok(service)
}
