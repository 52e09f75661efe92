//! Addresses, routes and rules, by rtnetlink.
//!
//! Our table holds two entries a prefix: the route over `mesh0`, and behind it, with a worse metric, `unreachable`.
//! When the device goes, its routes go with it, and what is left never falls through to the default route.

mod filters;
mod inside;
mod links;
mod observe;
mod tunnel;

pub(crate) use filters::{Direction, Filter, FilterPlace};
pub use inside::{InsideError, inside};
pub use observe::NetlinkObserved;
pub(crate) use tunnel::{Found, Made};

use crate::{
    observe::{Family, MeshRoute},
    plan::FWMARK,
    step::Step,
};
use ipnet::IpNet;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressFlags, AddressHeader, AddressMessage},
        route::{RouteAttribute, RouteMessage, RouteMetric, RouteScope, RouteType},
        rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
    },
};
use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Our routing table ("mE").
pub const TABLE: u32 = 27973;
/// Before the main table (32766), behind the local one (0).
pub const RULE_PRIORITY: u32 = 100;
/// Of routes over `mesh0`.
const METRIC_MESH: u32 = 100;
/// Of `unreachable`: worse, so that it counts when the other is gone.
const METRIC_FENCE: u32 = 200;

/// A netlink socket in the network namespace of the thread that opened it.
///
/// Its calls block: they belong on a thread of their own, never on one that drives other tasks.
#[derive(Debug)]
pub struct Netlink {
    runtime: tokio::runtime::Runtime,
    handle: Handle,
}

/// The kernel refused, or could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("cannot open a netlink socket")]
    Open(#[source] std::io::Error),
    /// A request failed.
    #[error("netlink refused to {action}")]
    Request {
        /// What was asked.
        action: &'static str,
        /// What it said.
        source: rtnetlink::Error,
    },
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

impl Netlink {
    /// Opens a socket in this thread's network namespace.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn open() -> Result<Self, Error> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(Error::Open)?;
        let handle = {
            let _inside = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Open)?;
            runtime.spawn(connection);
            handle
        };
        Ok(Self { runtime, handle })
    }

    /// Takes a step of this backend. None: the step is another backend's.
    pub fn take(&self, step: &Step) -> Option<Result<(), Error>> {
        let result = match step {
            Step::AddAddress { ifindex, address } => self.add_address(*ifindex, *address),
            Step::RemoveAddress { ifindex, address } => self.gone(
                "remove an address",
                self.handle.address().del(address_message(*ifindex, *address)).execute(),
            ),
            Step::AddRule(family) => self.add_rule(*family),
            Step::RemoveRule(family) => {
                self.gone("remove a rule", self.handle.rule().del(rule_message(*family)).execute())
            }
            Step::PutRoute { prefix, route } => {
                let request = self.handle.route().add(mesh_route(*prefix, *route)).replace();
                self.ask("write a route", request.execute())
            }
            Step::RemoveRoute { prefix } => self.remove_route(route(*prefix, METRIC_MESH)),
            Step::AddUnreachable { prefix } => {
                let request = self.handle.route().add(fence(*prefix)).replace();
                self.ask("write an unreachable route", request.execute())
            }
            Step::RemoveUnreachable { prefix } => self.remove_route(fence(*prefix)),
            Step::BringUp { ifindex } => {
                let up = rtnetlink::LinkUnspec::new_with_index(*ifindex).up().build();
                self.ask("bring a device up", self.handle.link().set(up).execute())
            }
            Step::Attach(_)
            | Step::Detach(_)
            | Step::HoldApart
            | Step::LetTogether
            | Step::PutCgroup { .. }
            | Step::RemoveCgroup { .. }
            | Step::PutUser { .. }
            | Step::RemoveUser { .. }
            | Step::PutTenancy(_)
            | Step::PutScope { .. }
            | Step::RemoveScope { .. }
            | Step::SetSysctl(_)
            | Step::PutConfig(_)
            | Step::SetMasquerade(_)
            | Step::Tunnel(_)
            | Step::Relay { .. }
            | Step::PutLocal { .. }
            | Step::RemoveLocal { .. }
            | Step::PutSet { .. }
            | Step::PutService { .. }
            | Step::PutAffinity { .. }
            | Step::RemoveAffinity { .. }
            | Step::RemoveService { .. }
            | Step::CloseUdp { .. }
            | Step::RemoveSet { .. }
            | Step::PutVip { .. }
            | Step::RemoveVip { .. }
            | Step::Balance => return None,
        };
        Some(result)
    }

    fn add_address(&self, ifindex: u32, address: IpAddr) -> Result<(), Error> {
        let mut request = self.handle.address().add(ifindex, address, bits(address));
        // The library would add a broadcast address, which for a /32 is the address itself.
        *request.message_mut() = address_message(ifindex, address);
        self.there("add an address", request.execute())
    }

    fn add_rule(&self, family: Family) -> Result<(), Error> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = rule_message(family);
        self.there("add a rule", request.execute())
    }

    fn remove_route(&self, mut message: RouteMessage) -> Result<(), Error> {
        // Of any scope. The type has to be right: the kernel compares it for IPv4.
        message.header.scope = RouteScope::NoWhere;
        self.gone("remove a route", self.handle.route().del(message).execute())
    }

    fn ask<T>(
        &self,
        action: &'static str,
        request: impl Future<Output = Result<T, rtnetlink::Error>>,
    ) -> Result<T, Error> {
        self.runtime.block_on(request).map_err(|source| Error::Request { action, source })
    }

    /// What is there already was added by an earlier try.
    fn there(
        &self,
        action: &'static str,
        request: impl Future<Output = Result<(), rtnetlink::Error>>,
    ) -> Result<(), Error> {
        self.tolerate(&[libc::EEXIST], action, request)
    }

    /// What is not there needs no removal.
    fn gone(
        &self,
        action: &'static str,
        request: impl Future<Output = Result<(), rtnetlink::Error>>,
    ) -> Result<(), Error> {
        self.tolerate(&[libc::ENOENT, libc::ESRCH, libc::EADDRNOTAVAIL, libc::ENODEV], action, request)
    }

    fn tolerate(
        &self,
        codes: &[i32],
        action: &'static str,
        request: impl Future<Output = Result<(), rtnetlink::Error>>,
    ) -> Result<(), Error> {
        match self.runtime.block_on(request) {
            Err(rtnetlink::Error::NetlinkError(error))
                if error.code.is_some_and(|code| codes.contains(&-code.get())) =>
            {
                Ok(())
            }
            result => result.map_err(|source| Error::Request { action, source }),
        }
    }
}

fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn family_of(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn address_message(ifindex: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header = AddressHeader {
        family: family_of(address),
        prefix_len: bits(address),
        index: ifindex,
        ..AddressHeader::default()
    };
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    if address.is_ipv6() {
        // Nobody else is on the device who could have the address.
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

/// `not fwmark 0x106d lookup 27973`: WireGuard's own datagrams never enter the tunnel again.
fn rule_message(family: Family) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    message.header.action = RuleAction::ToTable;
    message.header.flags = RuleFlags::Invert;
    message.attributes = vec![
        RuleAttribute::Priority(RULE_PRIORITY),
        RuleAttribute::FwMark(FWMARK),
        RuleAttribute::Table(TABLE),
    ];
    message
}

fn route(prefix: IpNet, metric: u32) -> RouteMessage {
    match prefix {
        IpNet::V4(prefix) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(prefix.network(), prefix.prefix_len())
            .table_id(TABLE)
            .priority(metric)
            .build(),
        IpNet::V6(prefix) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(prefix.network(), prefix.prefix_len())
            .table_id(TABLE)
            .priority(metric)
            .build(),
    }
}

fn mesh_route(prefix: IpNet, wanted: MeshRoute) -> RouteMessage {
    let mut message = route(prefix, METRIC_MESH);
    message.header.scope = match prefix {
        IpNet::V4(_) => RouteScope::Link,
        IpNet::V6(_) => RouteScope::Universe,
    };
    message.attributes.push(RouteAttribute::Oif(wanted.ifindex));
    message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(u32::from(wanted.mtu_bytes))]));
    message.attributes.extend(wanted.source.map(|source| RouteAttribute::PrefSource(source.into())));
    message
}

fn fence(prefix: IpNet) -> RouteMessage {
    let mut message = route(prefix, METRIC_FENCE);
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unreachable;
    message
}
