//! What an identity stands for, and who has it.

use super::endpoints;
use crate::facts::Facts;
use api::{
    bytes::IdentityId,
    key::{Key, MeshKey},
    record::Record,
};
use std::fmt::Write as _;

/// Pods of an identity that are listed; the rest are counted.
const PODS_MAX: usize = 20;

/// The facts that the number was computed from, and the pods. `None`: nobody announces it.
pub fn why(facts: &Facts, identity: IdentityId) -> Option<String> {
    let mut text = String::new();
    for (key, (record, revision)) in &facts.records {
        if let (Key::Mesh(cluster, MeshKey::Identity(namespace, id)), Record::Identity(record)) =
            (key, record)
            && *id == identity
        {
            let _ = writeln!(text, "{identity} in {cluster} (revision {revision})");
            let _ = writeln!(text, "  namespace       {namespace}");
            let _ = writeln!(text, "  service account {}", record.service_account);
            for (label, value) in &record.labels {
                let _ = writeln!(text, "  label           {label}={value}");
            }
        }
    }
    let pods: Vec<_> = endpoints(facts).filter(|found| found.3.identity == identity).collect();
    if text.is_empty() && pods.is_empty() {
        return None;
    }
    if text.is_empty() {
        let _ = writeln!(text, "{identity}: pods have it, and its own record is not there yet");
    }
    let _ = writeln!(text, "  {} addresses", pods.len());
    for (cluster, namespace, address, endpoint, _) in pods.iter().take(PODS_MAX) {
        let _ =
            writeln!(text, "    {address} {namespace}/{} on {} of {cluster}", endpoint.name, endpoint.node);
    }
    if pods.len() > PODS_MAX {
        let _ = writeln!(text, "    and {} more", pods.len() - PODS_MAX);
    }
    Some(text)
}
