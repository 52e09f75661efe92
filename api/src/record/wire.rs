//! From protobuf to valid values and back: the primitives that the records share.

use crate::{RECORD_MAX_BYTES, name::BadName, pb};
use ipnet::IpNet;
use prost::Message;
use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

/// Why a value was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Larger than [`RECORD_MAX_BYTES`].
    #[error("the record has {0} bytes and may have {RECORD_MAX_BYTES}")]
    TooLarge(usize),
    /// The bytes are no such message.
    #[error("the bytes are not a record of this kind")]
    Malformed(#[source] prost::DecodeError),
    /// A field breaks its rule.
    #[error("field `{field}`: {rule}")]
    Field {
        /// The field's name in records.proto.
        field: &'static str,
        /// What is wrong with it.
        rule: String,
    },
}

/// A record and its message.
pub(super) trait Wire: Sized {
    type Message: Message + Default;
    fn from_wire(message: Self::Message) -> Result<Self, RecordError>;
    fn to_wire(&self) -> Self::Message;
}

pub(super) fn decode<R: Wire>(bytes: &[u8]) -> Result<R, RecordError> {
    if bytes.len() > RECORD_MAX_BYTES {
        return Err(RecordError::TooLarge(bytes.len()));
    }
    R::from_wire(R::Message::decode(bytes).map_err(RecordError::Malformed)?)
}

pub(super) fn encode<R: Wire>(record: &R) -> Vec<u8> {
    record.to_wire().encode_to_vec()
}

/// Adds the field's name to what is wrong with it.
pub(super) trait InField<T> {
    fn field(self, field: &'static str) -> Result<T, RecordError>;
}

impl<T, E: ToString> InField<T> for Result<T, E> {
    fn field(self, field: &'static str) -> Result<T, RecordError> {
        self.map_err(|e| RecordError::Field { field, rule: e.to_string() })
    }
}

pub(super) fn rule<T>(field: &'static str, rule: &str) -> Result<T, RecordError> {
    Err(RecordError::Field { field, rule: rule.to_owned() })
}

/// An empty text is an absent name.
pub(super) fn optional_name<N: FromStr<Err = BadName>>(text: &str) -> Result<Option<N>, BadName> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
}

pub(super) fn name_text<N: ToString>(name: Option<&N>) -> String {
    name.map(N::to_string).unwrap_or_default()
}

pub(super) fn address(bytes: &[u8]) -> Result<IpAddr, &'static str> {
    let ip = if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        IpAddr::from(v4)
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        IpAddr::from(v6)
    } else {
        return Err("an address has 4 or 16 bytes");
    };
    if ip.to_canonical() == ip { Ok(ip) } else { Err("an IPv4 address travels as 4 bytes, not v4-mapped") }
}

pub(super) fn address_bytes(ip: &IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

pub(super) fn addresses(all: &[Vec<u8>]) -> Result<Vec<IpAddr>, &'static str> {
    all.iter().map(|bytes| address(bytes)).collect()
}

pub(super) fn sockets(all: &[pb::Socket]) -> Result<Vec<SocketAddr>, String> {
    let socket = |message: &pb::Socket| Ok(SocketAddr::new(address(&message.address)?, port(message.port)?));
    all.iter().map(socket).collect()
}

pub(super) fn socket_messages(all: &[SocketAddr]) -> Vec<pb::Socket> {
    let message = |at: &SocketAddr| pb::Socket { address: address_bytes(&at.ip()), port: at.port().into() };
    all.iter().map(message).collect()
}

pub(super) fn prefix(message: &pb::Prefix) -> Result<IpNet, String> {
    let ip = address(&message.address)?;
    let length = u8::try_from(message.length).map_err(|_| "a prefix length is at most 128")?;
    let net = IpNet::new(ip, length).map_err(|e| e.to_string())?;
    if net == net.trunc() { Ok(net) } else { Err(format!("{net} has bits set outside its length")) }
}

pub(super) fn prefixes(all: &[pb::Prefix]) -> Result<Vec<IpNet>, String> {
    all.iter().map(prefix).collect()
}

pub(super) fn prefix_messages(nets: &[IpNet]) -> Vec<pb::Prefix> {
    nets.iter()
        .map(|net| pb::Prefix { address: address_bytes(&net.addr()), length: net.prefix_len().into() })
        .collect()
}

pub(super) fn port(number: u32) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        Ok(_) | Err(_) => Err(format!("{number} is not a port (1 to 65535)")),
    }
}

/// Kubernetes: a label key is at most 253 + 1 + 63 characters, a value 63.
pub(super) fn labels(labels: &std::collections::BTreeMap<String, String>) -> Result<(), String> {
    match labels.iter().find(|(k, v)| k.is_empty() || k.len() > 317 || v.len() > 63) {
        None => Ok(()),
        Some((k, _)) => Err(format!("`{}` is longer than Kubernetes allows a label to be", k.escape_debug())),
    }
}
