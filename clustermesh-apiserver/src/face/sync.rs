//! What a range holds, in few bytes: for followers that history has left behind. See [`api::digest`].

use super::{Doors, convert};
use crate::authz;
use api::digest::{BITS_MAX, ENTRIES_MAX, Entries, Entry, HASH_BYTES};
use bytes::Bytes;
use rpc::mesh::sync::v1::{self as pb, sync_server::Sync};
use std::sync::Arc;
use store::{Error, RangeRequest};
use tonic::{Request, Response, Status};

impl Doors {
    /// Hashes a range off the threads that serve, then lets `answer` look at it.
    async fn hashed<R: Send + 'static>(
        &self,
        range: RangeRequest,
        answer: impl FnOnce(&Entries) -> R + Send + 'static,
    ) -> Result<R, Status> {
        let turn = Arc::clone(&self.inner.hashing).acquire_owned().await;
        let turn = turn.map_err(|_| convert::status(Error::Stopped))?;
        let answered = self.engine().range(&range).await.map_err(convert::status)?;
        let hashing = tokio::task::spawn_blocking(move || {
            let entry = |kv: store::KeyValue| Entry::of(&kv.key, kv.mod_revision.unsigned_abs());
            let result = answer(&answered.kvs.into_iter().map(entry).collect());
            drop(turn);
            result
        });
        hashing.await.map_err(|_| Status::internal("hashing a range panicked"))
    }
}

fn keys(key: Bytes, range_end: Bytes, revision: i64) -> RangeRequest {
    RangeRequest { key, range_end, revision, keys_only: true, ..RangeRequest::default() }
}

fn check_bits(bits: u32) -> Result<(), Status> {
    if bits <= BITS_MAX {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("a bucket is numbered by at most {BITS_MAX} bits, not by {bits}")))
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
        check_bits(bits)?;
        let buckets = self.hashed(keys(key, range_end, revision), move |all| all.buckets(bits)).await?;
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
        check_bits(bits)?;
        // So each is there once, and the answer is no longer than the range.
        if !buckets.is_sorted_by(|a, b| a < b) || buckets.last().is_some_and(|last| *last >> bits != 0) {
            return Err(Status::invalid_argument("buckets are asked for by number, in rising order"));
        }
        let entries = self.hashed(keys(key, range_end, revision), move |all| {
            let wanted = buckets.iter().flat_map(|number| all.bucket(bits, *number));
            wanted.take(ENTRIES_MAX + 1).flat_map(|entry| entry.0).collect::<Vec<u8>>()
        });
        let entries = entries.await?;
        if entries.len() > ENTRIES_MAX * HASH_BYTES {
            let text = format!("these buckets have more than {ENTRIES_MAX} entries: list the range");
            return Err(Status::resource_exhausted(text));
        }
        Ok(Response::new(pb::EntriesResponse { entries: entries.into() }))
    }
}
