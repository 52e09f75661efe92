//! The chart in a real API server. `make test-kubernetes` builds what is needed and runs these.

mod apiserver;
mod bad_input;
mod life;
mod meshpeer;
mod operator;
mod pods;
mod rights;
mod state;
mod vm;

use anyhow::{Result, bail};
use chart::{Cluster, Helm, chart, values};
use serde_json::{Value, json};

/// Where the chart is installed.
const NAMESPACE: &str = "mesh";

/// A namespace as the documentation has it made, and Helm.
async fn cluster() -> (Cluster, Helm) {
    let cluster = Cluster::start().await.unwrap();
    let helm = Helm::of(&cluster.kubeconfig()).unwrap();
    cluster.create(&namespace(NAMESPACE, "privileged")).await.unwrap();
    (cluster, helm)
}

/// A namespace that takes pods of this level only.
fn namespace(name: &str, enforce: &str) -> Value {
    let labels = json!({"pod-security.kubernetes.io/enforce": enforce});
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// `helm install`, `helm upgrade`: with a values file of the chart and `--set`s.
fn apply(helm: &Helm, verb: &str, name: &str, set: &[&str]) -> Result<String> {
    let (chart, values) = (chart().display().to_string(), values(name).display().to_string());
    let mut args = vec![verb, "mesh", &chart, "--namespace", NAMESPACE, "--values", &values];
    args.extend(set.iter().flat_map(|set| ["--set", set]));
    helm.ok(&args)
}

/// What has to be so.
fn so(is: bool, why: impl FnOnce() -> String) -> Result<()> {
    if !is {
        bail!(why());
    }
    Ok(())
}
