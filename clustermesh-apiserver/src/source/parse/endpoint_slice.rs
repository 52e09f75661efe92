//! EndpointSlice → addresses behind a Service, and their conditions.

use super::{Fault, address, port};
use crate::{
    path,
    source::object::{Slice, SliceEndpoint},
};
use k8s_openapi::api::discovery::v1 as discovery;
use std::net::IpAddr;

const SERVICE_NAME: &str = "kubernetes.io/service-name";

pub(super) fn slice(object: &discovery::EndpointSlice, warnings: &mut Vec<Fault>) -> Result<Slice, Fault> {
    let is_v4 = match object.address_type.as_str() {
        "IPv4" => true,
        "IPv6" => false,
        "FQDN" => {
            return Err(Fault::new(path!["addressType"], "FQDN is not supported: only IPv4 and IPv6 are"));
        }
        other => {
            let text = format!("`{}` is not an address type (IPv4 or IPv6)", other.escape_debug());
            return Err(Fault::new(path!["addressType"], text));
        }
    };
    let mut slice = Slice::default();
    match super::labels(&object.metadata)?.get(SERVICE_NAME) {
        Some(name) => {
            let bad = |e| Fault::new(path!["metadata", "labels", SERVICE_NAME], format!("{e}"));
            slice.service = Some(name.parse().map_err(bad)?);
        }
        None => {
            let text = format!("no label {SERVICE_NAME}: the slice belongs to no Service");
            warnings.push(Fault::new(path!["metadata", "labels"], text));
        }
    }
    for (i, entry) in object.ports.iter().flatten().enumerate() {
        let path = |field: &str| path!["ports", i, field];
        let Some(number) = entry.port else {
            warnings.push(Fault::new(path("port"), "a port without a number is left out"));
            continue;
        };
        let name = entry.name.as_deref();
        slice.ports.extend(port(name, number, entry.protocol.as_deref(), &path, "port", warnings)?);
    }
    for (i, entry) in object.endpoints.iter().flatten().enumerate() {
        slice.endpoints.push(endpoint(i, entry, is_v4)?);
    }
    Ok(slice)
}

fn endpoint(i: usize, entry: &discovery::Endpoint, is_v4: bool) -> Result<SliceEndpoint, Fault> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (a, text) in entry.addresses.iter().enumerate() {
        let path = || path!["endpoints", i, "addresses", a];
        let ip = address(text, path)?;
        if ip.is_ipv4() != is_v4 {
            return Err(Fault::new(path(), format!("{ip} is not of the slice's addressType")));
        }
        addresses.push(ip);
    }
    if addresses.is_empty() {
        return Err(Fault::new(path!["endpoints", i, "addresses"], "an endpoint has at least one address"));
    }
    let conditions = entry.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let pod = match entry.target_ref.as_ref().filter(|t| t.kind.as_deref() == Some("Pod")) {
        None => None,
        Some(target) => {
            let name = target.name.as_deref().unwrap_or_default();
            let bad = |e| Fault::new(path!["endpoints", i, "targetRef", "name"], format!("{e}"));
            Some((name.parse().map_err(bad)?, target.uid.as_deref().and_then(|uid| uid.parse().ok())))
        }
    };
    let node = match entry.node_name.as_deref().filter(|name| !name.is_empty()) {
        None => None,
        Some(name) => {
            Some(name.parse().map_err(|e| Fault::new(path!["endpoints", i, "nodeName"], format!("{e}")))?)
        }
    };
    Ok(SliceEndpoint {
        addresses,
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        pod,
        node,
        zone: entry.zone.clone().unwrap_or_default(),
        hostname: entry.hostname.clone().unwrap_or_default(),
    })
}
