//! What a range holds, in few bytes: for followers that history has left behind. See [`api::digest`].

use super::{Doors, convert};
use crate::authz;
use api::digest::{BITS_MAX, ENTRIES_MAX, Entries, Entry, HASH_BYTES};
use bytes::Bytes;
use rpc::mesh::sync::v1::{self as pb, sync_server::Sync};
use std::{collections::VecDeque, sync::Arc};
use store::RangeRequest;
use tonic::{Request, Response, Status};

/// Ranges that were hashed last, and stay: after a long outage all agents ask for the same ones, between two heartbeats at
/// the same revision, and each asks twice. 100,000 keys are 1.6 MB.
const KEPT_MAX: usize = 4;

/// A range of fewer keys is hashed again within a millisecond, and takes no place.
const KEPT_FROM_ENTRIES: usize = 1_000;

/// See [`KEPT_MAX`]. Whoever holds the lock hashes: one range at a time, because each looks at every key of it.
pub(super) type Kept = VecDeque<(RangeRequest, Arc<Entries>)>;

impl Doors {
    /// Hashes a range, off the threads that serve.
    pub(super) async fn entries_of(&self, range: RangeRequest) -> Result<Arc<Entries>, Status> {
        let mut kept = Arc::clone(&self.inner.hashed).lock_owned().await;
        if let Some((_, entries)) = kept.iter().find(|(of, _)| *of == range) {
            return Ok(Arc::clone(entries));
        }
        let answered = self.engine().range(&range).await.map_err(convert::status)?;
        off_the_threads_that_serve(move || {
            let entry = |kv: store::KeyValue| Entry::of(&kv.key, kv.mod_revision.unsigned_abs());
            let count = answered.kvs.len();
            let entries: Arc<Entries> = Arc::new(answered.kvs.into_iter().map(entry).collect());
            // Without a revision it is another one the next time.
            if range.revision > 0 && count >= KEPT_FROM_ENTRIES {
                kept.truncate(KEPT_MAX - 1);
                kept.push_front((range, Arc::clone(&entries)));
            }
            entries
        })
        .await
    }
}

async fn off_the_threads_that_serve<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<R, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Status::internal("hashing a range panicked"))
}

fn keys(key: Bytes, range_end: Bytes, revision: i64) -> RangeRequest {
    RangeRequest { key, range_end, revision, keys_only: true, ..RangeRequest::default() }
}

/// Whether buckets are asked for as they may be: by few bits, and each once, so that the answer is no longer than the range.
///
/// # Errors
/// `InvalidArgument`, in words.
pub fn check(bits: u32, buckets: &[u32]) -> Result<(), Status> {
    if bits > BITS_MAX {
        let text = format!("a bucket is numbered by at most {BITS_MAX} bits, not by {bits}");
        return Err(Status::invalid_argument(text));
    }
    if !buckets.is_sorted_by(|a, b| a < b) || buckets.last().is_some_and(|last| *last >> bits != 0) {
        return Err(Status::invalid_argument("buckets are asked for by number, in rising order"));
    }
    Ok(())
}

#[tonic::async_trait]
impl Sync for Doors {
    async fn buckets(
        &self,
        request: Request<pb::BucketsRequest>,
    ) -> Result<Response<pb::BucketsResponse>, Status> {
        let asked = request.get_ref();
        let touches = authz::hashes(&asked.key, &asked.range_end).map_err(convert::status)?;
        self.check(request.extensions(), "/mesh.sync.v1.Sync/Buckets", &touches)?;
        let pb::BucketsRequest { key, range_end, revision, bits } = request.into_inner();
        check(bits, &[])?;
        let all = self.entries_of(keys(key, range_end, revision)).await?;
        let buckets = off_the_threads_that_serve(move || all.buckets(bits)).await?;
        Ok(Response::new(pb::BucketsResponse {
            counts: buckets.iter().map(|bucket| bucket.count).collect(),
            hashes: buckets.iter().flat_map(|bucket| bucket.hash).collect::<Vec<u8>>().into(),
        }))
    }

    async fn entries(
        &self,
        request: Request<pb::EntriesRequest>,
    ) -> Result<Response<pb::EntriesResponse>, Status> {
        let asked = request.get_ref();
        let touches = authz::hashes(&asked.key, &asked.range_end).map_err(convert::status)?;
        self.check(request.extensions(), "/mesh.sync.v1.Sync/Entries", &touches)?;
        let pb::EntriesRequest { key, range_end, revision, bits, buckets } = request.into_inner();
        check(bits, &buckets)?;
        let all = self.entries_of(keys(key, range_end, revision)).await?;
        let wanted = buckets.iter().flat_map(|number| all.bucket(bits, *number));
        let entries: Vec<u8> = wanted.take(ENTRIES_MAX + 1).flat_map(|entry| entry.0).collect();
        if entries.len() > ENTRIES_MAX * HASH_BYTES {
            let text = format!("these buckets have more than {ENTRIES_MAX} entries: list the range");
            return Err(Status::resource_exhausted(text));
        }
        Ok(Response::new(pb::EntriesResponse { entries: entries.into() }))
    }
}
