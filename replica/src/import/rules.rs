//! What a record must be, whatever else the peer announces.

use super::{Facts, Reason};
use api::{
    bytes::{ClusterUuid, PublicKey},
    identity::{self, identity},
    key::MeshKey,
    name::NamespaceName,
    peer::{Contract, overlap},
    record::{Backend, Cluster, Endpoint, Identity, NamedPort, Node, Record, Service, TunnelKey},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Ports of one record. Kubernetes allows 100 in an EndpointSlice; slices of one address are merged.
const PORTS_MAX: usize = 256;
/// Mesh addresses of a node: one of each family.
const MESH_ADDRESSES_MAX: usize = 2;
/// Pod CIDRs of a node: one of each family, and room for those who assign several blocks a node.
const NODE_PREFIXES_MAX: usize = 64;
/// Addresses at which a node, or its relay, is dialled.
const NODE_ENDPOINTS_MAX: usize = 16;
/// Texts meant for people or for comparison: zones, host names, versions, capabilities. (DNS: 253)
const TEXT_MAX_BYTES: usize = 253;
/// Capabilities, and CIDRs of each sort, that a cluster names.
const CLUSTER_LIST_MAX: usize = 64;

/// Nobody's to announce, whatever the contract says. (RFC 6890, IANA's special-purpose address registries)
const SPECIAL: [IpNet; 9] = [
    v4(Ipv4Addr::UNSPECIFIED, 8),
    v4(Ipv4Addr::new(127, 0, 0, 0), 8),
    v4(Ipv4Addr::new(169, 254, 0, 0), 16),
    // Multicast, and the reserved rest with the broadcast address.
    v4(Ipv4Addr::new(224, 0, 0, 0), 3),
    // Unspecified, loopback and the deprecated IPv4-compatible addresses.
    v6(Ipv6Addr::UNSPECIFIED, 96),
    v6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    v6(Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10),
    v6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

const fn v4(address: Ipv4Addr, length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(address, length))
}

const fn v6(address: Ipv6Addr, length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(address, length))
}

/// The rules for one peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) uuid: ClusterUuid,
    pub(super) contract: &'a Contract,
    pub(super) facts: &'a Facts,
}

