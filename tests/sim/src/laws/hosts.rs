//! What holds of every host at every moment: its maps, however small they are, and peers whose clocks went back.

use super::{Broken, broken, end};
use crate::{
    node::{Node, Programmed},
    reference::{self, Held},
    world::World,
};
use datapath::{apply::model::Sizes, backend::bpf::RouteRow, plan::plan, step::Step};
use ipnet::IpNet;
use std::collections::BTreeSet;

/// Looks at every host.
pub(super) fn always(world: &World) -> Result<(), Broken> {
    for node in world.nodes.values() {
        renewals(world, node)?;
        let agent = node.running.as_ref();
        if let Some((agent, programmed)) = agent.and_then(|agent| Some((agent, agent.programmed.as_ref()?))) {
            nothing_leaves_in_plain(node, agent.composed.image.prefixes.keys())?;
            if node.sizes != Sizes::AMPLE {
                let left = plan(&agent.composed.image, &node.kernel, programmed.completeness);
                refusals_are_named(node, &left, programmed)?;
            }
        }
    }
    Ok(())
}

/// Once for each time that a clock went back, not for one that did not, and nothing of anybody moves.
fn renewals(world: &World, node: &Node) -> Result<(), Broken> {
    let mut seen = BTreeSet::new();
    for renewal in &node.renewals {
        let who = world.nodes.values().find(|other| other.key.public_key == renewal.peer);
        let how = if !seen.insert((renewal.peer, renewal.epoch)) {
            "once more"
        } else if !renewal.keeps_addresses {
            "and moved its addresses"
        } else if who.is_some_and(|who| who.key.clock_epoch < renewal.epoch) {
            "for a clock that did not go back"
        } else {
            continue;
        };
        return broken(
            "a peer is made anew once",
            format!("{} made {} anew, of clock epoch {}, {how}", at(node), renewal.peer, renewal.epoch),
        );
    }
    Ok(())
}

/// What is to be encrypted has a row that guards it or, where the map of those is full, the end of our routing table under it.
fn nothing_leaves_in_plain<'a>(
    node: &Node,
    mut scope: impl Iterator<Item = &'a IpNet>,
) -> Result<(), Broken> {
    let kernel = &node.kernel;
    let is_full = kernel.rows.routes.len() >= node.sizes.routes as usize;
    let fences = kernel.unreachable.iter().filter(|_| is_full);
    let covers =
        |prefix: &IpNet| kernel.rows.routes.keys().chain(fences.clone()).any(|other| other.contains(prefix));
    match scope.find(|prefix| !covers(prefix)) {
        Some(prefix) => {
            broken("nothing leaves in plain", format!("{} lets {prefix} leave in plain", at(node)))
        }
        None => Ok(()),
    }
}

/// Whatever an agent left undone it says, and a row that found no room by its own name.
fn refusals_are_named(node: &Node, left: &[Step], programmed: &Programmed) -> Result<(), Broken> {
    let problems = &programmed.problems;
    let counts_more = problems.iter().any(|problem| problem.ends_with("more were refused"));
    for step in left {
        let needs_room = match step {
            Step::PutLocal { .. } | Step::PutVip { .. } => true,
            // One that is there is closed in its place.
            Step::PutScope { prefix, row: RouteRow::Closed } => !node.kernel.rows.routes.contains_key(prefix),
            _ => false,
        };
        let name = format!("cannot {step}: ");
        let is_named = counts_more || problems.iter().any(|problem| problem.starts_with(&name));
        if problems.is_empty() || needs_room && !is_named {
            return broken(
                "a full map is named",
                format!("{} did not `{step}`, and says {problems:?}", at(node)),
            );
        }
    }
    Ok(())
}

/// When all else is at peace and maps are still too small: what does not fit is named with its map, which has no room left;
/// what is there is right.
pub(crate) fn full_maps(world: &World) -> Result<(), Broken> {
    for node in world.nodes.values().filter(|node| node.sizes != Sizes::AMPLE) {
        if end::is_known(world, node) {
            full_maps_of(world, node)?;
        }
    }
    Ok(())
}

