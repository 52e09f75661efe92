//! The lab, brought up for real: needs root, and says so.

#[path = "main/commands.rs"]
mod commands;
#[path = "main/hostile.rs"]
mod hostile;
#[path = "main/leftovers.rs"]
mod leftovers;
#[path = "main/long_links.rs"]
mod long_links;
#[path = "main/nats.rs"]
mod nats;
#[path = "main/network.rs"]
mod network;
#[path = "main/places.rs"]
mod places;
#[path = "main/sniffing.rs"]
mod sniffing;

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use lab::Lab;

/// The shipped topology.
const TWO_CLUSTERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/topologies/two-clusters.yaml");

/// The lab's binary, as built for this test.
const MESH_LAB: &str = env!("CARGO_BIN_EXE_mesh-lab");

/// Two clusters under a name of the test's own, so that tests run side by side.
fn two_clusters(test: &str) -> Lab {
    Lab::up_as(&format!("lab-test-{test}"), Path::new(TWO_CLUSTERS)).unwrap()
}

/// Runs a shell line in a place.
fn sh(lab: &Lab, place: &str, line: &str) -> Output {
    lab.exec(place, ["sh", "-c", line]).unwrap()
}

/// What a shell line in a place prints; it must go well.
fn said(lab: &Lab, place: &str, line: &str) -> String {
    let output = sh(lab, place, line);
    assert!(output.status.success(), "{place}: {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a ping is answered within a second.
fn reaches(lab: &Lab, place: &str, address: &str) -> bool {
    sh(lab, place, &format!("ping -c1 -W1 {address}")).status.success()
}

/// Waits until something is so; a test that waits for what never comes fails.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        std::thread::yield_now();
    }
}
