//! What a source says: objects and where they stand, and what is wrong with those that cannot be used.

use super::{object::ObjectKey, parse::Parsed};
use std::{collections::BTreeMap, fmt, sync::Arc};
use tokio::time::Instant;

/// Most problems we keep for status; each is at most a few hundred bytes, so they stay under 1 MiB.
pub const PROBLEMS_MAX: usize = 1_000;

/// Where an object stands, for the person who has to change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file of the manifests directory.
    File {
        /// Relative to the directory.
        file: String,
        /// From 1; none when the file as a whole is meant.
        line: Option<u64>,
    },
    /// The Kubernetes API.
    Kubernetes {
        /// Label `app.kubernetes.io/managed-by`; empty when it has none.
        managed_by: String,
    },
}

impl Place {
    /// The file, relative to the directory.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        match self {
            Self::File { file, .. } => Some(file),
            Self::Kubernetes { .. } => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line: Some(line) } => write!(f, "{file}:{line}"),
            Self::File { file, line: None } => write!(f, "{file}"),
            Self::Kubernetes { .. } => write!(f, "kubernetes"),
        }
    }
}

/// What becomes of a document that has a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It is not used.
    Refused,
    /// Its object stays as it last was good.
    LastGood,
    /// It is used; the text says how it was read.
    Read,
}

/// Something wrong with an object, for the person who wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// Such as `spec.ports[0].port`; empty when the document as a whole is meant.
    pub field: String,
    /// What is wrong.
    pub text: String,
    /// Which object it is about, where that is known.
    pub object: Option<ObjectKey>,
    /// What becomes of it.
    pub effect: Effect,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)?;
        if let Some(object) = &self.object {
            write!(f, ": {object}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.text)?;
        match self.effect {
            Effect::LastGood => write!(f, " (what it last said stays in force)"),
            Effect::Refused | Effect::Read => Ok(()),
        }
    }
}

/// Which object of the Kubernetes API, of those that had its name, and as of which change of its spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
}

/// An object and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where.
    pub place: Place,
    /// Of a MeshPeer of the Kubernetes API: nobody asks for any other's, and a pod's would make news of it.
    pub version: Option<Version>,
    /// What it says.
    pub parsed: Parsed,
}

/// All that a source said, or last said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// One entry an object.
    pub objects: BTreeMap<ObjectKey, Found>,
    /// In the source's order, at most [`PROBLEMS_MAX`].
    pub problems: Vec<Problem>,
}

/// What is in `now` and was not before; with the two the other way round, what is no longer.
pub fn news<'a, T: PartialEq>(before: &'a [T], now: &'a [T]) -> impl Iterator<Item = &'a T> {
    now.iter().filter(|item| !before.contains(item))
}

/// What a source said when it was last read.
#[derive(Debug, Clone)]
pub struct Listing {
    /// All its objects, and its problems. The same one keeps its place in memory: so others see that nothing changed.
    pub snapshot: Arc<Snapshot>,
    /// When it was last known to be so: a source that is gone makes this older, not the snapshot emptier.
    pub read_at: Instant,
    /// What anybody wrote before this moment is in the snapshot; none where nobody can say so.
    pub includes: Option<Instant>,
}
