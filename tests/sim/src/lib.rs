//! Whole meshes from their real cores, in one thread: simulated network, clock and disks, and nothing else simulated.
//!
//! ```text
//!  script or seed ──▶ World ──┬─ Site (objects, publisher, store, sessions; its disk survives it) ─┐ lines with latency,
//!                              ├─ Site …                                                            │ cuts and resets
//!                              └─ Node (follower, view, compose, plan; its disk and kernel survive) ┘
//!                     Laws ◀───┘  what must hold at every moment, and, by a naive reference, at the end
//! ```
//!
//! Time moves in ticks of [`world::TICK`]. All chance comes from one seed, so a run is the same each time, and a
//! failing seed is a test case. A script is text, a command a line (`script.rs`); what it shows is compared with a
//! golden file beside it. A random day is a script, too (`random.rs`), and one that breaks a law is shortened
//! (`explore.rs`).
//!
//! Invariants of the harness
//! - the cores are linked, never copied: what is simulated here are shells, and they hold no decision;
//! - the reference shares the types and the parsing of `api` with the cores, and the objects as data, and no decision;
//! - a wire keeps order within a connection and none between connections;
//! - what was not committed is gone after a kill; what was, is there.
//!
//! Two publishers of one store there cannot be: the embedded store's lock lets in one process. What there is of them is one
//! that was paused and wakes after another was started on a copy of its disk; each has a store, and a boot, of its own.
//!
//! Numbers of identities (design decision 3: an agent maps hashes to dense numbers, the mapping is pinned beside the maps,
//! and a number is not given again while any map may hold it) cannot be looked at, as there are none: no map of the data
//! path has a row that holds an identity, and no code gives one a number. What there is of identities, that each is the hash
//! of what it says, is a law.
//!
//! Of a tunnel only the stamps of its handshakes are simulated there: each end refuses one that is not after the last. Tunnels on
//! demand have days of their own, with WireGuard devices, a NAT box and relays ([`tunnels`]).
//!
//! Not simulated: mesh addresses that the source's memory allocates (scripts give them), VMs (their agents run a node's
//! loop), the tunnels' other packets and probes.

pub mod bug;
pub mod chance;
pub mod disk;
pub mod explore;
mod hostile;
pub mod laws;
pub mod node;
pub mod objects;
mod publisher;
pub mod random;
pub mod records;
mod reference;
pub mod script;
pub mod session;
mod show;
pub mod site;
pub mod tunnels;
pub mod wire;
pub mod world;

/// Runs a script and returns what it showed, the commands between.
#[must_use]
pub fn run(script: &str) -> String {
    script::show(script)
}
