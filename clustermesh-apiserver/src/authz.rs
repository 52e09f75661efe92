//! Who may do what: one total table, role × method × every key range in the request.
//!
//! ```text
//!  certificate ──▶ Subject ─┐
//!  request ──▶ method ──────┼──▶ authorize ──▶ Ok, or Denied { who, what, where }
//!          └─▶ [`Touch`]es ─┘
//! ```
//!
//! Pure: a certificate's ID, a method's name and the ranges a request touches go in, a verdict comes out.
//!
//! Invariants
//! - what is not in the table is refused; a method of the services without a row fails a test;
//! - every range of a request is judged: compares, both branches of a txn and what is nested in them, what `prev_kv`
//!   would show, and open ends by what they reach, not by how they are written;
//! - a peer reads what we announce and nothing else: nothing is passed on to third parties;
//! - a node and a VM write their own records, only valid ones, and hang none on a lease that somebody else ends;
//! - of what a VM may list and watch it is shown what concerns it, key by key (`sees.rs`), and it may do nothing that
//!   would tell of the others: no txn, no hashes;
//! - leases are for those who may read, or write, every key: any may hang on one.

mod sees;
mod table;
#[cfg(test)]
mod tests;
mod touch;

pub use sees::vm_sees;
pub use table::{Grant, Row, Served, TABLE, row};
pub use touch::{
    Access, Touch, campaign, delete_range, hashes, leader, lock, proclaim, put, range, resign, txn, unlock,
    waiting, watch,
};

use api::{
    bytes::ClusterUuid,
    key::{Key, LOCAL, LocalKey, MESH, MeshKey, cluster_prefix},
    name::{ClusterName, NodeName},
    record::Record,
};
use daemon::spiffe::{Role, SpiffeId};
use std::fmt;
use store::KeyRange;

/// Whose apiserver this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Our trust domain.
    pub uuid: ClusterUuid,
    /// Our name: our prefix.
    pub name: ClusterName,
}

/// Who asks: a column of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Our own cluster's certificate: this apiserver.
    Own,
    /// A peer's apiserver.
    Peer,
    /// A node of ours.
    Node(NodeName),
    /// A VM of ours.
    Vm(NodeName),
    /// Somebody who changes things here.
    Operator,
    /// Somebody who looks.
    Reader,
}

impl Subject {
    /// Which column an ID stands for. None for an ID of a foreign trust domain that is no cluster's: TLS lets none in.
    #[must_use]
    pub fn of(own: ClusterUuid, id: &SpiffeId) -> Option<Self> {
        if id.trust_domain() != own {
            return match id.role() {
                Role::Cluster => Some(Self::Peer),
                Role::Node | Role::Vm | Role::Operator | Role::Reader => None,
            };
        }
        match id.role() {
            Role::Cluster => Some(Self::Own),
            Role::Node => id.node_name().map(Self::Node),
            Role::Vm => id.vm_name().map(Self::Vm),
            Role::Operator => Some(Self::Operator),
            Role::Reader => Some(Self::Reader),
        }
    }
}

/// A refusal that says who wanted what, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Etcd's words first: its clients look for them.
    #[error("etcdserver: permission denied: {who} may not call {method}")]
    Method {
        /// The certificate's ID.
        who: SpiffeId,
        /// As `/package.Service/Method`.
        method: String,
    },
    /// The method, but not there.
    #[error("etcdserver: permission denied: {who} may not {access} {range} by {method}")]
    Range {
        /// The certificate's ID.
        who: SpiffeId,
        /// As `/package.Service/Method`.
        method: String,
        /// Read or write.
        access: Access,
        /// The keys, for people.
        range: String,
    },
    /// Its own key, but on a lease: others end leases.
    #[error("etcdserver: permission denied: {who} may not hang {key} on a lease by {method}")]
    Lease {
        /// The certificate's ID.
        who: SpiffeId,
        /// As `/package.Service/Method`.
        method: String,
        /// The key.
        key: String,
    },
    /// The right key and no record of its kind.
    #[error("etcdserver: permission denied: {who} may write only valid records: {key}: {reason}")]
    Record {
        /// The certificate's ID.
        who: SpiffeId,
        /// The key.
        key: String,
        /// What is wrong with the value.
        reason: String,
    },
}

