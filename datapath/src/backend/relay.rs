//! The relay of this host, which `mesh-tunnel` runs: its socket is asked for what it does and told who may talk.
//!
//! A socket of its own, because the one of the tunnel's device speaks WireGuard's own language and no other. It is the
//! same whoever serves the device.

use super::wireguard::{UAPI_DIR, exchange};
use crate::{image::RelayPair, uplinks::MESH_DEVICE};
use api::bytes::PublicKey;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    str::FromStr,
};

/// What the relay is and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayObserved {
    /// Of its own device, to which nodes prove where they are.
    pub key: PublicKey,
    /// UDP port.
    pub listen_port: u16,
    /// Who may talk, and what passed between them since they may.
    pub pairs: BTreeMap<RelayPair, Passed>,
    /// Datagrams that went nowhere, by the relay's word for the reason.
    pub refused: BTreeMap<String, u64>,
}

/// What passed between two nodes, both ways.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// Datagrams.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Datagrams that were too many.
    pub over_rate: u64,
}

/// Why the relay could not be asked or told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is a socket, and nobody answers.
    #[error("the relay does not answer at {}; is mesh-tunnel running?", socket.display())]
    Silent {
        /// Its socket.
        socket: PathBuf,
        /// What the socket said.
        source: io::Error,
    },
    /// It understood and said no.
    #[error("the relay refused who may talk: its log says why")]
    Refused(#[source] io::Error),
    /// Something else listens there, or another version.
    #[error("what answers at {} does not speak as a relay: {what}", socket.display())]
    Garbled {
        /// Its socket.
        socket: PathBuf,
        /// What was not understood.
        what: &'static str,
    },
}

/// A handle to the relay.
#[derive(Debug, Clone)]
pub struct Relay {
    socket: PathBuf,
}

impl Default for Relay {
    fn default() -> Self {
        Self { socket: Path::new(UAPI_DIR).join(MESH_DEVICE).with_extension("relay") }
    }
}

impl Relay {
    /// What it is now; `None` when this host runs none. Blocks for at most 5 s.
    ///
    /// # Errors
    /// Its socket is there and nobody answers, or not as a relay.
    pub fn observe(&self) -> Result<Option<RelayObserved>, Error> {
        let answer = match exchange(&self.socket, "get=1\n\n") {
            Ok(answer) => answer,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Silent { socket: self.socket.clone(), source }),
        };
        parse(&answer).map(Some).map_err(|what| Error::Garbled { socket: self.socket.clone(), what })
    }

    /// These may talk from now on, and no others.
    ///
    /// # Errors
    /// Nobody answers, or it refused.
    pub fn allow(&self, pairs: &BTreeSet<RelayPair>) -> Result<(), Error> {
        let mut request = "set=1\n".to_owned();
        for RelayPair(one, other) in pairs {
            writeln!(request, "pair={one},{other}").expect("a String takes every write");
        }
        request.push('\n');
        let answer = exchange(&self.socket, &request)
            .map_err(|source| Error::Silent { socket: self.socket.clone(), source })?;
        let errno = answer.lines().find_map(|line| line.strip_prefix("errno=")?.parse().ok());
        match errno {
            Some(0) => Ok(()),
            Some(errno) => Err(Error::Refused(io::Error::from_raw_os_error(errno))),
            None => Err(Error::Garbled { socket: self.socket.clone(), what: "no errno" }),
        }
    }
}

/// Reads an answer. Words that we do not know are of a later version: passed over.
fn parse(answer: &str) -> Result<RelayObserved, &'static str> {
    let (mut key, mut listen_port, mut ended) = (None, None, false);
    let (mut pairs, mut refused) = (BTreeMap::new(), BTreeMap::new());
    let mut current = None;
    for line in answer.lines().take_while(|line| !line.is_empty()) {
        let (word, value) = line.split_once('=').ok_or("a line without `=`")?;
        let passed: Option<&mut Passed> = current.and_then(|pair| pairs.get_mut(&pair));
        match (word, passed) {
            ("errno", _) => ended = value == "0",
            ("public_key", _) => key = Some(read(value, "public_key")?),
            ("listen_port", _) => listen_port = Some(read(value, "listen_port")?),
            ("pair", _) => {
                let (one, other) = value.split_once(',').ok_or("pair")?;
                let pair = RelayPair::new(read(one, "pair")?, read(other, "pair")?).ok_or("pair")?;
                pairs.insert(pair, Passed::default());
                current = Some(pair);
            }
            ("datagrams", Some(passed)) => passed.datagrams = read(value, "datagrams")?,
            ("bytes", Some(passed)) => passed.bytes = read(value, "bytes")?,
            ("over_rate", Some(passed)) => passed.over_rate = read(value, "over_rate")?,
            (word, _) => {
                if let Some(reason) = word.strip_prefix("refused_") {
                    refused.insert(reason.to_owned(), read(value, "refused")?);
                }
            }
        }
    }
    match (key, listen_port, ended) {
        (Some(key), Some(listen_port), true) => Ok(RelayObserved { key, listen_port, pairs, refused }),
        _ => Err("it says no key or port, or ends before errno=0"),
    }
}

fn read<T: FromStr>(value: &str, word: &'static str) -> Result<T, &'static str> {
    value.parse().map_err(|_| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_what_is_none_is_refused() {
        let (own, a, b) = ("09".repeat(32), "0a".repeat(32), "0b".repeat(32));
        let text = format!(
            "public_key={own}\nlisten_port=51872\nparty={a}\nendpoint=192.0.2.7:9\nparty={b}\npair={a},{b}\n\
             datagrams=3\nbytes=400\nover_rate=1\nrefused_stranger=7\nerrno=0\n\n"
        );
        let key = |byte| PublicKey([byte; 32]);
        let wanted = RelayObserved {
            key: key(9),
            listen_port: 51872,
            pairs: BTreeMap::from([(
                RelayPair(key(10), key(11)),
                Passed { datagrams: 3, bytes: 400, over_rate: 1 },
            )]),
            refused: BTreeMap::from([("stranger".to_owned(), 7)]),
        };
        assert_eq!(parse(&text), Ok(wanted));
        for bad in
            ["", "errno=0\n\n", &text[..90], &text.replace("errno=0", "errno=5"), &text.replace(&b, &a)]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
