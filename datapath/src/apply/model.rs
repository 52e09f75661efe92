//! A host as a value: what the steps mean, without a kernel.

use super::Host;
use crate::{
    backend::bpf::{BackendKey, Error, MapStep, RouteRow},
    observe::{Balanced, Observed, PeerObserved, Sysctl, TunnelObserved},
    plan::FWMARK,
    step::{Step, TunnelStep},
};
use api::bytes::PublicKey;
use std::net::IpAddr;

/// Sees the host after a step.
type Watch = dyn FnMut(&Observed, &Step);

/// How many rows each of these maps takes; the others are never full here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Prefixes of the encrypted scope.
    pub routes: u32,
    /// Addresses of the host.
    pub locals: u32,
    /// Frontends, and the addresses of services.
    pub services: u32,
    /// Backends of all sets.
    pub backends: u32,
}

impl Sizes {
    /// Nothing is ever full.
    pub const AMPLE: Self =
        Self { routes: u32::MAX, locals: u32::MAX, services: u32::MAX, backends: u32::MAX };
}

/// Takes every step, but those that `refuses` names, and those for which a map has no room.
pub struct Model {
    /// What it holds.
    pub observed: Observed,
    sizes: Sizes,
    refuses: Box<dyn Fn(&Step) -> bool>,
    watch: Box<Watch>,
}

impl Model {
    /// One that holds this.
    #[must_use]
    pub fn of(observed: Observed) -> Self {
        Self { observed, sizes: Sizes::AMPLE, refuses: Box::new(|_| false), watch: Box::new(|_, _| ()) }
    }

    /// Has maps of these sizes.
    #[must_use]
    pub fn sized(mut self, sizes: Sizes) -> Self {
        self.sizes = sizes;
        self
    }

    /// Says no to some steps.
    #[must_use]
    pub fn refusing(mut self, refuses: impl Fn(&Step) -> bool + 'static) -> Self {
        self.refuses = Box::new(refuses);
        self
    }

    /// Looks at the host after every step.
    #[must_use]
    pub fn watched(mut self, watch: impl FnMut(&Observed, &Step) + 'static) -> Self {
        self.watch = Box::new(watch);
        self
    }
}

impl Host for Model {
    fn take(&mut self, step: &Step) -> anyhow::Result<()> {
        anyhow::ensure!(!(self.refuses)(step), "refused");
        let result = self.fit(step);
        (self.watch)(&self.observed, step);
        Ok(result?)
    }
}

impl Model {
    /// Takes a step as far as there is room for its rows: a row in the place of another needs none.
    fn fit(&mut self, step: &Step) -> Result<(), Error> {
        let (rows, sizes) = (&self.observed.rows, self.sizes);
        let services = rows.services.len() + rows.service_addresses.len();
        let (map, max_entries, used, row) = match step {
            Step::PutScope { prefix, row } if !rows.routes.contains_key(prefix) => {
                ("mesh_routes", sizes.routes, rows.routes.len(), MapStep::PutRoute(*prefix, *row))
            }
            Step::PutLocal { address, local } if !rows.locals.contains_key(address) => {
                ("mesh_local", sizes.locals, rows.locals.len(), MapStep::PutLocal(*address, *local))
            }
            Step::PutService { frontend, to } if !rows.services.contains_key(frontend) => {
                ("mesh_services", sizes.services, services, MapStep::PutService(*frontend, *to))
            }
            Step::PutVip { address } if !rows.service_addresses.contains(address) => {
                ("mesh_services", sizes.services, services, MapStep::PutServiceAddress(*address))
            }
            Step::PutSet { set, backends } => {
                // Row by row: what comes before the one that does not fit is there.
                let room = (sizes.backends as usize).saturating_sub(rows.backends.len());
                let (fit, rest) = backends.split_at(room.min(backends.len()));
                take(&mut self.observed, &Step::PutSet { set: *set, backends: fit.to_vec() });
                let Some(first) = rest.first() else { return Ok(()) };
                let key = BackendKey { set: *set, slot: fit.len() as u32 };
                ("mesh_backends", sizes.backends, usize::MAX, MapStep::PutBackend(key, *first))
            }
            step => {
                take(&mut self.observed, step);
                return Ok(());
            }
        };
        if used >= max_entries as usize {
            return Err(Error::Full { map, max_entries, row: format!("{row:?}") });
        }
        take(&mut self.observed, step);
        Ok(())
    }
}

/// Who gets what goes to an address: the longest prefix, as WireGuard decides it.
#[must_use]
pub fn tunnel_owner(observed: &Observed, address: IpAddr) -> Option<PublicKey> {
    let peers = observed.tunnel.iter().flat_map(|tunnel| &tunnel.peers);
    peers
        .flat_map(|(key, peer)| peer.allowed.iter().map(move |prefix| (*prefix, *key)))
        .filter(|(prefix, _)| prefix.contains(&address))
        .max_by_key(|(prefix, _)| prefix.prefix_len())
        .map(|(_, key)| key)
}

/// What the guard does with an address: the longest row.
#[must_use]
pub fn guard(observed: &Observed, address: IpAddr) -> Option<RouteRow> {
    let rows = observed.rows.routes.iter().filter(|(prefix, _)| prefix.contains(&address));
    rows.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, row)| *row)
}

