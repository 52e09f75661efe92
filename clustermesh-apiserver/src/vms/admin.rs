//! What an operator does to VMs: add, invite, list, remove.

use super::{
    Enrollable, Register, home,
    presence::{Heard, is_silent},
};
use crate::{
    peers::Home,
    source::{
        driver::State,
        object::{ObjectKey, ObjectKind},
        parse,
    },
};
use api::{
    bytes::{ClusterUuid, Secret},
    external_workload::{ExternalWorkload, KIND},
    key::MeshKey,
    name::{ClusterName, NodeName},
    peer::API_VERSION,
    token::{Invited, Token},
};
use rpc::mesh::admin::v1 as pb;
use std::{net::IpAddr, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tonic::Status;
use tracing::info;

/// How long the source may take to read what was written: a directory is read within a second, a watch is quicker.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// Largest object we read, in bytes: 64 namespaces and 64 Services of the longest names, and labels.
pub const WORKLOAD_BYTES_MAX: usize = 64 * 1024;

/// Who we are, as a token tells it.
#[derive(Debug, Clone)]
pub struct Inviter {
    /// Our name.
    pub cluster: ClusterName,
    /// Our trust domain.
    pub uuid: ClusterUuid,
    /// `host:port` of our apiserver.
    pub endpoints: Vec<String>,
    /// Whether it is so for peers, too.
    pub peers_dial: bool,
    /// Our CA certificates, DER.
    pub ca: Vec<Vec<u8>>,
}

/// The operator's side of the VMs.
pub struct VmAdmin {
    /// Who invites.
    pub inviter: Inviter,
    /// Where the objects are written.
    pub home: Home,
    /// Who may join and who has.
    pub register: Register,
    /// What the objects say.
    pub source: watch::Receiver<Option<State>>,
    /// When each was last heard of.
    pub heard: watch::Receiver<Heard>,
}

impl VmAdmin {
    /// Writes the object, and returns when the VM may be invited.
    ///
    /// # Errors
    /// When the name is taken, the object is not valid, or its home refuses.
    pub async fn add(&self, workload: &ExternalWorkload) -> Result<(), Status> {
        if workload.api_version != API_VERSION || workload.kind != KIND {
            return Err(Status::invalid_argument(format!("not a {KIND} of {API_VERSION}")));
        }
        let name: NodeName =
            workload.metadata.name.as_str().parse().expect("an object's name is a node's name");
        let kind = ObjectKind::ExternalWorkload;
        let document = serde_json::to_value(workload).expect("an object that was read can be written");
        // What its source would refuse is not written in the first place.
        parse::parse(kind, &document).map_err(|fault| {
            Status::invalid_argument(format!("{name} is no valid {KIND}: {}: {}", fault.path, fault.text))
        })?;
        let state = self.state()?;
        if let Some(vm) = state.desired.vms.get(&name) {
            return Err(Status::already_exists(format!(
                "the name is taken by {}: `meshctl vm token {name}` makes a token for it",
                vm.object
            )));
        }
        if state.desired.records.contains_key(&MeshKey::Node(name.clone()).of(&self.inviter.cluster)) {
            return Err(Status::already_exists(format!(
                "the name is taken by Node {name}: choose another one"
            )));
        }
        home::write(&self.home, workload).await.map_err(refused)?;
        let key = ObjectKey {
            kind,
            namespace: Some(home::namespace(workload)),
            name: workload.metadata.name.clone(),
        };
        info!(vm = %key, "Added a VM");
        let mut source = self.source.clone();
        let read = source.wait_for(|state| state.as_ref().is_some_and(|state| is_read(state, &name, &key)));
        let state = match timeout(READ_WITHIN, read).await {
            Ok(Ok(state)) => state.clone(),
            Ok(Err(_)) | Err(_) => None,
        };
        let Some(state) = state else {
            return Err(Status::unavailable(format!(
                "{key} was written, and the source has not read it in {READ_WITHIN:?}: see the apiserver's log"
            )));
        };
        if state.desired.vms.contains_key(&name) {
            return Ok(());
        }
        let notices =
            state.desired.notices.iter().filter(|notice| notice.object == key).map(|n| n.text.clone());
        let problems =
            state.problems.iter().filter(|p| p.object.as_ref() == Some(&key)).map(ToString::to_string);
        let why: Vec<String> = notices.chain(problems).collect();
        Err(Status::failed_precondition(format!(
            "{key} was written, and does not take part: {}",
            why.join("; ")
        )))
    }

    /// A token's line for a VM, and the Unix time in seconds at which it expires.
    ///
    /// # Errors
    /// When there is no such VM, or the enrolment cannot be kept.
    pub async fn invite(&self, name: &NodeName) -> Result<(String, u64), Status> {
        let (secret, expires_s) = self.register.invite(name).await?;
        Ok((self.token(Invited::Vm(name.clone()), secret, expires_s), expires_s))
    }

    /// A token's line for the administrator of another cluster, and the Unix time in seconds at which it expires.
    ///
    /// # Errors
    /// When too many are open, or it cannot be kept.
    pub async fn invite_peer(&self) -> Result<(String, u64), Status> {
        if !self.inviter.peers_dial {
            let cluster = &self.inviter.cluster;
            return Err(Status::failed_precondition(format!(
                "{cluster} only dials out, and nobody could redeem its token: let the other cluster's administrator \
                 make one (meshctl token issue), and redeem it here"
            )));
        }
        let (secret, expires_s) = self.register.invite_peer().await?;
        Ok((self.token(Invited::Peer, secret, expires_s), expires_s))
    }

    fn token(&self, invites: Invited, secret: Secret, expires_s: u64) -> String {
        let Inviter { cluster, uuid, endpoints, peers_dial: _, ca } = self.inviter.clone();
        Token { invites, cluster, uuid, endpoints, ca, expires_s, secret }.to_string()
    }

    /// Removes the object; returns when it is gone. False when there is none.
    ///
    /// # Errors
    /// When somebody else wrote it, or its home refuses.
    pub async fn remove(&self, name: &NodeName) -> Result<bool, Status> {
        let state = self.state()?;
        let Some(Enrollable { object, uid, .. }) = state.desired.vms.get(name) else { return Ok(false) };
        let place = state.vm_places.get(name).expect("each VM has one");
        let namespace = object.namespace.as_ref().expect("a VM has a namespace");
        home::remove(&self.home, (namespace, name), (place, *uid)).await.map_err(refused)?;
        info!(vm = %object, "Removed a VM");
        let mut source = self.source.clone();
        let gone = |state: &Option<State>| state.as_ref().is_some_and(|s| !s.desired.vms.contains_key(name));
        match timeout(READ_WITHIN, source.wait_for(gone)).await {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(_)) | Err(_) => Err(Status::unavailable(format!(
                "{object} was removed, and the source has not seen it in {READ_WITHIN:?}: see the apiserver's log"
            ))),
        }
    }

    /// All VMs, in the order of their names.
    ///
    /// # Errors
    /// When the source has not been read yet.
    pub async fn list(&self) -> Result<Vec<pb::Vm>, Status> {
        let (state, heard) = (self.state()?, self.heard.borrow().clone());
        let now = Instant::now();
        let mut vms = Vec::new();
        for (name, Enrollable { object, addresses, .. }) in &state.desired.vms {
            let enrolment = self.register.get(name).await;
            let joined = enrolment.as_ref().and_then(|enrolment| enrolment.joined.as_ref());
            let heard_at = heard.get(name);
            let presence = match heard_at {
                None => pb::Presence::Unknown,
                Some(at) if is_silent(*at, now) => pb::Presence::Lapsed,
                Some(_) => pb::Presence::Present,
            };
            let silent = heard_at.map(|at| now.saturating_duration_since(*at).as_millis());
            let notices = state.desired.notices.iter().filter(|notice| notice.object == *object);
            vms.push(pb::Vm {
                name: name.to_string(),
                namespace: object.namespace.as_ref().map(ToString::to_string).unwrap_or_default(),
                addresses: addresses.iter().map(IpAddr::to_string).collect(),
                key: joined.map(|joined| joined.key.to_string()).unwrap_or_default(),
                joined_s: joined.map_or(0, |joined| joined.at_s),
                token_until_s: enrolment
                    .as_ref()
                    .and_then(|e| e.token.as_ref())
                    .map_or(0, |token| token.expires_s),
                presence: presence.into(),
                silent_ms: silent.map(|ms| u64::try_from(ms).unwrap_or(u64::MAX)),
                problem: notices.map(|notice| notice.text.clone()).collect::<Vec<_>>().join("; "),
            });
        }
        Ok(vms)
    }

    fn state(&self) -> Result<State, Status> {
        let not_read =
            || Status::unavailable("the objects of this cluster have not been read yet; try again");
        self.source.borrow().clone().ok_or_else(not_read)
    }
}

