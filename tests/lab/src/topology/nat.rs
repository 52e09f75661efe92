//! Boxes that translate addresses, as stand at home, in an office or at a carrier.

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{DualAddr, DualNet, ProcessSpec};
use crate::place::Name;

/// A box on a segment. What stands behind it comes out with the box's addresses, of both families.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nat {
    /// The cluster whose segment it is plugged into.
    pub segment: Spanned<Name>,
    /// Its addresses there.
    pub addresses: Spanned<DualAddr>,
    /// The prefixes behind it. It has the first address of each.
    pub inside: Spanned<DualNet>,
    /// How it maps, and whom it lets in.
    pub kind: NatKind,
    /// How long it remembers a silent UDP mapping. Boxes do for 30 s and longer; a test wants less.
    #[serde(default = "default_udp_timeout_s")]
    pub udp_timeout_s: u16,
    /// Ports that it hands on to machines behind it.
    #[serde(default)]
    pub forward: Vec<Forward>,
    /// Its processes.
    #[serde(default)]
    pub run: Vec<ProcessSpec>,
}

/// A TCP port of a box that somebody has opened on it, for a machine behind it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// The port, on both sides.
    pub port: u16,
    /// The machine.
    pub to: Spanned<DualAddr>,
}

/// The kinds of RFC 3489 that differ for hole punching. (RFC 4787: mapping and filtering behaviour)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NatKind {
    /// A socket has one port outside, and anybody may send to it.
    FullCone,
    /// A socket has one port outside, and whom it has sent to may answer. Linux's ordinary masquerading.
    PortRestricted,
    /// A socket has another port outside for each target, and only that target may answer.
    Symmetric,
}

/// What Linux has for a UDP mapping that was never answered. (nf_conntrack_udp_timeout)
fn default_udp_timeout_s() -> u16 {
    30
}