/// Judges a request by its method and all that it touches.
///
/// # Errors
/// [`Denied`] names the role, the method and the first range that is refused.
pub fn authorize(own: &Own, who: &SpiffeId, method: &str, touches: &[Touch]) -> Result<(), Denied> {
    let denied = || Denied::Method { who: who.clone(), method: method.to_owned() };
    let subject = Subject::of(own.uuid, who).ok_or_else(denied)?;
    match row(method).ok_or_else(denied)?.grant(&subject) {
        Grant::No => Err(denied()),
        Grant::Yes => Ok(()),
        Grant::Keys => touches.iter().try_for_each(|touch| judge(own, who, &subject, method, touch)),
    }
}

fn judge(own: &Own, who: &SpiffeId, subject: &Subject, method: &str, touch: &Touch) -> Result<(), Denied> {
    let allowed = match (subject, touch.access) {
        (Subject::Own | Subject::Operator, Access::Read | Access::Write)
        | (Subject::Reader, Access::Read) => true,
        (Subject::Peer, Access::Read) => touch.range.is_within(cluster_prefix(&own.name).as_bytes()),
        (Subject::Node(_) | Subject::Vm(_), Access::Read) => {
            touch.range.is_within(MESH.as_bytes()) || touch.range.is_within(LOCAL.as_bytes())
        }
        (Subject::Node(node), Access::Write) => {
            let its_own = [MeshKey::Key(node.clone()).of(&own.name), LocalKey::Applied(node.clone()).into()];
            return author_writes(who, &its_own, method, touch);
        }
        (Subject::Vm(vm), Access::Write) => {
            let its_own = [
                MeshKey::Key(vm.clone()).of(&own.name),
                LocalKey::Applied(vm.clone()).into(),
                LocalKey::Presence(vm.clone()).into(),
            ];
            return author_writes(who, &its_own, method, touch);
        }
        (Subject::Peer | Subject::Reader, Access::Write) => false,
    };
    if allowed { Ok(()) } else { Err(denied_range(who, method, touch)) }
}

/// A node is the author of two records, its tunnel key and what its maps hold; a VM of its presence, too.
fn author_writes(who: &SpiffeId, its_own: &[Key], method: &str, touch: &Touch) -> Result<(), Denied> {
    let wanted = |key: &&Key| touch.range.range_end().is_empty() && *touch.range.key() == key.to_string();
    let key = its_own.iter().find(wanted).ok_or_else(|| denied_range(who, method, touch))?;
    if touch.leased {
        return Err(Denied::Lease { who: who.clone(), method: method.to_owned(), key: key.to_string() });
    }
    match touch.value.as_deref().map(|value| Record::decode(key, value)) {
        None | Some(Ok(_)) => Ok(()),
        Some(Err(error)) => {
            Err(Denied::Record { who: who.clone(), key: key.to_string(), reason: error.to_string() })
        }
    }
}

fn denied_range(who: &SpiffeId, method: &str, touch: &Touch) -> Denied {
    Denied::Range {
        who: who.clone(),
        method: method.to_owned(),
        access: touch.access,
        range: show(&touch.range),
    }
}

/// A range for people; a stranger chose the bytes.
fn show(range: &KeyRange) -> String {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string().chars().take(256).collect::<String>();
    match range.range_end().as_ref() {
        [] => format!("`{}`", text(range.key())),
        [0] => format!("`{}` and everything after it", text(range.key())),
        end => format!("`{}` up to `{}`", text(range.key()), text(end)),
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}
