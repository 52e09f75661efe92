//! A peer that is made anew, so that the stamp of its last handshake is forgotten. Pure, but for the key of a peer that
//! lives for one moment.
//!
//! Removed and added in a row, its addresses would for a moment belong to nobody, and what goes to them to whoever has a
//! shorter prefix around them. So they wait with a *parking peer*: a random key without an endpoint, which drops what it
//! gets. (docs/decisions/0006) An agent that dies in between leaves it behind, a stranger that the next one sweeps, and
//! the addresses go to the peer that is added again.

use super::{Peer, PrivateKey, Step};
use api::bytes::PublicKey;

/// Two requests, each as safe as any: `mesh-tunnel` compares a request's outcome with what is there, and would find that
/// a peer removed and added in one is the same.
pub(super) fn requests(key: PublicKey, peer: &Peer) -> [[Step; 2]; 2] {
    let parking = PrivateKey::generate().public();
    let parked = Peer { endpoint: None, allowed_ips: peer.allowed_ips.clone(), keepalive_s: 0 };
    [
        [Step::AddPeer { key: parking, peer: parked }, Step::RemovePeer { key }],
        [Step::AddPeer { key, peer: peer.clone() }, Step::RemovePeer { key: parking }],
    ]
}
