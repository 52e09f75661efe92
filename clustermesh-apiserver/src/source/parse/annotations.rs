//! The annotations users of Cilium Cluster Mesh know, with their older names.

use super::Fault;
use crate::{path, source::manifests::tree::Step};
use api::record::Affinity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// An annotation and the older name that means the same; the first one present counts.
const GLOBAL: [&str; 2] = ["service.cilium.io/global", "io.cilium/global-service"];
const SHARED: [&str; 2] = ["service.cilium.io/shared", "io.cilium/shared-service"];
const AFFINITY: [&str; 2] = ["service.cilium.io/affinity", "io.cilium/service-affinity"];
const BALANCE: [&str; 1] = ["clustermesh.io/balance"];
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
