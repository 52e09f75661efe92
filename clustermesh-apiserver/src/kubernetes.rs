//! How the Kubernetes API is asked: as whom, and for how long.

use anyhow::{Context, bail};
use daemon::args::Hint;
use kube::Client;
use std::time::Duration;
use tracing::info;

/// How long the Kubernetes API may take for one request.
pub const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The Kubernetes API of the pod we run in, or of the kubeconfig in `$KUBECONFIG`.
///
/// # Errors
/// When neither is there, or its credentials cannot be used.
pub async fn client() -> anyhow::Result<Client> {
    let hint = "run in a pod with a service account, or name a kubeconfig in KUBECONFIG";
    let config = kube::Config::infer()
        .await
        .with_context(|| Hint::new("cannot tell how to reach the Kubernetes API", hint))?;
    let url = config.cluster_url.to_string();
    info!(url, "Using the Kubernetes API");
    Client::try_from(config)
        .with_context(|| format!("cannot use the credentials for the Kubernetes API at {url}"))
}

/// A request to the Kubernetes API that has an end: a connection that died without a word would be waited for, for ever.
///
/// # Errors
/// The API's, or that it does not answer.
pub async fn within<T>(request: impl Future<Output = Result<T, kube::Error>>) -> anyhow::Result<T> {
    match tokio::time::timeout(ANSWER_MAX, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => bail!("the Kubernetes API does not answer within {ANSWER_MAX:?}"),
    }
}