impl Rules<'_> {
    /// The record as we may hold it, or why we may not.
    pub(super) fn check(self, key: &MeshKey, record: Record) -> Result<Record, Reason> {
        match (key, record) {
            (MeshKey::Cluster, Record::Cluster(record)) => self.cluster(record).map(Record::from),
            (MeshKey::Node(_), Record::Node(record)) => self.node(record).map(Record::from),
            (MeshKey::Key(_), Record::TunnelKey(record)) => self.tunnel_key(record).map(Record::from),
            (MeshKey::Namespace(ns), Record::Namespace(record)) => self.namespace(ns).map(|()| record.into()),
            (MeshKey::Identity(ns, id), Record::Identity(record)) => {
                self.namespace(ns)?;
                let Identity { service_account, labels } = &record;
                let facts = identity::Facts { cluster: self.uuid, namespace: ns, service_account, labels };
                if identity(facts) == *id { Ok(record.into()) } else { Err(Reason::ForgedIdentity) }
            }
            (MeshKey::Endpoint(ns, ip), Record::Endpoint(record)) => {
                self.endpoint(ns, *ip, record).map(Record::from)
            }
            (MeshKey::Service(ns, _), Record::Service(record)) => self.service(ns, record).map(Record::from),
            (MeshKey::Backend(ns, _, ip), Record::Backend(record)) => {
                self.backend(ns, *ip, record).map(Record::from)
            }
            // What describes the present of a store is read, and nothing that is held.
            (_, _) => Err(Reason::MalformedValue),
        }
    }

    /// Tells who it is. Nothing is routed by it, so ranges outside the contract are only left out.
    fn cluster(self, record: Cluster) -> Result<Cluster, Reason> {
        if record.uuid != self.uuid {
            return Err(Reason::WrongCluster);
        }
        let texts = record.capabilities.iter().chain([&record.version]);
        let lists = [
            record.pod_cidrs.len(),
            record.service_cidrs.len(),
            record.mesh_cidrs.len(),
            record.capabilities.len(),
        ];
        if texts.map(String::len).any(|len| len > TEXT_MAX_BYTES)
            || lists.iter().any(|&len| len > CLUSTER_LIST_MAX)
        {
            return Err(Reason::TooLarge);
        }
        let allowed = |all: &[IpNet]| all.iter().filter(|net| self.prefix(net).is_ok()).copied().collect();
        Ok(Cluster {
            pod_cidrs: allowed(&record.pod_cidrs),
            mesh_cidrs: allowed(&record.mesh_cidrs),
            ..record
        })
    }

    fn node(self, record: Node) -> Result<Node, Reason> {
        if record.mesh_addresses.len() > MESH_ADDRESSES_MAX
            || record.prefixes.len() > NODE_PREFIXES_MAX
            || record.endpoints.len() > NODE_ENDPOINTS_MAX
            || record.relay.len() > NODE_ENDPOINTS_MAX
            || record.zone.len() > TEXT_MAX_BYTES
        {
            return Err(Reason::TooLarge);
        }
        if record.mesh_addresses.is_empty() {
            return Err(Reason::Incomplete);
        }
        record.mesh_addresses.iter().try_for_each(|ip| self.address(*ip))?;
        record.prefixes.iter().try_for_each(|prefix| self.prefix(prefix))?;
        record.endpoints.iter().try_for_each(|ip| self.dialled(*ip))?;
        record.relay.iter().try_for_each(|at| self.dialled(at.ip()))?;
        Ok(record)
    }

    fn tunnel_key(self, record: TunnelKey) -> Result<TunnelKey, Reason> {
        // The point of order one that an unset field would be.
        let unset = PublicKey([0; 32]);
        if record.public_key == unset || record.relay_key == Some(unset) {
            return Err(Reason::Incomplete);
        }
        Ok(record)
    }

    fn endpoint(self, ns: &NamespaceName, ip: IpAddr, record: Endpoint) -> Result<Endpoint, Reason> {
        self.namespace(ns)?;
        self.address(ip)?;
        ports(&record.ports)?;
        Ok(record)
    }

    /// A peer's ClusterIPs mean nothing here: they are not passed on, so that nobody can take them for ours.
    fn service(self, ns: &NamespaceName, record: Service) -> Result<Service, Reason> {
        self.namespace(ns)?;
        ports(&record.ports)?;
        if !(record.global && record.shared) {
            return Err(Reason::NotShared);
        }
        Ok(Service { frontends: Vec::new(), ..record })
    }

    fn backend(self, ns: &NamespaceName, ip: IpAddr, record: Backend) -> Result<Backend, Reason> {
        self.namespace(ns)?;
        self.address(ip)?;
        ports(&record.ports)?;
        if record.zone.len() > TEXT_MAX_BYTES || record.hostname.len() > TEXT_MAX_BYTES {
            return Err(Reason::TooLarge);
        }
        Ok(record)
    }

    fn namespace(self, ns: &NamespaceName) -> Result<(), Reason> {
        if self.contract.allows_namespace(ns) { Ok(()) } else { Err(Reason::NamespaceNotAllowed) }
    }

    fn address(self, ip: IpAddr) -> Result<(), Reason> {
        self.prefix(&ip.into())
    }

    /// What packets of ours would be sent to, through the peer's tunnels.
    fn prefix(self, prefix: &IpNet) -> Result<(), Reason> {
        let hits = |nets: &[IpNet]| nets.iter().any(|net| overlap(net, prefix));
        if hits(&SPECIAL) {
            Err(Reason::SpecialAddress)
        } else if hits(&self.facts.our_cidrs) {
            Err(Reason::OurAddress)
        } else if self.facts.tunnel_endpoints.iter().any(|endpoint| prefix.contains(endpoint)) {
            Err(Reason::TunnelEndpoint)
        } else if hits(&self.facts.other_contracts) {
            Err(Reason::AnotherPeersAddress)
        } else if !self.contract.allows_prefix(prefix) {
            Err(Reason::OutsideContract)
        } else {
            Ok(())
        }
    }

    /// Where our nodes would dial: never into the mesh itself, ours or anybody's.
    fn dialled(self, ip: IpAddr) -> Result<(), Reason> {
        let hits = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&ip));
        if hits(&SPECIAL) {
            Err(Reason::SpecialAddress)
        } else if hits(&self.facts.our_cidrs) {
            Err(Reason::OurAddress)
        } else if hits(&self.facts.other_contracts) {
            Err(Reason::AnotherPeersAddress)
        } else if self.contract.allows_address(ip) {
            Err(Reason::TunnelEndpoint)
        } else {
            Ok(())
        }
    }
}

fn ports(ports: &[NamedPort]) -> Result<(), Reason> {
    if ports.len() > PORTS_MAX { Err(Reason::TooLarge) } else { Ok(()) }
}
