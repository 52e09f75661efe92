//! Keys, ranges of keys, and what happened to a key.

use std::ops::Bound;

use bytes::Bytes;

use crate::Error;

/// One version of a key, as `mvccpb.KeyValue`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key; never empty in an answer.
    pub key: Bytes,
    /// The value; empty in a delete event and with `keys_only`.
    pub value: Bytes,
    /// The revision in which the key came to be, this time.
    pub create_revision: i64,
    /// The revision in which it last changed.
    pub mod_revision: i64,
    /// How many puts since it was created; 0 in a delete event.
    pub version: i64,
    /// The lease it hangs on; 0 is none.
    pub lease: i64,
}

/// Whether an event is a put or a delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The key was created or changed.
    Put,
    /// The key is gone; `kv` carries the key and the revision of the delete.
    Delete,
}

/// One change of one key, as `mvccpb.Event`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Put or delete.
    pub kind: EventKind,
    /// The key after the change.
    pub kv: KeyValue,
    /// The key before it, when asked for and not compacted.
    pub prev_kv: Option<KeyValue>,
}

/// Where a walk over the keys begins and ends.
pub(crate) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// A parsed (key, range_end) pair of the etcd API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    start: Bytes,
    end: End,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// The start alone.
    Single,
    /// Up to, not including, this key.
    Before(Bytes),
    /// Every key from the start on.
    Open,
}

impl KeyRange {
    /// Reads (key, range_end): an empty end is the key alone, `\0` everything from the key on.
    ///
    /// # Errors
    /// [`Error::EmptyKey`] without a key.
    pub fn parse(key: &Bytes, range_end: &Bytes) -> Result<Self, Error> {
        if key.is_empty() {
            return Err(Error::EmptyKey);
        }
        let end = match range_end.as_ref() {
            [] => End::Single,
            [0] => End::Open,
            _ => End::Before(range_end.clone()),
        };
        Ok(Self { start: key.clone(), end })
    }

    /// Every key that begins with `prefix`; with an empty prefix, every key.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let prefix = prefix.into();
        let end = match Self::prefix_end(&prefix) {
            Some(end) => End::Before(end),
            None => End::Open,
        };
        let start = if prefix.is_empty() { Bytes::from_static(b"\0") } else { prefix };
        Self { start, end }
    }

    /// The first key after all that begin with `prefix`; `None` when there is none (empty, or all 0xff).
    pub fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
        let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
        let mut end = prefix[..=last].to_vec();
        end[last] += 1;
        Some(end.into())
    }

    /// The first key of the range.
    pub fn key(&self) -> &Bytes {
        &self.start
    }

    /// The range's end as the wire spells it: empty for one key, `\0` for an open end.
    pub fn range_end(&self) -> Bytes {
        match &self.end {
            End::Single => Bytes::new(),
            End::Before(end) => end.clone(),
            End::Open => Bytes::from_static(b"\0"),
        }
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Single => key == self.start,
            End::Before(end) => key >= self.start.as_ref() && key < end.as_ref(),
            End::Open => key >= self.start.as_ref(),
        }
    }

    /// Whether there can be no key in it: it ends before it begins.
    pub fn is_empty(&self) -> bool {
        self.bounds().is_none()
    }

    /// Whether every key the range can name begins with `prefix`: what authorization asks of each range.
    pub fn is_within(&self, prefix: &[u8]) -> bool {
        if !self.start.starts_with(prefix) {
            return prefix.is_empty();
        }
        match (&self.end, Self::prefix_end(prefix)) {
            (End::Single, _) | (_, None) => true,
            (End::Before(end), Some(prefix_end)) => *end <= prefix_end,
            (End::Open, Some(_)) => false,
        }
    }

    /// Bounds for a `BTreeMap`; `None` when the range is empty, because a map panics on an end before the start.
    pub(crate) fn bounds(&self) -> Option<Bounds<'_>> {
        let start = Bound::Included(self.start.as_ref());
        match &self.end {
            End::Single => Some((start, Bound::Included(self.start.as_ref()))),
            End::Before(end) if *end <= self.start => None,
            End::Before(end) => Some((start, Bound::Excluded(end.as_ref()))),
            End::Open => Some((start, Bound::Unbounded)),
        }
    }
}
