//! Cut links, as one nftables table of the underlay: what is cut is said whole each time, and replaced at once.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A link that is cut, between two sides that are each a cluster or a place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cut {
    /// One side, as the user wrote it.
    pub a: String,
    /// The other side.
    pub b: String,
    /// What does not pass any more.
    pub what: Traffic,
}

/// Which packets a cut stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Traffic {
    /// Every IP packet.
    All,
    /// UDP alone: TCP and ICMP still pass.
    Udp,
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::All => "all",
            Self::Udp => "udp",
        })
    }
}
