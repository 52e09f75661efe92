//! Invitations: a line of text by which a VM, or the administrator of another cluster, comes to us.
//!
//! It says who invites, where it is and by which CA it is known, so that whoever pastes it need believe nobody else; and it
//! holds a secret, which counts once.

use crate::{
    bytes::{ClusterUuid, Secret},
    name::{ClusterName, NodeName},
    pb,
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use prost::Message as _;
use std::{fmt, str::FromStr};

/// How a token for a VM begins.
const VM: &str = "mesh-vm-";
/// How a token for another cluster's administrator begins.
const PEER: &str = "mesh-peer-";

/// Longest token that is read, in characters: 16 CA certificates of 1 KiB. A terminal takes 4,095 in a line; one CA of ours
/// makes 700.
const CHARACTERS_MAX: usize = 24 * 1024;

/// What a token says. Its `Display` is the line, secret included; its `Debug` shows none.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Whom it invites.
    pub invites: Invited,
    /// Who invites.
    pub cluster: ClusterName,
    /// Which cluster that really is.
    pub uuid: ClusterUuid,
    /// `host:port` of its apiserver, tried in order.
    pub endpoints: Vec<String>,
    /// Its CA certificates, DER.
    pub ca: Vec<Vec<u8>>,
    /// Until when, Unix time in seconds by the inviter's clock.
    pub expires_s: u64,
    /// What counts once.
    pub secret: Secret,
}

/// Whom a token invites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invited {
    /// A VM, by this name.
    Vm(NodeName),
    /// The administrator of another cluster.
    Peer,
}

/// Why a text is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// It begins as none does.
    #[error("it begins neither with `{VM}` nor with `{PEER}`")]
    Kind,
    /// It was not pasted whole.
    #[error("it is not whole: paste the line as it was printed")]
    Cut,
    /// A field breaks its rule.
    #[error("its {0} is not valid")]
    Field(&'static str),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prefix, vm) = match &self.invites {
            Invited::Vm(name) => (VM, name.to_string()),
            Invited::Peer => (PEER, String::new()),
        };
        let message = pb::Token {
            vm,
            cluster: self.cluster.to_string(),
            uuid: self.uuid.0.to_vec(),
            endpoints: self.endpoints.clone(),
            ca: self.ca.clone(),
            expires_s: self.expires_s,
            secret: self.secret.bytes().to_vec(),
        };
        write!(f, "{prefix}{}", BASE64_URL_SAFE_NO_PAD.encode(message.encode_to_vec()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:?} by {} until {})", self.invites, self.cluster, self.expires_s)
    }
}

impl FromStr for Token {
    type Err = BadToken;
    fn from_str(text: &str) -> Result<Self, BadToken> {
        let text = text.trim();
        if text.len() > CHARACTERS_MAX {
            return Err(BadToken::Cut);
        }
        let (is_vm, text) = match (text.strip_prefix(VM), text.strip_prefix(PEER)) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(BadToken::Kind),
        };
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| BadToken::Cut)?;
        let message = pb::Token::decode(&bytes[..]).map_err(|_| BadToken::Cut)?;
        let bad = |field| move |_| BadToken::Field(field);
        if message.secret.is_empty() {
            return Err(BadToken::Cut);
        }
        let invites = match is_vm {
            true => Invited::Vm(message.vm.parse().map_err(|_| BadToken::Field("name"))?),
            false => Invited::Peer,
        };
        if message.endpoints.is_empty() || message.ca.is_empty() {
            return Err(BadToken::Field(if message.ca.is_empty() { "CA" } else { "endpoint" }));
        }
        Ok(Self {
            invites,
            cluster: message.cluster.parse().map_err(|_| BadToken::Field("cluster"))?,
            uuid: ClusterUuid::from_slice(&message.uuid).map_err(bad("UUID"))?,
            endpoints: message.endpoints,
            ca: message.ca,
            expires_s: message.expires_s,
            secret: Secret::from_slice(&message.secret).map_err(bad("secret"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(invites: Invited) -> Token {
        Token {
            invites,
            cluster: "core".parse().unwrap(),
            uuid: ClusterUuid([7; 16]),
            endpoints: vec!["192.0.2.10:2379".into(), "[fd00::10]:2379".into()],
            ca: vec![vec![0x30; 420]],
            expires_s: 1_800_000_000,
            secret: Secret::from_slice(&[9; 16]).unwrap(),
        }
    }

    #[test]
    fn a_token_is_one_line_that_reads_back_and_shows_its_secret_to_no_log() {
        for invites in [Invited::Vm("web-1".parse().unwrap()), Invited::Peer] {
            let token = token(invites);
            let line = token.to_string();
            assert!(line.len() < 800 && !line.contains(char::is_whitespace), "{line}");
            assert_eq!(format!(" {line}\n").parse(), Ok(token.clone()));
            assert!(!format!("{token:?}").contains("9, 9"), "{token:?}");
            assert!(!format!("{:?}", token.secret).contains('9'), "{:?}", token.secret);
        }
    }

    #[test]
    fn a_line_that_was_cut_anywhere_says_so() {
        let line = token(Invited::Peer).to_string();
        for end in PEER.len()..line.len() {
            assert_eq!(line[..end].parse::<Token>(), Err(BadToken::Cut), "cut at {end}");
        }
        assert_eq!("eyJhbGciOi".parse::<Token>(), Err(BadToken::Kind));
        assert_eq!("x".repeat(100_000).parse::<Token>(), Err(BadToken::Cut));
    }
}
