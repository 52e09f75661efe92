//! From the view to names.

use super::{ADDRESSES_MAX, Domain, SRV_MAX, Zone};
use api::{
    name::{ClusterName, ServiceName},
    record::{Backend, NamedPort},
};
use hickory_proto::rr::{
    Name, RData,
    rdata::{PTR, SRV, TXT},
};
use replica::{
    service::{Silent, Situation, ready},
    view::{ServiceKey, View},
};
use std::net::IpAddr;

/// The version of the rules, which `dns-version` tells. (Kubernetes' DNS specification, section 2.2)
const SCHEMA_VERSION: &str = "1.1.0";
/// Of every SRV record, as no port and no backend comes before another here.
const PRIORITY: u16 = 0;
const WEIGHT: u16 = 100;

impl Zone {
    /// The names of everything that a view tells.
    #[must_use]
    pub fn of(view: &View, silent: &Silent, cluster: Domain) -> Self {
        let mut zone = Self::unknown(cluster);
        zone.complete = view.is_complete();
        // Serials are compared modulo 2^32, so the low half of the revision will do. (RFC 1982)
        zone.serial = (view.tables().revision() & u64::from(u32::MAX)) as u32;
        let own = view.cluster(view.own()).and_then(|own| own.cluster.as_ref());
        zone.frontend_prefixes = own.map(|own| own.service_cidrs.clone()).unwrap_or_default();
        let version = TXT::new(vec![SCHEMA_VERSION.to_owned()]);
        zone.add(zone.cluster.below(&["dns-version"]), RData::TXT(version), 1);
        for key in view.own_services() {
            if let Some(situation) = view.situation(key) {
                zone.add_service(key, &situation, silent);
            }
        }
        zone
    }

    fn add_service(&mut self, key: &ServiceKey, situation: &Situation<'_>, silent: &Silent) {
        let shared = situation.service.global.then(|| self.clusterset.clone());
        for domain in [Some(self.cluster.clone()), shared].into_iter().flatten() {
            if situation.service.headless {
                for backend in ready(situation, silent) {
                    self.add_backend(&domain, key, situation.own, backend);
                }
            } else {
                self.add_frontends(&domain, key, situation);
            }
        }
    }

    fn add_frontends(&mut self, domain: &Domain, key: &ServiceKey, situation: &Situation<'_>) {
        let service = service_labels(key);
        for address in &situation.service.frontends {
            self.add(domain.below(&service), RData::from(*address), ADDRESSES_MAX);
            if *domain == self.cluster {
                self.add_reverse(*address, domain.below(&service));
            }
        }
        // A name that stands for no address is no target either.
        if !situation.service.frontends.is_empty() {
            for port in &situation.service.ports {
                self.add_port(domain, &service, &service, port);
            }
        }
    }

    /// A backend of a headless Service. Its hostname is unique in its own cluster only.
    fn add_backend(
        &mut self,
        domain: &Domain,
        key: &ServiceKey,
        own: &ClusterName,
        (cluster, address, backend): (&ClusterName, IpAddr, &Backend),
    ) {
        let service = service_labels(key);
        self.add(domain.below(&service), RData::from(address), ADDRESSES_MAX);
        // One that is no label, which only a source that does not check it lets in, is no hostname. (RFC
        // 1123)
        let Ok(hostname) = backend.hostname.parse::<ServiceName>() else { return };
        let in_own_domain = *domain == self.cluster;
        let mut host = vec![hostname.as_str()];
        match (in_own_domain, cluster == own) {
            (true, false) => return,
            (true, true) => {}
            (false, _) => host.push(cluster.as_str()),
        }
        host.extend(&service);
        self.add(domain.below(&host), RData::from(address), ADDRESSES_MAX);
        if in_own_domain {
            self.add_reverse(address, domain.below(&host));
        }
        for port in &backend.ports {
            self.add_port(domain, &service, &host, port);
        }
    }

    /// SRV for a port that has a name; one without gets none. (Kubernetes' DNS specification, section 2.3.2)
    fn add_port(&mut self, domain: &Domain, service: &[&str], target: &[&str], port: &NamedPort) {
        let (Some(name), Some(target)) = (&port.name, domain.below(target)) else { return };
        let protocol = port.protocol.to_string().to_ascii_lowercase();
        let labels = [format!("_{name}"), format!("_{protocol}")];
        let labels: Vec<&str> = labels.iter().map(String::as_str).chain(service.iter().copied()).collect();
        self.add(domain.below(&labels), RData::SRV(SRV::new(PRIORITY, WEIGHT, port.port, target)), SRV_MAX);
    }

    fn add_reverse(&mut self, address: IpAddr, name: Option<Name>) {
        if let Some(name) = name {
            self.add(Some(Name::from(address)), RData::PTR(PTR(name)), ADDRESSES_MAX);
        }
    }

    /// Adds a record once. A name that is too long for DNS has none; one that is full takes no more.
    fn add(&mut self, name: Option<Name>, data: RData, max: usize) {
        let Some(name) = name else { return };
        let records = self.records.entry(name).or_default();
        let of_its_type = records.iter().filter(|held| held.record_type() == data.record_type()).count();
        if of_its_type < max && !records.contains(&data) {
            records.push(data);
        }
    }
}

impl Domain {
    /// A name in this domain; none when it is longer than 255 bytes. (RFC 1035, section 2.3.4)
    fn below(&self, labels: &[&str]) -> Option<Name> {
        Name::from_labels(labels.iter().map(|label| label.as_bytes())).ok()?.append_domain(&self.0).ok()
    }
}

fn service_labels(key: &ServiceKey) -> [&str; 3] {
    [key.name.as_str(), key.namespace.as_str(), "svc"]
}
