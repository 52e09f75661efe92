//! Where nftables balances: a table that follows the rows of the maps, and routes for the addresses of Services.
//!
//! A socket program changes where a connection goes before it has a route. By nftables a packet goes to the Service until it is
//! translated: its route gives it our mesh address as its source, and keeps it from leaving in plain should the table be
//! missing for a moment.

use super::{Stage, Steps};
use crate::{
    image::{Image, Reach},
    observe::{Balanced, Observed},
    step::Step,
};
use ipnet::IpNet;
use std::borrow::Cow;

/// Smaller than every tunnel: the least that IPv6 has. (RFC 8200, section 5)
const MTU_MIN_BYTES: u16 = 1280;

/// The image with a route to each Service, as narrow as the narrowest tunnel: whose it will be is not known yet.
pub(super) fn with_routes(desired: &Image, balanced: Balanced) -> Cow<'_, Image> {
    match balanced {
        Balanced::AtSockets => Cow::Borrowed(desired),
        Balanced::ByNftables { .. } => {
            let widths = desired.prefixes.values().filter_map(|reach| match reach {
                Reach::Tunnel { mtu_bytes } => Some(*mtu_bytes),
                Reach::Closed => None,
            });
            let reach = Reach::Tunnel { mtu_bytes: widths.min().unwrap_or(MTU_MIN_BYTES) };
            let mut image = desired.clone();
            image.prefixes.extend(desired.services.keys().map(|at| (IpNet::from(at.address), reach)));
            Cow::Owned(image)
        }
    }
}

/// After every step that changes what the rows say of Services.
pub(super) fn plan(observed: &Observed, steps: &mut Steps) {
    let is_current = match observed.balanced {
        Balanced::AtSockets => return,
        Balanced::ByNftables { is_current } => is_current,
    };
    let changes = |step: &Step| {
        matches!(
            step,
            Step::PutService { .. }
                | Step::RemoveService { .. }
                | Step::PutAffinity { .. }
                | Step::RemoveAffinity { .. }
                | Step::PutVip { .. }
                | Step::RemoveVip { .. }
        )
    };
    if !is_current || steps.steps.iter().any(|(_, step)| changes(step)) {
        steps.add(Stage::Balance, Step::Balance);
    }
}
