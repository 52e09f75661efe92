//! Node → what it carries and where its tunnel is dialled.

use super::{Fault, address, annotations};
use crate::{path, source::object::Node};
use k8s_openapi::api::core::v1 as core;

const ZONE: &str = "topology.kubernetes.io/zone";

pub(super) fn node(object: &core::Node, warnings: &mut Vec<Fault>) -> Result<Node, Fault> {
    let mut node = Node {
        zone: super::labels(&object.metadata)?.remove(ZONE).unwrap_or_default(),
        relay: annotations::relay(&object.metadata, warnings),
        ..Node::default()
    };
    if let Some(spec) = &object.spec {
        let listed = spec.pod_cidrs.iter().flatten();
        let cidrs: Vec<(_, &String)> = match (&spec.pod_cidrs, &spec.pod_cidr) {
            (None, Some(cidr)) => vec![(path!["spec", "podCIDR"], cidr)],
            (_, _) => listed.enumerate().map(|(i, cidr)| (path!["spec", "podCIDRs", i], cidr)).collect(),
        };
        for (path, text) in cidrs {
            let bad = || format!("`{}` is not a prefix such as 10.1.0.0/24", text.escape_debug());
            let cidr: ipnet::IpNet = text.parse().map_err(|_| Fault::new(path.clone(), bad()))?;
            if cidr != cidr.trunc() {
                return Err(Fault::new(
                    path,
                    format!("{cidr} has bits set outside its length; meant {}?", cidr.trunc()),
                ));
            }
            node.pod_cidrs.push(cidr);
        }
        node.taints = spec.taints.iter().flatten().map(|taint| taint.key.clone()).collect();
    }
    for (i, entry) in object.status.iter().flat_map(|s| s.addresses.iter().flatten()).enumerate() {
        if entry.type_ == "InternalIP" {
            node.internal_ips.push(address(&entry.address, || path!["status", "addresses", i, "address"])?);
        }
    }
    Ok(node)
}
