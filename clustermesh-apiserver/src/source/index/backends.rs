//! EndpointSlice, and what a VM serves → `backends/<ns>/<name>/<ip>`.
//!
//! Several slices may hold one address (more than 1,000 endpoints, other ports, a move between slices): their ports
//! are joined. Two *pods* that claim one address are a conflict: the newest creation has it, then the greater UID.

use super::{
    Index, Out,
    services::{Home, Homes},
    vms,
};
use crate::{
    source::{
        memory::MeshAddresses,
        object::{Body, Object, ObjectKey, ObjectKind, Slice, SliceEndpoint, derived_uid},
    },
    vms::presence::{VmState, VmStates},
};
use api::{
    bytes::Uid,
    external_workload::Serve,
    name::{NamespaceName, NodeName, ProgramName, ServiceName},
    record::{Backend, NamedPort, Record},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

type BackendsOf = BTreeMap<(NamespaceName, ServiceName, IpAddr), (ObjectKey, Backend, Sharing)>;

/// Whether several pods may stand behind one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// A pod's own address.
    One,
    /// A node's: every hostNetwork pod there has it; or a VM's: it serves by it whatever it serves.
    Many,
}

pub(super) fn backends(
    index: &Index,
    homes: &Homes,
    (vms, states): (&[vms::Found<'_>], &VmStates),
    mesh_addresses: &MeshAddresses,
    out: &mut Out<'_>,
) {
    let context = Context { index, mesh_addresses, hosts: hosts(index) };
    let mut found = BackendsOf::new();
    for (key, object) in index.of_kind(ObjectKind::EndpointSlice) {
        let Body::Slice(slice) = &object.body else { continue };
        let Some(service) = slice.service.clone() else { continue };
        let namespace = key.namespace.clone().expect("an EndpointSlice has a namespace");
        let home = match homes.get(&(namespace.clone(), service.clone())) {
            Some(Some(home)) => *home,
            Some(None) => continue,
            None => {
                let text = format!("there is no Service {namespace}/{service}: its addresses go nowhere");
                out.notice(key, text);
                continue;
            }
        };
        for endpoint in &slice.endpoints {
            for &ip in &endpoint.addresses {
                if let Some((at, backend, sharing)) =
                    context.backend(key, object, (slice, endpoint), ip, home, out)
                {
                    let place = (namespace.clone(), service.clone(), at);
                    merge(&mut found, place, key, backend, sharing, out);
                }
            }
        }
    }
    for vm in vms {
        let state = states.get(&vm.node);
        let itself =
            Server { vm, program: None, uid: vm.object.uid, addresses: vm.addresses, serve: &vm.vm.serve };
        served((index, homes), &itself, state, &mut found, out);
        for program in &vm.programs {
            let server = Server {
                vm,
                program: Some(program.name),
                uid: program.uid,
                addresses: program.addresses,
                serve: &program.program.serve,
            };
            served((index, homes), &server, state, &mut found, out);
        }
    }
    for ((namespace, service, ip), (slice, backend, sharing)) in found {
        let home = homes[&(namespace.clone(), service.clone())].expect("its backends have one");
        if home == Home::Exported && sharing == Sharing::One {
            out.warn_outside(&slice, ip);
        }
        let key = home.backend_key(&out.facts.cluster, namespace, service, ip);
        out.put(&slice, key, Record::from(backend));
    }
}

/// Who serves, and where: a VM, or a program of it.
struct Server<'a> {
    vm: &'a vms::Found<'a>,
    program: Option<&'a ProgramName>,
    uid: Uid,
    addresses: &'a [IpAddr],
    serve: &'a [Serve],
}

/// What a VM serves: a backend at its mesh address, or its program's, ready while its own check is answered. One that is not heard of is
/// demoted, not forgotten: as an endpoint that ends and still serves, it is used when there is no better one. One that
/// never was heard of has not joined.
fn served(
    (index, homes): (&Index, &Homes),
    Server { vm: vms::Found { key, object, node, .. }, program, uid, addresses, serve }: &Server<'_>,
    state: Option<&VmState>,
    found: &mut BackendsOf,
    out: &mut Out<'_>,
) {
    let namespace = key.namespace.as_ref().expect("a VM has a namespace");
    for serve in *serve {
        let name = format!("{namespace}/{}", serve.service);
        match homes.get(&(namespace.clone(), serve.service.clone())) {
            Some(Some(_)) => {}
            Some(None) => {
                out.notice(key, format!("{name} is kube-proxy's alone: this VM cannot serve it"));
                continue;
            }
            None => {
                out.notice(key, format!("there is no Service {name}: nobody reaches what this VM serves"));
                continue;
            }
        }
        let port = match port_of(index.service_ports(namespace, &serve.service), serve) {
            Ok(port) => port,
            Err(why) => {
                out.notice(key, format!("cannot serve {name}: {why}"));
                continue;
            }
        };
        let lapsed = state.is_some_and(|state| state.lapsed);
        out.served((node, *program), &serve.service, &port);
        for &ip in *addresses {
            let answers = |state: &VmState| !state.failing.contains(&(serve.service.clone(), port.port, ip));
            let serving = state.is_some_and(answers);
            let backend = Backend {
                uid: *uid,
                ports: vec![port.clone()],
                ready: serving && !lapsed,
                serving,
                terminating: lapsed,
                weight: 1,
                zone: String::new(),
                node: Some(node.clone()),
                hostname: String::new(),
                created_s: object.created_s,
            };
            let place = (namespace.clone(), serve.service.clone(), ip);
            merge(found, place, key, backend, Sharing::Many, out);
        }
    }
}

/// The backend's port: frontends find it by the name of the Service's.
fn port_of(ports: &[NamedPort], serve: &Serve) -> Result<NamedPort, String> {
    let of_service = match (&serve.port_name, ports) {
        (None, [only]) => only,
        (None, []) => return Err("it has no port of TCP or UDP".to_owned()),
        (None, _) => return Err("it has several ports: say which by `portName`".to_owned()),
        (Some(name), _) => ports
            .iter()
            .find(|port| port.name.as_ref() == Some(name))
            .ok_or_else(|| format!("it has no port named `{name}`"))?,
    };
    Ok(NamedPort { port: serve.port.get(), ..of_service.clone() })
}

/// Every node's own addresses.
fn hosts(index: &Index) -> BTreeMap<IpAddr, NodeName> {
    let mut hosts = BTreeMap::new();
    for (key, object) in index.of_kind(ObjectKind::Node) {
        if let Body::Node(node) = &object.body {
            let name: NodeName = key.name.as_str().parse().expect("an object's name is a node's name");
            hosts.extend(node.internal_ips.iter().map(|&ip| (ip, name.clone())));
        }
    }
    hosts
}

struct Context<'a> {
    index: &'a Index,
    mesh_addresses: &'a MeshAddresses,
    hosts: BTreeMap<IpAddr, NodeName>,
}

