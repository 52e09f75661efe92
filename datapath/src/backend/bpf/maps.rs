//! The maps: read whole into [`Rows`], and changed row by row.

use super::{
    Error,
    abi::{self, Addr},
    rows::{
        BackendKey, CgroupRow, ConfigRow, LocalRow, MapStep, PATH_MTU_MIN_BYTES, RouteRow, Rows, SetRef,
        TenancyRow, TenantRow,
    },
};
use crate::image::Frontend;
use api::record::Protocol;
use aya::maps::{
    Array, HashMap, Map, MapData, MapError, PerCpuArray,
    lpm_trie::{Key, LpmTrie},
};
use ipnet::IpNet;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    path::Path,
};

const ROUTES: &str = "mesh_routes";
const LOCALS: &str = "mesh_local";
const SERVICES: &str = "mesh_services";
const AFFINITY: &str = "mesh_affinity";
const BACKENDS: &str = "mesh_backends";
const CONFIG: &str = "mesh_config";
const CGROUPS: &str = "mesh_cgroups";
const USERS: &str = "mesh_users";
const TENANCY: &str = "mesh_tenancy";
const DROPS: &str = "mesh_drops";
/// Bits before an IPv4 address in a key.
const V4_PREFIX_BITS: u8 = 96;

/// Handles on the pinned maps.
pub(super) struct Maps {
    routes: LpmTrie<MapData, Addr, abi::Route>,
    locals: HashMap<MapData, Addr, abi::Local>,
    services: HashMap<MapData, abi::FrontendKey, abi::SetRefValue>,
    affinity: HashMap<MapData, abi::FrontendKey, u32>,
    backends: HashMap<MapData, abi::BackendKeyRow, abi::Endpoint>,
    config: Array<MapData, abi::Config>,
    cgroups: HashMap<MapData, u64, abi::Cgroup>,
    users: HashMap<MapData, u32, abi::Tenant>,
    tenancy: Array<MapData, abi::Tenancy>,
    drops: PerCpuArray<MapData, u64>,
    sizes: BTreeMap<&'static str, u32>,
}

