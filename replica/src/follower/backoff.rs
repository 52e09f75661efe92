//! How long to wait after a failure.

use std::time::Duration;

/// First wait after a failure; it doubles with each further one up to [`BACKOFF_MAX`]. A restarted apiserver is back
/// within a second; 500 followers that each wait up to 15 s after it are 33 connections a second.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// After so many failures in a row: half of the doubled wait for certain, the other half by the seed.
pub(super) fn wait(failures: u32, seed: u64) -> Duration {
    let full = BACKOFF_MIN.saturating_mul(1 << failures.min(16)).min(BACKOFF_MAX);
    let jitter = split_mix(seed.wrapping_add(failures.into())) % 1_000;
    full / 2 + full / 2 * u32::try_from(jitter).expect("below 1000") / 1_000
}

/// SplitMix64's output function: neighbouring seeds give unrelated numbers.
fn split_mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
