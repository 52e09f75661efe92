//! `ExternalWorkload`: the one home of a VM's enrolment. A document of the manifests directory says all that the cluster
//! announces about the VM; the VM itself adds its key.

use crate::name::{
    NamespaceName, ObjectName, PortName, ProgramName, ServiceName, SliceName, UnitName, UserName,
};
use std::{collections::BTreeMap, num::NonZeroU16};

/// `kind` of a VM's enrolment.
pub const KIND: &str = "ExternalWorkload";

/// Services that one VM may serve: one field of an object that people write by hand stays readable, and a mistake of a
/// template cannot make 100,000 backends.
pub const SERVE_MAX: usize = 64;

/// Namespaces that one VM may name: more are better said by `allNamespaces`.
pub const NAMESPACES_MAX: usize = 64;

/// Programs of one VM that have identities of their own: each has mesh addresses, which every node of the mesh routes, and
/// twice as many still fit into what a peer takes of one node (64 prefixes).
pub const PROGRAMS_MAX: usize = 16;

/// The object.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalWorkload {
    /// [`crate::peer::API_VERSION`]
    pub api_version: String,
    /// [`KIND`]
    pub kind: String,
    /// Which VM.
    pub metadata: Metadata,
    /// What the mesh says of it.
    #[serde(default)]
    pub spec: ExternalWorkloadSpec,
}

/// The part of an object's metadata that an enrolment has. Labels stand in the spec: tools that deploy objects put labels
/// of their own here, and each would give the VM another identity.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// The VM's name, unique among the nodes and VMs of the cluster.
    pub name: ObjectName,
    /// Where its identity and the Services it serves are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<NamespaceName>,
}

/// What the mesh says of a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalWorkloadSpec {
    /// Its identity's, as a pod's labels are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its identity's; `default` where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ObjectName>,
    /// Whose Services it may read beside those of its own namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<NamespaceName>,
    /// It may read those of all.
    #[serde(default, skip_serializing_if = "is_false")]
    pub all_namespaces: bool,
    /// Where it is a backend; at most [`SERVE_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub serve: Vec<Serve>,
    /// What of it has an identity and mesh addresses of its own; at most [`PROGRAMS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<Program>,
}

/// The processes of a systemd unit, or of a user, with an identity of their own. Either `unit` or `user` is said.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Program {
    /// Unique on the VM.
    pub name: ProgramName,
    /// Whose processes, also those below it: a service, a scope, or a whole slice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<UnitName>,
    /// Where the unit's `Slice=` is not systemd's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<SliceName>,
    /// Whose processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    /// Its identity's, as a pod's labels are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its identity's; the VM's where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ObjectName>,
    /// Where it is a backend, at its own address; at most [`SERVE_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub serve: Vec<Serve>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde demands")]
fn is_false(it: &bool) -> bool {
    !it
}

/// A Service of its namespace that a VM serves.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Serve {
    /// The Service.
    pub service: ServiceName,
    /// Which of its ports; needed where it has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_name: Option<PortName>,
    /// Where the VM's program listens. The protocol is the Service's.
    pub port: NonZeroU16,
}
