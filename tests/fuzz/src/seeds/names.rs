//! DNS messages.

use super::{Seed, seed};
use crate::targets::{ELSEWHERE, ID, OURS, asked};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};

fn query(name: &str, of: RecordType) -> Message {
    let mut query = Message::query();
    query.metadata.id = ID;
    query.add_query(Query::query(Name::from_ascii(name).expect("a name"), of));
    query
}

pub(super) fn queries() -> Vec<Seed> {
    let bytes = |message: &Message| message.to_vec().expect("a message");
    let of = |why: &str, message: &Message| seed("dns-query", why, bytes(message));
    let ours = query(OURS, RecordType::A);
    let mut edns = ours.clone();
    let mut options = Edns::new();
    options.set_max_payload(65_535).set_version(1);
    edns.edns = Some(options);
    let mut two = ours.clone();
    two.queries.push(two.queries[0].clone());
    let mut many = ours.clone();
    many.queries = vec![many.queries[0].clone(); 300];
    let mut update = ours.clone();
    update.metadata.op_code = OpCode::Update;
    let mut reply = ours.clone();
    reply.metadata.message_type = MessageType::Response;
    let mut counts = bytes(&ours);
    counts[4..12].fill(0xff);
    // A name of one pointer, to itself. (RFC 1035, section 4.1.4)
    let loops = [&bytes(&ours)[..12], &[0xc0, 12, 0, 1, 0, 1]].concat();
    let labels = [&bytes(&ours)[..12], &[1, b'a'].repeat(200), &[0, 0, 1, 0, 1]].concat();
    vec![
        of("a-name-of-the-mesh", &ours),
        of("a-name-of-the-world", &query(ELSEWHERE, RecordType::AAAA)),
        of("a-service-by-port", &query(&format!("_http._tcp.{OURS}"), RecordType::SRV)),
        of("an-address-backwards", &query("10.0.101.10.in-addr.arpa.", RecordType::PTR)),
        of("a-transfer", &query(OURS, RecordType::AXFR)),
        of("edns-of-a-later-version", &edns),
        of("two-questions", &two),
        of("three-hundred-questions", &many),
        of("an-update", &update),
        of("a-reply", &reply),
        seed("dns-query", "more-records-than-there-are", counts),
        seed("dns-query", "a-pointer-to-itself", loops),
        seed("dns-query", "a-name-of-400-bytes", labels),
        seed("dns-query", "a-header-alone", &bytes(&ours)[..12]),
        seed("dns-query", "cut-off", &bytes(&ours)[..20]),
    ]
}

pub(super) fn answers() -> Vec<Seed> {
    let bytes = |message: &Message| message.to_vec().expect("a message");
    let of = |why: &str, message: &Message| seed("dns-answer", why, bytes(message));
    let mut good = asked();
    good.metadata.message_type = MessageType::Response;
    let address = RData::A("192.0.2.7".parse().expect("an address"));
    good.answers = vec![Record::from_rdata(Name::from_ascii(ELSEWHERE).expect("a name"), 300, address)];
    let mut forged = good.clone();
    forged.metadata.id = ID + 1;
    let mut another = good.clone();
    another.queries = query(OURS, RecordType::A).queries;
    let mut fails = good.clone();
    fails.answers.clear();
    fails.metadata.response_code = ResponseCode::ServFail;
    let mut many = good.clone();
    many.answers = vec![many.answers[0].clone(); 200];
    let mut cut = good.clone();
    cut.metadata.truncation = true;
    let mut for_ever = good.clone();
    for_ever.answers[0].ttl = u32::MAX;
    vec![
        of("an-address", &good),
        of("another-id", &forged),
        of("another-question", &another),
        of("a-failure", &fails),
        of("more-than-is-kept", &many),
        of("truncated", &cut),
        of("for-ever", &for_ever),
        seed("dns-answer", "cut-off", &bytes(&good)[..bytes(&good).len() - 3]),
    ]
}
