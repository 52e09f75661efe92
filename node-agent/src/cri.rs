//! The pods of this node as its container runtime tells them (CRI), for runtimes whose CNI keeps no results.
//!
//! A sandbox's addresses and namespace do not change while it lives: it is asked for once. What cannot be asked stays as it
//! was last, and is a problem of the status.

use datapath::{
    backend::netlink,
    bindings::{Inside, Sandbox},
};
use rpc::runtime::v1::{
    ListPodSandboxRequest, NamespaceMode, PodSandboxFilter, PodSandboxState, PodSandboxStateValue,
    PodSandboxStatusRequest, PodSandboxStatusResponse, runtime_service_client::RuntimeServiceClient,
};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tonic::transport::{Channel, Endpoint};

/// The kubelet itself lists a runtime's pods every second.
const LIST_EVERY: Duration = Duration::from_secs(2);
/// A runtime on this machine that takes longer is not there.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// As many as the CNI's results may be.
const SANDBOXES_MAX: usize = 8_192;

/// What is known of this node's pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Those with a network of their own, and their device.
    pub pods: Vec<(Sandbox, Inside)>,
    /// One sentence for each that is not known, and why.
    pub problems: Vec<String>,
}

/// Asks the runtime at a socket again and again, and tells when something changed; ends with its listener.
pub async fn follow(socket: PathBuf, told: watch::Sender<Told>) {
    let mut runtime = Runtime::at(&socket);
    let mut ticks = interval(LIST_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !told.is_closed() {
        ticks.tick().await;
        let now = runtime.look().await;
        told.send_if_modified(|last| {
            let changed = *last != now;
            *last = now;
            changed
        });
    }
}

/// A runtime, and what it has said of each sandbox; `None`: it has no network of its own.
struct Runtime {
    socket: PathBuf,
    client: Result<RuntimeServiceClient<Channel>, String>,
    known: BTreeMap<String, Option<(Sandbox, Inside)>>,
}

impl Runtime {
    fn at(socket: &Path) -> Self {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()));
        let client = endpoint
            .map(|endpoint| RuntimeServiceClient::new(endpoint.timeout(ANSWER_WITHIN).connect_lazy()))
            .map_err(|error| error.to_string());
        Self { socket: socket.to_owned(), client, known: BTreeMap::new() }
    }

    async fn look(&mut self) -> Told {
        let mut problems = Vec::new();
        match self.list().await {
            Ok(listed) => {
                self.known.retain(|id, _| listed.contains(id));
                for id in listed {
                    if !self.known.contains_key(&id) {
                        match self.ask(&id).await {
                            Ok(pod) => drop(self.known.insert(id, pod)),
                            Err(error) => problems.push(format!("sandbox {id}: {error:#}")),
                        }
                    }
                }
            }
            Err(error) => problems.push(format!(
                "cannot list the pods of the container runtime at {}: {error}: is this the runtime's CRI socket? \
                 (--cri-socket)",
                self.socket.display()
            )),
        }
        Told { pods: self.known.values().flatten().cloned().collect(), problems }
    }

    async fn list(&mut self) -> Result<BTreeSet<String>, String> {
        let ready = PodSandboxStateValue { state: PodSandboxState::SandboxReady.into() };
        let request = ListPodSandboxRequest { filter: Some(PodSandboxFilter { state: Some(ready) }) };
        let answer = self.client.as_mut().map_err(|error| error.clone())?.list_pod_sandbox(request).await;
        let items = answer.map_err(|status| said(&status))?.into_inner().items;
        if items.len() > SANDBOXES_MAX {
            return Err(format!("it has {} of them, at most {SANDBOXES_MAX} are taken", items.len()));
        }
        // A runtime may ignore the filter.
        let ready = items.into_iter().filter(|item| item.state() == PodSandboxState::SandboxReady);
        Ok(ready.map(|item| item.id).collect())
    }

    async fn ask(&mut self, id: &str) -> anyhow::Result<Option<(Sandbox, Inside)>> {
        let client = self.client.as_mut().map_err(|error| anyhow::anyhow!("{error}"))?;
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        let answer = client.pod_sandbox_status(request).await.map_err(|s| anyhow::anyhow!(said(&s)))?;
        let Some(sandbox) = sandbox(answer.into_inner())? else { return Ok(None) };
        let path = sandbox.namespace.clone();
        // Milliseconds of netlink, which must not hold up the loop.
        let inside = tokio::task::spawn_blocking(move || netlink::inside(&path)).await??;
        Ok(Some((sandbox, inside)))
    }
}

/// The message with its causes, as tonic's own is often only "transport error".
fn said(status: &tonic::Status) -> String {
    let error: &dyn std::error::Error = status;
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(status.message().to_owned(), |text, cause| format!("{text}: {cause}"))
}

/// What of a runtime's own report matters here; containerd and CRI-O both have it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    #[serde(default)]
    pid: u32,
    runtime_spec: Option<Spec>,
}

#[derive(Deserialize)]
struct Spec {
    linux: Option<Linux>,
}

#[derive(Deserialize)]
struct Linux {
    #[serde(default)]
    namespaces: Vec<Namespace>,
}

#[derive(Deserialize)]
struct Namespace {
    r#type: String,
    #[serde(default)]
    path: PathBuf,
}

/// One answer. `None`: it shares the node's network, or has no address.
///
/// # Errors
/// What the runtime says that cannot be, in a sentence.
pub fn sandbox(answer: PodSandboxStatusResponse) -> anyhow::Result<Option<Sandbox>> {
    let Some(status) = answer.status else { anyhow::bail!("the runtime told no status") };
    let options = status.linux.and_then(|linux| linux.namespaces).and_then(|namespaces| namespaces.options);
    if options.is_some_and(|options| options.network() == NamespaceMode::Node) {
        return Ok(None);
    }
    let network = status.network.unwrap_or_default();
    let more = network.additional_ips.into_iter().map(|more| more.ip);
    let texts = std::iter::once(network.ip).chain(more).filter(|text| !text.is_empty());
    let addresses = texts
        .map(|text| text.parse().map_err(|_| anyhow::anyhow!("`{text}` is no address")))
        .collect::<anyhow::Result<BTreeSet<_>>>()?;
    if addresses.is_empty() {
        return Ok(None);
    }
    let info = answer.info.get("info").map(String::as_str).unwrap_or("{}");
    let info: Info = serde_json::from_str(info)
        .map_err(|error| anyhow::anyhow!("cannot read the runtime's own report: {error}"))?;
    let namespaces = info.runtime_spec.and_then(|spec| spec.linux).map(|linux| linux.namespaces);
    let named = namespaces.into_iter().flatten().find(|namespace| namespace.r#type == "network");
    let namespace = match named.map(|namespace| namespace.path).filter(|path| path.is_absolute()) {
        Some(path) => path,
        None if info.pid > 0 => format!("/proc/{}/ns/net", info.pid).into(),
        None => anyhow::bail!("the runtime tells neither a network namespace nor a process of it"),
    };
    Ok(Some(Sandbox { id: status.id, addresses, namespace }))
}

#[cfg(test)]
mod tests;
