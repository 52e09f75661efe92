use super::*;
use hickory_proto::{
    op::{Edns, MessageType, OpCode},
    rr::{
        Record, RecordType,
        rdata::{A, CNAME, SOA},
    },
};

/// An answer's records as `A 30`, `CNAME 30`, `SOA 30 10` (its TTL and its minimum), and for how long it is
/// kept.
#[test]
fn an_answer_is_kept_as_long_as_it_says_and_no_longer_than_a_minute() {
    for (code, answers, authorities, kept_s) in [
        (ResponseCode::NoError, "A 30,A 20", "", 20),
        (ResponseCode::NoError, "A 30", "NS 10", 10),
        (ResponseCode::NoError, "A 86400", "", 60),
        (ResponseCode::NoError, "A 0", "", 0),
        // That nothing is there: the SOA's own TTL or its minimum, whichever is less. (RFC 2308, section 5)
        (ResponseCode::NoError, "", "SOA 30 10", 10),
        (ResponseCode::NXDomain, "", "SOA 10 30", 10),
        (ResponseCode::NXDomain, "CNAME 5", "SOA 10 30", 5),
        (ResponseCode::NoError, "CNAME 30", "SOA 30 10", 10),
        (ResponseCode::NXDomain, "", "", 0),
        (ResponseCode::NoError, "", "", 0),
        (ResponseCode::ServFail, "", "SOA 30 30", 0),
    ] {
        let mut reply = reply(code, answers, authorities);
        let mut cache = Cache::default();
        let now = Instant::now();
        let second = Duration::from_secs(1);
        cache.put(&query(), reply.clone(), 100, now);
        let kept =
            (0..=LIFE_MAX.as_secs() as u32).filter(|s| cache.get(&query(), now + second * *s).is_some());
        assert_eq!(kept.count(), kept_s, "{code} [{answers}] [{authorities}]");

        reply.metadata.truncation = true;
        let mut cache = Cache::default();
        cache.put(&query(), reply, 100, now);
        assert!(cache.is_empty(), "what was truncated is not kept");
    }
}

#[test]
fn a_kept_answer_is_older_and_has_the_askers_id_and_spelling() {
    let (mut cache, now) = (Cache::default(), Instant::now());
    cache.put(&query(), reply(ResponseCode::NoError, "A 30", ""), 100, now);
    let mut again = query();
    again.metadata.id = 99;
    again.queries[0].name = Name::from_ascii("WWW.example.com.").unwrap();
    let kept = cache.get(&again, now + Duration::from_secs(12)).unwrap();
    assert_eq!((kept.metadata.id, kept.answers[0].ttl), (99, 18));
    assert_eq!(kept.queries[0].name.to_ascii(), "WWW.example.com.");
}

#[test]
fn who_asks_in_another_way_gets_no_answer_that_is_not_his() {
    let (mut cache, now) = (Cache::default(), Instant::now());
    cache.put(&query(), reply(ResponseCode::NoError, "A 30", ""), 100, now);
    let another = |change: fn(&mut Message)| {
        let mut query = query();
        change(&mut query);
        query
    };
    for query in [
        another(|query| query.queries[0].query_type = RecordType::AAAA),
        another(|query| query.metadata.recursion_desired = false),
        another(|query| query.metadata.checking_disabled = true),
        another(|query| query.edns = Some(Edns::new())),
        another(|query| query.edns.insert(Edns::new()).flags_mut().dnssec_ok = true),
    ] {
        assert_eq!(cache.get(&query, now), None, "{query:?}");
    }
}

#[test]
fn the_cache_has_a_limit_and_what_ends_first_goes_first() {
    let (mut cache, now) = (Cache::default(), Instant::now());
    let named = |n: usize| {
        let mut query = query();
        query.queries[0].name = Name::from_ascii(format!("n{n}.example.com.")).unwrap();
        query
    };
    for n in 0..=ANSWERS_MAX {
        // The third one ends before the others.
        let ttl = if n == 3 { "A 10" } else { "A 30" };
        cache.put(&named(n), reply(ResponseCode::NoError, ttl, ""), 100, now);
    }
    assert_eq!(cache.len(), ANSWERS_MAX);
    assert!(cache.get(&named(3), now).is_none());
    assert!(cache.get(&named(0), now).is_some() && cache.get(&named(ANSWERS_MAX), now).is_some());
    cache.put(&query(), reply(ResponseCode::NoError, "A 30", ""), ANSWER_MAX_BYTES + 1, now);
    assert!(cache.get(&query(), now).is_none(), "a large one is not kept");
}

fn query() -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries = vec![Query::query(name(), RecordType::A)];
    message
}

fn name() -> Name {
    Name::from_ascii("www.example.com.").unwrap()
}

fn reply(code: ResponseCode, answers: &str, authorities: &str) -> Message {
    let mut reply = Message::response(7, OpCode::Query);
    reply.metadata.response_code = code;
    reply.queries = query().queries;
    let records = |text: &str| text.split(',').filter(|text| !text.is_empty()).map(record).collect();
    reply.answers = records(answers);
    reply.authorities = records(authorities);
    reply
}

fn record(text: &str) -> Record {
    let words: Vec<&str> = text.split(' ').collect();
    let number = |at: usize| words[at].parse().expect("seconds");
    let data = match words[0] {
        "A" => RData::A(A::new(192, 0, 2, 1)),
        "CNAME" => RData::CNAME(CNAME(name())),
        "NS" => RData::NS(hickory_proto::rr::rdata::NS(name())),
        "SOA" => RData::SOA(SOA::new(name(), name(), 1, 2, 3, 4, number(2))),
        other => panic!("{other}"),
    };
    Record::from_rdata(name(), number(1), data)
}
