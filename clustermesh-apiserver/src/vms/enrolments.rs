//! Tokens that are open, and the key that each VM has. Pure; what it holds no source can rebuild.

use anyhow::Context;
use api::{
    bytes::{KeyFingerprint, Secret, SecretHash, Uid},
    name::NodeName,
};
use std::{collections::BTreeMap, io, path::Path, time::Duration};

/// Where they are kept in the data directory.
pub const FILE: &str = "enrolments.json";

/// How long a token counts: as long as it takes to go to the machine and paste it.
pub const TOKEN_LIVES: Duration = Duration::from_secs(15 * 60);

/// By the VM's name.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Enrolments(BTreeMap<NodeName, Enrolment>);

/// What is kept of one VM.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Enrolment {
    /// Of its object.
    pub uid: Uid,
    /// The token that was not redeemed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<OpenToken>,
    /// The key that redeemed the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined: Option<Joined>,
}

/// A token that was made and not redeemed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenToken {
    /// Of its secret, which is kept nowhere.
    pub hash: SecretHash,
    /// Unix time in seconds.
    pub expires_s: u64,
}

/// The key of a VM.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Joined {
    /// Which one.
    pub key: KeyFingerprint,
    /// Since when, Unix time in seconds.
    pub at_s: u64,
}

/// Why somebody is not enrolled, for the person at the VM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no object of this name, or not any more.
    #[error("there is no VM {0} in this cluster: it was never added, or was removed. See `meshctl vm list`")]
    Unknown(NodeName),
    /// The token was redeemed.
    #[error(
        "the token of {0} was used already, by another key. If that was not this machine: `meshctl vm token {0}` makes \
         a new one, and shuts the other machine out"
    )]
    Used(NodeName),
    /// The token was replaced, or is another VM's.
    #[error("the token is not the one of {0}: it was replaced by a later one, or is another VM's")]
    Other(NodeName),
    /// Its time is over.
    #[error("the token of {0} has expired: `meshctl vm token {0}` makes a new one")]
    Expired(NodeName),
    /// It came without a token, and with a key that is not the VM's.
    #[error("this key is not the one of {0}: `meshctl vm token {0}` makes a token for it")]
    OtherKey(NodeName),
}