impl Maps {
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        fn open<T: TryFrom<Map, Error = MapError>>(
            dir: &Path,
            name: &'static str,
            sizes: &mut BTreeMap<&'static str, u32>,
            wrap: fn(MapData) -> Map,
        ) -> Result<T, Error> {
            let failed = |source| Error::Map { action: "open", map: name, source };
            let data = MapData::from_pin(dir.join(name)).map_err(failed)?;
            sizes.insert(name, data.info().map_err(failed)?.max_entries());
            T::try_from(wrap(data)).map_err(failed)
        }
        let mut sizes = BTreeMap::new();
        Ok(Self {
            routes: open(dir, ROUTES, &mut sizes, Map::LpmTrie)?,
            locals: open(dir, LOCALS, &mut sizes, Map::HashMap)?,
            services: open(dir, SERVICES, &mut sizes, Map::HashMap)?,
            affinity: open(dir, AFFINITY, &mut sizes, Map::HashMap)?,
            backends: open(dir, BACKENDS, &mut sizes, Map::HashMap)?,
            config: open(dir, CONFIG, &mut sizes, Map::Array)?,
            cgroups: open(dir, CGROUPS, &mut sizes, Map::HashMap)?,
            users: open(dir, USERS, &mut sizes, Map::HashMap)?,
            tenancy: open(dir, TENANCY, &mut sizes, Map::Array)?,
            drops: open(dir, DROPS, &mut sizes, Map::PerCpuArray)?,
            sizes,
        })
    }

    pub(super) fn read(&self) -> Result<Rows, Error> {
        let mut rows = Rows { config: self.read_config()?, ..Rows::default() };
        for row in self.routes.iter() {
            let (key, value) = row.map_err(read_failed(ROUTES))?;
            rows.routes.insert(net(&key)?, route(value)?);
        }
        for row in self.locals.iter() {
            let (key, value) = row.map_err(read_failed(LOCALS))?;
            rows.locals.insert(abi::ip(key), local(value)?);
        }
        for row in self.services.iter() {
            let (key, value) = row.map_err(read_failed(SERVICES))?;
            match frontend(key)? {
                Some(frontend) => {
                    rows.services.insert(frontend, SetRef { set: value.set, count: value.count });
                }
                None => {
                    rows.service_addresses.insert(abi::ip(key.addr));
                }
            }
        }
        for row in self.affinity.iter() {
            let (key, seconds) = row.map_err(read_failed(AFFINITY))?;
            let frontend = frontend(key)?.ok_or_else(|| Error::ForeignRow {
                map: AFFINITY,
                what: format!("the whole address {}", abi::ip(key.addr)),
            })?;
            rows.affinity.insert(frontend, seconds);
        }
        for row in self.backends.iter() {
            let (key, value) = row.map_err(read_failed(BACKENDS))?;
            let backend = SocketAddr::new(abi::ip(value.addr), u16::from_be(value.port_be));
            rows.backends.insert(BackendKey { set: key.set, slot: key.slot }, backend);
        }
        for row in self.cgroups.iter() {
            let (cgroup, value) = row.map_err(read_failed(CGROUPS))?;
            rows.cgroups.insert(cgroup, cgroup_row(value)?);
        }
        for row in self.users.iter() {
            let (uid, value) = row.map_err(read_failed(USERS))?;
            rows.users.insert(uid, tenant_row(USERS, value)?);
        }
        let tenancy = self.tenancy.get(&0, 0).map_err(read_failed(TENANCY))?;
        let abi::Tenancy { newest_cgroup, tenants, level } = tenancy;
        rows.tenancy = TenancyRow { newest_cgroup, tenants, level };
        Ok(rows)
    }

    pub(super) fn apply(&mut self, step: &MapStep) -> Result<(), Error> {
        let (map, result) = match *step {
            MapStep::PutRoute(net, row) => {
                (ROUTES, self.routes.insert(&route_key(net)?, route_value(net, row)?, 0))
            }
            MapStep::RemoveRoute(net) => (ROUTES, self.routes.remove(&route_key(net)?)),
            MapStep::PutLocal(ip, row) => (LOCALS, self.locals.insert(abi::addr(ip), local_value(row), 0)),
            MapStep::RemoveLocal(ip) => (LOCALS, self.locals.remove(&abi::addr(ip))),
            MapStep::PutService(f, SetRef { set, count }) => {
                (SERVICES, self.services.insert(frontend_key(f), abi::SetRefValue { set, count }, 0))
            }
            MapStep::RemoveService(f) => (SERVICES, self.services.remove(&frontend_key(f))),
            MapStep::PutAffinity(f, seconds) => (AFFINITY, self.affinity.insert(frontend_key(f), seconds, 0)),
            MapStep::RemoveAffinity(f) => (AFFINITY, self.affinity.remove(&frontend_key(f))),
            MapStep::PutServiceAddress(ip) => {
                (SERVICES, self.services.insert(address_key(ip), abi::SetRefValue::default(), 0))
            }
            MapStep::RemoveServiceAddress(ip) => (SERVICES, self.services.remove(&address_key(ip))),
            MapStep::PutBackend(BackendKey { set, slot }, to) => {
                (BACKENDS, self.backends.insert(abi::BackendKeyRow { set, slot }, endpoint(to), 0))
            }
            MapStep::RemoveBackend(BackendKey { set, slot }) => {
                (BACKENDS, self.backends.remove(&abi::BackendKeyRow { set, slot }))
            }
            MapStep::PutConfig(row) => (CONFIG, self.config.set(0, config_value(row), 0)),
            MapStep::PutCgroup(cgroup, row) => (CGROUPS, self.cgroups.insert(cgroup, cgroup_value(row), 0)),
            MapStep::RemoveCgroup(cgroup) => (CGROUPS, self.cgroups.remove(&cgroup)),
            MapStep::PutUser(uid, row) => (USERS, self.users.insert(uid, tenant_value(row), 0)),
            MapStep::RemoveUser(uid) => (USERS, self.users.remove(&uid)),
            MapStep::PutTenancy(TenancyRow { newest_cgroup, tenants, level }) => {
                (TENANCY, self.tenancy.set(0, abi::Tenancy { newest_cgroup, tenants, level }, 0))
            }
        };
        result.or_else(|source| self.judge(map, step, source))
    }

    pub(super) fn drops(&self) -> Result<BTreeMap<abi::DropReason, u64>, Error> {
        let count = |reason: &abi::DropReason| {
            let per_cpu = self.drops.get(&(*reason as u32), 0).map_err(read_failed(DROPS))?;
            Ok((*reason, per_cpu.iter().sum()))
        };
        abi::DropReason::ALL.iter().map(count).collect()
    }

    /// What a failed step means: a full map and a row that was gone already have their own meaning.
    fn judge(&self, map: &'static str, step: &MapStep, source: MapError) -> Result<(), Error> {
        let errno = match &source {
            MapError::SyscallError(call) => call.io_error.raw_os_error(),
            MapError::KeyNotFound | MapError::ElementNotFound => Some(libc::ENOENT),
            _ => None,
        };
        match errno {
            Some(libc::ENOENT) => Ok(()),
            // A trie says ENOSPC, a hash table E2BIG.
            Some(libc::ENOSPC | libc::E2BIG) => {
                Err(Error::Full { map, max_entries: self.sizes[map], row: format!("{step:?}") })
            }
            _ => Err(Error::Map { action: "change", map, source }),
        }
    }

    fn read_config(&self) -> Result<ConfigRow, Error> {
        let config = self.config.get(&0, 0).map_err(read_failed(CONFIG))?;
        Ok(ConfigRow {
            mesh_ifindex: NonZeroU32::new(config.mesh_ifindex),
            mesh_v4: optional_v4(CONFIG, config.mesh_v4)?,
            mesh_v6: optional_v6(CONFIG, config.mesh_v6)?,
        })
    }
}

