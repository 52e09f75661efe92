//! Keeps the enrolments, and tells the doors who is a member.

use super::{
    Enrollables, FILE,
    enrolments::{Enrolment, Enrolments, Refusal},
};
use crate::{
    keep::Keep,
    source::{
        driver::{State, unix_s},
        index::Desired,
    },
};
use anyhow::Context as _;
use api::{
    bytes::{ClusterUuid, KeyFingerprint, Secret},
    name::NodeName,
    record::Vm,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::{Mutex, watch};
use tonic::Status;
use tracing::{error, info, warn};

/// Time between attempts to write when the disk, or the Kubernetes API, refuses.
const RETRY: Duration = Duration::from_secs(5);

/// Who is a member: the key of each VM that has joined. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Members {
    keys: watch::Receiver<Arc<BTreeMap<NodeName, KeyFingerprint>>>,
    source: watch::Receiver<Option<State>>,
}

impl Members {
    /// What a VM with this key may see; none for one that has not joined, or not with this key.
    ///
    /// The grant is the source's newest: whatever was published of it was decided before.
    #[must_use]
    pub fn grant(&self, name: &NodeName, key: KeyFingerprint) -> Option<Vm> {
        if self.keys.borrow().get(name) != Some(&key) {
            return None;
        }
        let source = self.source.borrow();
        let enrollable = source.as_ref()?.desired.vms.get(name)?;
        Some(enrollable.grant.clone())
    }

    /// Wakes when somebody has joined, or is no member any more: who has no object loses its key.
    ///
    /// # Errors
    /// When the register is gone.
    pub async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        self.keys.changed().await
    }
}

impl Members {
    /// Of a cluster without VMs.
    #[must_use]
    pub fn nobody() -> Self {
        Self {
            keys: watch::Sender::new(Arc::default()).subscribe(),
            source: watch::Sender::new(None).subscribe(),
        }
    }
}

/// The enrolments of one cluster. Cheap to clone.
#[derive(Clone)]
pub struct Register(Arc<Inner>);

struct Inner {
    keep: Keep,
    source: watch::Receiver<Option<State>>,
    held: Mutex<Enrolments>,
    keys: watch::Sender<Arc<BTreeMap<NodeName, KeyFingerprint>>>,
}

/// Why somebody is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// It may not be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The source has not been read yet.
    #[error("the objects of this cluster have not been read yet; try again")]
    NotRead,
    /// The disk, or the Kubernetes API, refuses.
    #[error("the enrolment cannot be kept; try again")]
    Keep(#[source] anyhow::Error),
}

impl From<EnrolError> for Status {
    fn from(error: EnrolError) -> Self {
        match error {
            EnrolError::Refused(Refusal::Unknown(_)) => Self::not_found(error.to_string()),
            EnrolError::Refused(_) => Self::permission_denied(error.to_string()),
            EnrolError::NotRead => Self::unavailable(error.to_string()),
            EnrolError::Keep(ref source) => {
                error!(error = format!("{source:#}"), "Cannot keep an enrolment");
                Self::unavailable(format!("{error}: {source:#}"))
            }
        }
    }
}

