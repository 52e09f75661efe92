//! What the relay is told and says, and what it keeps, as text: the frame of WireGuard's UAPI, with words of our own.
//!
//! ```text
//! set=1                          get=1
//! pair=<hex>,<hex>               public_key=<hex>        of the relay's own device
//! …                              listen_port=51872
//!                                bytes_per_s=12500000    that each pair may use, both ways counted
//!                                party=<hex>             for each node that may talk
//!                                endpoint=192.0.2.7:4711 where it is, if that is known
//!                                pair=<hex>,<hex>        for each pair
//!                                datagrams=12            passed on, and their bytes
//!                                bytes=1424
//!                                over_rate=0
//!                                refused_stranger=3      for each reason that there was
//! ```
//!
//! A `set` says all pairs that may talk from then on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::SocketAddr,
};

use zeroize::Zeroizing;

use super::{PAIRS_MAX, Pair, Relay};
use crate::key::{PublicKey, Secret};

#[cfg(test)]
mod tests;

/// What somebody asks of the relay.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Say who may talk, who is where, and what passed.
    Get,
    /// These may talk, and no others.
    Set(BTreeSet<Pair>),
}

/// Why a text was not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not UTF-8.
    #[error("it is no text")]
    NotText,
    /// The first line was neither `get=1` nor `set=1`.
    #[error("a request starts with get=1 or set=1")]
    NoOperation,
    /// A line that says nothing here. It is not repeated: it may hold a key.
    #[error("line {0} has no word that means something here, or a value that it does not take")]
    Line(usize),
    /// More than [`PAIRS_MAX`].
    #[error("more than {PAIRS_MAX} pairs: spread them over several relays")]
    TooMany,
}

impl Request {
    /// Reads a request, without the empty line that ends it.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let text = str::from_utf8(bytes).map_err(|_| Malformed::NotText)?;
        match text.split_once('\n').unwrap_or((text, "")) {
            ("get=1", "") => Ok(Self::Get),
            ("set=1", rest) => {
                let mut pairs = BTreeSet::new();
                for (index, line) in rest.lines().enumerate() {
                    let pair = line.strip_prefix("pair=").and_then(pair).ok_or(Malformed::Line(index + 2))?;
                    pairs.insert(pair);
                    if pairs.len() > PAIRS_MAX {
                        return Err(Malformed::TooMany);
                    }
                }
                Ok(Self::Set(pairs))
            }
            _ => Err(Malformed::NoOperation),
        }
    }
}

fn pair(value: &str) -> Option<Pair> {
    let (one, other) = value.split_once(',')?;
    Pair::new(PublicKey::from_hex(one)?, PublicKey::from_hex(other)?)
}

/// The answer to `get=1`, without its `errno=` line.
pub fn answer(public_key: &PublicKey, port: u16, relay: &Relay) -> String {
    let mut text = format!("public_key={public_key}\nlisten_port={port}\n");
    line(&mut text, "bytes_per_s", relay.bytes_per_s());
    for (party, at) in relay.parties() {
        party_lines(&mut text, party, at);
    }
    for (pair, counters) in relay.pairs() {
        pair_line(&mut text, pair);
        line(&mut text, "datagrams", counters.datagrams);
        line(&mut text, "bytes", counters.bytes);
        line(&mut text, "over_rate", counters.over_rate);
    }
    for (refusal, count) in relay.refused() {
        writeln!(text, "refused_{refusal}={count}").expect("a String takes every write");
    }
    text
}

/// What outlives the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Of the relay's own device: nodes know it by its public half.
    pub private_key: Secret,
    /// Who may talk.
    pub pairs: BTreeSet<Pair>,
    /// Where each was last.
    pub whereabouts: BTreeMap<PublicKey, SocketAddr>,
}

impl Kept {
    /// A relay that was never there before: between nobody.
    pub fn new(private_key: Secret) -> Self {
        Self { private_key, pairs: BTreeSet::new(), whereabouts: BTreeMap::new() }
    }

    /// As it is kept.
    pub fn to_text(&self) -> Zeroizing<String> {
        // Room for all of it from the start: a buffer that grows leaves copies of the key behind. A pair's line has 135
        // bytes, a party's two have less.
        let room = 128 + 160 * (self.pairs.len() + self.whereabouts.len());
        let mut text = Zeroizing::new(String::with_capacity(room));
        line(&mut text, "private_key", self.private_key.to_hex().as_str());
        for (party, at) in &self.whereabouts {
            party_lines(&mut text, party, Some(*at));
        }
        for pair in &self.pairs {
            pair_line(&mut text, pair);
        }
        text
    }

    /// Reads it back.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let text = str::from_utf8(bytes).map_err(|_| Malformed::NotText)?;
        let first = text.lines().next().and_then(|line| line.strip_prefix("private_key="));
        let mut kept = Self::new(first.and_then(Secret::from_hex).ok_or(Malformed::Line(1))?);
        let mut party = None;
        for (index, line) in text.lines().enumerate().skip(1) {
            let understood = match (line.split_once('='), party) {
                (Some(("party", value)), _) => {
                    party = PublicKey::from_hex(value);
                    party.is_some()
                }
                (Some(("endpoint", value)), Some(party)) => {
                    value.parse().is_ok_and(|at| kept.whereabouts.insert(party, at).is_none())
                }
                (Some(("pair", value)), _) => pair(value).is_some_and(|pair| kept.pairs.insert(pair)),
                _ => false,
            };
            if !understood {
                return Err(Malformed::Line(index + 1));
            }
        }
        Ok(kept)
    }
}

fn party_lines(text: &mut String, party: &PublicKey, at: Option<SocketAddr>) {
    line(text, "party", party);
    if let Some(at) = at {
        line(text, "endpoint", at);
    }
}

fn pair_line(text: &mut String, pair: &Pair) {
    let [one, other] = pair.sides();
    writeln!(text, "pair={one},{other}").expect("a String takes every write");
}

fn line(text: &mut String, key: &str, value: impl std::fmt::Display) {
    writeln!(text, "{key}={value}").expect("a String takes every write");
}
