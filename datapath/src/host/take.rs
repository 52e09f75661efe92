//! One step, at the backend that it belongs to.

use super::Datapath;
use crate::{
    apply::Host,
    backend::{
        bpf::{BackendKey, Balancing, MapStep},
        conntrack, nft, sockets, sysctl,
        wireguard::{self, Peer},
    },
    plan::FWMARK,
    step::{Step, TunnelStep},
};
use anyhow::Context;
use ipnet::IpNet;
use std::{collections::BTreeSet, net::SocketAddr};
use tracing::debug;

impl Host for Datapath {
    fn take(&mut self, step: &Step) -> anyhow::Result<()> {
        if let Some(result) = self.netlink.take(step) {
            return Ok(result?);
        }
        match step {
            Step::Attach(at) => Ok(self.bpf.attach(*at)?),
            Step::Detach(at) => Ok(self.bpf.detach(*at)?),
            Step::HoldApart => Ok(self.bpf.hold_apart()?),
            Step::LetTogether => Ok(self.bpf.let_together()?),
            Step::PutCgroup { cgroup, row } => self.row(MapStep::PutCgroup(*cgroup, *row)),
            Step::RemoveCgroup { cgroup } => self.row(MapStep::RemoveCgroup(*cgroup)),
            Step::PutUser { uid, tenant } => self.row(MapStep::PutUser(*uid, *tenant)),
            Step::RemoveUser { uid } => self.row(MapStep::RemoveUser(*uid)),
            Step::PutTenancy(tenancy) => self.row(MapStep::PutTenancy(*tenancy)),
            Step::PutScope { prefix, row } => self.row(MapStep::PutRoute(*prefix, *row)),
            Step::RemoveScope { prefix } => self.row(MapStep::RemoveRoute(*prefix)),
            Step::PutConfig(config) => self.row(MapStep::PutConfig(*config)),
            Step::PutLocal { address, local } => self.row(MapStep::PutLocal(*address, *local)),
            Step::RemoveLocal { address } => self.row(MapStep::RemoveLocal(*address)),
            Step::PutSet { set, backends } => (0..).zip(backends).try_for_each(|(slot, backend)| {
                self.row(MapStep::PutBackend(BackendKey { set: *set, slot }, *backend))
            }),
            Step::RemoveSet { set, slots } => slots
                .iter()
                .try_for_each(|slot| self.row(MapStep::RemoveBackend(BackendKey { set: *set, slot: *slot }))),
            Step::PutService { frontend, to } => self.row(MapStep::PutService(*frontend, *to)),
            Step::PutAffinity { frontend, seconds } => self.row(MapStep::PutAffinity(*frontend, *seconds)),
            Step::RemoveAffinity { frontend } => self.row(MapStep::RemoveAffinity(*frontend)),
            Step::RemoveService { frontend } => self.row(MapStep::RemoveService(*frontend)),
            Step::Balance => {
                self.services.put(&self.bpf.observe()?)?;
                // Not before: until now they balanced, if an earlier agent had left them.
                Ok(self.bpf.retire_socket_programs()?)
            }
            Step::CloseUdp { backends, .. } if self.bpf.balancing() == Balancing::Nftables => {
                conntrack::forget_udp(backends)
            }
            Step::CloseUdp { backends, namespaces } => {
                let closed = sockets::close_udp(namespaces, backends)?;
                debug!(closed, "Closed UDP sockets whose backend is gone");
                Ok(())
            }
            Step::PutVip { address } => self.row(MapStep::PutServiceAddress(*address)),
            Step::RemoveVip { address } => self.row(MapStep::RemoveServiceAddress(*address)),
            Step::SetSysctl(key) => Ok(sysctl::set(*key)?),
            Step::SetMasquerade(masquerade) => Ok(nft::set(masquerade)?),
            Step::Tunnel(step) => self.tunnel_steps(&[step]),
            Step::Relay { pairs } => Ok(self.relay.allow(pairs)?),
            Step::AddUnreachable { .. }
            | Step::RemoveUnreachable { .. }
            | Step::BringUp { .. }
            | Step::AddAddress { .. }
            | Step::RemoveAddress { .. }
            | Step::AddRule(_)
            | Step::RemoveRule(_)
            | Step::PutRoute { .. }
            | Step::RemoveRoute { .. } => unreachable!("netlink took it above"),
        }
    }

    /// Only what goes to the tunnel comes in groups.
    fn take_together(&mut self, steps: &[Step]) -> anyhow::Result<()> {
        fn tunnel(step: &Step) -> Option<&TunnelStep> {
            match step {
                Step::Tunnel(step) => Some(step),
                _ => None,
            }
        }
        match steps.iter().map(tunnel).collect::<Option<Vec<_>>>() {
            Some(steps) => self.tunnel_steps(&steps),
            None => steps.iter().try_for_each(|step| self.take(step)),
        }
    }
}

impl Datapath {
    fn row(&mut self, step: MapStep) -> anyhow::Result<()> {
        Ok(self.bpf.apply(&step)?)
    }

    fn tunnel_steps(&mut self, steps: &[&TunnelStep]) -> anyhow::Result<()> {
        let tunnel = self.tunnel.as_ref().context("the tunnel's device does not answer")?;
        tunnel.apply(&steps.iter().map(|step| self.tunnel_step(step)).collect::<Vec<_>>())?;
        self.clock_epochs.took(steps.iter().copied());
        Ok(())
    }

    fn tunnel_step(&self, step: &TunnelStep) -> wireguard::Step {
        match step {
            TunnelStep::SetDevice { listen_port } => wireguard::Step::SetDevice {
                private_key: self.private_key.clone(),
                port: *listen_port,
                fwmark: FWMARK,
            },
            TunnelStep::AddPeer { peer, endpoint, keepalive_s, allowed, .. } => wireguard::Step::AddPeer {
                key: *peer,
                peer: wireguard_peer(*endpoint, *keepalive_s, allowed),
            },
            TunnelStep::RenewPeer { peer, endpoint, keepalive_s, allowed, .. } => {
                wireguard::Step::RenewPeer {
                    key: *peer,
                    peer: wireguard_peer(*endpoint, *keepalive_s, allowed),
                }
            }
            TunnelStep::SetEndpoint { peer, endpoint } => {
                wireguard::Step::SetEndpoint { key: *peer, endpoint: *endpoint }
            }
            TunnelStep::SetKeepalive { peer, keepalive_s } => {
                wireguard::Step::SetKeepalive { key: *peer, keepalive_s: *keepalive_s }
            }
            TunnelStep::AddAllowed { peer, prefix } => {
                wireguard::Step::AddAllowedIp { key: *peer, net: *prefix }
            }
            TunnelStep::RemoveAllowed { peer, prefix } => {
                wireguard::Step::RemoveAllowedIp { key: *peer, net: *prefix }
            }
            TunnelStep::RemovePeer { peer } => wireguard::Step::RemovePeer { key: *peer },
        }
    }
}

fn wireguard_peer(endpoint: Option<SocketAddr>, keepalive_s: u16, allowed: &BTreeSet<IpNet>) -> Peer {
    Peer { endpoint, allowed_ips: allowed.clone(), keepalive_s }
}
