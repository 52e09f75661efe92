//! Whole meshes from their real cores, in one thread: simulated network, clock and disks, and nothing else simulated.
//!
//! ```text
//!   script or seed ──▶ World ──┬─ Apiserver (store, import, freshness, peering; its disk survives it) ─┐ wires with
//!                              ├─ Apiserver …                                                         │ latency, cuts
//!                              └─ Agent (follower, view)  ◀──────── wires ───────────────────────────┘ and resets
//! ```
//!
//! Time moves in ticks of [`world::TICK`]. All chance comes from one seed, so a run is the same each time, and a
//! failing seed is a test case. A script is text, a command a line (`script.rs`); what it shows is compared with a
//! golden file beside it.
//!
//! Invariants of the harness
//! - the cores are linked, never copied: what is simulated here are shells, and they hold no decision;
//! - a wire keeps order within a connection and none between connections;
//! - what was not committed is gone after a kill; what was, is there.

pub mod agent;
pub mod apiserver;
pub mod chance;
pub mod disk;
pub mod records;
pub mod script;
mod show;
pub mod wire;
pub mod world;

/// Runs a script and returns what it showed, the commands between.
#[must_use]
pub fn run(script: &str) -> String {
    script::run(script)
}