fn take(host: &mut Observed, step: &Step) {
    let rows = &mut host.rows;
    match step {
        Step::Attach(at) => drop(host.attachments.insert(*at)),
        Step::Detach(at) => drop(host.attachments.remove(at)),
        Step::HoldApart => host.holds_apart = true,
        Step::LetTogether => host.holds_apart = false,
        Step::PutCgroup { cgroup, row } => drop(rows.cgroups.insert(*cgroup, *row)),
        Step::RemoveCgroup { cgroup } => drop(rows.cgroups.remove(cgroup)),
        Step::PutUser { uid, tenant } => drop(rows.users.insert(*uid, *tenant)),
        Step::RemoveUser { uid } => drop(rows.users.remove(uid)),
        Step::PutTenancy(tenancy) => rows.tenancy = *tenancy,
        Step::PutScope { prefix, row } => drop(rows.routes.insert(*prefix, *row)),
        Step::RemoveScope { prefix } => drop(rows.routes.remove(prefix)),
        Step::AddUnreachable { prefix } => drop(host.unreachable.insert(*prefix)),
        Step::RemoveUnreachable { prefix } => drop(host.unreachable.remove(prefix)),
        Step::BringUp { .. } => host.device.iter_mut().for_each(|device| device.up = true),
        Step::SetSysctl(key) => set(host, *key),
        Step::PutConfig(config) => rows.config = *config,
        Step::AddAddress { address, .. } => drop(host.addresses.insert(*address)),
        Step::RemoveAddress { address, .. } => drop(host.addresses.remove(address)),
        Step::AddRule(family) => drop(host.rules.insert(*family)),
        Step::RemoveRule(family) => drop(host.rules.remove(family)),
        Step::SetMasquerade(masquerade) => host.masquerade.clone_from(masquerade),
        Step::Tunnel(step) => tunnel(host.tunnel.as_mut().expect("nothing is planned for no tunnel"), step),
        Step::Relay { pairs } => host.relay = Some(pairs.clone()),
        Step::PutRoute { prefix, route } => drop(host.routes.insert(*prefix, *route)),
        Step::RemoveRoute { prefix } => drop(host.routes.remove(prefix)),
        Step::PutLocal { address, local } => drop(rows.locals.insert(*address, *local)),
        Step::RemoveLocal { address } => drop(rows.locals.remove(address)),
        Step::PutSet { set, backends } => {
            let slots = (0..).map(|slot| BackendKey { set: *set, slot });
            rows.backends.extend(slots.zip(backends.iter().copied()));
        }
        Step::PutService { frontend, to } => drop(rows.services.insert(*frontend, *to)),
        Step::PutAffinity { frontend, seconds } => drop(rows.affinity.insert(*frontend, *seconds)),
        Step::RemoveAffinity { frontend } => drop(rows.affinity.remove(frontend)),
        Step::RemoveService { frontend } => drop(rows.services.remove(frontend)),
        Step::Balance => host.balanced = Balanced::ByNftables { is_current: true },
        // Sockets are nothing that a plan looks at.
        Step::CloseUdp { .. } => {}
        Step::RemoveSet { set, .. } => rows.backends.retain(|key, _| key.set != *set),
        Step::PutVip { address } => drop(rows.service_addresses.insert(*address)),
        Step::RemoveVip { address } => drop(rows.service_addresses.remove(address)),
    }
}

fn set(host: &mut Observed, key: Sysctl) {
    host.sysctls.insert(key, key.wanted().to_owned());
}

fn tunnel(tunnel: &mut TunnelObserved, step: &TunnelStep) {
    let peers = &mut tunnel.peers;
    match step {
        TunnelStep::SetDevice { listen_port } => {
            tunnel.public_key = tunnel.own_key;
            tunnel.listen_port = Some(*listen_port);
            tunnel.fwmark = FWMARK;
        }
        TunnelStep::AddPeer { peer, endpoint, keepalive_s, allowed, clock_epoch } => {
            peers.values_mut().for_each(|former| former.allowed.retain(|prefix| !allowed.contains(prefix)));
            // A peer that is there keeps what it owns.
            let known = peers.entry(*peer).or_default();
            known.endpoint = *endpoint;
            known.asked_endpoint = *endpoint;
            known.keepalive_s = *keepalive_s;
            known.allowed.extend(allowed);
            known.clock_epoch = *clock_epoch;
        }
        TunnelStep::RenewPeer { peer, endpoint, keepalive_s, allowed, clock_epoch } => {
            let anew = PeerObserved {
                endpoint: *endpoint,
                asked_endpoint: peers.get(peer).and_then(|known| known.asked_endpoint),
                is_fresh: false,
                allowed: allowed.clone(),
                keepalive_s: *keepalive_s,
                clock_epoch: *clock_epoch,
            };
            peers.insert(*peer, anew);
        }
        TunnelStep::SetEndpoint { peer, endpoint } => {
            let peer = peers.get_mut(peer).expect("only a peer that is there is dialled elsewhere");
            peer.endpoint = Some(*endpoint);
            peer.asked_endpoint = Some(*endpoint);
        }
        TunnelStep::SetKeepalive { peer, keepalive_s } => {
            peers.get_mut(peer).expect("only a peer that is there is kept alive").keepalive_s = *keepalive_s;
        }
        TunnelStep::AddAllowed { peer, prefix } => {
            for former in peers.values_mut() {
                former.allowed.remove(prefix);
            }
            let owner = peers.get_mut(peer).expect("a peer is added before it is given anything");
            owner.allowed.insert(*prefix);
        }
        TunnelStep::RemoveAllowed { peer, prefix } => {
            if let Some(peer) = peers.get_mut(peer) {
                peer.allowed.remove(prefix);
            }
        }
        TunnelStep::RemovePeer { peer } => drop(peers.remove(peer)),
    }
}
