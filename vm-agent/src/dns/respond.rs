//! What becomes of a query: answered from the zone, refused, or handed on. Pure.

use super::zone::{Answer, TTL_S, Zone};
use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType},
};

/// The largest UDP answer without EDNS. (RFC 1035, section 4.2.1)
const PLAIN_MAX_BYTES: usize = 512;
/// The largest UDP answer at all, and what we tell in our own EDNS. It never leaves loopback, whose MTU is
/// 65,536; the size that implementations recommend for wider networks saves nobody a fragment here. (RFC
/// 6891, section 6.2.5)
pub const UDP_MAX_BYTES: u16 = 4_096;
/// What the length before a message on TCP can say. (RFC 1035, section 4.2.2)
const TCP_MAX_BYTES: usize = 65_535;
/// A header alone. (RFC 1035, section 4.1.1)
const HEADER_BYTES: usize = 12;

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In one datagram.
    Udp,
    /// In a stream.
    Tcp,
}

/// What to do with a query.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// Send this back.
    Reply(Vec<u8>),
    /// It is about a name of the rest of the world.
    Forward(Box<Message>),
    /// It is no query: an answer to it could start a loop.
    Ignore,
}

/// Reads a query and decides.
#[must_use]
pub fn plan(bytes: &[u8], transport: Transport, zone: &Zone) -> Plan {
    let Ok(query) = Message::from_vec(bytes) else { return unreadable(bytes) };
    if query.metadata.message_type != MessageType::Query {
        return Plan::Ignore;
    }
    let reply = match judge(&query, zone) {
        Ok(Judged::Elsewhere) => return Plan::Forward(Box::new(query)),
        Ok(Judged::Ours(question)) => from_zone(&query, question, zone),
        Err(code) => failure(&query, code),
    };
    encode(&reply, limit_bytes(&query, transport)).map_or(Plan::Ignore, Plan::Reply)
}

enum Judged<'a> {
    Ours(&'a Query),
    Elsewhere,
}

fn judge<'a>(query: &'a Message, zone: &Zone) -> Result<Judged<'a>, ResponseCode> {
    if query.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    // Version 0 is the only one there is. (RFC 6891, section 6.1.3)
    if query.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Err(ResponseCode::BADVERS);
    }
    let [question] = &query.queries[..] else { return Err(ResponseCode::FormErr) };
    // A transfer would be many messages, and nobody has a second server to fill.
    if matches!(question.query_type, RecordType::AXFR | RecordType::IXFR) {
        return Err(ResponseCode::Refused);
    }
    match (zone.owns(&question.name), question.query_class) {
        (false, _) => Ok(Judged::Elsewhere),
        (true, DNSClass::IN) => Ok(Judged::Ours(question)),
        (true, _) => Err(ResponseCode::Refused),
    }
}

/// Who sent it is told so, as far as it has a header to be told by.
fn unreadable(bytes: &[u8]) -> Plan {
    let [id_high, id_low, flags, ..] = *bytes else { return Plan::Ignore };
    // The highest bit of the third byte says that it is a reply. (RFC 1035, section 4.1.1)
    if bytes.len() < HEADER_BYTES || flags & 0x80 != 0 {
        return Plan::Ignore;
    }
    let id = u16::from_be_bytes([id_high, id_low]);
    let reply = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
    reply.to_vec().map_or(Plan::Ignore, Plan::Reply)
}

fn from_zone(query: &Message, question: &Query, zone: &Zone) -> Message {
    let name = &question.name;
    let record = |data: RData| Record::from_rdata(name.clone(), TTL_S, data);
    let (code, mut answers) = match zone.answer(name, question.query_type) {
        Answer::Records(records) => (ResponseCode::NoError, records.into_iter().map(record).collect()),
        Answer::NoData => (ResponseCode::NoError, Vec::new()),
        Answer::NoName => (ResponseCode::NXDomain, Vec::new()),
        Answer::Unknown => return failure(query, ResponseCode::ServFail),
    };
    let mut reply = failure(query, code);
    reply.metadata.authoritative = true;
    if answers.is_empty() {
        let apex: &Name = zone.authority_of(name);
        reply.authorities = vec![Record::from_rdata(apex.clone(), TTL_S, RData::SOA(zone.soa(apex)))];
    } else {
        // Ids are random, so that clients that take the first address spread over all.
        let turn = usize::from(query.metadata.id) % answers.len();
        answers.rotate_left(turn);
        reply.answers = answers;
    }
    reply
}

/// A reply that says nothing but how it went. It repeats the question; of several none, as what is refused for them
/// must not be as long as they are.
#[must_use]
pub fn failure(query: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::error_msg(query.metadata.id, query.metadata.op_code, code);
    reply.metadata = Metadata::response_from_request(&query.metadata);
    reply.metadata.response_code = code;
    reply.metadata.recursion_available = true;
    if let [question] = &query.queries[..] {
        reply.queries = vec![question.clone()];
    }
    reply.edns = edns_to(query);
    reply
}

/// Who speaks EDNS is answered with it. (RFC 6891, section 6.1.1)
#[must_use]
pub fn edns_to(query: &Message) -> Option<Edns> {
    query.edns.as_ref().map(|asked| {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_MAX_BYTES).set_dnssec_ok(asked.flags().dnssec_ok);
        edns
    })
}

/// How many bytes an answer may have.
#[must_use]
pub fn limit_bytes(query: &Message, transport: Transport) -> usize {
    match (transport, &query.edns) {
        (Transport::Tcp, _) => TCP_MAX_BYTES,
        (Transport::Udp, None) => PLAIN_MAX_BYTES,
        (Transport::Udp, Some(edns)) => {
            usize::from(edns.max_payload().min(UDP_MAX_BYTES)).max(PLAIN_MAX_BYTES)
        }
    }
}

/// The reply's bytes. One that does not fit says that it was truncated and carries nothing: half a set of
/// records would be of no use to anybody, and the client asks again over TCP. (RFC 2181, section 9)
#[must_use]
pub fn encode(reply: &Message, limit_bytes: usize) -> Option<Vec<u8>> {
    let whole = reply.to_vec().ok();
    whole.filter(|bytes| bytes.len() <= limit_bytes).or_else(|| reply.truncate().to_vec().ok())
}

#[cfg(test)]
mod tests;
