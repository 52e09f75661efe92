//! The real program, killed under load by SIGKILL, again and again: what it said stays true.
//!
//! A seed decides when each kill comes; a run prints it, and `MESH_SEED=…` repeats its schedule.

#[path = "crash/damage.rs"]
mod damage;
#[path = "crash/kills.rs"]
mod kills;
#[path = "crash/program.rs"]
mod program;
#[path = "crash/witness.rs"]
mod witness;
