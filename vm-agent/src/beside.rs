//! What a VM's agent does beside programming its data path: it says that it is there and how what it serves is, and has
//! names made of what it knows.

use crate::{
    dns::zone::{Domain, Zone},
    health::{Checks, Target},
    names::{Facts, Names},
};
use api::{
    bytes::Instance,
    key::LocalKey,
    name::{NamespaceName, NodeName},
    record::{Presence, Protocol, ServedHealth, Vm},
};
use mesh_node_agent::{
    beside::{Beside, Then},
    writer::Wishes,
};
use replica::{service::Silent, view::View};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};
use tokio::sync::watch;

/// See the module.
#[derive(Debug)]
pub struct VmBeside {
    me: NodeName,
    instance: Instance,
    sequence: u64,
    /// Whose Services the store shows us; none before we know.
    namespaces: Option<BTreeSet<NamespaceName>>,
    targets: watch::Sender<BTreeSet<Target>>,
    checked: watch::Receiver<BTreeMap<Target, bool>>,
    naming: Option<Naming>,
}

impl VmBeside {
    /// Of the VM `me`; `instance` is new with each start.
    pub fn new(me: NodeName, instance: Instance, checks: Checks, naming: Option<Naming>) -> Self {
        let Checks { targets, checked } = checks;
        Self { me, instance, sequence: 0, namespaces: None, targets, checked, naming }
    }
}

/// Tells those who serve names what the view says, and what became of it.
#[derive(Debug)]
pub struct Naming {
    domain: Domain,
    facts: watch::Sender<Facts>,
    status: watch::Receiver<Names>,
    /// What the names that were told are made of.
    told: Option<(u64, bool, Silent)>,
}

impl Naming {
    /// In a cluster of this domain.
    pub fn new(domain: Domain, facts: watch::Sender<Facts>, status: watch::Receiver<Names>) -> Self {
        Self { domain, facts, status, told: None }
    }

    /// Names are made again only when what they are made of changed: a mesh may have many, and looks are frequent.
    fn see(&mut self, view: &View, me: &NodeName, silent: &Silent) {
        let made_of = (view.tables().revision(), view.is_complete(), silent.clone());
        if self.told.as_ref() == Some(&made_of) {
            return;
        }
        self.told = Some(made_of);
        let grant = view.tables().local.vms.get(me);
        let zone = Arc::new(Zone::of(view, silent, self.domain.clone()));
        self.facts.send_replace(Facts { namespace: grant.map(|grant| grant.namespace.clone()), zone });
    }

    fn problem(&self) -> Option<String> {
        match &*self.status.borrow() {
            Names::Missing { why } => Some(format!("names of the mesh are not resolved: {why}")),
            Names::Starting | Names::Served { .. } => None,
        }
    }
}

impl Beside for VmBeside {
    /// Of which it is shown its own.
    const FOLLOWS: &'static [&'static str] = &["mesh-local/v1/vms/"];

    fn look(&mut self, view: &View) -> Then {
        let Some(grant) = view.tables().local.vms.get(&self.me) else { return Then::Go };
        let own = view.cluster(view.own()).and_then(|own| own.nodes.get(&self.me));
        let addresses = own.map(|node| &node.mesh_addresses[..]).unwrap_or_default();
        let targets = targets(grant, addresses);
        self.targets.send_if_modified(|held| std::mem::replace(held, targets.clone()) != targets);
        // What was hidden until now does not come by the watch: it did not change.
        match self.namespaces.replace(grant.namespaces.clone()) {
            Some(before) if before != grant.namespaces => Then::Relist,
            Some(_) | None => Then::Go,
        }
    }

    fn see(&mut self, view: &View, silent: &Silent) {
        if let Some(naming) = &mut self.naming {
            naming.see(view, &self.me, silent);
        }
    }

    fn problems(&self) -> Vec<String> {
        self.naming.iter().filter_map(Naming::problem).collect()
    }

    fn wishes(&mut self) -> Wishes {
        // Who says nothing of a program counts it as well: we speak when each was asked.
        let checked = self.checked.borrow().clone();
        if self.namespaces.is_none() || !self.targets.borrow().iter().all(|it| checked.contains_key(it)) {
            return Wishes::new();
        }
        self.sequence += 1;
        let health = |(target, healthy): (&Target, &bool)| ServedHealth {
            service: target.service.clone(),
            port: target.port,
            address: target.address,
            healthy: *healthy,
        };
        let presence = Presence {
            instance: self.instance,
            sequence: self.sequence,
            serve: checked.iter().map(health).collect(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        Wishes::from([(LocalKey::Presence(self.me.clone()).into(), presence.into())])
    }
}

/// Where what it serves has to answer: at its own address, or at the program's. UDP has no handshake by which anybody could tell.
fn targets(grant: &Vm, addresses: &[IpAddr]) -> BTreeSet<Target> {
    let programs =
        grant.programs.iter().flat_map(|it| it.serve.iter().map(|served| (served, &it.addresses[..])));
    let mut targets = BTreeSet::new();
    for (served, addresses) in grant.serve.iter().map(|served| (served, addresses)).chain(programs) {
        for port in served.ports.iter().filter(|port| port.protocol == Protocol::Tcp) {
            let target =
                |&address: &IpAddr| Target { service: served.service.clone(), port: port.port, address };
            targets.extend(addresses.iter().map(target));
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::scene::{Listed, view};
    use api::record::{NamedPort, Processes, Program, Served};

    #[test]
    fn what_a_program_serves_is_checked_at_its_own_address_alone() {
        let served = |service: &str, port| Served {
            service: service.parse().unwrap(),
            ports: vec![NamedPort { name: None, port, protocol: Protocol::Tcp }],
        };
        let program = Program {
            name: "billing".parse().unwrap(),
            processes: Processes::User("billing".parse().unwrap()),
            addresses: vec!["100.64.1.8".parse().unwrap()],
            serve: vec![served("invoices", 9001)],
        };
        let grant = Vm {
            namespace: "shop".parse().unwrap(),
            namespaces: [].into(),
            serve: vec![served("cart", 9000)],
            programs: vec![program],
        };
        let targets = targets(&grant, &["100.64.1.7".parse().unwrap()]);
        let targets = targets.iter().map(|it| format!("{} {}:{}", it.service, it.address, it.port));
        assert_eq!(targets.collect::<Vec<_>>(), ["cart 100.64.1.7:9000", "invoices 100.64.1.8:9001"]);
    }

    #[test]
    fn names_are_made_of_the_view_from_the_disk_too_and_again_only_when_something_changed() {
        let (facts, mut known) = watch::channel(Facts::unknown(Domain::default()));
        let (told, status) = watch::channel(Names::Starting);
        let mut naming = Naming::new(Domain::default(), facts, status);
        let me: NodeName = "web-1".parse().unwrap();
        let (scene, silent) = ("service east shop/cart 10.101.0.10", Silent::new());
        for (listed, changed) in
            [(Listed::NotYet, true), (Listed::NotYet, false), (Listed::Yes, true), (Listed::Yes, false)]
        {
            known.borrow_and_update();
            let view = view(scene, listed);
            naming.see(&view, &me, &silent);
            assert_eq!(known.has_changed().unwrap(), changed, "{listed:?}");
            assert_eq!(*known.borrow().zone, Zone::of(&view, &silent, Domain::default()));
        }

        assert_eq!(naming.problem(), None);
        told.send_replace(Names::Missing { why: "the port is taken".to_owned() });
        assert_eq!(naming.problem().unwrap(), "names of the mesh are not resolved: the port is taken");
    }
}
