//! Answers of the servers that the host had before, for as long as they may be kept. Pure.

use super::respond::edns_to;
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, rdata::opt::EdnsCode},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Answers that are kept: with the size below 4 MiB at most, of the 25 that the agent may use when idle.
pub const ANSWERS_MAX: usize = 1_000;
/// Of one answer; a larger one is asked for again.
pub const ANSWER_MAX_BYTES: usize = 4_096;
/// The longest that anything is kept, whatever it says. The host did not have this cache before: who changes
/// a name there and waits as long as he used to should not have to know of it.
pub const LIFE_MAX: Duration = Duration::from_secs(60);

/// What an answer depends on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    name: Name,
    of: u16,
    class: u16,
    recursion_desired: bool,
    checking_disabled: bool,
    authentic_data: bool,
    /// None without EDNS.
    dnssec_ok: Option<bool>,
}

impl Key {
    /// Of a query; none when it asks for more than a name: an option of EDNS may change the answer. A cookie
    /// does not, and `dig` sends one with every query. (RFC 7873)
    #[must_use]
    pub fn of(query: &Message) -> Option<Self> {
        let [Query { name, query_type, query_class, .. }] = &query.queries[..] else { return None };
        let options = query.edns.iter().flat_map(|edns| edns.options().as_ref());
        let more = options.map(|(code, _)| code).any(|code| *code != EdnsCode::Cookie);
        let metadata = &query.metadata;
        (!more).then(|| Self {
            name: name.clone(),
            of: u16::from(*query_type),
            class: u16::from(*query_class),
            recursion_desired: metadata.recursion_desired,
            checking_disabled: metadata.checking_disabled,
            authentic_data: metadata.authentic_data,
            dnssec_ok: query.edns.as_ref().map(|edns| edns.flags().dnssec_ok),
        })
    }
}

#[derive(Debug)]
struct Kept {
    reply: Message,
    since: Instant,
    until: Instant,
}

/// The answers that are kept.
#[derive(Debug, Default)]
pub struct Cache {
    answers: BTreeMap<Key, Kept>,
    /// The same, in the order in which they go.
    by_end: BTreeSet<(Instant, Key)>,
}

impl Cache {
    /// The answer to a query as it is now, under the query's id and spelling, its TTLs as much shorter as it
    /// was kept.
    #[must_use]
    pub fn get(&self, query: &Message, now: Instant) -> Option<Message> {
        let kept = self.answers.get(&Key::of(query)?).filter(|kept| now < kept.until)?;
        let age_s = u32::try_from(now.saturating_duration_since(kept.since).as_secs()).unwrap_or(u32::MAX);
        let mut reply = kept.reply.clone();
        reply.metadata.id = query.metadata.id;
        reply.queries.clone_from(&query.queries);
        // Its options were for whoever asked first.
        reply.edns = edns_to(query);
        for record in
            [&mut reply.answers, &mut reply.authorities, &mut reply.additionals].into_iter().flatten()
        {
            record.ttl = record.ttl.saturating_sub(age_s);
        }
        Some(reply)
    }

    /// Keeps an answer if it says for how long, and the size allows it.
    pub fn put(&mut self, query: &Message, reply: Message, size_bytes: usize, now: Instant) {
        let (Some(key), Some(life)) = (Key::of(query), life(&reply)) else { return };
        if size_bytes > ANSWER_MAX_BYTES {
            return;
        }
        self.forget(&key);
        // What ends first goes first: what has ended already, then what would have been asked for soonest.
        while self.answers.len() >= ANSWERS_MAX
            && let Some((_, first)) = self.by_end.pop_first()
        {
            self.answers.remove(&first);
        }
        let until = now + life;
        self.by_end.insert((until, key.clone()));
        self.answers.insert(key, Kept { reply, since: now, until });
    }

    /// Forgets everything: the servers are others now.
    pub fn clear(&mut self) {
        self.answers.clear();
        self.by_end.clear();
    }

    /// How many are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// None is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    fn forget(&mut self, key: &Key) {
        if let Some(kept) = self.answers.remove(key) {
            self.by_end.remove(&(kept.until, key.clone()));
        }
    }
}

/// How long an answer may be kept: the least of its TTLs and, where an SOA says that there is nothing, of
/// what that allows; without one, that there is nothing is not kept at all, and neither are failures. (RFC
/// 2308, sections 5 and 7)
fn life(reply: &Message) -> Option<Duration> {
    let code = reply.metadata.response_code;
    let found = code == ResponseCode::NoError && !reply.answers.is_empty();
    let absent =
        matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) && negative_s(reply).is_some();
    if reply.metadata.truncation || !(found || absent) {
        return None;
    }
    let ttls = reply.answers.iter().chain(&reply.authorities).map(|record| record.ttl);
    let life = Duration::from_secs(ttls.chain(negative_s(reply)).min()?.into()).min(LIFE_MAX);
    (!life.is_zero()).then_some(life)
}

fn negative_s(reply: &Message) -> Option<u32> {
    reply.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
