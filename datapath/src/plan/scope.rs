//! The encrypted scope: rows of the guard and the direct path, routes and fences of the stack path.

use super::{Stage, Steps, covered};
use crate::{
    backend::bpf::{IPV6_MTU_MIN_BYTES, RouteRow},
    image::{Image, Reach},
    observe::{Device, MeshRoute, Observed},
    step::Step,
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    ops::Bound::{Excluded, Unbounded},
};

pub(super) fn plan(desired: &Image, observed: &Observed, steps: &mut Steps) {
    for (prefix, reach) in &desired.prefixes {
        enter(*prefix, row(*reach, observed.device), observed, steps);
        fence(*prefix, *reach, observed, steps);
        route(*prefix, *reach, desired, observed, steps);
    }
    let free = if observed.short_of_room { free(desired, observed) } else { BTreeSet::new() };
    for (prefix, row) in &observed.rows.routes {
        if desired.prefixes.contains_key(prefix) {
            continue;
        }
        if free.contains(prefix) {
            steps.sweep(Stage::MakeRoom, Step::RemoveScope { prefix: *prefix });
        } else {
            leave(*prefix, *row, desired, observed, steps);
        }
    }
    for prefix in observed.routes.keys() {
        if !matches!(desired.prefixes.get(prefix), Some(Reach::Tunnel { .. })) {
            steps.sweep(Stage::UnRoute, Step::RemoveRoute { prefix: *prefix });
        }
    }
    for prefix in observed.unreachable.iter().filter(|p| !desired.prefixes.contains_key(p)) {
        // Under a shorter prefix that stays, the fence goes before the route, else it would cut the shorter one's flow.
        let stays_covered = covered(prefix, |shorter| desired.prefixes.contains_key(shorter));
        let stage = if stays_covered { Stage::UnFenceUnderRoute } else { Stage::UnFence };
        steps.sweep(stage, Step::RemoveUnreachable { prefix: *prefix });
    }
}

/// A row of the scope, closed first unless a shorter row guards it already.
fn enter(prefix: IpNet, row: RouteRow, observed: &Observed, steps: &mut Steps) {
    let put = |row| Step::PutScope { prefix, row };
    match (observed.rows.routes.get(&prefix), row) {
        (Some(there), wanted) if *there == wanted => {}
        (None, RouteRow::Closed) => steps.add(Stage::Close, put(RouteRow::Closed)),
        (None, RouteRow::Routed { .. }) => {
            if !covered(&prefix, |shorter| observed.rows.routes.contains_key(shorter)) {
                steps.add(Stage::Close, put(RouteRow::Closed));
            }
            steps.add(Stage::Open, put(row));
        }
        (Some(_), RouteRow::Routed { .. }) => steps.add(Stage::Open, put(row)),
        // After the services have moved away from it. An incomplete view may not know yet how it is reached.
        (Some(_), RouteRow::Closed) => steps.sweep(Stage::Shut, put(RouteRow::Closed)),
    }
}

fn leave(prefix: IpNet, row: RouteRow, desired: &Image, observed: &Observed, steps: &mut Steps) {
    let stays_covered = covered(&prefix, |shorter| desired.prefixes.contains_key(shorter));
    // Where the removal may have to wait, the next plan finds it closed, and free.
    if row != RouteRow::Closed && (!stays_covered || observed.short_of_room) {
        steps.sweep(Stage::Shut, Step::PutScope { prefix, row: RouteRow::Closed });
    }
    steps.sweep(Stage::Forget, Step::RemoveScope { prefix });
}

/// Backends that a frontend gives, and is not to give.
fn in_use(desired: &Image, observed: &Observed) -> BTreeSet<IpAddr> {
    let wanted: BTreeSet<SocketAddr> = desired.services.values().flatten().copied().collect();
    let sets: BTreeSet<u32> = observed.rows.services.values().map(|to| to.set).collect();
    let backends = observed.rows.backends.iter().filter(|(key, _)| sets.contains(&key.set));
    backends.map(|(_, backend)| *backend).filter(|b| !wanted.contains(b)).map(|b| b.ip()).collect()
}

