//! The table itself.

use super::Subject;

/// What a role may do with a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// Everything that the method does.
    Yes,
    /// As far as every key range of the request allows.
    Keys,
    /// Nothing.
    No,
}

/// Whether we serve a method at all. Authorization comes first: who may not call it does not learn this either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// We do.
    Yes,
    /// Not in this version, or never: etcd's `Unimplemented`, and why.
    Not(&'static str),
    /// As an etcd without users says.
    NoAuth,
}

/// One method and what each role may do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// As `/package.Service/Method`.
    pub method: &'static str,
    /// Whether it is served.
    pub served: Served,
    own: Grant,
    peer: Grant,
    node: Grant,
    vm: Grant,
    operator: Grant,
    reader: Grant,
}

impl Row {
    /// What one who asks may do.
    #[must_use]
    pub fn grant(&self, subject: &Subject) -> Grant {
        match subject {
            Subject::Own => self.own,
            Subject::Peer => self.peer,
            Subject::Node(_) => self.node,
            Subject::Vm(_) => self.vm,
            Subject::Operator => self.operator,
            Subject::Reader => self.reader,
        }
    }
}

/// The row of a method; none means refused.
#[must_use]
pub fn row(method: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.method == method)
}

const fn new(
    method: &'static str,
    served: Served,
    [own, peer, node, vm, operator, reader]: [Grant; 6],
) -> Row {
    Row { method, served, own, peer, node, vm, operator, reader }
}

/// Reads and writes of keys: the ranges decide.
const KEYED: [Grant; 6] = [Grant::Keys, Grant::Keys, Grant::Keys, Grant::No, Grant::Keys, Grant::Keys];
/// Reads of keys of which a VM is shown those that concern it.
const LISTED: [Grant; 6] = [Grant::Keys, Grant::Keys, Grant::Keys, Grant::Keys, Grant::Keys, Grant::Keys];
/// Writes of keys: a peer and a reader write nothing, and need no range to be refused.
const WRITTEN: [Grant; 6] = [Grant::Keys, Grant::No, Grant::Keys, Grant::No, Grant::Keys, Grant::No];
/// The one way in which a VM writes.
const PUT: [Grant; 6] = [Grant::Keys, Grant::No, Grant::Keys, Grant::Keys, Grant::Keys, Grant::No];
/// Whether we live.
const STATUS: [Grant; 6] = [Grant::Yes, Grant::Yes, Grant::Yes, Grant::No, Grant::Yes, Grant::Yes];
/// What apiservers of other clusters do to reach each other, and nobody else does.
const PIPED: [Grant; 6] = [Grant::No, Grant::Yes, Grant::No, Grant::No, Grant::No, Grant::No];
/// What only those see who may see everything.
const SEEN: [Grant; 6] = [Grant::Yes, Grant::No, Grant::No, Grant::No, Grant::Yes, Grant::Yes];
/// What changes the store or the cluster as a whole.
const OPERATED: [Grant; 6] = [Grant::Yes, Grant::No, Grant::No, Grant::No, Grant::Yes, Grant::No];

const ONE_MEMBER: Served = Served::Not("this is one server, and its members do not change");
const STRANGERS: Served = Served::Not("it is served to those who have no certificate yet");
const NOT_ETCD: Served = Served::Not("this is not etcd, and has nothing to do here");

