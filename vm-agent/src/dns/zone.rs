//! What is answered for which name, from the mesh's view. Pure.
//!
//! | name | records |
//! |---|---|
//! | `cart.shop.svc.cluster.local` | A, AAAA: the Service's own frontends; of a headless one its ready backends |
//! | `_http._tcp.cart.shop.svc.…` | SRV: the Service's port; of a headless one each ready backend's that has a hostname |
//! | `cart-0.cart.shop.svc.cluster.local` | A, AAAA: a ready backend of the own cluster, by its hostname |
//! | `cart-0.east.cart.shop.svc.clusterset.local` | the same of any cluster |
//! | `10.0.101.10.in-addr.arpa` | PTR: whose frontend, or which backend with a hostname |
//! | `dns-version.cluster.local` | TXT: the version of the rules |
//!
//! The rules are Kubernetes' DNS specification 1.1.0
//! (<https://github.com/kubernetes/dns/blob/master/docs/specification.md>), and for `clusterset.local`, where
//! only Services annotated global are, KEP-1645.

mod build;

use api::name::ObjectName;
use hickory_proto::rr::{Name, RData, RecordType, rdata::SOA};
use ipnet::IpNet;
use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
};

/// Seconds for which an answer, also a negative one, may be kept. As CoreDNS does in clusters: a headless
/// Service's addresses change with every rollout, and asking again costs a round trip over loopback.
pub const TTL_S: u32 = 5;
/// Addresses behind one name. At most 28 bytes each (AAAA, its name compressed): 28,000 of a message's
/// 65,535.
pub const ADDRESSES_MAX: usize = 1_000;
/// SRV records behind one name. At most 273 bytes each, as their targets are not compressed (RFC 2782):
/// 54,600.
pub const SRV_MAX: usize = 200;

/// A domain that Services have names in: a cluster's own, or the one that clusters share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain(Name);

/// The text is no domain that could be the mesh's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no cluster domain: it needs labels of a-z, 0-9 and '-', as `cluster.local` has")]
pub struct BadDomain(String);

impl Domain {
    /// The domain of KEP-1645.
    #[must_use]
    pub fn clusterset() -> Self {
        "clusterset.local".parse().expect("two labels")
    }

    /// As people write it, without the last dot.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.to_ascii().trim_end_matches('.').to_owned()
    }
}

impl std::fmt::Display for Domain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.text())
    }
}

impl Default for Domain {
    /// What clusters call themselves unless they are told otherwise.
    fn default() -> Self {
        "cluster.local".parse().expect("two labels")
    }
}

impl std::str::FromStr for Domain {
    type Err = BadDomain;

    fn from_str(text: &str) -> Result<Self, BadDomain> {
        let trimmed = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let name =
            trimmed.parse::<ObjectName>().ok().and_then(|_| Name::from_ascii(format!("{trimmed}.")).ok());
        name.map(Self).ok_or_else(|| BadDomain(text.chars().take(64).collect()))
    }
}

/// What a zone says of a name and a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// These.
    Records(Vec<RData>),
    /// The name is there, and has none of this type.
    NoData,
    /// Nothing has this name, and nothing below it.
    NoName,
    /// The mesh has not been listed yet: absence means nothing.
    Unknown,
}

/// All names of the mesh at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    cluster: Domain,
    clusterset: Domain,
    complete: bool,
    serial: u32,
    /// Where frontends come from: their reverse names are ours, also of those that nobody has.
    frontend_prefixes: Vec<IpNet>,
    records: BTreeMap<Name, Vec<RData>>,
}

impl Zone {
    /// The zone of an agent that knows nothing yet.
    #[must_use]
    pub fn unknown(cluster: Domain) -> Self {
        Self {
            cluster,
            clusterset: Domain::clusterset(),
            complete: false,
            serial: 0,
            frontend_prefixes: Vec::new(),
            records: BTreeMap::new(),
        }
    }

    /// The apex of the zone that a name is in; none when the name is not ours.
    #[must_use]
    pub fn apex_of(&self, name: &Name) -> Option<&Name> {
        [&self.cluster.0, &self.clusterset.0].into_iter().find(|apex| apex.zone_of(name))
    }

    /// Whether we answer for a name, whatever the answer is.
    #[must_use]
    pub fn owns(&self, name: &Name) -> bool {
        self.apex_of(name).is_some() || self.records.contains_key(name) || self.is_frontends_reverse(name)
    }

    fn is_frontends_reverse(&self, name: &Name) -> bool {
        let Ok(net) = name.parse_arpa_name() else { return false };
        self.frontend_prefixes.iter().any(|prefix| prefix.contains(&net))
    }

    /// The answer for a name that we own.
    #[must_use]
    pub fn answer(&self, name: &Name, of: RecordType) -> Answer {
        let records = self.records.get(name);
        let apex = self.apex_of(name).filter(|apex| *apex == name);
        let mut found: Vec<RData> =
            records.into_iter().flatten().filter(|data| is_of(data, of)).cloned().collect();
        if let Some(apex) = apex
            && matches!(of, RecordType::SOA | RecordType::ANY)
        {
            found.push(RData::SOA(self.soa(apex)));
        }
        if !found.is_empty() {
            return Answer::Records(found);
        }
        let exists = records.is_some() || apex.is_some() || self.has_below(name);
        match (self.complete, exists) {
            (false, _) => Answer::Unknown,
            (true, true) => Answer::NoData,
            (true, false) => Answer::NoName,
        }
    }

    /// A name without records exists while there is one below it. (RFC 8020, section 2)
    fn has_below(&self, name: &Name) -> bool {
        // Names are in canonical order: what is below a name follows it. (RFC 4034, section 6.1)
        let next = self.records.range((Excluded(name), Unbounded)).next();
        next.is_some_and(|(next, _)| name.zone_of(next))
    }

    /// What a negative answer carries, so that it may be kept, and for how long. (RFC 2308, section 3)
    #[must_use]
    pub fn soa(&self, apex: &Name) -> SOA {
        let below = |labels: &str| Name::from_ascii(labels).and_then(|name| name.append_domain(apex));
        let below = |labels: &str| below(labels).unwrap_or_else(|_| apex.clone());
        // Nobody transfers the zone, so the three in the middle are only what is usual.
        SOA::new(below("ns.dns"), below("hostmaster"), self.serial, 7_200, 1_800, 86_400, TTL_S)
    }

    /// The apex whose SOA a negative answer about a name carries; of a reverse name the name itself, as its
    /// zone is the host's own provider's and no part of it is cut for us.
    #[must_use]
    pub fn authority_of<'a>(&'a self, name: &'a Name) -> &'a Name {
        self.apex_of(name).unwrap_or(name)
    }
}

fn is_of(data: &RData, of: RecordType) -> bool {
    of == RecordType::ANY || data.record_type() == of
}

#[cfg(test)]
mod tests;
