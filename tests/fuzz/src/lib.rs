//! Every decoder that meets foreign bytes, as a function of bytes that may return and may not panic.
//!
//! ```text
//!  seeds (code) ──mesh-corpus──▶ corpus/<target>/<why it is there> ──cargo test──▶ each target, with bounds on time and memory
//!                                     │    ▲
//!                                     ▼    │ what was found
//!                                 make fuzz (libFuzzer)
//! ```
//!
//! A target decodes, and then asks for what has to hold of whatever was decoded: it reads back as it was written, a peer
//! sees nothing but its prefix, an import writes nothing outside of its contract.
//!
//! Files of a corpus that begin with `found-` were found by `make fuzz`; all others are written by `mesh-corpus`, and a test
//! compares them.

mod cost;
pub mod seeds;
mod targets;

pub use cost::{Cost, measure};
pub use targets::{TARGETS, Target, target};

use std::path::PathBuf;

/// Where the corpora lie.
#[must_use]
pub fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus")
}
