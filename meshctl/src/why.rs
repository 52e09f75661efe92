//! `meshctl why`: what is known of a Service, an address, an identity or a pair, from whom, and what the nodes hold of it. Pure.

mod address;
mod identity;
mod pair;
mod service;
#[cfg(test)]
mod tests;

use crate::facts::Facts;
use anyhow::bail;
use api::{
    bytes::IdentityId,
    key::{Key, MeshKey},
    name::ClusterName,
    record::{Endpoint, Record},
};
use replica::view::ServiceKey;
use std::net::IpAddr;

/// What somebody asks about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// `10.1.2.3`
    Address(IpAddr),
    /// 32 hexadecimal digits.
    Identity(IdentityId),
    /// `namespace/name`, or a name in the namespace `default`: a Service, or else a pod.
    Name(ServiceKey),
}

impl std::str::FromStr for Asked {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        if text.len() == 32
            && let Ok(identity) = text.parse()
        {
            return Ok(Self::Identity(identity));
        }
        // As kubectl reads it.
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        Ok(Self::Name(ServiceKey { namespace: namespace.parse()?, name: name.parse()? }))
    }
}

/// Everything that is known of it in this cluster.
///
/// # Errors
/// When nothing is.
pub fn why(facts: &Facts, asked: &Asked) -> anyhow::Result<String> {
    match asked {
        Asked::Address(address) => Ok(address::why(facts, *address)),
        Asked::Identity(identity) => match identity::why(facts, *identity) {
            Some(text) => Ok(text),
            None => bail!("no cluster that {} knows announces the identity {identity}", facts.cluster),
        },
        Asked::Name(name) => match (service::why(facts, name), pod(facts, name)) {
            (Some(text), _) => Ok(text),
            (None, Some(address)) => Ok(address::why(facts, address)),
            (None, None) => bail!(
                "{} has no Service {name}, and no cluster that it knows has a pod of that name: a global Service needs one of \
                 the same name and namespace in each cluster that uses it",
                facts.cluster
            ),
        },
    }
}

/// How packets go between two of them.
///
/// # Errors
/// When one of them is no workload that this cluster knows.
pub fn why_pair(facts: &Facts, from: &Asked, to: &Asked) -> anyhow::Result<String> {
    Ok(pair::why(facts, address_of(facts, from)?, address_of(facts, to)?))
}

fn address_of(facts: &Facts, asked: &Asked) -> anyhow::Result<IpAddr> {
    match asked {
        Asked::Address(address) => Ok(*address),
        Asked::Name(name) => match pod(facts, name) {
            Some(address) => Ok(address),
            None => bail!("no cluster that {} knows has a pod {name}", facts.cluster),
        },
        Asked::Identity(_) => bail!("a pair is of two addresses or pods; an identity has many"),
    }
}

/// The first address of a pod, our own cluster's before others'.
fn pod(facts: &Facts, name: &ServiceKey) -> Option<IpAddr> {
    let named = |(_, namespace, _, endpoint, _): &Found| {
        **namespace == name.namespace && endpoint.name.as_str() == name.name.as_str()
    };
    let mut found: Vec<_> = endpoints(facts).filter(named).collect();
    found.sort_by_key(|(cluster, ..)| **cluster != facts.cluster);
    found.first().map(|(_, _, address, ..)| *address)
}

type Found<'a> = (&'a ClusterName, &'a api::name::NamespaceName, IpAddr, &'a Endpoint, i64);

/// Every endpoint that anybody announces, with the revision that last changed it.
fn endpoints(facts: &Facts) -> impl Iterator<Item = Found<'_>> {
    facts.records.iter().filter_map(|(key, (record, revision))| match (key, record) {
        (Key::Mesh(cluster, MeshKey::Endpoint(namespace, address)), Record::Endpoint(endpoint)) => {
            Some((cluster, namespace, *address, endpoint, *revision))
        }
        _ => None,
    })
}
