//! `ExternalWorkload`: the one home of a VM's enrolment. A document of the manifests directory says all that the cluster
//! announces about the VM; the VM itself adds its key.

use crate::name::{NamespaceName, ObjectName, PortName, ServiceName};
use std::{collections::BTreeMap, num::NonZeroU16};

/// `kind` of a VM's enrolment.
pub const KIND: &str = "ExternalWorkload";

/// Services that one VM may serve: one field of an object that people write by hand stays readable, and a mistake of a
/// template cannot make 100,000 backends.
pub const SERVE_MAX: usize = 64;

/// Namespaces that one VM may name: more are better said by `allNamespaces`.
pub const NAMESPACES_MAX: usize = 64;

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
