//! One step, at the backend that it belongs to.

use super::Datapath;
use crate::{
    apply::Host,
    backend::{
        bpf::{BackendKey, MapStep},
        nft, sockets, sysctl,
        wireguard::{self, Peer},
    },
    plan::{FWMARK, KEEPALIVE_S},
    step::{Step, TunnelStep},
};
use anyhow::Context;
use tracing::debug;

impl Host for Datapath {
    fn take(&mut self, step: &Step) -> anyhow::Result<()> {
        if let Some(result) = self.netlink.take(step) {
            return Ok(result?);
        }
        match step {
            Step::Attach(at) => Ok(self.bpf.attach(*at)?),
            Step::Detach(at) => Ok(self.bpf.detach(*at)?),
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
            Step::CloseUdp { backends, namespaces } => {
                let closed = sockets::close_udp(namespaces, backends)?;
                debug!(closed, "Closed UDP sockets whose backend is gone");
                Ok(())
            }
            Step::PutVip { address } => self.row(MapStep::PutServiceAddress(*address)),
            Step::RemoveVip { address } => self.row(MapStep::RemoveServiceAddress(*address)),
            Step::SetSysctl(key) => Ok(sysctl::set(*key)?),
            Step::SetMasquerade(masquerade) => Ok(nft::set(*masquerade)?),
            Step::Tunnel(step) => self.tunnel_steps(&[self.tunnel_step(step)]),
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
        let tunnel = |step: &Step| match step {
            Step::Tunnel(step) => Some(self.tunnel_step(step)),
            _ => None,
        };
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

    fn tunnel_steps(&self, steps: &[wireguard::Step]) -> anyhow::Result<()> {
        Ok(self.tunnel.as_ref().context("the tunnel's device does not answer")?.apply(steps)?)
    }

    fn tunnel_step(&self, step: &TunnelStep) -> wireguard::Step {
        match step {
            TunnelStep::SetDevice { listen_port } => wireguard::Step::SetDevice {
                private_key: self.private_key.clone(),
                port: *listen_port,
                fwmark: FWMARK,
            },
            TunnelStep::AddPeer { peer, endpoint, allowed } => wireguard::Step::AddPeer {
                key: *peer,
                peer: Peer { endpoint: *endpoint, allowed_ips: allowed.clone(), keepalive_s: KEEPALIVE_S },
            },
            TunnelStep::SetEndpoint { peer, endpoint } => {
                wireguard::Step::SetEndpoint { key: *peer, endpoint: *endpoint }
            }
            TunnelStep::SetKeepalive { peer } => {
                wireguard::Step::SetKeepalive { key: *peer, keepalive_s: KEEPALIVE_S }
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