impl Register {
    /// Reads what was kept.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn load(keep: Keep, source: watch::Receiver<Option<State>>) -> anyhow::Result<Self> {
        let held = Enrolments::load(&keep.path(FILE))?;
        let keys = watch::Sender::new(Arc::new(held.keys()));
        Ok(Self(Arc::new(Inner { keep, source, held: Mutex::new(held), keys })))
    }

    /// Who is a member.
    #[must_use]
    pub fn members(&self) -> Members {
        Members { keys: self.0.keys.subscribe(), source: self.0.source.clone() }
    }

    fn desired(&self) -> Result<Arc<Desired>, EnrolError> {
        self.0.source.borrow().as_ref().map(|state| Arc::clone(&state.desired)).ok_or(EnrolError::NotRead)
    }

    /// Makes a token's secret for a VM; gives it with the Unix time in seconds at which it expires.
    ///
    /// # Errors
    /// [`EnrolError`]
    pub async fn invite(&self, name: &NodeName) -> Result<(Secret, u64), EnrolError> {
        let desired = self.desired()?;
        let vm = desired.vms.get(name).ok_or_else(|| Refusal::Unknown(name.clone()))?;
        let secret = Secret::from_slice(&rand::random::<[u8; 16]>()).expect("as long as a secret");
        let mut held = self.0.held.lock().await;
        let mut next = held.clone();
        let expires_s = next.invite(name, vm.uid, secret.hash(), unix_s());
        self.commit(&mut held, next).await?;
        info!(vm = %name, expires_s, "Made a token for a VM");
        Ok((secret, expires_s))
    }

    /// Makes a token's secret for the administrator of another cluster; gives it with the Unix time in seconds at which it
    /// expires.
    ///
    /// # Errors
    /// [`EnrolError`]
    pub async fn invite_peer(&self) -> Result<(Secret, u64), EnrolError> {
        let secret = Secret::from_slice(&rand::random::<[u8; 16]>()).expect("as long as a secret");
        let mut held = self.0.held.lock().await;
        let mut next = held.clone();
        let expires_s = next.invite_peer(secret.hash(), unix_s())?;
        self.commit(&mut held, next).await?;
        info!(expires_s, "Made a token for the administrator of another cluster");
        Ok((secret, expires_s))
    }

    /// Whether a cluster may come with a secret.
    ///
    /// # Errors
    /// [`EnrolError::Refused`]
    pub async fn check_peer(&self, secret: &Secret, uuid: ClusterUuid) -> Result<(), EnrolError> {
        Ok(self.0.held.lock().await.check_peer(secret, uuid, unix_s())?)
    }

    /// Binds a token to the cluster that comes with it. It is kept before this returns.
    ///
    /// # Errors
    /// [`EnrolError`]
    pub async fn redeem_peer(&self, secret: &Secret, uuid: ClusterUuid) -> Result<(), EnrolError> {
        let mut held = self.0.held.lock().await;
        let mut next = held.clone();
        if next.redeem_peer(secret, uuid, unix_s())? {
            self.commit(&mut held, next).await?;
        }
        Ok(())
    }

    /// Enrols a key under a VM's name. It is kept before this returns.
    ///
    /// # Errors
    /// [`EnrolError`]
    pub async fn enrol(
        &self,
        name: &NodeName,
        secret: Option<&Secret>,
        key: KeyFingerprint,
    ) -> Result<(), EnrolError> {
        let desired = self.desired()?;
        let mut held = self.0.held.lock().await;
        let mut next = held.clone();
        let vm = desired.vms.get(name).ok_or_else(|| Refusal::Unknown(name.clone()))?;
        if next.enrol(name, vm.uid, secret, key, unix_s())? {
            self.commit(&mut held, next).await?;
            info!(vm = %name, %key, "A VM has joined");
        }
        Ok(())
    }

    /// What is kept of a VM.
    pub async fn get(&self, name: &NodeName) -> Option<Enrolment> {
        self.0.held.lock().await.get(name).cloned()
    }

    /// Forgets VMs that are gone, until dropped.
    pub async fn follow(self) {
        let mut source = self.0.source.clone();
        loop {
            let vms = source.borrow_and_update().as_ref().map(|state| Arc::clone(&state.desired));
            let wait = match vms {
                Some(desired) => self.forget(&desired.vms).await,
                None => Ok(()),
            };
            let next = async {
                match wait {
                    Ok(()) => source.changed().await.is_ok(),
                    Err(()) => {
                        tokio::time::sleep(RETRY).await;
                        true
                    }
                }
            };
            if !next.await {
                return;
            }
        }
    }

    async fn forget(&self, vms: &Enrollables) -> Result<(), ()> {
        let mut held = self.0.held.lock().await;
        let mut next = held.clone();
        next.keep(|name| vms.get(name).map(|vm| vm.uid), unix_s());
        if next == *held {
            return Ok(());
        }
        self.commit(&mut held, next).await.map_err(|error| {
            let error = format!("{:#}", anyhow::Error::new(error));
            warn!(error, "Cannot keep which VMs were removed; trying again");
        })
    }

    /// A key that goes is let in no more, whether that can be kept or not; a key that comes is kept first.
    async fn commit(&self, held: &mut Enrolments, next: Enrolments) -> Result<(), EnrolError> {
        let (was, will) = (held.keys(), next.keys());
        let staying = was.iter().filter(|(name, key)| will.get(*name) == Some(*key));
        let staying: BTreeMap<_, _> = staying.map(|(name, key)| (name.clone(), *key)).collect();
        if staying != was {
            self.0.keys.send_replace(Arc::new(staying));
        }
        let kept = self.0.keep.write(FILE, &next.to_bytes()).await;
        kept.with_context(|| format!("cannot write {FILE}")).map_err(EnrolError::Keep)?;
        *held = next;
        if will != *self.0.keys.borrow().as_ref() {
            self.0.keys.send_replace(Arc::new(will));
        }
        Ok(())
    }
}
