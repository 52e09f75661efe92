//! A peer's apiserver that answers whatever it likes: from its first byte to what is written into our own store.

use api::{
    bytes::{BootId, ClusterUuid},
    key::{Key, MeshKey},
    peer::{Contract, Limits},
    record::Record,
};
use follow::answer;
use prost::Message as _;
use replica::{
    Now,
    follower::{Answer, Follow, Follower, Request, SessionId},
    import::{Facts, Import, Setup, Write},
};
use rpc::{etcdserverpb as pb, mesh::sync::v1 as sync_pb};
use std::{collections::BTreeMap, time::Duration};

/// The peer that answers.
pub(crate) const PEER: &str = "west";
/// Who follows it.
pub(crate) const US: &str = "east";

/// Records that are taken over at a time, as a session does.
const WRITES: usize = 128;

/// One answer in an input: its kind, its length in two bytes, and the bytes as they come over the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame {
    Connected,
    Page,
    Watch,
    Buckets,
    Entries,
    Unserved,
    Failed,
}

impl Frame {
    const ALL: [Self; 7] = [
        Self::Connected,
        Self::Page,
        Self::Watch,
        Self::Buckets,
        Self::Entries,
        Self::Unserved,
        Self::Failed,
    ];

    /// The frame as it stands in an input.
    pub(crate) fn write(self, body: &[u8]) -> Vec<u8> {
        let kind = Self::ALL.iter().position(|kind| *kind == self).expect("all kinds are in ALL");
        let length = u16::try_from(body.len()).expect("answers of the corpus are short");
        let mut frame = vec![u8::try_from(kind).expect("there are seven")];
        frame.extend(length.to_be_bytes());
        frame.extend(body);
        frame
    }

    /// Takes a frame off the front; one that is cut off ends where the input does.
    fn read(input: &mut &[u8]) -> Option<(Self, Vec<u8>)> {
        let (&[kind, high, low], rest) = input.split_first_chunk()?;
        let kind = *Self::ALL.get(usize::from(kind))?;
        let (body, rest) = rest.split_at(rest.len().min(usize::from(u16::from_be_bytes([high, low]))));
        *input = rest;
        Some((kind, body.to_vec()))
    }

    /// What the follower hears of it. Bytes that are no message end the connection, as gRPC ends it.
    fn answer(self, session: SessionId, body: &[u8]) -> Answer {
        let failed = |error: String| Answer::Failed { session, error };
        let heard = match self {
            Self::Connected => Ok(Answer::Connected { session }),
            Self::Page => pb::RangeResponse::decode(body).map(|page| answer::page(session, page)),
            Self::Watch => pb::WatchResponse::decode(body)
                .map(|response| answer::watched(session, response).unwrap_or_else(failed)),
            Self::Buckets => {
                sync_pb::BucketsResponse::decode(body).map(|told| answer::buckets(session, told))
            }
            Self::Entries => {
                sync_pb::EntriesResponse::decode(body).map(|told| answer::entries(session, told))
            }
            Self::Unserved => Ok(Answer::Unserved { session }),
            Self::Failed => Ok(failed(String::from("the connection broke"))),
        };
        heard.unwrap_or_else(|error| failed(error.to_string()))
    }
}

/// A follower of the peer, and the import of what it hears.
pub(crate) struct Side {
    pub(crate) follower: Follower,
    import: Import,
    session: SessionId,
    now: Now,
}

impl Side {
    pub(crate) fn new() -> Self {
        let import = Import::new(setup(), Now::START);
        let follow = Follow { cluster: PEER.parse().expect("a name"), prefixes: import.prefixes() };
        Self { follower: Follower::new(follow, 7), import, session: SessionId::default(), now: Now::START }
    }

    /// What the follower asks now.
    pub(crate) fn requests(&mut self) -> Vec<Request> {
        let mut requests = Vec::new();
        while let Some(request) = self.follower.poll_request(self.now) {
            if let Request::Connect { session } = request {
                self.session = session;
            }
            requests.push(request);
        }
        requests
    }

    /// Hears an answer, and writes what the import allows.
    pub(crate) fn hear(&mut self, frame: Frame, body: &[u8]) {
        // Longer than any wait after a failure, and shorter than the silence after which a watch is asked.
        self.now = self.now + Duration::from_secs(14);
        self.follower.handle(frame.answer(self.session, body), self.now);
        while let Some(event) = self.follower.poll_event() {
            self.import.handle(event);
        }
        for write in self.import.poll_writes(WRITES, self.now) {
            check(&write);
        }
    }
}

/// Frames.
pub(super) fn conversation(mut input: &[u8]) {
    let mut side = Side::new();
    side.requests();
    while let Some((frame, body)) = Frame::read(&mut input) {
        side.hear(frame, &body);
        side.requests();
    }
}

/// What we accept in the corpus.
pub(crate) fn contract() -> Contract {
    let cidrs = ["10.2.0.0/16", "fd00:10:2::/48", "100.64.2.0/24"];
    Contract {
        cidrs: cidrs.iter().map(|cidr| cidr.parse().expect("a range")).collect(),
        namespaces: vec!["shop".parse().expect("a name")],
        limits: Limits { nodes: 4, ..Limits::default() },
        relay: vec![],
    }
}

fn setup() -> Setup {
    let (us, peer) = (US.parse().expect("a name"), PEER.parse().expect("a name"));
    let facts = Facts { our_cidrs: vec!["10.1.0.0/16".parse().expect("a range")], ..Facts::default() };
    let (uuid, boot) = (ClusterUuid([2; 16]), BootId([1; 16]));
    Setup { us, peer, uuid, boot, contract: contract(), facts, active: true, stored: BTreeMap::new() }
}

/// Nothing is written but valid records under the peer's own prefix, with addresses of the contract.
fn check(write: &Write) {
    let contract = contract();
    let (key, value) = match write {
        Write::Put { key, value } => (key, Some(value)),
        Write::Delete { key } => (key, None),
    };
    let Key::Mesh(cluster, of) = key else { panic!("{key} is written for a peer") };
    assert_eq!(cluster.as_str(), PEER, "{key} is written for {PEER}");
    match of {
        MeshKey::Endpoint(namespace, address) | MeshKey::Backend(namespace, _, address) => {
            assert!(contract.allows_address(*address), "{key} is outside of the contract");
            assert!(contract.allows_namespace(namespace), "{key} is outside of the contract");
        }
        MeshKey::Service(namespace, _) | MeshKey::Identity(namespace, _) | MeshKey::Namespace(namespace) => {
            assert!(contract.allows_namespace(namespace), "{key} is outside of the contract");
        }
        MeshKey::Cluster
        | MeshKey::Heartbeat
        | MeshKey::Lineage
        | MeshKey::Synced(_)
        | MeshKey::Peering(_)
        | MeshKey::Node(_)
        | MeshKey::Key(_) => {}
    }
    let Some(value) = value else { return };
    let record = Record::decode(key, value).expect("what is written is a record of its key");
    if let Record::Node(node) = record {
        assert!(node.mesh_addresses.iter().all(|address| contract.allows_address(*address)), "{key}");
        assert!(node.prefixes.iter().all(|prefix| contract.allows_prefix(prefix)), "{key}");
    }
}
