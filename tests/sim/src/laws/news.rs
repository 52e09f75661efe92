//! Whose word a node may go by, and whether it could hear it.

use super::held;
use crate::{
    node::Node,
    reference::{self, Held, Records},
    site::Site,
    wire::Manner,
    world::World,
};
use api::{
    bytes::{Nonce, PublicKey},
    key::{Key, LocalKey, MeshKey},
    name::{ClusterName, NamespaceName, NodeName, ServiceName},
    record::Record,
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

/// A node of the mesh.
pub(super) type NodeId = (ClusterName, NodeName);

/// What a node of a cluster may use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use {
    /// A ClusterIP's backend.
    Backend(IpAddr, IpAddr),
    /// Who owns a prefix.
    Owner(IpNet, PublicKey),
}

/// The way from a source to a node as it was looked at: another one is another way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Path {
    runs: (u8, u8),
    starts: u32,
    nonce: Option<Nonce>,
}

/// What the nodes of a cluster may use now, and by whose word.
pub(super) fn may_use(
    world: &World,
    name: &ClusterName,
    told: &BTreeMap<ClusterName, Records>,
) -> Vec<(ClusterName, Use)> {
    let mut all = Vec::new();
    let own = &told[name];
    let vips = |namespace, service| {
        let local =
            Key::from(LocalKey::Service(NamespaceName::clone(&namespace), ServiceName::clone(&service)));
        let exported = MeshKey::Service(namespace, service).of(name);
        let service = own.get(&exported).or_else(|| own.get(&local)).cloned();
        service.into_iter().filter_map(|record| match record {
            Record::Service(service) => Some(service.frontends),
            _ => None,
        })
    };
    let mut take = |of: &ClusterName, records: &Records| {
        for (key, record) in records {
            match (key, record) {
                (
                    Key::Mesh(_, MeshKey::Backend(namespace, service, ip))
                    | Key::Local(LocalKey::Backend(namespace, service, ip)),
                    _,
                ) => {
                    let vips = vips(namespace.clone(), service.clone()).flatten();
                    all.extend(vips.map(|vip| (of.clone(), Use::Backend(vip, *ip))));
                }
                (Key::Mesh(cluster, MeshKey::Node(node)), Record::Node(record)) => {
                    if let Some(Record::TunnelKey(key)) = records.get(&MeshKey::Key(node.clone()).of(cluster))
                    {
                        let mesh = record.mesh_addresses.iter().map(|ip| IpNet::from(*ip));
                        let owned = record.prefixes.iter().copied().chain(mesh);
                        let machine = world.nodes.get(&(cluster.clone(), node.clone()));
                        let before = machine.into_iter().flat_map(Node::keys_told);
                        let keys: BTreeSet<_> = before.chain([key.public_key]).collect();
                        let uses = |prefix| keys.iter().map(move |key| Use::Owner(prefix, *key));
                        all.extend(owned.flat_map(uses).map(|one| (of.clone(), one)));
                    }
                }
                (_, _) => {}
            }
        }
    };
    take(name, own);
    for (peer, object) in reference::objects(&world.sites[name]) {
        // One that says anything may say anything; his contract is looked at elsewhere.
        let Some(told) = told.get(peer) else { continue };
        let mut records = reference::imported(told, object);
        records.extend(held(world, name, peer).into_iter().filter(|_| is_liar(world, peer)));
        take(peer, &records);
    }
    all
}

pub(super) fn is_liar(world: &World, name: &ClusterName) -> bool {
    let lies = |site: &Site| site.manner == Manner::Hostile || !site.records.is_empty();
    world.sites.get(name).is_some_and(lies)
}

/// The way that news of a cluster take to a node, while it is open.
pub(super) fn path(world: &World, (cluster, node): &NodeId, of: &ClusterName) -> Option<Path> {
    let (here, there) = (&world.sites[cluster], world.sites.get(of));
    let machine = &world.nodes[&(cluster.clone(), node.clone())];
    let run = |site: &Site| site.running.as_ref().map_or(0, |running| running.run);
    let runs = here.running.is_some() && machine.running.is_some() && world.reaches(cluster, node);
    let speaks = |there: &Site| there.running.is_some() && there.source_speaks && !is_liar(world, of);
    let mine = reference::objects(here).get(of);
    // What is no peer is heard of no more, by the own apiserver's word.
    let hears = of == cluster
        || mine.is_none()
        || there.is_some_and(|there| speaks(there) && there.trusts(cluster)) && world.hears(cluster, of);
    let calm = world.reset_one_in == 0 && here.source_speaks;
    let nonce = mine.and_then(|object| object.nonce);
    (runs && hears && calm).then_some(Path {
        runs: (run(here), mine.and(there).map_or(0, run)),
        starts: machine.starts,
        nonce,
    })
}

pub(super) fn uses(held: &Held) -> BTreeSet<Use> {
    let backend = |(vip, all): (&IpAddr, &BTreeSet<SocketAddr>)| {
        let vip = *vip;
        all.iter().map(move |at| Use::Backend(vip, at.ip())).collect::<Vec<_>>()
    };
    let owner = |(key, (_, owned)): (&PublicKey, &(Option<SocketAddr>, BTreeSet<IpNet>))| {
        let key = *key;
        owned.iter().map(move |prefix| Use::Owner(*prefix, key)).collect::<Vec<_>>()
    };
    held.services.iter().flat_map(backend).chain(held.tunnels.iter().flat_map(owner)).collect()
}
