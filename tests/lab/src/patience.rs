//! How long a wait may be, on a machine that may be an emulated one.

use std::time::Duration;

/// As long as on a machine as the tests are written for, times what `MESH_LAB_PATIENCE` says: a whole number, 1 where it
/// is not set. `tests/kernels` sets it for its emulated processors. Only who waits for something bad waits for all of it.
#[must_use]
pub fn patience(wait: Duration) -> Duration {
    let times = std::env::var("MESH_LAB_PATIENCE").ok();
    wait * times.map_or(1, |times| times.parse().expect("MESH_LAB_PATIENCE is a whole number"))
}
