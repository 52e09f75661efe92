//! Random days under the laws. A seed that fails is printed with a shortened script: keep that under `scripts/`.

use sim::{
    bug::Bug,
    explore::{explore, shorten},
};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

/// What `make test` runs: two thirds of a second of a busy core each. `make sim SEEDS=10000` runs more, from here on.
const SEEDS: u64 = 500;

/// Days within which each planted bug must be found. Most are found on the first one.
const SEEDS_OF_A_BUG: u64 = 60;

#[test]
fn every_random_day_keeps_the_laws() {
    let next = AtomicU64::new(0);
    let look = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= SEEDS {
                return;
            }
            if let Err(failure) = explore(seed, None) {
                // Nobody else needs to begin another one.
                next.store(SEEDS, Ordering::Relaxed);
                panic!("{}", shorten(failure, None));
            }
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(look))));
}

#[test]
fn every_planted_bug_is_found_by_a_random_day() {
    let missed: Vec<&Bug> = Bug::ALL
        .iter()
        .filter(|bug| (0..SEEDS_OF_A_BUG).all(|seed| explore(seed, Some(**bug)).is_ok()))
        .collect();
    assert!(missed.is_empty(), "{SEEDS_OF_A_BUG} days do not find {missed:?}");
}
