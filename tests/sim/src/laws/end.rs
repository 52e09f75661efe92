//! What must be so when everything works again and time has passed.

use super::{Broken, broken, held, hosts};
use crate::{
    disk::Object,
    node::Node,
    reference::{self, Held, Records, is_of, limit, over},
    world::World,
};
use api::{
    key::{Key, Kind, MeshKey},
    name::ClusterName,
    record::Phase,
};
use datapath::plan::{Completeness, plan};
use ipnet::IpNet;
use std::collections::BTreeSet;

/// Looks at what must be so when everything works again and time has passed.
pub(crate) fn at_the_end(world: &World) -> Result<(), Broken> {
    for (name, site) in &world.sites {
        for (peer, object) in reference::objects(site) {
            if object.deadline_s.is_some() {
                return broken("peerings have two sides", format!("{name} still prepares for {peer}"));
            }
            let state = site.running.as_ref().and_then(|running| running.held(peer));
            if state.is_none_or(|state| state.phase != Phase::Active) {
                return broken(
                    "peerings have two sides",
                    format!("{name} has an active object about {peer} and is not in the peering"),
                );
            }
        }
        for (peer, object) in reference::peers(world, name) {
            import_equals_reference(world, name, peer, object)?;
        }
    }
    world.nodes.values().try_for_each(|node| {
        kernel_equals_reference(world, node)?;
        hosts::clocks_at_the_end(world, node)
    })
}

fn import_equals_reference(
    world: &World,
    name: &ClusterName,
    peer: &ClusterName,
    object: &Object,
) -> Result<(), Broken> {
    let mut expected = reference::imported(&reference::announced(world, peer), object);
    let all: BTreeSet<Key> = expected.keys().cloned().collect();
    let over = over(&expected, object);
    let mut held = held(world, name, peer);
    limits_are_used(world, (name, peer), object, &over, &held)?;
    held.retain(|key, _| !matches!(key, Key::Mesh(_, MeshKey::Cluster)));
    // An identity lingers after its last use.
    held.retain(|key, _| expected.contains_key(key) || !matches!(key, Key::Mesh(_, MeshKey::Identity(..))));
    expected.retain(|key, record| match held.get(key) {
        None => !is_of(key, &over),
        Some(held) => held != record,
    });
    held.retain(|key, _| !all.contains(key));
    match (expected.first_key_value(), held.first_key_value()) {
        (None, None) => Ok(()),
        (Some((key, record)), _) => {
            let has = world.sites[name].running.as_ref().and_then(|r| r.durable.records(peer).remove(key));
            broken(
                "imports equal the reference",
                format!("{name} should hold {key} {record:?}, and has {has:?}"),
            )
        }
        (None, Some((key, record))) => {
            broken("imports equal the reference", format!("{name} should not hold {key} {record:?}"))
        }
    }
}

/// Of what is too much, as much is held as the contract allows, the rest is refused by name, and a node that is held has its
/// key.
fn limits_are_used(
    world: &World,
    (name, peer): (&ClusterName, &ClusterName),
    object: &Object,
    over: &BTreeSet<Kind>,
    held: &Records,
) -> Result<(), Broken> {
    for kind in over {
        let count = held.keys().filter(|key| is_of(key, &[*kind].into())).count();
        let most = limit(object, *kind);
        if count != most {
            return broken(
                "limits are used",
                format!("{name} holds {count} {kind:?} of {peer}, and may hold {most}"),
            );
        }
    }
    let session = world.sites[name].running.as_ref().and_then(|running| running.sessions.get(peer));
    let refusals = session.map(|session| session.import.state().refusals).unwrap_or_default();
    if !over.is_empty() && !refusals.iter().any(|refusal| refusal.reason == "over-limit") {
        return broken("limits are used", format!("{name} refused {over:?} of {peer}, and does not say so"));
    }
    let announced = reference::announced(world, peer);
    for key in held.keys() {
        if let Key::Mesh(_, MeshKey::Node(node)) = key {
            let key = MeshKey::Key(node.clone()).of(peer);
            if announced.contains_key(&key) && !held.contains_key(&key) {
                return broken("limits are used", format!("{name} holds {node} of {peer} without its key"));
            }
        }
    }
    Ok(())
}

fn kernel_equals_reference(world: &World, node: &Node) -> Result<(), Broken> {
    let at = format!("{}/{}", node.cluster, node.name);
    let Some(agent) = &node.running else {
        return broken("kernels equal the reference", format!("the agent of {at} does not run"));
    };
    let left = plan(&agent.composed.image, &node.kernel, Completeness::Complete);
    if let Some(step) = left.first() {
        return broken(
            "kernels equal the reference",
            format!("{at} has {} steps to take, the first of them: {step}", left.len()),
        );
    }
    let (mut held, expected) = (Held::of(&node.kernel), reference::kernel(world, node));
    if !is_known(world, node) {
        return Ok(());
    }
    leave_out_what_was_ours(world, node, &mut held, &expected);
    if held != expected {
        return broken(
            "kernels equal the reference",
            format!("{at} holds {}", differences(&held, &expected)),
        );
    }
    Ok(())
}

/// Whether the source of its cluster has a node of this name.
pub(super) fn is_known(world: &World, node: &Node) -> bool {
    let own = reference::announced(world, &node.cluster);
    own.contains_key(&MeshKey::Node(node.name.clone()).of(&node.cluster))
}

/// What belonged to a peer that is gone stays closed.
pub(super) fn leave_out_what_was_ours(world: &World, node: &Node, held: &mut Held, expected: &Held) {
    let once_ours = |prefix: &IpNet| {
        let there =
            world.sites.iter().filter(|(name, _)| **name != node.cluster).map(|(_, site)| &site.cidrs);
        there.chain(world.gone.values()).flatten().any(|cidr| cidr.contains(prefix))
    };
    held.closed.retain(|prefix| expected.closed.contains(prefix) || !once_ours(prefix));
    held.fenced.retain(|prefix| expected.fenced.contains(prefix) || !once_ours(prefix));
}

fn differences(held: &Held, expected: &Held) -> String {
    let mut out = Vec::new();
    if held.services != expected.services {
        out.push(format!("services {:?} and should hold {:?}", held.services, expected.services));
    }
    if held.open != expected.open {
        out.push(format!("open prefixes {:?} and should hold {:?}", held.open, expected.open));
    }
    if held.closed != expected.closed {
        out.push(format!("closed prefixes {:?} and should hold {:?}", held.closed, expected.closed));
    }
    if held.fenced != expected.fenced {
        out.push(format!("fences {:?} and should hold {:?}", held.fenced, expected.fenced));
    }
    if held.pods != expected.pods {
        out.push(format!("pods {:?} and should hold {:?}", held.pods, expected.pods));
    }
    if held.tunnels != expected.tunnels {
        out.push(format!("tunnels {:?} and should hold {:?}", held.tunnels, expected.tunnels));
    }
    out.join("; ")
}
