//! What a server's bytes mean for the query that they may answer. Pure.

use hickory_proto::op::{Message, MessageType, ResponseCode};

/// What a server sent.
#[derive(Debug)]
pub enum Heard {
    /// Nothing that belongs to this query.
    Foreign,
    /// More than fits into a datagram.
    Truncated,
    /// That it cannot answer; another may.
    Failed(Message),
    /// The answer; one that we cannot read goes to the client all the same.
    Answer(Option<Message>),
}

/// Reads what came from a server that was asked `query` under the id `id`.
#[must_use]
pub fn hear(query: &Message, bytes: &[u8], id: u16) -> Heard {
    if bytes.get(..2) != Some(&id.to_be_bytes()) {
        return Heard::Foreign;
    }
    let Ok(reply) = Message::from_vec(bytes) else { return Heard::Answer(None) };
    // A failure may come without the question. (RFC 1035, section 4.1.1 leaves it open)
    let asked = reply.queries.is_empty() || reply.queries == query.queries;
    if reply.metadata.message_type != MessageType::Response || !asked {
        return Heard::Foreign;
    }
    match reply.metadata.response_code {
        _ if reply.metadata.truncation => Heard::Truncated,
        ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp => Heard::Failed(reply),
        _ => Heard::Answer(Some(reply)),
    }
}
