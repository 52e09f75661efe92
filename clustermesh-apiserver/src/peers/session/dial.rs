//! How a peer is followed: what of its store, and over which connection.

use api::peer::MeshPeer;
use daemon::tls::{Expected, Tls, connect_any};
use follow::Following;
use replica::{follower::Follow, import::Import};

/// Follows the peer anew, from a list on.
pub(super) fn follow(tls: &Tls, peer: &MeshPeer, import: &Import) -> Following {
    let name = peer.metadata.name.clone();
    let dial = Dial {
        tls: tls.clone(),
        endpoints: peer.spec.endpoints.clone(),
        expected: Expected::cluster(peer.spec.uuid, name.clone()),
    };
    follow::spawn(Follow { cluster: name, prefixes: import.prefixes() }, rand::random(), dial)
}

/// How a peer is reached, and who has to answer.
struct Dial {
    tls: Tls,
    endpoints: Vec<String>,
    expected: Expected,
}

impl follow::Connect for Dial {
    async fn connect(&self) -> Result<tonic::transport::Channel, String> {
        match connect_any(&self.tls, &self.endpoints, &self.expected).await {
            Ok(connection) => Ok(connection.channel),
            Err(error) => Err(format!("{:#}", anyhow::Error::from(error))),
        }
    }
}