/// Every method of every service, in the order of the protocol's files.
pub const TABLE: &[Row] = &[
    //                                                        own, peer, node, vm, operator, reader
    new("/etcdserverpb.KV/Range", Served::Yes, LISTED),
    new("/etcdserverpb.KV/Put", Served::Yes, PUT),
    new("/etcdserverpb.KV/DeleteRange", Served::Yes, WRITTEN),
    new("/etcdserverpb.KV/Txn", Served::Yes, KEYED),
    new("/etcdserverpb.KV/Compact", Served::Yes, OPERATED),
    new("/etcdserverpb.Watch/Watch", Served::Yes, LISTED),
    // A lease reaches every key that hangs on it: ending one deletes them, and looking at one shows them
    // (CVE-2023-32082). So each is for those who may do the same to any key.
    new("/etcdserverpb.Lease/LeaseGrant", Served::Yes, OPERATED),
    new("/etcdserverpb.Lease/LeaseRevoke", Served::Yes, OPERATED),
    new("/etcdserverpb.Lease/LeaseKeepAlive", Served::Yes, OPERATED),
    new("/etcdserverpb.Lease/LeaseTimeToLive", Served::Yes, SEEN),
    new("/etcdserverpb.Lease/LeaseLeases", Served::Yes, SEEN),
    new("/etcdserverpb.Cluster/MemberAdd", ONE_MEMBER, OPERATED),
    new("/etcdserverpb.Cluster/MemberRemove", ONE_MEMBER, OPERATED),
    new("/etcdserverpb.Cluster/MemberUpdate", ONE_MEMBER, OPERATED),
    new("/etcdserverpb.Cluster/MemberList", Served::Yes, SEEN),
    new("/etcdserverpb.Cluster/MemberPromote", ONE_MEMBER, OPERATED),
    // `etcdctl endpoint health` lists alarms; nothing but listing them is served.
    new("/etcdserverpb.Maintenance/Alarm", Served::Yes, SEEN),
    new("/etcdserverpb.Maintenance/Status", Served::Yes, STATUS),
    new("/etcdserverpb.Maintenance/Defragment", NOT_ETCD, OPERATED),
    new("/etcdserverpb.Maintenance/Hash", Served::Yes, SEEN),
    new("/etcdserverpb.Maintenance/HashKV", Served::Yes, SEEN),
    new("/etcdserverpb.Maintenance/Snapshot", Served::Yes, SEEN),
    new("/etcdserverpb.Maintenance/MoveLeader", ONE_MEMBER, OPERATED),
    new("/etcdserverpb.Maintenance/Downgrade", NOT_ETCD, OPERATED),
    new("/etcdserverpb.Auth/AuthEnable", Served::NoAuth, OPERATED),
    new("/etcdserverpb.Auth/AuthDisable", Served::NoAuth, OPERATED),
    new("/etcdserverpb.Auth/AuthStatus", Served::NoAuth, OPERATED),
    new("/etcdserverpb.Auth/Authenticate", Served::NoAuth, OPERATED),
    new("/etcdserverpb.Auth/UserAdd", Served::NoAuth, OPERATED),
    new("/etcdserverpb.Auth/UserGet", Served::NoAuth, OPERATED),
    new("/etcdserverpb.Auth/UserList", Served::NoAuth, OPERATED),
    new("/etcdserverpb.Auth/UserDelete", Served::NoAuth, OPERATED),
    new("/etcdserverpb.Auth/UserChangePassword", Served::NoAuth, OPERATED),
    new("/etcdserverpb.Auth/UserGrantRole", Served::NoAuth, OPERATED),
    new("/etcdserverpb.Auth/UserRevokeRole", Served::NoAuth, OPERATED),
    new("/etcdserverpb.Auth/RoleAdd", Served::NoAuth, OPERATED),
    new("/etcdserverpb.Auth/RoleGet", Served::NoAuth, OPERATED),
    new("/etcdserverpb.Auth/RoleList", Served::NoAuth, OPERATED),
    new("/etcdserverpb.Auth/RoleDelete", Served::NoAuth, OPERATED),
    new("/etcdserverpb.Auth/RoleGrantPermission", Served::NoAuth, OPERATED),
    new("/etcdserverpb.Auth/RoleRevokePermission", Served::NoAuth, OPERATED),
    new("/v3lockpb.Lock/Lock", Served::Yes, WRITTEN),
    new("/v3lockpb.Lock/Unlock", Served::Yes, WRITTEN),
    new("/v3electionpb.Election/Campaign", Served::Yes, WRITTEN),
    new("/v3electionpb.Election/Proclaim", Served::Yes, WRITTEN),
    new("/v3electionpb.Election/Leader", Served::Yes, KEYED),
    new("/v3electionpb.Election/Observe", Served::Yes, KEYED),
    new("/v3electionpb.Election/Resign", Served::Yes, WRITTEN),
    new("/mesh.admin.v1.Admin/Describe", Served::Yes, SEEN),
    new("/mesh.admin.v1.Admin/ApplyPeer", Served::Yes, OPERATED),
    new("/mesh.admin.v1.Admin/RemovePeer", Served::Yes, OPERATED),
    new("/mesh.admin.v1.Admin/Forget", Served::Yes, OPERATED),
    new("/mesh.admin.v1.Admin/InvitePeer", Served::Yes, OPERATED),
    new("/mesh.admin.v1.Admin/AddVm", Served::Yes, OPERATED),
    new("/mesh.admin.v1.Admin/RemoveVm", Served::Yes, OPERATED),
    new("/mesh.admin.v1.Admin/InviteVm", Served::Yes, OPERATED),
    new("/mesh.admin.v1.Admin/ListVms", Served::Yes, SEEN),
    // What a range holds is shown to those who may read it.
    new("/mesh.sync.v1.Sync/Buckets", Served::Yes, KEYED),
    new("/mesh.sync.v1.Sync/Entries", Served::Yes, KEYED),
    // A peer offers for the name in its certificate. Whom it may reach is what the contracts with both say.
    new("/mesh.pipe.v1.Pipe/Offer", Served::Yes, PIPED),
    new("/mesh.pipe.v1.Pipe/Open", Served::Yes, PIPED),
    new("/mesh.enrolment.v1.Enrolment/EnrolNode", STRANGERS, [Grant::No; 6]),
    new("/mesh.enrolment.v1.Enrolment/EnrolOperator", STRANGERS, [Grant::No; 6]),
    new("/mesh.enrolment.v1.Enrolment/EnrolVm", STRANGERS, [Grant::No; 6]),
    new("/mesh.enrolment.v1.Enrolment/MeetPeer", STRANGERS, [Grant::No; 6]),
    new("/mesh.enrolment.v1.Enrolment/JoinPeer", STRANGERS, [Grant::No; 6]),
];
