//! One small HTTP port: `/healthz`, `/readyz` and `/metrics`.
//!
//! Readiness is a list of named conditions. Each is set by whoever knows, and one that is not met says why.

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::limit::GlobalConcurrencyLimitLayer;

/// Requests answered at the same time: a kubelet, a scraper and a few people; the next one waits.
pub const REQUESTS_MAX: usize = 16;

/// What is needed before the process is ready.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<RwLock<BTreeMap<&'static str, Standing>>>);

/// How one condition is.
#[derive(Debug, Clone)]
enum Standing {
    Missing(String),
    /// With what somebody who looks should know.
    Met {
        but: Option<String>,
    },
}

/// One thing that is needed; whoever knows sets it.
#[derive(Debug, Clone)]
pub struct Condition {
    name: &'static str,
    all: Readiness,
}

impl Readiness {
    /// Adds something that is needed and not there yet.
    pub fn needs(&self, name: &'static str, why_not: impl Into<String>) -> Condition {
        let condition = Condition { name, all: self.clone() };
        condition.set(Err(why_not.into()));
        condition
    }

    /// What is not met, with its reason, in the order of the names; empty when ready.
    #[must_use]
    pub fn missing(&self) -> Vec<(&'static str, String)> {
        self.of(|state| match state {
            Standing::Missing(why) => Some(why.clone()),
            Standing::Met { .. } => None,
        })
    }

    /// What is met in a lesser way than it should be, and in which.
    #[must_use]
    pub fn notes(&self) -> Vec<(&'static str, String)> {
        self.of(|state| match state {
            Standing::Missing(_) => None,
            Standing::Met { but } => but.clone(),
        })
    }

    fn of(&self, text: impl Fn(&Standing) -> Option<String>) -> Vec<(&'static str, String)> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(|(name, state)| Some((*name, text(state)?))).collect()
    }
}

impl Condition {
    /// Met, or why not. May change back.
    pub fn set(&self, met: Result<(), String>) {
        self.put(match met {
            Ok(()) => Standing::Met { but: None },
            Err(why) => Standing::Missing(why),
        });
    }

    /// Met.
    pub fn met(&self) {
        self.set(Ok(()));
    }

    /// Met, as far as it can be now; the answer says what is lesser about it.
    pub fn met_but(&self, but: impl Into<String>) {
        self.put(Standing::Met { but: Some(but.into()) });
    }

    fn put(&self, state: Standing) {
        self.all.0.write().unwrap_or_else(PoisonError::into_inner).insert(self.name, state);
    }
}

#[derive(Clone)]
struct Shown {
    readiness: Readiness,
    metrics: Arc<Registry>,
}

/// Answers on a port that is already bound, until the token is cancelled.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: Registry,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let shown = Shown { readiness, metrics: Arc::new(metrics) };
    axum::serve(listener, router(shown)).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

/// Binds the port; a separate step, so that a process can refuse to start when it is taken.
///
/// # Errors
/// The system's answer.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

fn router(shown: Shown) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .layer(GlobalConcurrencyLimitLayer::new(REQUESTS_MAX))
        .with_state(shown)
}

async fn readyz(State(shown): State<Shown>) -> (StatusCode, String) {
    let missing = shown.readiness.missing();
    if missing.is_empty() {
        let notes = shown.readiness.notes();
        let notes = notes.iter().map(|(name, but)| format!("but: {name}: {but}\n"));
        return (StatusCode::OK, "ready\n".to_owned() + &notes.collect::<String>());
    }
    let lines = missing.iter().map(|(name, why)| format!("not ready: {name}: {why}\n"));
    (StatusCode::SERVICE_UNAVAILABLE, lines.collect())
}

async fn metrics(State(shown): State<Shown>) -> impl IntoResponse {
    let mut text = String::new();
    match encode(&mut text, &shown.metrics) {
        Ok(()) => (
            StatusCode::OK,
            [(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
            text,
        ),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(CONTENT_TYPE, "text/plain; charset=utf-8")],
            format!("{error}\n"),
        ),
    }
}

#[cfg(test)]
mod tests;
