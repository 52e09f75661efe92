//! The host itself: `mesh0` and its addresses, the rules, the masquerading, and the programs at devices that are no pod's.

use super::{Stage, Steps};
use crate::{
    backend::bpf::{Attachment, ConfigRow, Program},
    image::Image,
    observe::{Family, Masquerade, Observed, Sysctl},
    step::Step,
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU32,
};

pub(super) fn plan(desired: &Image, observed: &Observed, steps: &mut Steps) {
    guards(desired, observed, steps);
    device(desired, observed, steps);
    config(desired, observed, steps);
    rules(desired, observed, steps);
    let masquerade = match own(desired, observed, steps.complete()) {
        (None, None) => Masquerade::Absent,
        (v4, v6) => Masquerade::To { v4, v6, kept: kept(desired, observed, steps.complete()) },
    };
    match masquerade {
        same if same == observed.masquerade => {}
        Masquerade::To { .. } => steps.add(Stage::Prepare, Step::SetMasquerade(masquerade)),
        Masquerade::Absent | Masquerade::Foreign => {
            steps.sweep(Stage::UnPrepare, Step::SetMasquerade(masquerade));
        }
    }
}

/// Programs at uplinks and at `mesh0`; those at pods' devices are in [`super::pods`].
fn guards(desired: &Image, observed: &Observed, steps: &mut Steps) {
    let at = |ifindex, program| Attachment { program, ifindex };
    let uplinks =
        desired.uplinks.iter().flat_map(|i| [at(*i, Program::UplinkOut), at(*i, Program::UplinkIn)]);
    let tunnel = observed
        .device
        .iter()
        .flat_map(|d| [at(d.ifindex, Program::FromTunnel), at(d.ifindex, Program::ToTunnel)]);
    let wanted: BTreeSet<Attachment> = uplinks.chain(tunnel).collect();

    for attachment in wanted.difference(&observed.attachments) {
        steps.add(Stage::Guard, Step::Attach(*attachment));
    }
    for attachment in observed.attachments.difference(&wanted) {
        match attachment.program {
            Program::FromPod => {}
            Program::FromTunnel | Program::ToTunnel | Program::UplinkOut | Program::UplinkIn => {
                steps.sweep(Stage::UnGuard, Step::Detach(*attachment));
            }
        }
    }
}

fn device(desired: &Image, observed: &Observed, steps: &mut Steps) {
    let Some(device) = observed.device else { return };
    let ifindex = device.ifindex;
    // Settings before the device is up: a link-local address is made in the moment it comes up.
    for key in Sysctl::ALL {
        let differs = observed.sysctls.get(&key).is_some_and(|there| there != key.wanted());
        if differs {
            steps.add(Stage::Prepare, Step::SetSysctl(key));
        }
    }
    if !device.up {
        steps.add(Stage::Prepare, Step::BringUp { ifindex });
    }
    let wanted: BTreeSet<IpAddr> =
        desired.mesh_addresses.iter().copied().chain(desired.tenancy.addresses()).collect();
    for address in wanted.difference(&observed.addresses) {
        steps.add(Stage::Prepare, Step::AddAddress { ifindex, address: *address });
    }
    // A link-local address that the kernel made before we told it not to harms nobody: `to_tunnel` drops what it says.
    for address in observed.addresses.difference(&wanted).filter(|own| !is_link_local(**own)) {
        steps.sweep(Stage::UnPrepare, Step::RemoveAddress { ifindex, address: *address });
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn config(desired: &Image, observed: &Observed, steps: &mut Steps) {
    let (mesh_v4, mesh_v6) = own(desired, observed, steps.complete());
    let mesh_ifindex = observed.device.and_then(|device| NonZeroU32::new(device.ifindex));
    let config = ConfigRow { mesh_ifindex, mesh_v4, mesh_v6 };
    if config != observed.rows.config {
        steps.add(Stage::Prepare, Step::PutConfig(config));
    }
}

/// A family takes our table when there is a prefix to look up in it.
fn rules(desired: &Image, observed: &Observed, steps: &mut Steps) {
    let wanted: BTreeSet<Family> = desired.prefixes.keys().map(Family::of).collect();
    for family in wanted.difference(&observed.rules) {
        steps.add(Stage::Prepare, Step::AddRule(*family));
    }
    for family in observed.rules.difference(&wanted) {
        steps.sweep(Stage::UnPrepare, Step::RemoveRule(*family));
    }
}

/// Tenants' addresses, which they keep; before the view is complete, none that was kept is masqueraded.
fn kept(desired: &Image, observed: &Observed, complete: bool) -> BTreeSet<IpAddr> {
    let had = match &observed.masquerade {
        Masquerade::To { kept, .. } if !complete => kept.clone(),
        Masquerade::To { .. } | Masquerade::Absent | Masquerade::Foreign => BTreeSet::new(),
    };
    desired.tenancy.addresses().chain(had).collect()
}

/// This host's mesh addresses; before the view is complete, those it had do not go.
fn own(desired: &Image, observed: &Observed, complete: bool) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let had = if complete { ConfigRow::default() } else { observed.rows.config };
    let v4 = desired.mesh_addresses.iter().find_map(|own| match own {
        IpAddr::V4(own) => Some(*own),
        IpAddr::V6(_) => None,
    });
    let v6 = desired.mesh_addresses.iter().find_map(|own| match own {
        IpAddr::V4(_) => None,
        IpAddr::V6(own) => Some(*own),
    });
    (v4.or(had.mesh_v4), v6.or(had.mesh_v6))
}
