//! From Kubernetes' types to our objects: the boundary. What breaks a rule is named by its field.

mod annotations;
mod endpoint_slice;
mod external_workload;
mod node;
mod pod;
mod service;

use super::{
    manifests::tree::FieldPath,
    object::{Body, Namespace, ObjectKey, ObjectKind},
};
use crate::path;
use api::{
    bytes::Uid,
    external_workload::{self as enrolment, ExternalWorkload},
    peer::MeshPeer,
    record::{NamedPort, Protocol},
};
use k8s_openapi::{
    api::{core::v1 as core, discovery::v1 as discovery},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{collections::BTreeMap, net::IpAddr};

/// What is wrong with a document, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The field; empty for the document as a whole.
    pub path: FieldPath,
    /// What is wrong, for the person who wrote it.
    pub text: String,
}

impl Fault {
    fn new(path: FieldPath, text: impl Into<String>) -> Self {
        Self { path, text: text.into() }
    }
}

/// A document that became an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// Which object.
    pub key: ObjectKey,
    /// `metadata.uid`, where it is given.
    pub uid: Option<Uid>,
    /// `metadata.creationTimestamp`, where it is given; Unix time in seconds.
    pub created_s: Option<u64>,
    /// What it says.
    pub body: Body,
    /// What was read differently than its author may think.
    pub warnings: Vec<Fault>,
}

/// The kinds we read; `None` for any other.
#[must_use]
pub fn kind_of(api_version: &str, kind: &str) -> Option<ObjectKind> {
    match (api_version, kind) {
        ("v1", "Node") => Some(ObjectKind::Node),
        ("v1", "Namespace") => Some(ObjectKind::Namespace),
        ("v1", "Pod") => Some(ObjectKind::Pod),
        ("v1", "Service") => Some(ObjectKind::Service),
        ("discovery.k8s.io/v1", "EndpointSlice") => Some(ObjectKind::EndpointSlice),
        (api::peer::API_VERSION, api::peer::KIND) => Some(ObjectKind::MeshPeer),
        (api::peer::API_VERSION, enrolment::KIND) => Some(ObjectKind::ExternalWorkload),
        (_, _) => None,
    }
}

/// Reads an object of a kind.
///
/// # Errors
/// [`Fault`] names the first field that breaks a rule.
pub fn parse(kind: ObjectKind, document: &Value) -> Result<Parsed, Fault> {
    let mut warnings = Vec::new();
    let (meta, body) = match kind {
        ObjectKind::Node => {
            let object: core::Node = typed(document)?;
            let body = node::node(&object, &mut warnings)?;
            (object.metadata, Body::Node(body))
        }
        ObjectKind::Namespace => {
            let object: core::Namespace = typed(document)?;
            let labels = labels(&object.metadata)?;
            let global = annotations::namespace_global(&object.metadata, &mut warnings);
            (object.metadata, Body::Namespace(Namespace { labels, global }))
        }
        ObjectKind::Pod => {
            let object: core::Pod = typed(document)?;
            let body = pod::pod(&object, &mut warnings)?;
            (object.metadata, Body::Pod(body))
        }
        ObjectKind::Service => {
            let object: core::Service = typed(document)?;
            let body = service::service(&object, &mut warnings)?;
            (object.metadata, Body::Service(body))
        }
        ObjectKind::EndpointSlice => {
            let object: discovery::EndpointSlice = typed(document)?;
            let body = endpoint_slice::slice(&object, &mut warnings)?;
            (object.metadata, Body::Slice(body))
        }
        ObjectKind::MeshPeer => {
            let peer: MeshPeer = typed(document)?;
            let meta = ObjectMeta { name: Some(peer.metadata.name.to_string()), ..ObjectMeta::default() };
            (meta, Body::Peer(Box::new(peer)))
        }
        ObjectKind::ExternalWorkload => {
            let object: ExternalWorkload = typed(document)?;
            let body = external_workload::vm(&object.spec)?;
            let meta = ObjectMeta {
                name: Some(object.metadata.name.to_string()),
                namespace: object.metadata.namespace.map(|namespace| namespace.to_string()),
                ..ObjectMeta::default()
            };
            (meta, Body::Vm(body))
        }
    };
    let key = key(kind, &meta)?;
    if let (ObjectKind::Service, Err(error)) = (kind, key.name.as_str().parse::<api::name::ServiceName>()) {
        return Err(Fault::new(path!["metadata", "name"], error.to_string()));
    }
    let uid = meta.uid.as_deref().and_then(|uid| uid.parse().ok());
    let created_s = meta.creation_timestamp.as_ref().and_then(|time| u64::try_from(time.0.as_second()).ok());
    Ok(Parsed { key, uid, created_s, body, warnings })
}

