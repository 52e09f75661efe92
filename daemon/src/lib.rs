//! What every process of the mesh does: arguments, logs, health, shutdown, and TLS with SPIFFE IDs.
//!
//! ```text
//!  args ─▶ log ─▶ shutdown::on_signal ─▶ tls::Identity ─▶ … the process's own work … ─▶ args::exit
//!                                                    └─ health: /healthz /readyz /metrics
//! ```
//!
//! Invariants
//! - data goes to stdout, everything else (logs, errors, hints) to stderr;
//! - a chain is believed only under its own trust domain (`tls`);
//! - readiness is a list of named conditions, and what is not ready says why;
//! - the first SIGTERM or SIGINT asks the process to end in order, the second ends it.

pub mod args;
pub mod context;
pub mod durable;
pub mod health;
pub mod log;
pub mod shutdown;
pub mod spiffe;
pub mod tls;
