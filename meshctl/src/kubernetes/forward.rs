//! A way to the apiserver's pod through the Kubernetes API, for operators who stand where its address does not answer.
//!
//! A port of our own on loopback, each connection of which is a port-forward of its own: what dials it needs to know nothing of
//! it, reconnects as ever, and speaks mutual TLS with the pod. Whoever else on this machine dials it has no certificate.

use super::KubeContext;
use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};
use std::{net::Ipv4Addr, sync::Arc};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tracing::debug;

/// Connections at a time: one to enrol, one to work, and one that replaces a broken one; doubled.
const CONNECTIONS_MAX: usize = 6;
/// Where the apiserver serves, unless its pod says otherwise.
const PORT: u16 = 2379;

impl KubeContext {
    /// Where on loopback the apiserver is now, as `host:port`; until the process ends.
    pub(super) async fn forward(&self, client: &Client, labels: &str) -> anyhow::Result<String> {
        let api: Api<Pod> = Api::namespaced(client.clone(), &self.namespace);
        let pods = self.ask("list", "pods", api.list(&ListParams::default().labels(labels))).await?;
        let (pod, port) = pods.iter().find_map(running).with_context(|| {
            format!("no pod of the apiserver runs in namespace {} of context {}", self.namespace, self.name)
        })?;
        // Once for the error, which a connection could not tell.
        let tried = self.ask("create", "pods/portforward", api.portforward(&pod, &[port])).await?;
        tried.abort();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.context("cannot listen on loopback")?;
        let at = listener.local_addr().context("the port has no address")?;
        debug!(%at, pod, port, "Forwarding");
        tokio::spawn(accept(listener, api, pod, port));
        Ok(at.to_string())
    }
}

/// The name of a pod that runs, and its port.
fn running(pod: &Pod) -> Option<(String, u16)> {
    let runs = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    if !runs || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|it| it.ports.iter().flatten());
    let port = ports.find(|port| port.name.as_deref() == Some("grpc")).map(|port| port.container_port);
    Some((pod.metadata.name.clone()?, port.and_then(|port| u16::try_from(port).ok()).unwrap_or(PORT)))
}

async fn accept(listener: TcpListener, api: Api<Pod>, pod: String, port: u16) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes it");
        let Ok((tcp, _)) = listener.accept().await else { return };
        let (api, pod) = (api.clone(), pod.clone());
        tokio::spawn(async move {
            if let Err(error) = carry(tcp, &api, &pod, port).await {
                debug!(pod, error = format!("{error:#}"), "A forwarded connection has ended");
            }
            drop(place);
        });
    }
}

async fn carry(mut tcp: TcpStream, api: &Api<Pod>, pod: &str, port: u16) -> anyhow::Result<()> {
    let mut forwarded = api.portforward(pod, &[port]).await?;
    let mut stream = forwarded.take_stream(port).context("the port is forwarded")?;
    copy_bidirectional(&mut tcp, &mut stream).await?;
    drop(stream);
    Ok(forwarded.join().await?)
}
