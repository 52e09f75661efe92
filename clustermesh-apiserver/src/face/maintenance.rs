//! What etcd's tools ask a server about itself.

use super::{Doors, convert};
use bytes::Bytes;
use rpc::etcdserverpb::{self as pb, cluster_server::Cluster, maintenance_server::Maintenance};
use sha2::{Digest, Sha256};
use std::{
    io::{self, BufWriter, Write},
    pin::Pin,
    sync::Arc,
};
use store::{Dump, KeyValue, RangeRequest};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

/// The API that we speak, for clients that look: etcd's version, and ours as its pre-release.
const VERSION: &str = concat!("3.5.0-mesh.", env!("CARGO_PKG_VERSION"));

/// What is sent of a snapshot at once.
const SNAPSHOT_CHUNK_BYTES: usize = 64 * 1024;

/// Chunks that wait for the network.
const SNAPSHOT_CHUNKS_MAX: usize = 4;

impl Doors {
    /// The keys as of a revision (0: now) in one number: two stores that hold the same have the same. It is not etcd's, which
    /// hashes its files.
    async fn hash_of(&self, revision: i64) -> Result<(i64, u32), Status> {
        let all = Bytes::from_static(b"\0");
        let all = RangeRequest { key: all.clone(), range_end: all, revision, ..RangeRequest::default() };
        let answer = self.engine().range(&all).await.map_err(convert::status)?;
        let hash = tokio::task::spawn_blocking(move || hash(&answer.kvs)).await;
        Ok((answer.revision, hash.map_err(|_| Status::internal("hashing the store panicked"))?))
    }
}

fn hash(kvs: &[KeyValue]) -> u32 {
    let mut hash = Sha256::new();
    for kv in kvs {
        for bytes in [&kv.key, &kv.value] {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        }
        for number in [kv.create_revision, kv.mod_revision, kv.version, kv.lease] {
            hash.update(number.to_be_bytes());
        }
    }
    let [a, b, c, d, ..] = hash.finalize()[..] else { unreachable!("SHA-256 has 32 bytes") };
    u32::from_be_bytes([a, b, c, d])
}

/// A file that is sent as it is written.
struct Sending {
    to: mpsc::Sender<Result<pb::SnapshotResponse, Status>>,
    left: u64,
}

impl Write for Sending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left -= bytes.len() as u64;
        let blob = Bytes::copy_from_slice(bytes);
        let part = pb::SnapshotResponse { blob, remaining_bytes: self.left, ..Default::default() };
        self.to.blocking_send(Ok(part)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn send(dump: &Dump, to: mpsc::Sender<Result<pb::SnapshotResponse, Status>>) {
    let sending = Sending { left: dump.size(), to };
    // The only thing that fails is a client that went away.
    dump.write(&mut BufWriter::with_capacity(SNAPSHOT_CHUNK_BYTES, sending)).ok();
}

#[tonic::async_trait]
impl Maintenance for Doors {
    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        self.check(request.extensions(), "/etcdserverpb.Maintenance/Status", &[])?;
        let sizes = self.engine().stats().store;
        let bytes = i64::try_from(sizes.bytes).unwrap_or(i64::MAX);
        let index = u64::try_from(sizes.revision).unwrap_or_default();
        Ok(Response::new(pb::StatusResponse {
            header: Some(self.header(sizes.revision)),
            version: VERSION.to_owned(),
            db_size: bytes,
            db_size_in_use: bytes,
            leader: self.ids().1,
            raft_index: index,
            raft_applied_index: index,
            raft_term: self.term(),
            db_size_quota: i64::try_from(store::STORE_BYTES_MAX).unwrap_or(i64::MAX),
            ..Default::default()
        }))
    }

    async fn hash(&self, request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        self.check(request.extensions(), "/etcdserverpb.Maintenance/Hash", &[])?;
        let (revision, hash) = self.hash_of(0).await?;
        Ok(Response::new(pb::HashResponse { header: Some(self.header(revision)), hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        self.check(request.extensions(), "/etcdserverpb.Maintenance/HashKV", &[])?;
        let asked = request.get_ref().revision;
        let (revision, hash) = self.hash_of(asked).await?;
        let header = Some(self.header(revision));
        let compact_revision = self.engine().compacted();
        let hash_revision = if asked > 0 { asked } else { revision };
        Ok(Response::new(pb::HashKvResponse { header, hash, compact_revision, hash_revision }))
    }

    async fn snapshot(
        &self,
        request: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Pin<Box<dyn Stream<Item = Result<pb::SnapshotResponse, Status>> + Send>>>, Status>
    {
        self.check(request.extensions(), "/etcdserverpb.Maintenance/Snapshot", &[])?;
        let busy =
            |_| Status::resource_exhausted("another snapshot is being sent; try again when it is done");
        let permit = Arc::clone(&self.inner.snapshots).try_acquire_owned().map_err(busy)?;
        let dump = self.engine().dump(self.inner.own.uuid.0).await.map_err(convert::status)?;
        let (to, stream) = mpsc::channel(SNAPSHOT_CHUNKS_MAX);
        tokio::task::spawn_blocking(move || {
            send(&dump, to);
            drop(permit);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        self.check(request.extensions(), "/etcdserverpb.Maintenance/Alarm", &[])?;
        if request.get_ref().action() != pb::alarm_request::AlarmAction::Get {
            return Err(Status::unimplemented("alarms cannot be set or cleared here: there are none"));
        }
        Ok(Response::new(pb::AlarmResponse {
            header: Some(self.header(self.engine().revision())),
            alarms: vec![],
        }))
    }
}

#[tonic::async_trait]
impl Cluster for Doors {
    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        self.check(request.extensions(), "/etcdserverpb.Cluster/MemberList", &[])?;
        let own = &self.inner.own;
        let member = pb::Member { id: self.ids().1, name: own.name.to_string(), ..Default::default() };
        let header = Some(self.header(self.engine().revision()));
        Ok(Response::new(pb::MemberListResponse { header, members: vec![member] }))
    }
}