/// All zero is none.
fn optional_v4(map: &'static str, addr: Addr) -> Result<Option<Ipv4Addr>, Error> {
    match (addr != Addr::default()).then(|| abi::ip(addr)) {
        None => Ok(None),
        Some(IpAddr::V4(v4)) => Ok(Some(v4)),
        Some(IpAddr::V6(_)) => Err(Error::ForeignRow { map, what: "an IPv6 address for IPv4".to_owned() }),
    }
}

/// All zero is none.
fn optional_v6(map: &'static str, addr: Addr) -> Result<Option<Ipv6Addr>, Error> {
    match (addr != Addr::default()).then(|| abi::ip(addr)) {
        None => Ok(None),
        Some(IpAddr::V6(v6)) => Ok(Some(v6)),
        Some(IpAddr::V4(_)) => Err(Error::ForeignRow { map, what: "an IPv4 address for IPv6".to_owned() }),
    }
}

fn read_failed(map: &'static str) -> impl Fn(MapError) -> Error {
    move |source| Error::Map { action: "read", map, source }
}

fn route_key(net: IpNet) -> Result<Key<Addr>, Error> {
    let net = net.trunc();
    let bits = match net {
        IpNet::V4(v4) => v4.prefix_len() + V4_PREFIX_BITS,
        IpNet::V6(v6) => {
            // ::ffff:0:0/96 is where IPv4 lives in the maps: a wider prefix would swallow it.
            let v4 = "::ffff:0:0/96".parse::<ipnet::Ipv6Net>().expect("a literal prefix");
            if v6.contains(&v4) || v4.contains(&v6) {
                return Err(Error::Refused { row: net.to_string(), reason: "it covers the IPv4 addresses" });
            }
            v6.prefix_len()
        }
    };
    Ok(Key::new(u32::from(bits), abi::addr(net.network())))
}

fn net(key: &Key<Addr>) -> Result<IpNet, Error> {
    let ip = abi::ip(key.data());
    let bits = match ip {
        IpAddr::V4(_) => key.prefix_len().checked_sub(u32::from(V4_PREFIX_BITS)),
        IpAddr::V6(_) => Some(key.prefix_len()),
    };
    bits.and_then(|bits| u8::try_from(bits).ok()).and_then(|bits| IpNet::new(ip, bits).ok()).ok_or_else(
        || Error::ForeignRow { map: ROUTES, what: format!("{ip} with {} bits", key.prefix_len()) },
    )
}

fn route_value(net: IpNet, row: RouteRow) -> Result<abi::Route, Error> {
    match row {
        RouteRow::Closed => Ok(abi::Route { mtu_bytes: 0, flags: abi::CLOSED, pad: 0 }),
        RouteRow::Routed { mtu_bytes } if mtu_bytes < PATH_MTU_MIN_BYTES => Err(Error::Refused {
            row: format!("{net} with MTU {mtu_bytes}"),
            reason: "a path carries at least 1200 bytes",
        }),
        RouteRow::Routed { mtu_bytes } => Ok(abi::Route { mtu_bytes, flags: abi::ROUTED, pad: 0 }),
    }
}

