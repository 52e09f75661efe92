//! What the programs and the agent share, byte by byte: `bpf/abi.h` in Rust.
//!
//! Addresses are 16 bytes, IPv4 as `::ffff:a.b.c.d`; ports are in network order. Both sides assert their layout, and
//! `tests::layouts` compares every field through the objects' BTF.

use std::{
    fmt,
    mem::{offset_of, size_of},
    net::IpAddr,
};

/// The directory below the pin directory. It stands for every layout here: whoever changes one raises it.
pub(super) const PIN_VERSION: &str = "v2";

/// `enum mesh_slot`: the function that each slot of the stubs' array is for.
pub(super) const SLOTS: [&str; 8] = [
    "mesh_from_pod",
    "mesh_from_tunnel",
    "mesh_to_tunnel",
    "mesh_uplink_out",
    "mesh_uplink_out_l3",
    "mesh_uplink_in",
    "mesh_uplink_in_l3",
    "mesh_bridge_in",
];

/// `struct mesh_addr`
pub(super) type Addr = [u8; 16];

/// A key or value of a map: plain bytes without padding of the compiler's.
macro_rules! row {
    ($name:ident = $c_name:ident { $($field:ident: $type:ty),* $(,)? } $bytes:literal) => {
        #[doc = concat!("`struct ", stringify!($c_name), "`")]
        #[repr(C)]
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub(super) struct $name { $(pub(super) $field: $type),* }
        // The kernel reads every byte: none may be left to the compiler.
        const _: () = assert!(size_of::<$name>() == $bytes && size_of::<$name>() == 0 $(+ size_of::<$type>())*);
        // SAFETY: `repr(C)`, no references, and by the assertion above no padding; any bytes are a valid value.
        #[allow(unsafe_code)]
        unsafe impl aya::Pod for $name {}
        #[cfg(test)]
        impl $name {
            /// As the object's BTF should have it: name and size, and of each field name, offset and size, in bytes.
            pub(super) fn layout() -> (&'static str, usize, Vec<(&'static str, usize, usize)>) {
                let fields = vec![$((stringify!($field), offset_of!($name, $field), size_of::<$type>())),*];
                (stringify!($c_name), size_of::<$name>(), fields)
            }
        }
    };
}

row!(
    Route = mesh_route { mtu_bytes: u16, flags: u8, pad: u8 } 4
);
row!(
    Local = mesh_local { ifindex: u32, mac: [u8; 6], kind: u8, pad: u8 } 12
);
row!(
    FrontendKey = mesh_frontend { addr: Addr, port_be: u16, protocol: u8, pad: u8 } 20
);
row!(
    SetRefValue = mesh_set_ref { set: u32, count: u32 } 8
);
row!(
    BackendKeyRow = mesh_backend_key { set: u32, slot: u32 } 8
);
row!(
    Endpoint = mesh_endpoint { addr: Addr, port_be: u16, pad: [u8; 2] } 20
);
row!(
    Config = mesh_config { mesh_ifindex: u32, mesh_v4: Addr, mesh_v6: Addr } 36
);
row!(
    Tenant = mesh_tenant { v4: Addr, v6: Addr } 32
);
row!(
    Cgroup = mesh_cgroup { tenant: Tenant, kind: u8, pad: [u8; 3] } 36
);
row!(
    Tenancy = mesh_tenancy { newest_cgroup: u64, tenants: u32, level: u32 } 16
);

const _: () = assert!(offset_of!(Route, flags) == 2);
const _: () = assert!(offset_of!(Local, mac) == 4 && offset_of!(Local, kind) == 10);
const _: () = assert!(offset_of!(FrontendKey, port_be) == 16 && offset_of!(FrontendKey, protocol) == 18);
const _: () = assert!(offset_of!(Endpoint, port_be) == 16);
const _: () = assert!(offset_of!(Config, mesh_v4) == 4 && offset_of!(Config, mesh_v6) == 20);
const _: () = assert!(offset_of!(Tenant, v6) == 16 && offset_of!(Cgroup, kind) == 32);
const _: () = assert!(offset_of!(Tenancy, tenants) == 8 && offset_of!(Tenancy, level) == 12);

/// `enum mesh_route_flags`
pub(super) const ROUTED: u8 = 1;
pub(super) const CLOSED: u8 = 2;
/// `enum mesh_local_kind`
pub(super) const LOCAL_POD: u8 = 1;
pub(super) const LOCAL_NODE: u8 = 2;
pub(super) const LOCAL_TENANT: u8 = 3;
/// `enum mesh_cgroup_kind`
pub(super) const CGROUP_TENANT: u8 = 1;
pub(super) const CGROUP_ABOVE: u8 = 2;

/// An address as the maps have it.
pub(super) fn addr(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address behind a map's bytes.
pub(super) fn ip(addr: Addr) -> IpAddr {
    IpAddr::from(addr).to_canonical()
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $label:literal),* $(,)?) => {
        /// Why the data path refused something, in the order of `enum mesh_drop_reason`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum DropReason { $($(#[$doc])* $variant),* }

        impl DropReason {
            /// Every reason, by its number.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// A stable label for metrics and status.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),* }
            }
        }
    };
}

reasons! {
    /// Shorter than its own headers say.
    Truncated = "truncated",
    /// Version or header length contradicts itself, or a v4-mapped address on the wire.
    Malformed = "malformed",
    /// The source is another local pod's, or this node's.
    SpoofedLocal = "spoofed_local",
    /// The source is of the encrypted scope, and the packet did not come from the tunnel.
    SpoofedMesh = "spoofed_mesh",
    /// The source is nobody's, and the packet wants into the mesh.
    UnknownSource = "unknown_source",
    /// The destination belongs to a peer that was disconnected.
    Closed = "closed",
    /// There is no tunnel device to send it to.
    NoTunnel = "no_tunnel",
    /// Larger than the path: answered with Packet Too Big.
    TooBig = "too_big",
    /// A VLAN tag on its way into the tunnel, which has no link layer.
    Tagged = "tagged",
    /// Out of the tunnel, but its source is not of the encrypted scope.
    ForeignSource = "foreign_source",
    /// Out of the tunnel, but its destination cannot be reached through this node.
    NotLocal = "not_local",
    /// Out of the tunnel, and no room for a link-layer header.
    NotDelivered = "not_delivered",
    /// Into the tunnel, but its destination is not of the encrypted scope.
    NotRouted = "not_routed",
    /// Into the tunnel, but its source is not an address of this node or its pods.
    NotOurs = "not_ours",
    /// From the tunnel back into the tunnel.
    Hairpin = "hairpin",
    /// Multicast or link-local noise that a stack sends to each device.
    LinkScope = "link_scope",
    /// The guard: it would have left by an uplink unencrypted.
    Plain = "plain",
    /// A service without a backend: the socket got ECONNREFUSED.
    NoBackend = "no_backend",
    /// A service without this port: the socket got ECONNREFUSED.
    UnknownPort = "unknown_port",
    /// The source, or the address bound, is a program's of this host, and the socket another's.
    WrongSource = "wrong_source",
    /// To a program's address, and the socket that would take it is another's.
    WrongListener = "wrong_listener",
    /// The socket's cgroup may be a program's: the agent has not seen it yet.
    NewCgroup = "new_cgroup",
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}
