//! Programs that make traffic and say what happened to it, each as one line of JSON: `mesh-traffic`.
//!
//! The payloads of streams carry [`CANARY`], so that a sniffer that looks for it sees any of it that is not encrypted.

pub mod connect_loop;
pub mod http;
pub mod seq;
pub mod stream;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// What every payload of a stream contains.
pub const CANARY: &str = "mesh-lab-canary-7f3a9c51";

/// The longest time between two signs of progress.
#[derive(Debug, Clone, Copy)]
pub struct LongestGap {
    last: Instant,
    longest: Duration,
}

impl LongestGap {
    /// Starts to count now.
    #[must_use]
    pub fn since(now: Instant) -> Self {
        Self { last: now, longest: Duration::ZERO }
    }

    /// Something moved.
    pub fn progress(&mut self, now: Instant) {
        self.longest = self.longest.max(now.duration_since(self.last));
        self.last = now;
    }

    /// The longest gap so far, in milliseconds.
    #[must_use]
    pub fn longest_ms(&self) -> u128 {
        self.longest.as_millis()
    }
}

/// Comes back after `seconds`, or when SIGINT or SIGTERM asks for the end. None: only then.
///
/// # Errors
/// Signals cannot be listened to.
pub async fn the_end(seconds: Option<f64>) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let deadline = async {
        match seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs_f64(seconds)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = deadline => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
