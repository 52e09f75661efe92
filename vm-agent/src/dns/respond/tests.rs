use super::*;
use crate::dns::{
    scene::{Listed, view},
    zone::Domain,
};
use hickory_proto::op::OpCode;
use replica::service::Silent;
use std::fmt::Write as _;

#[test]
fn an_answer_is_authoritative_repeats_the_question_as_it_was_spelled_and_says_how_long_it_holds() {
    let reply = ask(query("CART.shop.svc.cluster.local.", RecordType::A));
    assert_eq!(reply.metadata.id, 7);
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
    assert_eq!(reply.queries[0].name.to_ascii(), "CART.shop.svc.cluster.local.");
    assert_eq!((reply.answers.len(), reply.answers[0].ttl), (1, TTL_S));
    assert!(reply.authorities.is_empty() && reply.edns.is_none());
}

#[test]
fn that_nothing_is_there_comes_with_the_soa_by_which_it_may_be_kept() {
    for (name, of, code) in [
        ("cart.shop.svc.cluster.local.", RecordType::AAAA, ResponseCode::NoError),
        ("nothing.shop.svc.cluster.local.", RecordType::A, ResponseCode::NXDomain),
    ] {
        let reply = ask(query(name, of));
        assert_eq!(reply.metadata.response_code, code, "{name}");
        assert!(reply.answers.is_empty());
        let [soa] = &reply.authorities[..] else { panic!("one SOA: {reply:?}") };
        assert_eq!((soa.name.to_ascii().as_str(), soa.record_type()), ("cluster.local.", RecordType::SOA));
    }
}

#[test]
fn what_the_mesh_cannot_say_yet_is_a_failure_and_never_an_absence() {
    let zone = Zone::unknown(Domain::default());
    let reply = ask_of(&zone, query("cart.shop.svc.cluster.local.", RecordType::A));
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn a_query_that_makes_no_sense_is_refused_and_what_is_no_query_gets_no_answer() {
    let name = "cart.shop.svc.cluster.local.";
    let ordinary = query(name, RecordType::A);
    let mut update = ordinary.clone();
    update.metadata.op_code = OpCode::Update;
    let mut two = ordinary.clone();
    two.queries.push(two.queries[0].clone());
    let mut chaos = ordinary.clone();
    chaos.queries[0].query_class = DNSClass::CH;
    let mut version_1 = ordinary.clone();
    let mut edns = Edns::new();
    edns.set_version(1);
    version_1.edns = Some(edns);
    for (query, code) in [
        (update, ResponseCode::NotImp),
        (two, ResponseCode::FormErr),
        (chaos, ResponseCode::Refused),
        (version_1, ResponseCode::BADVERS),
        (self::query(name, RecordType::AXFR), ResponseCode::Refused),
        (self::query("example.com.", RecordType::AXFR), ResponseCode::Refused),
    ] {
        // By number: 16 is BADVERS with EDNS, and BADSIG with TSIG.
        let said = ask(query.clone()).metadata.response_code;
        assert_eq!(u16::from(said), u16::from(code), "{query:?}");
    }

    let mut answer = ordinary;
    answer.metadata.message_type = MessageType::Response;
    let answer = answer.to_vec().unwrap();
    for bytes in [&b""[..], b"\0", &[0; 11], &[0xff; 40], &answer] {
        assert_eq!(plan(bytes, Transport::Udp, &zone("")), Plan::Ignore, "{bytes:?}");
    }
    // It says that it has a question, and has none.
    let Plan::Reply(reply) = plan(b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0", Transport::Udp, &zone("")) else {
        panic!("it has a header")
    };
    assert_eq!((&reply[..2], reply[3] & 15), (&b"\x12\x34"[..], 1), "FORMERR, under its id");
}

#[test]
fn what_is_refused_for_its_many_questions_repeats_none_of_them() {
    let mut many = query("cart.shop.svc.cluster.local.", RecordType::A);
    many.queries = vec![many.queries[0].clone(); 300];
    let Plan::Reply(bytes) = plan(&many.to_vec().unwrap(), Transport::Udp, &zone("")) else { panic!("ours") };
    assert!(bytes.len() <= PLAIN_MAX_BYTES, "{} bytes", bytes.len());
    assert_eq!(Message::from_vec(&bytes).unwrap().metadata.response_code, ResponseCode::FormErr);
}

#[test]
fn names_of_the_rest_of_the_world_are_handed_on_also_in_other_classes() {
    let elsewhere = query("example.com.", RecordType::MX);
    let mut version = query("version.bind.", RecordType::TXT);
    version.queries[0].query_class = DNSClass::CH;
    for query in [elsewhere, version] {
        assert_eq!(plan(&query.to_vec().unwrap(), Transport::Udp, &zone("")), Plan::Forward(Box::new(query)));
    }
}

#[test]
fn what_is_too_large_for_a_datagram_says_so_and_carries_nothing_and_fits_into_tcp() {
    let zone = zone(&large());
    let plain = query("db.shop.svc.cluster.local.", RecordType::A);
    for (size, transport, answers) in [
        (None, Transport::Udp, 0),
        (Some(512), Transport::Udp, 0),
        // Less than anybody may say counts as that. (RFC 6891, section 6.2.3)
        (Some(1), Transport::Udp, 0),
        (Some(2_000), Transport::Udp, 100),
        (None, Transport::Tcp, 100),
    ] {
        let mut query = plain.clone();
        query.edns = size.map(|size| {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            edns
        });
        let Plan::Reply(bytes) = plan(&query.to_vec().unwrap(), transport, &zone) else { panic!("ours") };
        let reply = Message::from_vec(&bytes).unwrap();
        assert_eq!(reply.answers.len(), answers, "{size:?} {transport:?}");
        assert_eq!(reply.metadata.truncation, answers == 0, "{size:?} {transport:?}");
        assert!(bytes.len() <= limit_bytes(&query, transport));
        assert_eq!(reply.edns.is_some(), size.is_some());
        assert_eq!(reply.queries, query.queries);
    }
}

#[test]
fn the_first_address_is_another_one_for_other_ids() {
    let zone = zone(&large());
    let first = |id| {
        let mut query = query("db.shop.svc.cluster.local.", RecordType::A);
        query.metadata.id = id;
        let Plan::Reply(bytes) = plan(&query.to_vec().unwrap(), Transport::Tcp, &zone) else {
            panic!("ours")
        };
        Message::from_vec(&bytes).unwrap().answers[0].data.to_string()
    };
    assert_eq!([first(0), first(1), first(100)], ["10.1.0.0", "10.1.0.1", "10.1.0.0"]);
}

fn zone(scene: &str) -> Zone {
    Zone::of(&view(scene, Listed::Yes), &Silent::new(), Domain::default())
}

/// A hundred backends.
fn large() -> String {
    let mut scene = "headless east shop/db\n".to_owned();
    for n in 0..100 {
        writeln!(scene, "backend east shop/db 10.1.0.{n}").unwrap();
    }
    scene
}

fn query(name: &str, of: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries = vec![Query::query(Name::from_ascii(name).unwrap(), of)];
    message
}

fn ask(query: Message) -> Message {
    ask_of(&zone("service east shop/cart 10.101.0.10"), query)
}

fn ask_of(zone: &Zone, query: Message) -> Message {
    let Plan::Reply(bytes) = plan(&query.to_vec().unwrap(), Transport::Udp, zone) else {
        panic!("answered here")
    };
    Message::from_vec(&bytes).unwrap()
}
