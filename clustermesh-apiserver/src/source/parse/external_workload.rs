//! ExternalWorkload → a VM: its identity, what it serves, and its programs.

use super::{Fault, check_labels};
use crate::{
    path,
    source::{
        manifests::tree::FieldPath,
        object::{self, Vm},
    },
};
use api::{
    external_workload::{ExternalWorkloadSpec, NAMESPACES_MAX, PROGRAMS_MAX, Program, SERVE_MAX, Serve},
    record::Processes,
};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn vm(spec: &ExternalWorkloadSpec) -> Result<Vm, Fault> {
    let at = path!["spec"];
    check_labels(&spec.labels, &at)?;
    check_serve(&spec.serve, &at, "a VM")?;
    if spec.all_namespaces && !spec.namespaces.is_empty() {
        let text = "`allNamespaces` names them all: leave one of the two out".to_owned();
        return Err(Fault::new(path!["spec", "namespaces"], text));
    }
    if spec.namespaces.len() > NAMESPACES_MAX {
        let text = format!("{} namespaces; name at most {NAMESPACES_MAX}", spec.namespaces.len());
        return Err(Fault::new(path!["spec", "namespaces"], text));
    }
    let service_account = spec.service_account.as_ref().map_or("default", |name| name.as_str()).to_owned();
    Ok(Vm {
        programs: programs(&spec.programs, &service_account)?,
        service_account,
        labels: spec.labels.clone(),
        namespaces: (!spec.all_namespaces).then(|| spec.namespaces.iter().cloned().collect()),
        serve: spec.serve.clone(),
    })
}

fn check_serve(serve: &[Serve], at: &FieldPath, who: &str) -> Result<(), Fault> {
    let fault = |part: FieldPath, text: String| Err(Fault::new(at.clone().join(part), text));
    if serve.len() > SERVE_MAX {
        let text = format!("{} Services; {who} serves at most {SERVE_MAX}", serve.len());
        return fault(path!["serve"], text);
    }
    let mut ports = BTreeSet::new();
    for (i, serve) in serve.iter().enumerate() {
        if !ports.insert((&serve.service, &serve.port_name)) {
            let text = format!("{} is served twice: name the other port in `portName`", serve.service);
            return fault(path!["serve", i], text);
        }
    }
    Ok(())
}

/// `account` is the VM's.
fn programs(
    programs: &[Program],
    account: &str,
) -> Result<BTreeMap<api::name::ProgramName, object::Program>, Fault> {
    if programs.len() > PROGRAMS_MAX {
        let text = format!("{} programs; a VM has at most {PROGRAMS_MAX}", programs.len());
        return Err(Fault::new(path!["spec", "programs"], text));
    }
    let (mut found, mut owners) = (BTreeMap::new(), BTreeMap::new());
    for (i, program) in programs.iter().enumerate() {
        let at = path!["spec", "programs", i];
        check_labels(&program.labels, &at)?;
        check_serve(&program.serve, &at, "a program")?;
        let processes = match (&program.unit, &program.slice, &program.user) {
            (Some(unit), slice, None) => Processes::Unit { unit: unit.clone(), slice: slice.clone() },
            (None, None, Some(user)) => Processes::User(user.clone()),
            (None, Some(_), _) => {
                return Err(Fault::new(at.join(path!["slice"]), "it says where `unit` is; name the unit"));
            }
            (Some(_), _, Some(_)) | (None, None, None) => {
                return Err(Fault::new(at, "name its processes by either `unit` or `user`"));
            }
        };
        if let Some(first) = owners.insert(processes.clone(), &program.name) {
            return Err(Fault::new(
                at,
                format!("{first} is the {processes}, too: a process has one identity"),
            ));
        }
        let account = program.service_account.as_ref().map_or(account, |name| name.as_str());
        let parsed = object::Program {
            processes,
            service_account: account.to_owned(),
            labels: program.labels.clone(),
            serve: program.serve.clone(),
        };
        if found.insert(program.name.clone(), parsed).is_some() {
            let text = format!("there are two programs named {}", program.name);
            return Err(Fault::new(at.join(path!["name"]), text));
        }
    }
    Ok(found)
}
