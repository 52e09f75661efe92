//! Text of a request → a value. The whole request is read before anything of it is applied.
//!
//! Keys and values as in the WireGuard cross-platform documentation, and `allowed_ip=-a/b` of Linux 6.16,
//! which removes one.

use std::{net::SocketAddr, str::FromStr};

use ipnet::IpNet;

use crate::key::{PublicKey, Secret};

#[cfg(test)]
mod tests;

/// What somebody asks of the device.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Say the configuration and the counters.
    Get,
    /// Change the configuration.
    Set(Set),
}

/// A change of the configuration. What is `None` stays.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// All zero: no key any more.
    pub private_key: Option<Secret>,
    /// 0: any free port.
    pub listen_port: Option<u16>,
    /// 0: no mark.
    pub fwmark: Option<u32>,
    /// Forget the peers that are not in this request.
    pub replace_peers: bool,
    /// Peers, in the order of the request.
    pub peers: Vec<PeerSet>,
}

/// A change of one peer. What is `None` stays.
#[derive(Debug, PartialEq, Eq)]
pub struct PeerSet {
    /// Who.
    pub public_key: PublicKey,
    /// Do not add the peer if it is not there.
    pub update_only: bool,
    /// Forget the peer.
    pub remove: bool,
    /// Forget its allowed-ips before adding ours.
    pub replace_allowed_ips: bool,
    /// All zero: no pre-shared key any more.
    pub preshared_key: Option<Secret>,
    /// Where to send to.
    pub endpoint: Option<SocketAddr>,
    /// 0: no keepalives.
    pub keepalive_s: Option<u16>,
    /// In the order of the request.
    pub allowed_ips: Vec<AllowedIp>,
}

/// An allowed-ip comes or goes. Host bits are cut off.
#[derive(Debug, PartialEq, Eq)]
pub enum AllowedIp {
    /// `allowed_ip=a/b`
    Add(IpNet),
    /// `allowed_ip=-a/b`
    Remove(IpNet),
}

/// Why a request was refused. The peer on the socket only sees EINVAL; our log says this.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not UTF-8.
    #[error("a request is text")]
    NotText,
    /// The first line was neither `get=1` nor `set=1`.
    #[error("a request starts with get=1 or set=1")]
    NoOperation,
    /// A line without `=`, an unknown key, or a key in a place where it says nothing.
    #[error("line {line} has no key that means something here")]
    Key {
        /// Counted from 1.
        line: usize,
    },
    /// A value that its key does not take. The value itself is not repeated: it may be a key.
    #[error("line {line}: `{key}` does not take this value")]
    Value {
        /// Counted from 1.
        line: usize,
        /// The key of the line.
        key: &'static str,
    },
}

impl Request {
    /// Reads a request, without the empty line that ends it.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let text = str::from_utf8(bytes).map_err(|_| Malformed::NotText)?;
        let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
        match lines.next() {
            Some((_, "get=1")) => match lines.next() {
                None => Ok(Self::Get),
                Some((line, _)) => Err(Malformed::Key { line }),
            },
            Some((_, "set=1")) => parse_set(lines).map(Self::Set),
            Some(_) | None => Err(Malformed::NoOperation),
        }
    }
}

fn parse_set<'a>(lines: impl Iterator<Item = (usize, &'a str)>) -> Result<Set, Malformed> {
    let mut set = Set::default();
    for (line, text) in lines {
        let (key, value) = text.split_once('=').ok_or(Malformed::Key { line })?;
        let field = Field { line, value };
        if key == "public_key" {
            let public_key = field.with("public_key", PublicKey::from_hex)?;
            set.peers.push(PeerSet::of(public_key));
        } else if let Some(peer) = set.peers.last_mut() {
            peer.read(key, &field)?;
        } else {
            set.read(key, &field)?;
        }
    }
    Ok(set)
}

impl Set {
    fn read(&mut self, key: &str, field: &Field<'_>) -> Result<(), Malformed> {
        match key {
            "private_key" => self.private_key = Some(field.with("private_key", Secret::from_hex)?),
            "listen_port" => self.listen_port = Some(field.number("listen_port")?),
            "fwmark" => self.fwmark = Some(field.number("fwmark")?),
            "replace_peers" => self.replace_peers = field.yes("replace_peers")?,
            _ => return Err(Malformed::Key { line: field.line }),
        }
        Ok(())
    }
}

impl PeerSet {
    /// A request that says nothing but the peer's name.
    pub fn of(public_key: PublicKey) -> Self {
        Self {
            public_key,
            update_only: false,
            remove: false,
            replace_allowed_ips: false,
            preshared_key: None,
            endpoint: None,
            keepalive_s: None,
            allowed_ips: vec![],
        }
    }

    fn read(&mut self, key: &str, field: &Field<'_>) -> Result<(), Malformed> {
        match key {
            "update_only" => self.update_only = field.yes("update_only")?,
            "remove" => self.remove = field.yes("remove")?,
            "replace_allowed_ips" => self.replace_allowed_ips = field.yes("replace_allowed_ips")?,
            "preshared_key" => self.preshared_key = Some(field.with("preshared_key", Secret::from_hex)?),
            "endpoint" => self.endpoint = Some(field.with("endpoint", endpoint)?),
            "persistent_keepalive_interval" => {
                self.keepalive_s = Some(field.number("persistent_keepalive_interval")?);
            }
            "allowed_ip" => self.allowed_ips.push(field.with("allowed_ip", allowed_ip)?),
            // The only version there is.
            "protocol_version" => drop(field.with("protocol_version", |v| (v == "1").then_some(()))?),
            _ => return Err(Malformed::Key { line: field.line }),
        }
        Ok(())
    }
}

struct Field<'a> {
    line: usize,
    value: &'a str,
}

impl Field<'_> {
    fn with<T>(&self, key: &'static str, read: impl FnOnce(&str) -> Option<T>) -> Result<T, Malformed> {
        read(self.value).ok_or(Malformed::Value { line: self.line, key })
    }

    fn number<T: FromStr>(&self, key: &'static str) -> Result<T, Malformed> {
        // `parse` takes a leading `+`, which no other implementation does.
        self.with(key, |value| value.bytes().all(|b| b.is_ascii_digit()).then(|| value.parse().ok())?)
    }

    /// Flags are `true` or absent.
    fn yes(&self, key: &'static str) -> Result<bool, Malformed> {
        self.with(key, |value| (value == "true").then_some(true))
    }
}

fn endpoint(value: &str) -> Option<SocketAddr> {
    let endpoint: SocketAddr = value.parse().ok()?;
    (endpoint.port() != 0 && !endpoint.ip().is_unspecified()).then_some(endpoint)
}

fn allowed_ip(value: &str) -> Option<AllowedIp> {
    match value.strip_prefix('-') {
        Some(net) => net.parse().ok().map(|net: IpNet| AllowedIp::Remove(net.trunc())),
        None => value.parse().ok().map(|net: IpNet| AllowedIp::Add(net.trunc())),
    }
}
