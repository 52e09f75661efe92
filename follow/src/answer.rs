//! What a store answered, as a follower hears it. Pure: whatever the bytes were, here they become facts or a reason to end.

use api::digest::{Bucket, Entry, HASH_BYTES};
use replica::follower::{Answer, Change, SessionId, Value};
use rpc::{
    etcdserverpb::{RangeResponse, WatchResponse},
    mesh::sync::v1::{BucketsResponse, EntriesResponse},
    mvccpb::{Event, KeyValue, event::EventType},
};

/// A page of a range.
#[must_use]
pub fn page(session: SessionId, page: RangeResponse) -> Answer {
    let revision = unsigned(page.header.map_or(0, |header| header.revision));
    let values = page.kvs.into_iter().map(value).collect();
    Answer::Page { session, revision, values, more: page.more }
}

/// A message of the watch's stream.
///
/// # Errors
/// What a store does not say to us, in words for a status: the session ends.
pub fn watched(session: SessionId, response: WatchResponse) -> Result<Answer, String> {
    let revision = unsigned(response.header.map_or(0, |header| header.revision));
    // Ours are numbered from 0; on the wire 0 would mean "you choose", and -1 is all of them.
    let watch = response.watch_id.checked_sub(1).and_then(|watch| usize::try_from(watch).ok());
    if response.canceled {
        return if response.compact_revision > 0 {
            Ok(Answer::Compacted { session, compact_revision: unsigned(response.compact_revision) })
        } else {
            Err(format!("the store canceled the watch: {}", response.cancel_reason))
        };
    }
    match (watch, response.created) {
        (Some(watch), true) => Ok(Answer::Watching { session, watch, revision }),
        (None, true) => Err("the store created a watch that nobody asked for".to_owned()),
        (watch, false) if response.events.is_empty() && !response.fragment => {
            Ok(Answer::Progress { session, watch, revision })
        }
        (Some(watch), false) => {
            let changes = response.events.into_iter().map(change).collect::<Result<_, _>>()?;
            Ok(Answer::Changes { session, watch, changes, more: response.fragment })
        }
        (None, false) => Err("the store sent changes of no watch".to_owned()),
    }
}

/// The buckets of a range. Half a bucket is none: then there are not as many as were asked for, and the follower sees it.
#[must_use]
pub fn buckets(session: SessionId, answer: BucketsResponse) -> Answer {
    let hashes = answer.hashes.as_chunks::<HASH_BYTES>().0;
    let bucket = |(&count, &hash): (&u64, &[u8; HASH_BYTES])| Bucket { count, hash };
    Answer::Buckets { session, buckets: answer.counts.iter().zip(hashes).map(bucket).collect() }
}

/// The entries of some buckets.
#[must_use]
pub fn entries(session: SessionId, answer: EntriesResponse) -> Answer {
    let entries = answer.entries.as_chunks::<HASH_BYTES>().0;
    Answer::Entries { session, entries: entries.iter().copied().map(Entry).collect() }
}

fn value(kv: KeyValue) -> Value {
    Value { key: kv.key.into(), value: kv.value.into(), mod_revision: unsigned(kv.mod_revision) }
}

fn change(event: Event) -> Result<Change, String> {
    let (kind, Some(kv)) = (EventType::try_from(event.r#type), event.kv) else {
        return Err("the store sent an event without a key".to_owned());
    };
    match kind {
        Ok(EventType::Put) => Ok(Change::Put(value(kv))),
        Ok(EventType::Delete) => {
            Ok(Change::Delete { key: kv.key.into(), mod_revision: unsigned(kv.mod_revision) })
        }
        Err(_) => Err("the store sent an event that is neither put nor delete".to_owned()),
    }
}

/// Revisions are signed on the wire and never negative.
pub(crate) fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}
