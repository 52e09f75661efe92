//! One file of libcni's cache: `{"kind":"cniCacheV1", "containerId":…, "result":{"interfaces":[…],"ips":[…]}}`.
//! (containernetworking/cni, libcni/api.go and the CNI specification 1.0, "ADD Success")

use ipnet::IpNet;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

/// A result names few interfaces: the bridge, both ends of a pair, perhaps a bandwidth plugin's ifb.
const INTERFACES_MAX: usize = 32;
/// Two families, and some networks hand out more.
const ADDRESSES_MAX: usize = 32;

/// What a CNI plugin attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The pod sandbox.
    pub container_id: String,
    /// Interfaces outside of the sandbox.
    pub host_devices: Vec<String>,
    /// Addresses inside of it, each with the MAC of its interface.
    pub addresses: BTreeMap<IpAddr, [u8; 6]>,
    /// The sandbox's network namespace, as the CNI was told it.
    pub namespace: Option<PathBuf>,
}

impl Attached {
    /// For people.
    #[must_use]
    pub fn host_names(&self) -> String {
        match self.host_devices.is_empty() {
            true => "(it names no device of the host)".to_owned(),
            false => self.host_devices.join(", "),
        }
    }
}

/// What a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cached {
    /// Which addresses are behind which device.
    Attached(Attached),
    /// That a sandbox has addresses, and not which device or which MAC address they have in there: Calico names the
    /// host's side only, the AWS VPC CNI no MAC.
    Silent {
        /// The pod sandbox.
        container_id: String,
    },
    /// It is of another kind, or attaches no address (a loopback network).
    Nothing,
}

/// A file that cannot be believed.
#[derive(Debug, thiserror::Error)]
pub enum BadCache {
    /// Not JSON, or not of this shape.
    #[error("not a cached CNI result: {0}")]
    Shape(#[from] serde_json::Error),
    /// A field is not what the specification says.
    #[error("{field} is wrong: {reason}")]
    Field {
        /// Its path.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    kind: String,
    #[serde(default)]
    container_id: String,
    result: Option<CniResult>,
}

#[derive(Deserialize)]
struct CniResult {
    #[serde(default)]
    interfaces: Vec<Interface>,
    #[serde(default)]
    ips: Vec<Ip>,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    #[serde(default)]
    mac: String,
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct Ip {
    address: String,
    interface: Option<i64>,
}

/// Reads one file.
///
/// # Errors
/// When it says something that cannot be.
pub fn attachment(text: &str) -> Result<Cached, BadCache> {
    let file: File = serde_json::from_str(text)?;
    let Some(result) = file.result.filter(|_| file.kind == "cniCacheV1") else {
        return Ok(Cached::Nothing);
    };
    bounded("result.interfaces", result.interfaces.len(), INTERFACES_MAX)?;
    bounded("result.ips", result.ips.len(), ADDRESSES_MAX)?;

    let mut addresses = BTreeMap::new();
    let mut is_silent = false;
    for ip in &result.ips {
        let inside = sandboxed(ip, &result.interfaces)?;
        let address = address(&ip.address)?;
        // Of the loopback network, whose interface has no MAC address.
        if address.is_loopback() {
            continue;
        }
        let Some(interface) = inside.filter(|interface| !interface.mac.is_empty()) else {
            is_silent = true;
            continue;
        };
        let mac = mac(&interface.mac).ok_or_else(|| {
            wrong("result.interfaces[].mac", format!("`{}` is no MAC address", interface.mac))
        })?;
        addresses.insert(address, mac);
    }
    if addresses.is_empty() {
        let container_id = file.container_id;
        return Ok(if is_silent { Cached::Silent { container_id } } else { Cached::Nothing });
    }
    // An absolute path; whatever else a plugin may say there is nothing that we open.
    let inside = result.interfaces.iter().map(|interface| Path::new(&interface.sandbox));
    let namespace = inside.into_iter().find(|path| path.is_absolute()).map(Path::to_owned);
    let outside = result.interfaces.into_iter().filter(|interface| interface.sandbox.is_empty());
    Ok(Cached::Attached(Attached {
        container_id: file.container_id,
        host_devices: outside.map(|interface| interface.name).collect(),
        addresses,
        namespace,
    }))
}

/// The interface in the sandbox that has the address; without an index, the only one there is. None: it is named on the
/// host's side, or not at all.
fn sandboxed<'a>(ip: &Ip, interfaces: &'a [Interface]) -> Result<Option<&'a Interface>, BadCache> {
    let interface = match ip.interface {
        Some(index) => {
            usize::try_from(index).ok().and_then(|index| interfaces.get(index)).ok_or_else(|| {
                wrong("result.ips[].interface", format!("{index} of {} interfaces", interfaces.len()))
            })?
        }
        None => {
            let mut inside = interfaces.iter().filter(|interface| !interface.sandbox.is_empty());
            match (inside.next(), inside.next()) {
                (Some(only), None) => only,
                (None, _) => return Ok(None),
                (_, Some(_)) => {
                    return Err(wrong(
                        "result.ips[].interface",
                        format!("{} names no interface", ip.address),
                    ));
                }
            }
        }
    };
    Ok(Some(interface).filter(|interface| !interface.sandbox.is_empty()))
}

fn address(text: &str) -> Result<IpAddr, BadCache> {
    let net: IpNet = text
        .parse()
        .map_err(|_| wrong("result.ips[].address", format!("`{text}` is no address with a prefix length")))?;
    let address = net.addr();
    match is_a_pods(address) {
        true => Ok(address),
        false => Err(wrong("result.ips[].address", format!("{address} cannot be a pod's"))),
    }
}

/// An address that a pod can have.
pub(super) fn is_a_pods(address: IpAddr) -> bool {
    let is_mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    !(address.is_unspecified() || address.is_multicast() || is_mapped)
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    // A group address is nobody's.
    (parts.next().is_none() && mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

fn bounded(field: &'static str, len: usize, max: usize) -> Result<(), BadCache> {
    match len > max {
        true => Err(wrong(field, format!("{len} of them, at most {max}"))),
        false => Ok(()),
    }
}

fn wrong(field: &'static str, reason: String) -> BadCache {
    BadCache::Field { field, reason }
}
