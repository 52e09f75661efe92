//! ExternalWorkload → a VM: its identity, and what it serves.

use super::{Fault, check_labels};
use crate::{path, source::object::Vm};
use api::external_workload::{ExternalWorkloadSpec, NAMESPACES_MAX, SERVE_MAX};
use std::collections::BTreeSet;

pub(super) fn vm(spec: &ExternalWorkloadSpec) -> Result<Vm, Fault> {
    check_labels(&spec.labels, "spec")?;
    if spec.serve.len() > SERVE_MAX {
        let text = format!("{} Services; a VM serves at most {SERVE_MAX}", spec.serve.len());
        return Err(Fault::new(path!["spec", "serve"], text));
    }
    if spec.all_namespaces && !spec.namespaces.is_empty() {
        let text = "`allNamespaces` names them all: leave one of the two out".to_owned();
        return Err(Fault::new(path!["spec", "namespaces"], text));
    }
    if spec.namespaces.len() > NAMESPACES_MAX {
        let text = format!("{} namespaces; name at most {NAMESPACES_MAX}", spec.namespaces.len());
        return Err(Fault::new(path!["spec", "namespaces"], text));
    }
    let mut ports = BTreeSet::new();
    for (i, serve) in spec.serve.iter().enumerate() {
        if !ports.insert((&serve.service, &serve.port_name)) {
            let text = format!("{} is served twice: name the other port in `portName`", serve.service);
            return Err(Fault::new(path!["spec", "serve", i], text));
        }
    }
    Ok(Vm {
        service_account: spec.service_account.as_ref().map_or("default", |name| name.as_str()).to_owned(),
        labels: spec.labels.clone(),
        namespaces: (!spec.all_namespaces).then(|| spec.namespaces.iter().cloned().collect()),
        serve: spec.serve.clone(),
    })
}
