//! Where what no source can rebuild is kept: the data directory alone, or a Secret of our namespace, too. With the Secret,
//! a pod on another machine and with an empty disk is the same cluster.
//!
//! ```text
//!  init:   Secret ──lay──▶ data directory        or, for the first time: data directory ──create──▶ Secret
//!  run:    a change ──▶ Secret ──▶ data directory ──▶ it counts
//! ```
//!
//! Invariants
//! - the Secret is written before the directory: what counts here counts for the pod that follows;
//! - of two `init`s at the same time one makes the cluster, and the other one takes it; one that was killed is gone on
//!   with, wherever it was;
//! - a Secret that somebody deletes while the apiserver runs is laid again: else the next pod with an empty disk would be
//!   another cluster, with a CA that no node and no peer knows;
//! - of two apiservers at the same time (an eviction, a node that is cut off) the one that writes second ends.

use crate::{
    init::{self, ClusterConfig},
    kubernetes::{ANSWER_MAX, within},
    peers::CLOSED_FILE,
    pki::{Authority, Existing, Layout, write_file},
    source::{kubernetes::Events, memory},
    vms,
};
use anyhow::{Context, bail};
use daemon::{args::Hint, durable, tls::Certificate};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::{
    collections::BTreeMap,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// What the Secret holds: its key, the file, and the file's mode. `cluster.yaml` comes last: with it the directory is
/// complete.
const FILES: [(&str, &str, u32); 10] = [
    ("ca.crt", "ca/cert.pem", 0o644),
    ("ca.key", "ca/key.pem", 0o600),
    ("operator.crt", "admin/cert.pem", 0o644),
    ("operator.key", "admin/key.pem", 0o600),
    ("operator-bundle.crt", "admin/bundle.pem", 0o644),
    ("operator.yaml", "admin/config.yaml", 0o644),
    (memory::FILE, memory::FILE, 0o600),
    (CLOSED_FILE, CLOSED_FILE, 0o600),
    (vms::FILE, vms::FILE, 0o600),
    ("cluster.yaml", "cluster.yaml", 0o644),
];

/// Most bytes of a Secret (Kubernetes: 1 MiB of data, as base64). Mesh addresses take about 120 bytes a node.
const SECRET_MAX_BYTES: usize = 768 * 1024;

/// How often a write is tried when only the Secret's metadata were changed meanwhile.
const PATCHES_MAX: usize = 5;

/// Time between looks whether the Secret is still there: an operator who deletes it by mistake sees it come again.
const GUARD: Duration = Duration::from_secs(30);

/// Time between attempts to write the bundle.
const RETRY: Duration = Duration::from_secs(5);

/// Time between writing the bundle again: somebody may have made the ConfigMap anew.
const AGAIN: Duration = Duration::from_secs(600);

/// Where changes are kept. Cheap to clone.
#[derive(Clone)]
pub struct Keep {
    root: PathBuf,
    secret: Option<StateSecret>,
}

impl Keep {
    /// In the data directory, and in the Secret when there is one.
    #[must_use]
    pub fn new(layout: &Layout, secret: Option<StateSecret>) -> Self {
        Self { root: layout.root().to_owned(), secret }
    }

    /// Where a file is read.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }

    /// Replaces one of the files.
    ///
    /// # Errors
    /// When the Kubernetes API or the disk refuses; nothing counts then.
    pub async fn write(&self, file: &str, bytes: &[u8]) -> anyhow::Result<()> {
        if let Some(secret) = &self.secret {
            secret.set(&self.root, file, bytes).await?;
        }
        let path = self.path(file);
        durable::write_as(&path, bytes, 0o600).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// What a file of the data directory holds; a missing one holds nothing. `without` says what it costs to go on without one
/// that cannot be understood.
///
/// # Errors
/// When it cannot be read or is not ours.
pub fn load<T: Default + DeserializeOwned>(path: &Path, without: &str) -> anyhow::Result<T> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| {
            format!("cannot understand {}: restore it, or move it away {without}", path.display())
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The Secret of one cluster. Cheap to clone; clones share what is known of it.
#[derive(Clone)]
pub struct StateSecret {
    api: Api<Secret>,
    name: String,
    /// As it was last read or written by this process; none before that.
    known: Arc<Mutex<Option<Secret>>>,
    /// Cancelled when somebody else has written it.
    usurped: CancellationToken,
    /// Where it is said that it was deleted.
    events: Option<Events>,
}

impl StateSecret {
    /// Of the namespace that the client is in.
    #[must_use]
    pub fn new(client: Client, name: &str) -> Self {
        let (known, usurped) = (Arc::default(), CancellationToken::new());
        Self { api: Api::default_namespaced(client), name: name.to_owned(), known, usurped, events: None }
    }

    /// The same, which says in Events what becomes of the Secret.
    #[must_use]
    pub fn telling(self, events: Events) -> Self {
        Self { events: Some(events), ..self }
    }

    /// Cancelled when another apiserver of this cluster has written the Secret: what this one knows is out of date, and it
    /// has to end. One that starts takes what is there.
    #[must_use]
    pub fn usurped(&self) -> CancellationToken {
        self.usurped.clone()
    }

    /// Makes the data directory that of this Secret's cluster, or makes a cluster and the Secret. True when the cluster
    /// is new.
    ///
    /// # Errors
    /// When the Secret is another cluster's, or the Kubernetes API or the disk refuses.
    pub async fn init(
        &self,
        layout: &Layout,
        wanted: &ClusterConfig,
        now: SystemTime,
    ) -> anyhow::Result<bool> {
        if self.take(layout, wanted, now).await? {
            return Ok(false);
        }
        let is_new = !layout.cluster().exists();
        if is_new {
            // Nobody has seen the CA of an init that was killed: what others are told is in the Secret before.
            init::clear_unfinished(layout)?;
            init::init(layout.root(), wanted, now)?;
        }
        // Somebody else may have been quicker: that one's cluster it is then.
        let made = self.create(read(layout.root())?).await?.is_some();
        if made && is_new {
            return Ok(true);
        }
        match self.take(layout, wanted, now).await? {
            true => Ok(made),
            false => bail!("Secret {} was made and removed while we looked", self.name),
        }
    }

    /// Makes the Secret; none when there is one already.
    async fn create(&self, data: BTreeMap<String, ByteString>) -> anyhow::Result<Option<Secret>> {
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        let secret = Secret { metadata, data: Some(data), ..Secret::default() };
        match tokio::time::timeout(ANSWER_MAX, self.api.create(&PostParams::default(), &secret)).await {
            Ok(Err(kube::Error::Api(status))) if status.is_already_exists() => Ok(None),
            Ok(made) => Ok(Some(made.with_context(|| format!("cannot create Secret {}", self.name))?)),
            Err(_) => bail!("the Kubernetes API does not answer within {ANSWER_MAX:?}"),
        }
    }

    /// Lays a Secret again that somebody has deleted, as the data directory has it: what counts is there. Gives what is
    /// there then; none when another one was made meanwhile.
    async fn lay_again(&self, root: &Path) -> anyhow::Result<Option<Secret>> {
        let data = read(root)?;
        if !data.contains_key("cluster.yaml") {
            bail!("there is no Secret {}, and no cluster in {}", self.name, root.display());
        }
        let Some(made) = self.create(data).await? else { return Ok(None) };
        error!(
            secret = self.name,
            "Somebody has deleted the Secret of this cluster's state; it is laid again"
        );
        if let Some(events) = &self.events {
            let note = "somebody has deleted the cluster's state (CA key, UUID, mesh addresses, closed prefixes); the apiserver \
                        has laid it again from its data directory. Without it the next pod would be another cluster";
            events.say(made.object_ref(&()), "StateDeleted", note.to_owned());
        }
        Ok(Some(made))
    }

    /// Looks, until dropped, whether the Secret is still there, and lays it again when it is not.
    pub async fn guard(self, root: PathBuf) {
        loop {
            let mut known = self.known.lock().await;
            let guarded = async {
                if within(self.api.get_opt(&self.name)).await?.is_none()
                    && let Some(made) = self.lay_again(&root).await?
                {
                    *known = Some(made);
                }
                anyhow::Ok(())
            };
            if let Err(error) = guarded.await {
                let error = format!("{error:#}");
                warn!(error, "Cannot look whether the Secret of the cluster's state is there; trying again");
            }
            drop(known);
            tokio::time::sleep(GUARD).await;
        }
    }

    /// Lays what the Secret holds into the data directory; false when there is none.
    async fn take(&self, layout: &Layout, wanted: &ClusterConfig, now: SystemTime) -> anyhow::Result<bool> {
        let secret = self.api.get_opt(&self.name).await;
        let Some(secret) = secret.with_context(|| format!("cannot read Secret {}", self.name))? else {
            return Ok(false);
        };
        let data = secret.data.clone().unwrap_or_default();
        let Some(text) = data.get("cluster.yaml") else {
            bail!(Hint::new(
                format!("Secret {} has no cluster.yaml: it is not a cluster's state", self.name),
                "name another one with --state-secret, or remove it if it is left from a trial",
            ));
        };
        let held: ClusterConfig = serde_saphyr::from_slice(&text.0)
            .with_context(|| format!("cannot understand cluster.yaml of Secret {}", self.name))?;
        if held.name != wanted.name {
            bail!(Hint::new(
                format!("Secret {} is cluster {}'s, not {}'s", self.name, held.name, wanted.name),
                "a cluster keeps its name: peers know it by it. Use another Secret for another cluster",
            ));
        }
        lay(&data, layout, |_| true)?;
        *self.known.lock().await = Some(secret);
        // What the installation says now: ranges and endpoints may change, who it is does not.
        let config = ClusterConfig { uuid: held.uuid, ..wanted.clone() };
        if config != held {
            let keep = Keep::new(layout, Some(self.clone()));
            keep.write("cluster.yaml", config.to_yaml()?.as_bytes()).await?;
        }
        let authority = Authority::load(layout)?;
        init::issue_server(&authority, layout, &config, now)?;
        if Certificate::load(&layout.admin().cert).is_ok_and(|certificate| certificate.due_for_renewal(now)) {
            init::issue_operator(&authority, layout, &config, now)?;
            let data = read(layout.root())?.into_iter().filter(|(key, _)| key.starts_with("operator"));
            self.patch(layout.root(), data.collect()).await.with_context(|| {
                format!("cannot renew the operator's certificate in Secret {}", self.name)
            })?;
            info!("The first operator's certificate is renewed");
        }
        Ok(true)
    }

    async fn set(&self, root: &Path, file: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let (key, ..) = FILES.iter().find(|(_, of, _)| *of == file).expect("one of the files we keep");
        if bytes.len() > SECRET_MAX_BYTES {
            bail!("{file} has {} bytes, and a Secret takes {SECRET_MAX_BYTES}", bytes.len());
        }
        let data = BTreeMap::from([((*key).to_owned(), ByteString(bytes.to_vec()))]);
        let patched = self.patch(root, data).await;
        patched.with_context(|| format!("cannot write {key} into Secret {}", self.name))
    }

    /// Writes some of the files, if nobody else has written any since we last read or wrote them. Whoever changes
    /// something else of the object, such as a label, is no rival.
    async fn patch(&self, root: &Path, data: BTreeMap<String, ByteString>) -> anyhow::Result<()> {
        let mut known = self.known.lock().await;
        let mut held = match known.take() {
            Some(held) => held,
            // Then what we know is what the directory says.
            None => {
                let held = self.held(root).await?;
                self.same(held.data.as_ref(), Some(&read(root)?))?;
                held
            }
        };
        let params = PatchParams::default();
        for _ in 0..PATCHES_MAX {
            let version = &held.metadata.resource_version;
            let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "data": data}));
            let patched = self.api.patch(&self.name, &params, &patch);
            let conflict = match tokio::time::timeout(ANSWER_MAX, patched).await {
                Ok(Ok(now)) => {
                    *known = Some(now);
                    return Ok(());
                }
                // 404: somebody has deleted it. What is laid again is compared as what somebody else wrote.
                Ok(Err(kube::Error::Api(status))) if status.code == 409 || status.code == 404 => status,
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => bail!("the Kubernetes API does not answer within {ANSWER_MAX:?}"),
            };
            let now = self.held(root).await?;
            self.same(now.data.as_ref(), held.data.as_ref())?;
            debug!(
                conflict = conflict.message,
                "The Secret was changed, and none of its files; writing again"
            );
            held = now;
        }
        bail!("somebody changes it all the time")
    }

    /// The Secret as it is, laid again when it is gone.
    async fn held(&self, root: &Path) -> anyhow::Result<Secret> {
        for _ in 0..PATCHES_MAX {
            if let Some(held) = within(self.api.get_opt(&self.name)).await? {
                return Ok(held);
            }
            if let Some(made) = self.lay_again(root).await? {
                return Ok(made);
            }
        }
        bail!("somebody makes and deletes it all the time")
    }

    /// Whether the files in it are those that we know.
    fn same(
        &self,
        found: Option<&BTreeMap<String, ByteString>>,
        known: Option<&BTreeMap<String, ByteString>>,
    ) -> anyhow::Result<()> {
        let of =
            |data: Option<&BTreeMap<String, ByteString>>, key| data.and_then(|data| data.get(key)).cloned();
        let Some((key, ..)) = FILES.iter().find(|(key, ..)| of(found, *key) != of(known, *key)) else {
            return Ok(());
        };
        self.usurped.cancel();
        bail!(Hint::new(
            format!("another apiserver of this cluster has written {key} into Secret {}", self.name),
            "one cluster has one apiserver: this one ends, and takes what is there when it starts again",
        ))
    }

    /// Lays what the Secret holds now into the data directory of its cluster: another apiserver may have written since
    /// `init`. `cluster.yaml` is the installation's, and stays.
    ///
    /// # Errors
    /// When the Kubernetes API does not answer, or the disk refuses.
    pub async fn resume(&self, layout: &Layout) -> anyhow::Result<()> {
        let secret = self.held(layout.root()).await;
        let secret = secret.with_context(|| format!("cannot read Secret {}", self.name))?;
        lay(secret.data.as_ref().unwrap_or(&BTreeMap::new()), layout, |key| key != "cluster.yaml")?;
        *self.known.lock().await = Some(secret);
        Ok(())
    }
}

/// Writes those of the Secret's files that are wanted into the data directory, in the order of [`FILES`].
fn lay(
    data: &BTreeMap<String, ByteString>,
    layout: &Layout,
    wanted: impl Fn(&str) -> bool,
) -> anyhow::Result<()> {
    for (key, file, mode) in FILES.into_iter().filter(|(key, ..)| wanted(key)) {
        if let Some(bytes) = data.get(key) {
            write_file(&layout.root().join(file), &bytes.0, mode, Existing::Replace)?;
        }
    }
    Ok(())
}

/// The files that are there.
fn read(root: &Path) -> anyhow::Result<BTreeMap<String, ByteString>> {
    let mut data = BTreeMap::new();
    for (key, file, _) in FILES {
        let path = root.join(file);
        match std::fs::read(&path) {
            Ok(bytes) => drop(data.insert(key.to_owned(), ByteString(bytes))),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
    Ok(data)
}

/// Writes what others may know into a ConfigMap, where pods and operators find it, and keeps it there.
pub async fn publish(client: Client, name: String, data: BTreeMap<&'static str, String>) {
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    let metadata = json!({"name": name});
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data});
    let params = PatchParams::apply("clustermesh-apiserver").force();
    loop {
        let next = match within(api.patch(&name, &params, &Patch::Apply(&object))).await {
            Ok(_) => AGAIN,
            Err(error) => {
                let error = format!("{error:#}");
                warn!(error, "Cannot write who we are into ConfigMap {name}; trying again");
                RETRY
            }
        };
        tokio::time::sleep(next).await;
    }
}

#[cfg(test)]
mod tests;
