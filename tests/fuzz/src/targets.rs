//! The targets, by the side that the bytes come from.

mod api;
mod etcd;
mod files;
mod names;
mod peer;
mod runtime;
mod tunnel;

pub(crate) use etcd::{LEASE, Method, SUBJECTS};
pub(crate) use files::kept_view_owner;
pub(crate) use names::{ELSEWHERE, ID, OURS, asked};
pub(crate) use peer::{Frame, PEER, Side, contract};

/// A decoder and what has to hold of whatever it decodes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: the folder of its corpus.
    pub name: &'static str,
    /// Returns, whatever the bytes are.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "key", run: api::key },
    Target { name: "record", run: api::record },
    Target { name: "spiffe-id", run: api::spiffe_id },
    Target { name: "certificate", run: api::certificate },
    Target { name: "certificate-request", run: api::certificate_request },
    Target { name: "token", run: api::token },
    Target { name: "etcd", run: etcd::request },
    Target { name: "sync", run: etcd::sync },
    Target { name: "peer", run: peer::conversation },
    Target { name: "manifest", run: files::manifest },
    Target { name: "mesh-peer", run: files::mesh_peer },
    Target { name: "external-workload", run: files::external_workload },
    Target { name: "lineage", run: files::lineage },
    Target { name: "cluster-config", run: files::cluster_config },
    Target { name: "closed", run: files::closed },
    Target { name: "memory", run: files::memory },
    Target { name: "dump", run: files::dump },
    Target { name: "kept-view", run: files::kept_view },
    Target { name: "cni", run: runtime::cni },
    Target { name: "cri", run: runtime::cri },
    Target { name: "dns-query", run: names::query },
    Target { name: "dns-answer", run: names::answer },
    Target { name: "uapi", run: tunnel::uapi },
    Target { name: "relay", run: tunnel::relay },
];

/// One of them.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
