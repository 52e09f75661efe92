//! What the store refuses, in etcd's words: clients compare these texts.

/// The gRPC status code that etcd sends with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// gRPC code 3.
    InvalidArgument,
    /// gRPC code 5.
    NotFound,
    /// gRPC code 8.
    ResourceExhausted,
    /// gRPC code 9.
    FailedPrecondition,
    /// gRPC code 11.
    OutOfRange,
    /// gRPC code 14.
    Unavailable,
}

/// A refused request. The texts are those of etcd's `api/v3rpc/rpctypes/error.go`, to the letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A request without a key.
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    /// `ignore_value` or `ignore_lease` on a key that does not exist.
    #[error("etcdserver: key not found")]
    KeyNotFound,
    /// `ignore_value` together with a value.
    #[error("etcdserver: value is provided")]
    ValueProvided,
    /// `ignore_lease` together with a lease.
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    /// A lease that was never granted or has expired.
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    /// A lease is granted with the id of another.
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    /// A time to live above [`crate::LEASE_TTL_MAX_S`].
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    /// More than [`crate::TXN_OPS_MAX`] compares or operations.
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    /// One txn writes a key twice.
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    /// A record above [`crate::RECORD_BYTES_MAX`] or a request above [`crate::REQUEST_BYTES_MAX`].
    #[error("etcdserver: request is too large")]
    RequestTooLarge,
    /// A revision below the compacted one.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted {
        /// The oldest revision that can still be read.
        compact_revision: i64,
    },
    /// A revision that does not exist yet.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    /// The store is at [`crate::STORE_BYTES_MAX`]; deletes are still taken.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// The queue of the shell is full: try again.
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    /// The shell around the store has ended.
    #[error("etcdserver: server stopped")]
    Stopped,
}

impl Error {
    /// The gRPC code etcd sends with this error.
    pub fn code(self) -> Code {
        match self {
            Self::EmptyKey
            | Self::KeyNotFound
            | Self::ValueProvided
            | Self::LeaseProvided
            | Self::TooManyOps
            | Self::DuplicateKey
            | Self::RequestTooLarge => Code::InvalidArgument,
            Self::LeaseNotFound => Code::NotFound,
            Self::LeaseExists => Code::FailedPrecondition,
            Self::Compacted { .. } | Self::FutureRevision | Self::LeaseTtlTooLarge => Code::OutOfRange,
            Self::NoSpace | Self::TooManyRequests => Code::ResourceExhausted,
            Self::Stopped => Code::Unavailable,
        }
    }
}