impl Context<'_> {
    /// What one address of a slice becomes: one backend, under its own address or its node's mesh address.
    fn backend(
        &self,
        key: &ObjectKey,
        object: &Object,
        (slice, endpoint): (&Slice, &SliceEndpoint),
        ip: IpAddr,
        home: Home,
        out: &mut Out<'_>,
    ) -> Option<(IpAddr, Backend, Sharing)> {
        let namespace = key.namespace.as_ref().expect("an EndpointSlice has a namespace");
        let pod = endpoint.pod.as_ref().and_then(|(name, _)| self.index.pod(namespace, name));
        let host = self.hosts.get(&ip).cloned();
        let sharing = match (pod, &host) {
            (Some((_, pod)), _) if pod.host_network => Sharing::Many,
            (_, Some(_)) => Sharing::Many,
            (_, None) => Sharing::One,
        };
        let node = endpoint.node.clone().or(host).or_else(|| pod.and_then(|(_, pod)| pod.node.clone()));
        let at = match (sharing, home) {
            (Sharing::One, _) | (Sharing::Many, Home::Local) => ip,
            // A node's address is never a mesh destination: others reach its hostNetwork pods by its mesh address.
            (Sharing::Many, Home::Exported) => {
                let of_node = node.as_ref().map(|node| self.mesh_addresses.of(node)).unwrap_or_default();
                let same_family = of_node.iter().find(|a| a.is_ipv4() == ip.is_ipv4());
                let Some(&mesh) = same_family else {
                    let text = format!(
                        "{ip} is left out: it is a node's address, and that node has no mesh address"
                    );
                    out.notice(key, text);
                    return None;
                };
                mesh
            }
        };
        let uid = match (sharing, &endpoint.pod, pod) {
            (Sharing::One, Some((_, Some(uid))), _) => *uid,
            (Sharing::One, Some((_, None)), Some((pod, _))) => pod.uid,
            // Nobody says whose it is: the Service and the address are all there is to know.
            (Sharing::One, _, _) | (Sharing::Many, _, _) => {
                let service = slice.service.as_ref().map(ServiceName::as_str).unwrap_or_default();
                derived_uid(out.facts.uuid, &format!("Backend {namespace}/{service}/{at}"))
            }
        };
        let created_s = pod.map_or(object.created_s, |(pod, _)| pod.created_s);
        let backend = Backend {
            uid,
            ports: slice.ports.clone(),
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
            weight: 1,
            zone: endpoint.zone.clone(),
            node,
            hostname: endpoint.hostname.clone(),
            created_s,
        };
        Some((at, backend, sharing))
    }
}

fn merge(
    found: &mut BackendsOf,
    place: (NamespaceName, ServiceName, IpAddr),
    slice: &ObjectKey,
    backend: Backend,
    sharing: Sharing,
    out: &mut Out<'_>,
) {
    let ip = place.2;
    let (from, held, _) = match found.entry(place) {
        std::collections::btree_map::Entry::Vacant(vacant) => {
            let mut backend = backend;
            backend.ports = joined(&[], &backend.ports);
            vacant.insert((slice.clone(), backend, sharing));
            return;
        }
        std::collections::btree_map::Entry::Occupied(occupied) => occupied.into_mut(),
    };
    if held.uid == backend.uid {
        held.ports = joined(&held.ports, &backend.ports);
        // Of one pod in two slices the better report is the newer one (a pod that is moved is written first, then
        // removed); of several pods on one node, one that is ready makes the node's address worth trying.
        held.ready |= backend.ready;
        held.serving |= backend.serving;
        held.terminating &= backend.terminating;
        held.created_s = held.created_s.max(backend.created_s);
        held.node = held.node.take().or(backend.node);
        for (known, more) in [(&mut held.zone, backend.zone), (&mut held.hostname, backend.hostname)] {
            if known.is_empty() {
                *known = more;
            }
        }
        return;
    }
    let newer = (backend.created_s, backend.uid) > (held.created_s, held.uid);
    let (winner, loser) = if newer { (backend.uid, held.uid) } else { (held.uid, backend.uid) };
    out.notice(
        slice,
        format!("{ip} is claimed by the pods {winner} and {loser}; the newer one, {winner}, has it"),
    );
    if newer {
        *from = slice.clone();
        *held = Backend { ports: joined(&[], &backend.ports), ..backend };
    }
}

fn joined(a: &[NamedPort], b: &[NamedPort]) -> Vec<NamedPort> {
    a.iter().chain(b).cloned().collect::<BTreeSet<_>>().into_iter().collect()
}
