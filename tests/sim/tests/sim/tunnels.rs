//! Random days of a tunnel on demand.

use sim::tunnels::{Bug, explore};

/// What `make test` runs: a sixth of a second each.
const SEEDS: u64 = 200;

/// Days within which each planted bug must be found.
const SEEDS_OF_A_BUG: u64 = 120;

#[test]
fn every_random_day_of_a_tunnel_on_demand_keeps_the_laws() {
    for seed in 0..SEEDS {
        if let Err(broken) = explore(seed, None) {
            panic!("seed {seed}: {}: {}", broken.law, broken.how);
        }
    }
}

#[test]
fn every_planted_bug_of_tunnels_on_demand_is_found_by_a_random_day() {
    let missed: Vec<Bug> = Bug::ALL
        .into_iter()
        .filter(|bug| (0..SEEDS_OF_A_BUG).all(|seed| explore(seed, Some(*bug)).is_ok()))
        .collect();
    assert!(missed.is_empty(), "{SEEDS_OF_A_BUG} days do not find {missed:?}");
}
