//! DNS: what clients on a VM ask, and what the servers that it had before answer.

use api::{
    bytes::Uid,
    key::{Key, MeshKey},
    name::{NamespaceName, ServiceName},
    record::{Affinity, Backend, Cluster, NamedPort, Protocol, Record, Service},
};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use mesh_vm_agent::dns::{
    cache::{ANSWER_MAX_BYTES, Cache},
    heard::{Heard, hear},
    respond::{Plan, Transport, encode, limit_bytes, plan},
    zone::{Domain, Zone},
};
use replica::{service::Silent, view::View};
use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

/// A name of the mesh, and one of the world, that the corpus speaks of.
pub(crate) const OURS: &str = "cart.shop.svc.clusterset.local.";
pub(crate) const ELSEWHERE: &str = "example.com.";
/// The id of the query that [`answer`] reads answers to.
pub(crate) const ID: u16 = 0x1234;

/// One global Service with a backend, listed whole.
static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let east = "east".parse().expect("a name");
    let namespace: NamespaceName = "shop".parse().expect("a name");
    let name: ServiceName = "cart".parse().expect("a name");
    let port = NamedPort { name: Some("http".parse().expect("a name")), port: 80, protocol: Protocol::Tcp };
    let cluster = Cluster {
        uuid: api::bytes::ClusterUuid([1; 16]),
        version: String::new(),
        capabilities: Vec::new(),
        pod_cidrs: vec!["10.1.0.0/16".parse().expect("a range")],
        service_cidrs: vec!["10.101.0.0/16".parse().expect("a range")],
        mesh_cidrs: Vec::new(),
        encrypts_inside: false,
    };
    let service = Service {
        uid: Uid([1; 16]),
        frontends: vec!["10.101.0.10".parse().expect("an address")],
        ports: vec![port.clone()],
        global: true,
        shared: true,
        affinity: Affinity::None,
        headless: false,
        created_s: 1,
        session_affinity_s: 0,
    };
    let backend = Backend {
        uid: Uid([2; 16]),
        ports: vec![port],
        ready: true,
        serving: true,
        terminating: false,
        weight: 1,
        zone: String::new(),
        node: None,
        hostname: String::new(),
        created_s: 1,
    };
    let address = "10.1.1.7".parse().expect("an address");
    let records: Vec<(Key, Record, u64)> = vec![
        (MeshKey::Cluster.of(&east), cluster.into(), 1),
        (MeshKey::Service(namespace.clone(), name.clone()).of(&east), service.into(), 2),
        (MeshKey::Backend(namespace, name, address).of(&east), backend.into(), 3),
    ];
    Zone::of(&View::restored(east, records), &Silent::new(), Domain::default())
});

/// A client's query, by datagram and by stream.
pub(super) fn query(input: &[u8]) {
    let asked = Message::from_vec(input).ok();
    for transport in [Transport::Udp, Transport::Tcp] {
        match plan(input, transport, &ZONE) {
            Plan::Reply(reply) => {
                let plain = limit_bytes(&Message::query(), transport);
                let limit = asked.as_ref().map_or(plain, |query| limit_bytes(query, transport));
                assert!(reply.len() <= limit, "a reply of {} bytes, at most {limit} may be", reply.len());
                assert_eq!(reply[..2], input[..2], "a reply has its query's id");
                let read = Message::from_vec(&reply).expect("what we write can be read");
                let questions = asked.as_ref().map(|query| &query.queries[..]).unwrap_or_default();
                assert!(read.queries.iter().all(|one| questions.contains(one)), "no question is made up");
            }
            Plan::Forward(query) => {
                assert!(!query.queries.iter().any(|one| ZONE.owns(&one.name)), "a mesh name went elsewhere");
            }
            Plan::Ignore => {}
        }
    }
}

/// The query that a server's bytes may be the answer to.
pub(crate) fn asked() -> Message {
    let name = Name::from_ascii(ELSEWHERE).expect("a name");
    let mut asked = Message::query();
    asked.metadata.id = ID;
    asked.metadata.recursion_desired = true;
    asked.add_query(Query::query(name, RecordType::A));
    asked
}

/// What a server says; kept if it may be, and told to the next who asks.
pub(super) fn answer(input: &[u8]) {
    let asked = asked();
    let Heard::Answer(Some(reply)) = hear(&asked, input, ID) else { return };
    let (mut cache, now) = (Cache::default(), Instant::now());
    cache.put(&asked, reply, input.len(), now);
    assert!(cache.len() <= 1 && (cache.is_empty() || input.len() <= ANSWER_MAX_BYTES));
    if let Some(kept) = cache.get(&asked, now + Duration::from_secs(1)) {
        let limit = limit_bytes(&asked, Transport::Udp);
        let bytes = encode(&kept, limit).expect("what was read can be written, or be cut");
        assert!(bytes.len() <= limit, "an answer of {} bytes", bytes.len());
    }
    assert!(
        cache.get(&asked, now + Duration::from_secs(61)).is_none(),
        "nothing is kept for more than a minute"
    );
}