/// Closed rows that may go before anything is added, as the others guard all that stays. In the order of prefixes an outer
/// one is asked first, so that of several the innermost stay.
fn free(desired: &Image, observed: &Observed) -> BTreeSet<IpNet> {
    let in_use = in_use(desired, observed);
    let mut rows = observed.rows.routes.clone();
    let mut free = BTreeSet::new();
    for (prefix, row) in &observed.rows.routes {
        let leaves = *row == RouteRow::Closed && !desired.prefixes.contains_key(prefix);
        if leaves && is_free(*prefix, &rows, desired, observed, &in_use) {
            rows.remove(prefix);
            free.insert(*prefix);
        }
    }
    free
}

/// Whether a closed row guards nothing that stays: all of it lies in another closed row; or what lies around it has a
/// shorter row, what lies within it longer ones, and no service has to move from a backend in it.
fn is_free(
    prefix: IpNet,
    rows: &BTreeMap<IpNet, RouteRow>,
    desired: &Image,
    observed: &Observed,
    in_use: &BTreeSet<IpAddr>,
) -> bool {
    let mut shorter = std::iter::successors(prefix.supernet(), IpNet::supernet);
    if shorter.find_map(|shorter| rows.get(&shorter)) == Some(&RouteRow::Closed) {
        return true;
    }
    let around = !covered(&prefix, |shorter| desired.prefixes.contains_key(shorter))
        || covered(&prefix, |shorter| rows.contains_key(shorter));
    let after = (Excluded(prefix), Unbounded);
    // In the order of prefixes, all that lie within follow at once.
    let wanted = desired.prefixes.range(after).map(|(other, _)| other);
    let routed = observed.routes.range(after).map(|(other, _)| other);
    let is_within = |other: &&IpNet| prefix.contains(*other);
    let is_guarded = |other: &IpNet| {
        let between = |row: &IpNet| *row != prefix && prefix.contains(row) && rows.contains_key(row);
        rows.contains_key(other) || covered(other, between)
    };
    let have_rows = wanted.take_while(is_within).chain(routed.take_while(is_within)).all(is_guarded);
    around
        && have_rows
        && !observed.routes.contains_key(&prefix)
        && in_use.range(prefix.network()..=prefix.broadcast()).next().is_none()
}

/// `unreachable` with a worse metric: when `mesh0` and its routes are gone, nothing takes the default route.
fn fence(prefix: IpNet, reach: Reach, observed: &Observed, steps: &mut Steps) {
    if observed.unreachable.contains(&prefix) {
        return;
    }
    let cuts_nobody = reach == Reach::Closed || !covered(&prefix, |p| observed.unreachable.contains(p));
    let stage = if cuts_nobody { Stage::Fence } else { Stage::FenceUnderRoute };
    steps.add(stage, Step::AddUnreachable { prefix });
}

fn route(prefix: IpNet, reach: Reach, desired: &Image, observed: &Observed, steps: &mut Steps) {
    let Some(device) = observed.device else { return };
    let RouteRow::Routed { mtu_bytes } = row(reach, Some(device)) else { return };
    let source = desired.mesh_addresses.iter().copied().find(|own| same_family(*own, prefix));
    // The programs clamp the stack's segments to the row, which may be smaller.
    let least = if prefix.addr().is_ipv6() { IPV6_MTU_MIN_BYTES } else { 0 };
    let mtu_bytes = mtu_bytes.max(least);
    let route = MeshRoute { ifindex: device.ifindex, source, mtu_bytes };
    if observed.routes.get(&prefix) != Some(&route) {
        steps.add(Stage::Route, Step::PutRoute { prefix, route });
    }
}

/// A redirect into a device checks no MTU and a route's metric overrides the device's, so neither may exceed it.
fn row(reach: Reach, device: Option<Device>) -> RouteRow {
    match reach {
        Reach::Closed => RouteRow::Closed,
        Reach::Tunnel { mtu_bytes } => {
            let mtu_bytes = device.map_or(mtu_bytes, |device| device.mtu_bytes.min(mtu_bytes));
            RouteRow::Routed { mtu_bytes }
        }
    }
}

fn same_family(address: IpAddr, prefix: IpNet) -> bool {
    address.is_ipv4() == prefix.addr().is_ipv4()
}
