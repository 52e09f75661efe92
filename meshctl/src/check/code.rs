//! The codes of what a check finds: a promise, as scripts and runbooks name them. A code is never given to something else.

use std::fmt;

/// What can be found, with the number it is known by. Each has a paragraph in `docs/checks.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// A cluster cannot be reached, or does not believe us.
    Unreachable = 101,
    /// A cluster was reached and refuses to say what is needed.
    Refuses = 102,
    /// A cluster advertises no address of its apiserver.
    NoAddress = 103,
    /// Two names stand for one cluster.
    SameCluster = 201,
    /// Two clusters have one name.
    SameName = 202,
    /// A range of one overlaps a range of the other.
    Overlap = 203,
    /// A range of one covers a tunnel endpoint of the other.
    CoversNode = 204,
    /// One has a peer by the other's name that is another cluster.
    OtherPeer = 205,
    /// One knows the other by another name.
    OtherAlias = 206,
    /// A range overlaps that of a peer that the other has.
    OverlapsPeer = 207,
    /// A cluster has no node.
    NoNodes = 301,
    /// A node does not run the mesh as it should.
    Node = 302,
}

impl Code {
    /// Every code there is.
    #[cfg(test)]
    pub const ALL: [Self; 12] = [
        Self::Unreachable,
        Self::Refuses,
        Self::NoAddress,
        Self::SameCluster,
        Self::SameName,
        Self::Overlap,
        Self::CoversNode,
        Self::OtherPeer,
        Self::OtherAlias,
        Self::OverlapsPeer,
        Self::NoNodes,
        Self::Node,
    ];
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MESH{}", *self as u16)
    }
}

impl serde::Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
