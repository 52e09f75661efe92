//! Service → frontends, ports, and what its annotations say.

use super::{Fault, address, annotations, port};
use crate::{path, source::object::Service};
use k8s_openapi::api::core::v1 as core;

/// Seconds, where `ClientIP` says none: three hours (Kubernetes, `DefaultClientIPServiceAffinitySeconds`).
const SESSION_AFFINITY_DEFAULT_S: u32 = 10_800;

/// A day (Kubernetes, `MaxClientIPServiceAffinitySeconds`).
const SESSION_AFFINITY_MAX_S: u32 = 86_400;

/// How Kubernetes spells a headless Service.
const HEADLESS: &str = "None";

pub(super) fn service(object: &core::Service, warnings: &mut Vec<Fault>) -> Result<Service, Fault> {
    let said = annotations::service(&object.metadata, warnings);
    let mut service = Service {
        frontends: Vec::new(),
        ports: Vec::new(),
        headless: false,
        external_name: false,
        balance: said.balance,
        global: said.global,
        shared: said.shared,
        affinity: said.affinity,
        session_affinity_s: 0,
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
    service.session_affinity_s = session_affinity(spec)?;
    for (i, entry) in spec.ports.iter().flatten().enumerate() {
        let path = |field: &str| path!["spec", "ports", i, field];
        let name = entry.name.as_deref();
        service.ports.extend(port(name, entry.port, entry.protocol.as_deref(), &path, "port", warnings)?);
    }
    Ok(service)
}

/// Seconds for which a client keeps its backend; 0 is none. (Kubernetes, `ServiceSpec.sessionAffinity`)
fn session_affinity(spec: &core::ServiceSpec) -> Result<u32, Fault> {
    match spec.session_affinity.as_deref() {
        None | Some("None") => return Ok(0),
        Some("ClientIP") => {}
        Some(other) => {
            let text = format!("`{}` is neither `None` nor `ClientIP`", other.escape_debug());
            return Err(Fault::new(path!["spec", "sessionAffinity"], text));
        }
    }
    let client_ip = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let Some(seconds) = client_ip.and_then(|client_ip| client_ip.timeout_seconds) else {
        return Ok(SESSION_AFFINITY_DEFAULT_S);
    };
    match u32::try_from(seconds) {
        Ok(seconds) if (1..=SESSION_AFFINITY_MAX_S).contains(&seconds) => Ok(seconds),
        Ok(_) | Err(_) => Err(Fault::new(
            path!["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"],
            format!("{seconds} is not within 1 and {SESSION_AFFINITY_MAX_S} seconds"),
        )),
    }
}