#[cfg(test)]
impl VmAdmin {
    /// Of a cluster without VMs, and without a source that could bring any.
    pub(crate) fn idle(data_dir: &std::path::Path) -> std::sync::Arc<Self> {
        let source = watch::Sender::new(None).subscribe();
        let keep = crate::keep::Keep::new(&crate::pki::Layout::new(data_dir), None);
        let register = Register::load(keep, source.clone()).expect("no enrolments");
        let cluster = "west".parse().expect("a name");
        let uuid = ClusterUuid([0; 16]);
        let inviter = Inviter { cluster, uuid, endpoints: vec![], peers_dial: true, ca: vec![] };
        let home = Home::Directory(data_dir.to_owned());
        let heard = watch::Sender::new(Heard::new()).subscribe();
        std::sync::Arc::new(Self { inviter, home, register, source, heard })
    }
}

/// Whether the source has read an object: it takes part, or something is said of it.
fn is_read(state: &State, name: &NodeName, key: &ObjectKey) -> bool {
    state.desired.vms.contains_key(name)
        || state.desired.notices.iter().any(|notice| notice.object == *key)
        || state.problems.iter().any(|problem| problem.object.as_ref() == Some(key))
}

fn refused(error: anyhow::Error) -> Status {
    Status::failed_precondition(format!("{error:#}"))
}