fn route(value: abi::Route) -> Result<RouteRow, Error> {
    match value.flags {
        abi::ROUTED => Ok(RouteRow::Routed { mtu_bytes: value.mtu_bytes }),
        abi::CLOSED => Ok(RouteRow::Closed),
        flags => Err(Error::ForeignRow { map: ROUTES, what: format!("flags {flags}") }),
    }
}

fn local_value(row: LocalRow) -> abi::Local {
    match row {
        LocalRow::Pod { ifindex, mac } => abi::Local { ifindex, mac, kind: abi::LOCAL_POD, pad: 0 },
        LocalRow::Node => abi::Local { kind: abi::LOCAL_NODE, ..abi::Local::default() },
        LocalRow::Tenant => abi::Local { kind: abi::LOCAL_TENANT, ..abi::Local::default() },
    }
}

fn local(value: abi::Local) -> Result<LocalRow, Error> {
    match value.kind {
        abi::LOCAL_POD => Ok(LocalRow::Pod { ifindex: value.ifindex, mac: value.mac }),
        abi::LOCAL_NODE => Ok(LocalRow::Node),
        abi::LOCAL_TENANT => Ok(LocalRow::Tenant),
        kind => Err(Error::ForeignRow { map: LOCALS, what: format!("kind {kind}") }),
    }
}

fn frontend_key(f: Frontend) -> abi::FrontendKey {
    abi::FrontendKey {
        addr: abi::addr(f.address),
        port_be: f.port.to_be(),
        protocol: f.protocol.number(),
        pad: 0,
    }
}

fn address_key(ip: IpAddr) -> abi::FrontendKey {
    abi::FrontendKey { addr: abi::addr(ip), ..abi::FrontendKey::default() }
}

/// `None` for the row that says the address is a service's.
fn frontend(key: abi::FrontendKey) -> Result<Option<Frontend>, Error> {
    let (address, port) = (abi::ip(key.addr), u16::from_be(key.port_be));
    let protocol = [Protocol::Tcp, Protocol::Udp].into_iter().find(|p| p.number() == key.protocol);
    match protocol {
        Some(protocol) => Ok(Some(Frontend { address, protocol, port })),
        None if key == address_key(address) => Ok(None),
        None => Err(Error::ForeignRow { map: SERVICES, what: format!("protocol {}", key.protocol) }),
    }
}

fn endpoint(to: SocketAddr) -> abi::Endpoint {
    abi::Endpoint { addr: abi::addr(to.ip()), port_be: to.port().to_be(), pad: [0; 2] }
}

fn config_value(row: ConfigRow) -> abi::Config {
    abi::Config {
        mesh_ifindex: row.mesh_ifindex.map_or(0, NonZeroU32::get),
        mesh_v4: row.mesh_v4.map_or(Addr::default(), |v4| abi::addr(v4.into())),
        mesh_v6: row.mesh_v6.map_or(Addr::default(), |v6| abi::addr(v6.into())),
    }
}

fn tenant_value(row: TenantRow) -> abi::Tenant {
    abi::Tenant {
        v4: row.v4.map_or(Addr::default(), |v4| abi::addr(v4.into())),
        v6: row.v6.map_or(Addr::default(), |v6| abi::addr(v6.into())),
    }
}

fn tenant_row(map: &'static str, value: abi::Tenant) -> Result<TenantRow, Error> {
    Ok(TenantRow { v4: optional_v4(map, value.v4)?, v6: optional_v6(map, value.v6)? })
}

fn cgroup_value(row: CgroupRow) -> abi::Cgroup {
    match row {
        CgroupRow::Tenant(tenant) => {
            abi::Cgroup { tenant: tenant_value(tenant), kind: abi::CGROUP_TENANT, pad: [0; 3] }
        }
        CgroupRow::Above => abi::Cgroup { kind: abi::CGROUP_ABOVE, ..abi::Cgroup::default() },
    }
}

fn cgroup_row(value: abi::Cgroup) -> Result<CgroupRow, Error> {
    match value.kind {
        abi::CGROUP_TENANT => Ok(CgroupRow::Tenant(tenant_row(CGROUPS, value.tenant)?)),
        abi::CGROUP_ABOVE => Ok(CgroupRow::Above),
        kind => Err(Error::ForeignRow { map: CGROUPS, what: format!("kind {kind}") }),
    }
}