impl Enrolments {
    /// Reads the file; a missing one is empty.
    ///
    /// # Errors
    /// When it cannot be read or is not ours: going on without it would shut every VM out.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| {
                format!(
                    "cannot understand {}: restore it, or move it away and let every VM join again",
                    path.display()
                )
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// As the file's content.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("enrolments are plain data")
    }

    /// What is kept of a VM.
    #[must_use]
    pub fn get(&self, name: &NodeName) -> Option<&Enrolment> {
        self.0.get(name)
    }

    /// The key of each VM that has joined.
    #[must_use]
    pub fn keys(&self) -> BTreeMap<NodeName, KeyFingerprint> {
        let key =
            |(name, enrolment): (&NodeName, &Enrolment)| Some((name.clone(), enrolment.joined.as_ref()?.key));
        self.0.iter().filter_map(key).collect()
    }

    /// Forgets VMs that are gone, or whose object was made anew, and tokens whose time is over. `present` are all there are.
    pub fn keep<'a>(&mut self, present: impl Fn(&NodeName) -> Option<Uid> + 'a, now_s: u64) {
        self.0.retain(|name, enrolment| {
            if enrolment.token.as_ref().is_some_and(|token| token.expires_s <= now_s) {
                enrolment.token = None;
            }
            present(name) == Some(enrolment.uid)
        });
    }

    /// Opens a token for a VM; an earlier one counts no more. Who has joined stays until the new token is redeemed.
    pub fn invite(&mut self, name: &NodeName, uid: Uid, hash: SecretHash, now_s: u64) -> u64 {
        let expires_s = now_s + TOKEN_LIVES.as_secs();
        let enrolment = self.0.entry(name.clone()).or_insert(Enrolment { uid, token: None, joined: None });
        if enrolment.uid != uid {
            *enrolment = Enrolment { uid, token: None, joined: None };
        }
        enrolment.token = Some(OpenToken { hash, expires_s });
        expires_s
    }

    /// Enrols a key under a name, if it may be. True when that changed something: the same key may come again, with the
    /// token that it redeemed or without any.
    ///
    /// # Errors
    /// [`Refusal`] says what to do.
    pub fn enrol(
        &mut self,
        name: &NodeName,
        secret: Option<&Secret>,
        key: KeyFingerprint,
        now_s: u64,
    ) -> Result<bool, Refusal> {
        let enrolment = self.0.get_mut(name);
        let no_token =
            || if secret.is_some() { Refusal::Other(name.clone()) } else { Refusal::OtherKey(name.clone()) };
        let enrolment = enrolment.ok_or_else(no_token)?;
        if enrolment.joined.as_ref().is_some_and(|joined| joined.key == key) {
            return Ok(false);
        }
        let secret = secret.ok_or_else(|| Refusal::OtherKey(name.clone()))?;
        match &enrolment.token {
            Some(token) if token.hash != secret.hash() => Err(Refusal::Other(name.clone())),
            Some(token) if token.expires_s <= now_s => Err(Refusal::Expired(name.clone())),
            Some(_) => {
                enrolment.token = None;
                enrolment.joined = Some(Joined { key, at_s: now_s });
                Ok(true)
            }
            None if enrolment.joined.is_some() => Err(Refusal::Used(name.clone())),
            None => Err(Refusal::Expired(name.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u64 = 1_800_000_000;
    const UID: Uid = Uid([1; 16]);
    const FIRST: KeyFingerprint = KeyFingerprint([1; 32]);
    const SECOND: KeyFingerprint = KeyFingerprint([2; 32]);

    fn web() -> NodeName {
        "web-1".parse().unwrap()
    }

    fn secret(byte: u8) -> Secret {
        Secret::from_slice(&[byte; 16]).unwrap()
    }

    fn invited() -> Enrolments {
        let mut enrolments = Enrolments::default();
        assert_eq!(enrolments.invite(&web(), UID, secret(7).hash(), NOW_S), NOW_S + 900);
        enrolments
    }

    #[test]
    fn a_token_counts_once_and_the_key_that_redeemed_it_may_come_again() {
        let mut enrolments = invited();
        assert_eq!(enrolments.enrol(&web(), Some(&secret(7)), FIRST, NOW_S + 899), Ok(true));
        assert_eq!(
            enrolments.enrol(&web(), Some(&secret(7)), FIRST, NOW_S + 5_000),
            Ok(false),
            "its reply was lost"
        );
        assert_eq!(
            enrolments.enrol(&web(), None, FIRST, NOW_S + 50_000_000),
            Ok(false),
            "renewed by the key"
        );
        let refused = enrolments.enrol(&web(), Some(&secret(7)), SECOND, NOW_S).unwrap_err();
        assert!(
            refused.to_string().starts_with("the token of web-1 was used already, by another key"),
            "{refused}"
        );
        assert_eq!(enrolments.enrol(&web(), None, SECOND, NOW_S), Err(Refusal::OtherKey(web())));
    }

    #[test]
    fn a_token_is_of_one_name_and_one_time_and_a_later_one_takes_its_place() {
        let mut enrolments = invited();
        let other: NodeName = "web-2".parse().unwrap();
        assert_eq!(enrolments.enrol(&other, Some(&secret(7)), FIRST, NOW_S), Err(Refusal::Other(other)));
        assert_eq!(enrolments.enrol(&web(), Some(&secret(8)), FIRST, NOW_S), Err(Refusal::Other(web())));
        assert_eq!(
            enrolments.enrol(&web(), Some(&secret(7)), FIRST, NOW_S + 900),
            Err(Refusal::Expired(web()))
        );
        enrolments.invite(&web(), UID, secret(9).hash(), NOW_S);
        assert_eq!(enrolments.enrol(&web(), Some(&secret(7)), FIRST, NOW_S), Err(Refusal::Other(web())));
        assert_eq!(enrolments.enrol(&web(), Some(&secret(9)), FIRST, NOW_S), Ok(true));
    }

    #[test]
    fn whoever_joined_stays_until_the_next_token_is_redeemed_and_then_is_out() {
        let mut enrolments = invited();
        enrolments.enrol(&web(), Some(&secret(7)), FIRST, NOW_S).unwrap();
        enrolments.invite(&web(), UID, secret(9).hash(), NOW_S);
        assert_eq!(enrolments.enrol(&web(), None, FIRST, NOW_S), Ok(false));
        assert_eq!(enrolments.enrol(&web(), Some(&secret(9)), SECOND, NOW_S), Ok(true));
        assert_eq!(enrolments.enrol(&web(), None, FIRST, NOW_S), Err(Refusal::OtherKey(web())));
    }

    #[test]
    fn a_vm_that_was_removed_or_made_anew_has_neither_key_nor_token() {
        for present in [None, Some(Uid([2; 16]))] {
            let mut enrolments = invited();
            enrolments.enrol(&web(), Some(&secret(7)), FIRST, NOW_S).unwrap();
            enrolments.keep(|_| present, NOW_S);
            assert_eq!(enrolments, Enrolments::default());
        }
        let mut enrolments = invited();
        enrolments.keep(|_| Some(UID), NOW_S + 900);
        assert_eq!(
            enrolments.enrol(&web(), Some(&secret(7)), FIRST, NOW_S + 901),
            Err(Refusal::Expired(web()))
        );
    }

    #[test]
    fn what_is_kept_reads_back_and_holds_no_secret() {
        let enrolments = invited();
        let bytes = enrolments.to_bytes();
        assert_eq!(serde_json::from_slice::<Enrolments>(&bytes).unwrap(), enrolments);
        assert!(!String::from_utf8(bytes).unwrap().contains("0707"));
    }
}
