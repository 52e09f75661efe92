//! Addresses of this host, and the programs at its pods' devices.

use super::{Stage, Steps};
use crate::{
    backend::bpf::{Attachment, LocalRow, Program},
    image::{Image, Pod},
    observe::Observed,
    step::Step,
};
use std::{collections::BTreeMap, net::IpAddr};

pub(super) fn plan(desired: &Image, observed: &Observed, steps: &mut Steps) {
    let wanted = locals(desired);
    for (address, local) in &wanted {
        if observed.rows.locals.get(address) != Some(local) {
            steps.add(Stage::Local, Step::PutLocal { address: *address, local: *local });
        }
    }
    for address in observed.rows.locals.keys().filter(|address| !wanted.contains_key(address)) {
        steps.sweep(Stage::UnLocal, Step::RemoveLocal { address: *address });
    }

    for ifindex in &desired.pod_devices {
        let attachment = Attachment { program: Program::FromPod, ifindex: *ifindex };
        if !observed.attachments.contains(&attachment) {
            steps.add(Stage::PodProgram, Step::Attach(attachment));
        }
    }
    for attachment in observed.attachments.iter().filter(|at| at.program == Program::FromPod) {
        if !desired.pod_devices.contains(&attachment.ifindex) {
            steps.sweep(Stage::UnPodProgram, Step::Detach(*attachment));
        }
    }
}

/// A tenant's address wins over a pod that claims it, and the host's own over both.
fn locals(desired: &Image) -> BTreeMap<IpAddr, LocalRow> {
    let row = |pod: &Pod| LocalRow::Pod { ifindex: pod.ifindex, mac: pod.mac };
    let pods = desired.pods.iter().map(|(address, pod)| (*address, row(pod)));
    let own = desired.mesh_addresses.iter().map(|address| (*address, LocalRow::Node));
    let tenants = desired.tenancy.addresses().map(|address| (address, LocalRow::Tenant));
    pods.chain(tenants).chain(own).collect()
}
