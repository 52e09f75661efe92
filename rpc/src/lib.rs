//! The services that travel: etcd's v3 API, our admin service, enrolment, pipes and sync, as clients and servers.
//!
//! ```text
//!  proto/etcd/…  ─┐
//!                 ├─ protox + tonic-prost-build ─▶ messages, clients, servers, [`DESCRIPTORS`]
//!  proto/mesh/…  ─┘
//! ```
//!
//! Everything here is generated; the records inside etcd's values are `api`'s. Package names and numbers of etcd's
//! files are etcd's own, so any etcd client speaks to our apiserver.

/// A `google.protobuf.FileDescriptorSet` of every service here: what the authorization table is compared with.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/services.fds"));

/// The key-value messages of etcd.
#[allow(
    missing_docs,
    clippy::all,
    reason = "generated from proto/etcd/api/mvccpb/kv.proto, which carries the comments"
)]
pub mod mvccpb {
    include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
}

/// The users and roles of etcd's own authentication, which we do not serve.
#[allow(
    missing_docs,
    clippy::all,
    reason = "generated from proto/etcd/api/authpb/auth.proto, which carries the comments"
)]
pub mod authpb {
    include!(concat!(env!("OUT_DIR"), "/authpb.rs"));
}

/// etcd's services: KV, Watch, Lease, Cluster, Maintenance, Auth.
#[allow(
    missing_docs,
    clippy::all,
    reason = "generated from proto/etcd/api/etcdserverpb/rpc.proto, which carries the comments"
)]
pub mod etcdserverpb {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}

/// etcd's Lock service.
#[allow(missing_docs, clippy::all, reason = "generated from v3lock.proto, which carries the comments")]
pub mod v3lockpb {
    include!(concat!(env!("OUT_DIR"), "/v3lockpb.rs"));
}

/// etcd's Election service.
#[allow(missing_docs, clippy::all, reason = "generated from v3election.proto, which carries the comments")]
pub mod v3electionpb {
    include!(concat!(env!("OUT_DIR"), "/v3electionpb.rs"));
}

/// How a node's container runtime is asked for its pods.
pub mod runtime {
    /// The only version that is served today.
    #[allow(
        missing_docs,
        clippy::all,
        reason = "generated from proto/cri/runtime/v1/api.proto, which carries the comments"
    )]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/runtime.v1.rs"));
    }
}

/// Our own services.
pub mod mesh {
    /// What an operator does to a cluster.
    pub mod admin {
        /// The first version.
        #[allow(
            missing_docs,
            clippy::all,
            reason = "generated from proto/mesh/v1/admin.proto, which carries the comments"
        )]
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/mesh.admin.v1.rs"));
        }
    }

    /// How a process gets its first certificate.
    pub mod enrolment {
        /// The first version.
        #[allow(
            missing_docs,
            clippy::all,
            reason = "generated from proto/mesh/v1/enrolment.proto, which carries the comments"
        )]
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/mesh.enrolment.v1.rs"));
        }
    }

    /// How a cluster that cannot be dialled is reached.
    pub mod pipe {
        /// The first version.
        #[allow(
            missing_docs,
            clippy::all,
            reason = "generated from proto/mesh/v1/pipe.proto, which carries the comments"
        )]
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/mesh.pipe.v1.rs"));
        }
    }

    /// How a follower that history has left behind finds what vanished.
    pub mod sync {
        /// The first version.
        #[allow(
            missing_docs,
            clippy::all,
            reason = "generated from proto/mesh/v1/sync.proto, which carries the comments"
        )]
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/mesh.sync.v1.rs"));
        }
    }
}