/// Which object a document is about, as far as that can be read from one that is otherwise not valid.
#[must_use]
pub fn key_of(kind: ObjectKind, document: &Value) -> Option<ObjectKey> {
    let text = |field| document.get("metadata")?.get(field)?.as_str().map(str::to_owned);
    let meta = ObjectMeta { name: text("name"), namespace: text("namespace"), ..ObjectMeta::default() };
    key(kind, &meta).ok()
}

fn key(kind: ObjectKind, meta: &ObjectMeta) -> Result<ObjectKey, Fault> {
    let name = meta.name.as_deref().unwrap_or_default();
    let name = name.parse().map_err(|e| Fault::new(path!["metadata", "name"], format!("{e}")))?;
    let namespace = match kind {
        ObjectKind::Node | ObjectKind::Namespace | ObjectKind::MeshPeer => None,
        // As kubectl does it: an object without a namespace lands in `default`.
        ObjectKind::Pod | ObjectKind::Service | ObjectKind::EndpointSlice | ObjectKind::ExternalWorkload => {
            let text = meta.namespace.as_deref().unwrap_or("default");
            Some(text.parse().map_err(|e| Fault::new(path!["metadata", "namespace"], format!("{e}")))?)
        }
    };
    Ok(ObjectKey { kind, namespace, name })
}

fn typed<T: DeserializeOwned>(document: &Value) -> Result<T, Fault> {
    serde_path_to_error::deserialize(document).map_err(|error| {
        use serde_path_to_error::Segment;
        let step = |segment: &Segment| match segment {
            Segment::Seq { index } => Some((*index).into()),
            Segment::Map { key } => Some(key.as_str().into()),
            Segment::Enum { variant } => Some(variant.as_str().into()),
            Segment::Unknown => None,
        };
        let path = FieldPath(error.path().iter().filter_map(step).collect());
        let mut text = error.into_inner().to_string();
        if text.starts_with("invalid type") && text.ends_with("expected a string") {
            text.push_str(" (put it in quotes)");
        }
        Fault { path, text }
    })
}

/// Labels as Kubernetes allows them, so that the record they end in is valid.
fn labels(meta: &ObjectMeta) -> Result<BTreeMap<String, String>, Fault> {
    let labels = meta.labels.clone().unwrap_or_default();
    check_labels(&labels, &path!["metadata"])?;
    Ok(labels)
}

/// `parent` is the field that has `labels`.
fn check_labels(labels: &BTreeMap<String, String>, parent: &FieldPath) -> Result<(), Fault> {
    match labels.iter().find(|(key, value)| key.is_empty() || key.len() > 317 || value.len() > 63) {
        None => Ok(()),
        Some((key, _)) => Err(Fault::new(
            parent.clone().join(path!["labels", key.as_str()]),
            "a label's key has 1 to 317 characters, its value at most 63",
        )),
    }
}

fn address(text: &str, path: impl FnOnce() -> FieldPath) -> Result<IpAddr, Fault> {
    match text.parse::<IpAddr>() {
        Ok(ip) => Ok(ip.to_canonical()),
        Err(_) => Err(Fault::new(path(), format!("`{}` is not an IP address", text.escape_debug()))),
    }
}

/// A port that can be served; `None` and a warning for a protocol that the mesh does not carry.
fn port(
    name: Option<&str>,
    number: i32,
    protocol: Option<&str>,
    path: &dyn Fn(&str) -> FieldPath,
    number_field: &str,
    warnings: &mut Vec<Fault>,
) -> Result<Option<NamedPort>, Fault> {
    let port = match u16::try_from(number) {
        Ok(port) if port > 0 => port,
        Ok(_) | Err(_) => {
            return Err(Fault::new(path(number_field), format!("{number} is not a port (1 to 65535)")));
        }
    };
    let protocol = match protocol {
        None | Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => {
            warnings
                .push(Fault::new(path("protocol"), "SCTP is not carried by the mesh: this port is left out"));
            return Ok(None);
        }
        Some(other) => {
            let text = format!("`{}` is not a protocol (TCP, UDP or SCTP)", other.escape_debug());
            return Err(Fault::new(path("protocol"), text));
        }
    };
    let name = match name {
        None | Some("") => None,
        Some(name) => Some(name.parse().map_err(|e| Fault::new(path("name"), format!("{e}")))?),
    };
    Ok(Some(NamedPort { name, port, protocol }))
}
