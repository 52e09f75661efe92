//! Who may talk through this host's relay.

use super::{Stage, Steps};
use crate::{image::RelayPair, observe::Observed, step::Step};
use std::collections::BTreeSet;

/// The relay takes all pairs at once: sessions of those that stay go on.
pub(super) fn plan(desired: &BTreeSet<RelayPair>, observed: &Observed, steps: &mut Steps) {
    let Some(there) = &observed.relay else { return };
    let pairs = if steps.complete() { desired.clone() } else { desired.union(there).copied().collect() };
    if pairs != *there {
        steps.add(Stage::Tunnel, Step::Relay { pairs });
    }
}
