//! What a follower asks of the wire and what it hears: the etcd v3 API, and our `mesh.sync.v1` beside it.

use api::digest::{Bucket, Entry};

/// Tells the answers of one connection from those of an earlier one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(u64);

impl SessionId {
    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A range of keys as the etcd API spells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key.
    pub key: Vec<u8>,
    /// The first key after the range; empty for `key` alone.
    pub end: Vec<u8>,
}

impl KeyRange {
    /// One key.
    #[must_use]
    pub fn single(key: &str) -> Self {
        Self { key: key.into(), end: Vec::new() }
    }

    /// Every key that begins with `prefix`, which is text and not empty.
    #[must_use]
    pub fn prefix(prefix: &str) -> Self {
        let mut end = prefix.as_bytes().to_vec();
        // No byte of UTF-8 is 0xff.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        Self { key: prefix.into(), end }
    }

    /// The part of this range behind `key`.
    #[must_use]
    pub fn after(&self, key: &[u8]) -> Self {
        Self { key: [key, &[0]].concat(), end: self.end.clone() }
    }

    /// Moves behind a page of it.
    ///
    /// # Errors
    /// When it is no page of it, or does not move on though there is more.
    pub(super) fn pass(&mut self, values: &[Value], more: bool) -> Result<(), &'static str> {
        if !values.iter().all(|v| self.contains(&v.key)) || !values.is_sorted_by(|a, b| a.key < b.key) {
            return Err("the store sent keys that were not asked for, or out of order");
        }
        match (values.last(), more) {
            (Some(last), true) => *self = self.after(&last.key),
            (None, true) => return Err("the store has more keys and sent none"),
            (_, false) => {}
        }
        Ok(())
    }

    /// Whether `key` lies in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        if self.end.is_empty() {
            key == self.key
        } else {
            (self.key.as_slice()..self.end.as_slice()).contains(&key)
        }
    }
}

/// A request to the store, or to the wire itself. All carry the session they belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Make a fresh connection; answer [`Answer::Connected`] or [`Answer::Failed`].
    Connect {
        /// The session that begins.
        session: SessionId,
    },
    /// `Range`; answer [`Answer::Page`].
    Page {
        /// The session.
        session: SessionId,
        /// Which keys.
        range: KeyRange,
        /// Pinned here; none is now.
        revision: Option<u64>,
        /// Only keys that were written in this revision or later.
        since: Option<u64>,
        /// At most so many keys, in key order.
        limit: usize,
    },
    /// `mesh.sync.v1.Sync/Buckets`; answer [`Answer::Buckets`], or [`Answer::Unserved`].
    Buckets {
        /// The session.
        session: SessionId,
        /// Which keys.
        range: KeyRange,
        /// Pinned here.
        revision: u64,
        /// There are two to the power of this.
        bits: u32,
    },
    /// `mesh.sync.v1.Sync/Entries`; answer [`Answer::Entries`], or [`Answer::Unserved`].
    Entries {
        /// The session.
        session: SessionId,
        /// Which keys.
        range: KeyRange,
        /// Pinned here.
        revision: u64,
        /// As for the buckets.
        bits: u32,
        /// The numbers of the buckets, rising.
        buckets: Vec<u32>,
    },
    /// `WatchCreate` with progress notifications and fragments; answers [`Answer::Watching`], then
    /// [`Answer::Changes`] and [`Answer::Progress`] for ever.
    Watch {
        /// The session.
        session: SessionId,
        /// Our number of the watch.
        watch: usize,
        /// Which keys.
        range: KeyRange,
        /// The first revision to hear of.
        from: u64,
    },
    /// `WatchProgress`; answer [`Answer::Progress`].
    Progress {
        /// The session.
        session: SessionId,
    },
    /// Close the connection; no answer.
    Disconnect {
        /// The session that has ended.
        session: SessionId,
    },
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// The revision in which it was written.
    pub mod_revision: u64,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was written.
    Put(Value),
    /// It was deleted.
    Delete {
        /// Which.
        key: Vec<u8>,
        /// The revision of the delete.
        mod_revision: u64,
    },
}

impl Change {
    /// Which key changed.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put(value) => &value.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// When it changed.
    #[must_use]
    pub fn revision(&self) -> u64 {
        match self {
            Self::Put(value) => value.mod_revision,
            Self::Delete { mod_revision, .. } => *mod_revision,
        }
    }
}

/// What the wire heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The connection stands, and the other side is who it should be.
    Connected {
        /// Of this session.
        session: SessionId,
    },
    /// To a `Range`.
    Page {
        /// Of this session.
        session: SessionId,
        /// The store's revision: the header's.
        revision: u64,
        /// In key order.
        values: Vec<Value>,
        /// The range has more keys than the limit.
        more: bool,
    },
    /// What a range holds, in few bytes.
    Buckets {
        /// Of this session.
        session: SessionId,
        /// All of them, in order.
        buckets: Vec<Bucket>,
    },
    /// What some buckets of a range hold.
    Entries {
        /// Of this session.
        session: SessionId,
        /// In order.
        entries: Vec<Entry>,
    },
    /// The store does not serve buckets, or not these: it is etcd, or older than we are.
    Unserved {
        /// Of this session.
        session: SessionId,
    },
    /// The watch was created.
    Watching {
        /// Of this session.
        session: SessionId,
        /// Our number of it.
        watch: usize,
        /// The store's revision: the header's.
        revision: u64,
    },
    /// Changes in the order of their revisions.
    Changes {
        /// Of this session.
        session: SessionId,
        /// Our number of the watch.
        watch: usize,
        /// Whole revisions, but for the last one when there is `more`.
        changes: Vec<Change>,
        /// A fragment: the rest follows.
        more: bool,
    },
    /// Everything up to this revision was delivered.
    Progress {
        /// Of this session.
        session: SessionId,
        /// Our number of the watch; none means all (etcd answers a progress request with watch id -1).
        watch: Option<usize>,
        /// The header's.
        revision: u64,
    },
    /// What was to be read or watched is no longer in the history.
    Compacted {
        /// Of this session.
        session: SessionId,
        /// The oldest revision there is.
        compact_revision: u64,
    },
    /// The other side was verified, and does not let us in.
    Refused {
        /// Of this session.
        session: SessionId,
        /// For the log and the status.
        error: String,
    },
    /// The connection, or a request that ends it.
    Failed {
        /// Of this session.
        session: SessionId,
        /// For the log and the status.
        error: String,
    },
}

impl Answer {
    pub(super) fn session(&self) -> SessionId {
        match self {
            Self::Connected { session }
            | Self::Page { session, .. }
            | Self::Buckets { session, .. }
            | Self::Entries { session, .. }
            | Self::Unserved { session }
            | Self::Watching { session, .. }
            | Self::Changes { session, .. }
            | Self::Progress { session, .. }
            | Self::Compacted { session, .. }
            | Self::Refused { session, .. }
            | Self::Failed { session, .. } => *session,
        }
    }
}
