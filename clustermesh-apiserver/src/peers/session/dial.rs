//! How a peer is followed: what of its store, and over which connection.

use crate::pipes::{Reach, Route};
use api::{name::ClusterName, peer::MeshPeer};
use follow::Following;
use replica::{follower::Follow, import::Import};

/// Follows the peer anew, from a list on.
pub(super) fn follow(reach: &Reach, peer: &MeshPeer, import: &Import) -> Following {
    let name = peer.metadata.name.clone();
    let dial = Dial { reach: reach.clone(), peer: name.clone(), route: Route::from(peer) };
    follow::spawn(Follow { cluster: name, prefixes: import.prefixes() }, rand::random(), dial)
}

/// Who is reached, and how.
struct Dial {
    reach: Reach,
    peer: ClusterName,
    route: Route,
}

impl follow::Connect for Dial {
    async fn connect(&self) -> Result<tonic::transport::Channel, String> {
        self.reach.connect(&self.peer, &self.route).await
    }
}
