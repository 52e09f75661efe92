//! What the tests of the chart share: Helm, and a Kubernetes API server to install into.
//!
//! ```text
//!  values ─▶ helm template ─▶ documents                      render: what the chart says
//!  values ─▶ helm install  ─▶ kube-apiserver ◀── kube        cluster: what a real API server makes of it
//!                                  ▲
//!                         etcd, kube-controller-manager       no kubelet: pods are made, none runs
//! ```
//!
//! Invariants
//! - nothing listens on more than loopback, and everything ends with the value that started it, or with the test run;
//! - a program that is missing fails the test, with the way to get it.

mod cluster;
mod helm;
mod kubelet;

pub use cluster::{Cluster, Installed, eventually};
pub use helm::{Helm, Ran};
pub use kubelet::Kubelet;

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// The chart.
#[must_use]
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../helm/clustermesh")
}

/// A values file that the chart is tested with: `minimal`, `everything`.
#[must_use]
pub fn values(name: &str) -> PathBuf {
    chart().join("ci").join(format!("{name}-values.yaml"))
}

/// One of the workspace's own programs, from where this test was built.
///
/// # Errors
/// When it was not built.
pub fn ours(program: &str) -> Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot tell where this test is")?;
    let built = exe.parent().and_then(Path::parent).context("a test is in target/<profile>/deps")?;
    let program = built.join(program);
    if !program.is_file() {
        bail!("{} is missing: run cargo build --workspace --bins", program.display());
    }
    Ok(program)
}