fn full_maps_of(world: &World, node: &Node) -> Result<(), Broken> {
    let (mut held, expected) = (Held::of(&node.kernel), reference::kernel(world, node));
    end::leave_out_what_was_ours(world, node, &mut held, &expected);
    let wrong = |what: String| broken("full maps hold what is right", format!("{} {what}", at(node)));
    if let Some(prefix) = expected.fenced.difference(&held.fenced).next() {
        return wrong(format!("lets {prefix} fall through to the default route"));
    }
    if held.tunnels != expected.tunnels {
        return wrong(format!("has tunnels {:?} and should have {:?}", held.tunnels, expected.tunnels));
    }
    let is_there = |prefix: &IpNet| node.kernel.rows.routes.contains_key(prefix);
    let (mut open, mut closed) = (expected.open.clone(), expected.closed.clone());
    open.retain(is_there);
    closed.retain(is_there);
    if (&held.open, &held.closed) != (&open, &closed) {
        return wrong(format!(
            "has {:?} open, {:?} closed, and should have {open:?} and {closed:?}",
            held.open, held.closed
        ));
    }
    if let Some(pod) = held.pods.iter().find(|(address, device)| expected.pods.get(address) != Some(device)) {
        return wrong(format!("has the pod {pod:?} and should have {:?}", expected.pods));
    }
    for (vip, backends) in &held.services {
        if !expected.services.get(vip).is_some_and(|expected| backends.is_subset(expected)) {
            return wrong(format!("gives {vip} {backends:?} and should give {:?}", expected.services));
        }
    }
    let (rows, sizes) = (&node.kernel.rows, node.sizes);
    let services = rows.services.len() + rows.service_addresses.len();
    let backends = rows.backends.len();
    let maps = [
        (
            expected.fenced.iter().find(|prefix| !is_there(prefix)).map(ToString::to_string),
            ["mesh_routes"].as_slice(),
            rows.routes.len() >= sizes.routes as usize,
        ),
        (
            expected.pods.keys().find(|address| !held.pods.contains_key(address)).map(ToString::to_string),
            &["mesh_local"],
            rows.locals.len() >= sizes.locals as usize,
        ),
        (
            // A set waits also for the prefixes of its backends.
            expected
                .services
                .iter()
                .find(|(vip, all)| held.services.get(vip) != Some(all))
                .map(|(vip, _)| vip.to_string()),
            &["mesh_services", "mesh_backends", "mesh_routes"],
            services >= sizes.services as usize
                || backends >= sizes.backends as usize
                || rows.routes.len() >= sizes.routes as usize,
        ),
    ];
    let problems = node.running.as_ref().and_then(|agent| agent.programmed.as_ref());
    let problems = problems.map(|programmed| programmed.problems.join("; ")).unwrap_or_default();
    for (missing, maps, is_full) in maps {
        let Some(missing) = missing else { continue };
        if !maps.iter().any(|map| problems.contains(&format!("to map {map}: its "))) {
            return broken(
                "a full map is named",
                format!("{} lacks {missing} and names none of {maps:?}: {problems}", at(node)),
            );
        }
        if !is_full {
            return wrong(format!("lacks {missing}, and there is room in {maps:?}: {problems}"));
        }
    }
    Ok(())
}

/// Every peer of a tunnel is of the newest epoch of its clock, and is heard: by what its WireGuard remembers, not by what
/// anybody says.
pub(super) fn clocks_at_the_end(world: &World, node: &Node) -> Result<(), Broken> {
    let unix_ms = world.unix_ms();
    let peers = node.kernel.tunnel.iter().flat_map(|tunnel| &tunnel.peers);
    for (key, known) in peers {
        let Some(peer) = world.nodes.values().find(|peer| peer.key.public_key == *key) else { continue };
        let (epoch, clock_ms) = (peer.key.clock_epoch, peer.clock_ms(unix_ms));
        if known.clock_epoch != epoch {
            return broken(
                "a clock that went back is told",
                format!(
                    "{} has {} of clock epoch {}, and it is {epoch}",
                    at(node),
                    at(peer),
                    known.clock_epoch
                ),
            );
        }
        if let Some(stamp_ms) = node.stamps.get(key).filter(|stamp_ms| **stamp_ms > clock_ms) {
            return broken(
                "handshakes are heard",
                format!("{} hears no handshake of {} for {} ms", at(node), at(peer), stamp_ms - clock_ms),
            );
        }
    }
    Ok(())
}

fn at(node: &Node) -> String {
    format!("{}/{}", node.cluster, node.name)
}
