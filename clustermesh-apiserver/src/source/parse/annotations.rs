//! The annotations users of Cilium Cluster Mesh know, with their older names.

use super::Fault;
use crate::{path, source::manifests::tree::Step};
use api::record::Affinity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::net::SocketAddr;

/// An annotation and the older name that means the same; the first one present counts.
const GLOBAL: [&str; 2] = ["service.cilium.io/global", "io.cilium/global-service"];
const SHARED: [&str; 2] = ["service.cilium.io/shared", "io.cilium/shared-service"];
const AFFINITY: [&str; 2] = ["service.cilium.io/affinity", "io.cilium/service-affinity"];
const BALANCE: [&str; 1] = ["clustermesh.io/balance"];
const RELAY: [&str; 1] = ["clustermesh.io/relay"];
const NAMESPACE_GLOBAL: [&str; 1] = ["clustermesh.cilium.io/global"];

/// What a Service's annotations say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ServiceAnnotations {
    pub(super) global: bool,
    pub(super) shared: bool,
    pub(super) affinity: Affinity,
    pub(super) balance: bool,
}

/// Reads a Service's annotations. A value nobody defined means what its absence or `false` means, with a warning:
/// a typing error must not export a Service.
pub(super) fn service(meta: &ObjectMeta, warnings: &mut Vec<Fault>) -> ServiceAnnotations {
    let global = flag(meta, &GLOBAL, warnings).unwrap_or(false);
    // `shared` means nothing for a Service that is not global.
    let shared = global && flag(meta, &SHARED, warnings).unwrap_or(true);
    let affinity = match find(meta, &AFFINITY) {
        None => Affinity::None,
        Some((name, value)) => match value.to_ascii_lowercase().as_str() {
            "local" => Affinity::Local,
            "remote" => Affinity::Remote,
            "none" | "" => Affinity::None,
            _ => {
                let text = format!("`{}` is not local, remote or none; none is used", value.escape_debug());
                warnings.push(Fault::new(annotation(name), text));
                Affinity::None
            }
        },
    };
    let balance = flag(meta, &BALANCE, warnings).unwrap_or(true);
    ServiceAnnotations { global, shared, affinity, balance }
}

/// Whether a Namespace says that it takes part.
pub(super) fn namespace_global(meta: &ObjectMeta, warnings: &mut Vec<Fault>) -> Option<bool> {
    flag(meta, &NAMESPACE_GLOBAL, warnings)
}

/// Where others dial a Node's relay: `192.0.2.9:51872`, or one of each family, with a comma between. Of a value that has
/// anything else nothing is used: half of the nodes would find another relay than the other half.
pub(super) fn relay(meta: &ObjectMeta, warnings: &mut Vec<Fault>) -> Vec<SocketAddr> {
    let Some((name, value)) = find(meta, &RELAY) else { return Vec::new() };
    let dialled = |text: &str| {
        let at: SocketAddr = text.trim().parse().ok()?;
        (at.port() != 0 && !at.ip().is_unspecified()).then_some(at)
    };
    value.split(',').map(dialled).collect::<Option<_>>().unwrap_or_else(|| {
        let text =
            format!("`{}` is not address:port (IPv6 in brackets); no relay is offered", value.escape_debug());
        warnings.push(Fault::new(annotation(name), text));
        Vec::new()
    })
}

fn flag(meta: &ObjectMeta, names: &[&'static str], warnings: &mut Vec<Fault>) -> Option<bool> {
    let (name, value) = find(meta, names)?;
    match value.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => {
            let text = format!("`{}` is neither true nor false; false is used", value.escape_debug());
            warnings.push(Fault::new(annotation(name), text));
            Some(false)
        }
    }
}

fn find<'a>(meta: &'a ObjectMeta, names: &[&'static str]) -> Option<(&'static str, &'a str)> {
    let annotations = meta.annotations.as_ref()?;
    names.iter().find_map(|&name| Some((name, annotations.get(name)?.as_str())))
}

fn annotation(name: &str) -> crate::source::manifests::tree::FieldPath {
    path!["metadata", "annotations", Step::from(name)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_offers_its_relay_at_addresses_with_ports_and_at_nothing_else() {
        let said = |value: &str| {
            let annotations = Some([(RELAY[0].to_owned(), value.to_owned())].into());
            let mut warnings = Vec::new();
            let relay = relay(&ObjectMeta { annotations, ..ObjectMeta::default() }, &mut warnings);
            (relay.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), warnings.len())
        };
        let both = "192.0.2.9:51872, [2001:db8::9]:51872";
        assert_eq!(said(both), ("192.0.2.9:51872 [2001:db8::9]:51872".to_owned(), 0));
        for bad in [
            "true",
            "",
            "192.0.2.9",
            "192.0.2.9:0",
            "0.0.0.0:51872",
            "relay.example:51872",
            "192.0.2.9:51872,",
        ] {
            assert_eq!(said(bad), (String::new(), 1), "{bad}");
        }
        assert_eq!(relay(&ObjectMeta::default(), &mut Vec::new()), []);
    }
}
