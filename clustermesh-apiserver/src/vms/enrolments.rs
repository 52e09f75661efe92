//! Tokens that are open, and the key that each VM has. Pure; what it holds no source can rebuild.
//!
//! A VM's token is bound to its name and to the first key that redeems it; one for the administrator of another cluster to the
//! first cluster.

use crate::keep;
use api::{
    bytes::{ClusterUuid, KeyFingerprint, Secret, SecretHash, Uid},
    name::NodeName,
};
use std::{collections::BTreeMap, path::Path, time::Duration};

/// Where they are kept in the data directory.
pub const FILE: &str = "enrolments.json";

/// How long a token counts: as long as it takes to go to the machine and paste it.
pub const TOKEN_LIVES: Duration = Duration::from_secs(15 * 60);

/// Tokens for other clusters that are open at a time: an administrator makes one for each cluster, and each lives 15 minutes.
const PEER_TOKENS_MAX: usize = 64;

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Enrolments {
    vms: BTreeMap<NodeName, Enrolment>,
    peer_tokens: Vec<PeerToken>,
}

/// A token for the administrator of another cluster.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct PeerToken {
    #[serde(flatten)]
    token: OpenToken,
    /// The cluster that came with it; it may come again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    redeemed_by: Option<ClusterUuid>,
}

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
    /// No token for a cluster is open that has this secret.
    #[error(
        "this token does not count here: it has expired, or was never made. `meshctl token issue` makes another"
    )]
    NoPeerToken,
    /// It brought another cluster here.
    #[error("this token was used already, by cluster {0}: `meshctl token issue` makes another")]
    UsedByPeer(ClusterUuid),
    /// Too many are open.
    #[error("{PEER_TOKENS_MAX} tokens for other clusters are open: each closes 15 minutes after it was made")]
    TooManyPeerTokens,
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
        keep::load(path, "and let every VM join again")
    }

    /// As the file's content.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("enrolments are plain data")
    }

    /// What is kept of a VM.
    #[must_use]
    pub fn get(&self, name: &NodeName) -> Option<&Enrolment> {
        self.vms.get(name)
    }

    /// The key of each VM that has joined.
    #[must_use]
    pub fn keys(&self) -> BTreeMap<NodeName, KeyFingerprint> {
        let key =
            |(name, enrolment): (&NodeName, &Enrolment)| Some((name.clone(), enrolment.joined.as_ref()?.key));
        self.vms.iter().filter_map(key).collect()
    }

    /// Forgets VMs that are gone, or whose object was made anew, and tokens whose time is over. `present` are all there are.
    pub fn keep<'a>(&mut self, present: impl Fn(&NodeName) -> Option<Uid> + 'a, now_s: u64) {
        self.peer_tokens.retain(|it| it.token.expires_s > now_s);
        self.vms.retain(|name, enrolment| {
            if enrolment.token.as_ref().is_some_and(|token| token.expires_s <= now_s) {
                enrolment.token = None;
            }
            present(name) == Some(enrolment.uid)
        });
    }

    /// Opens a token for a VM; an earlier one counts no more. Who has joined stays until the new token is redeemed.
    pub fn invite(&mut self, name: &NodeName, uid: Uid, hash: SecretHash, now_s: u64) -> u64 {
        let expires_s = now_s + TOKEN_LIVES.as_secs();
        let enrolment = self.vms.entry(name.clone()).or_insert(Enrolment { uid, token: None, joined: None });
        if enrolment.uid != uid {
            *enrolment = Enrolment { uid, token: None, joined: None };
        }
        enrolment.token = Some(OpenToken { hash, expires_s });
        expires_s
    }

    /// Opens a token for the administrator of another cluster.
    ///
    /// # Errors
    /// When too many are open.
    pub fn invite_peer(&mut self, hash: SecretHash, now_s: u64) -> Result<u64, Refusal> {
        self.peer_tokens.retain(|it| it.token.expires_s > now_s);
        if self.peer_tokens.len() >= PEER_TOKENS_MAX {
            return Err(Refusal::TooManyPeerTokens);
        }
        let expires_s = now_s + TOKEN_LIVES.as_secs();
        self.peer_tokens.push(PeerToken { token: OpenToken { hash, expires_s }, redeemed_by: None });
        Ok(expires_s)
    }

    /// Whether a cluster may come with a secret.
    ///
    /// # Errors
    /// [`Refusal`] says what to do.
    pub fn check_peer(&self, secret: &Secret, uuid: ClusterUuid, now_s: u64) -> Result<(), Refusal> {
        let hash = secret.hash();
        let found = self.peer_tokens.iter().find(|it| it.token.hash == hash && it.token.expires_s > now_s);
        match found.ok_or(Refusal::NoPeerToken)?.redeemed_by {
            Some(other) if other != uuid => Err(Refusal::UsedByPeer(other)),
            Some(_) | None => Ok(()),
        }
    }

    /// Binds a token to the cluster that comes with it. True when that changed something.
    ///
    /// # Errors
    /// As [`Enrolments::check_peer`].
    pub fn redeem_peer(&mut self, secret: &Secret, uuid: ClusterUuid, now_s: u64) -> Result<bool, Refusal> {
        self.check_peer(secret, uuid, now_s)?;
        let hash = secret.hash();
        let found = self.peer_tokens.iter_mut().find(|it| it.token.hash == hash);
        Ok(found.is_some_and(|it| it.redeemed_by.replace(uuid).is_none()))
    }

    /// Enrols a key under the name of a VM with this object, if it may be. True when that changed something: the same key may come again, with the
    /// token that it redeemed or without any.
    ///
    /// # Errors
    /// [`Refusal`] says what to do.
    pub fn enrol(
        &mut self,
        name: &NodeName,
        uid: Uid,
        secret: Option<&Secret>,
        key: KeyFingerprint,
        now_s: u64,
    ) -> Result<bool, Refusal> {
        let enrolment = self.vms.get_mut(name).filter(|enrolment| enrolment.uid == uid);
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
        assert_eq!(enrolments.enrol(&web(), UID, Some(&secret(7)), FIRST, NOW_S + 899), Ok(true));
        assert_eq!(
            enrolments.enrol(&web(), UID, Some(&secret(7)), FIRST, NOW_S + 5_000),
            Ok(false),
            "its reply was lost"
        );
        assert_eq!(
            enrolments.enrol(&web(), UID, None, FIRST, NOW_S + 50_000_000),
            Ok(false),
            "renewed by the key"
        );
        let refused = enrolments.enrol(&web(), UID, Some(&secret(7)), SECOND, NOW_S).unwrap_err();
        assert!(
            refused.to_string().starts_with("the token of web-1 was used already, by another key"),
            "{refused}"
        );
        assert_eq!(enrolments.enrol(&web(), UID, None, SECOND, NOW_S), Err(Refusal::OtherKey(web())));
    }

    #[test]
    fn a_token_is_of_one_name_and_one_time_and_a_later_one_takes_its_place() {
        let mut enrolments = invited();
        let other: NodeName = "web-2".parse().unwrap();
        assert_eq!(enrolments.enrol(&other, UID, Some(&secret(7)), FIRST, NOW_S), Err(Refusal::Other(other)));
        assert_eq!(enrolments.enrol(&web(), UID, Some(&secret(8)), FIRST, NOW_S), Err(Refusal::Other(web())));
        assert_eq!(
            enrolments.enrol(&web(), UID, Some(&secret(7)), FIRST, NOW_S + 900),
            Err(Refusal::Expired(web()))
        );
        enrolments.invite(&web(), UID, secret(9).hash(), NOW_S);
        assert_eq!(enrolments.enrol(&web(), UID, Some(&secret(7)), FIRST, NOW_S), Err(Refusal::Other(web())));
        assert_eq!(enrolments.enrol(&web(), UID, Some(&secret(9)), FIRST, NOW_S), Ok(true));
    }

    #[test]
    fn whoever_joined_stays_until_the_next_token_is_redeemed_and_then_is_out() {
        let mut enrolments = invited();
        enrolments.enrol(&web(), UID, Some(&secret(7)), FIRST, NOW_S).unwrap();
        enrolments.invite(&web(), UID, secret(9).hash(), NOW_S);
        assert_eq!(enrolments.enrol(&web(), UID, None, FIRST, NOW_S), Ok(false));
        assert_eq!(enrolments.enrol(&web(), UID, Some(&secret(9)), SECOND, NOW_S), Ok(true));
        assert_eq!(enrolments.enrol(&web(), UID, None, FIRST, NOW_S), Err(Refusal::OtherKey(web())));
    }

    #[test]
    fn a_vm_that_was_removed_or_made_anew_has_neither_key_nor_token() {
        for present in [None, Some(Uid([2; 16]))] {
            let mut enrolments = invited();
            enrolments.enrol(&web(), UID, Some(&secret(7)), FIRST, NOW_S).unwrap();
            enrolments.keep(|_| present, NOW_S);
            assert_eq!(enrolments, Enrolments::default());
        }
        let mut enrolments = invited();
        enrolments.keep(|_| Some(UID), NOW_S + 900);
        assert_eq!(
            enrolments.enrol(&web(), UID, Some(&secret(7)), FIRST, NOW_S + 901),
            Err(Refusal::Expired(web()))
        );
    }

    #[test]
    fn a_token_for_a_cluster_counts_for_the_first_that_comes_which_may_come_again_until_it_expires() {
        let (west, east) = (ClusterUuid([1; 16]), ClusterUuid([2; 16]));
        let mut enrolments = Enrolments::default();
        assert_eq!(enrolments.invite_peer(secret(7).hash(), NOW_S), Ok(NOW_S + 900));
        assert_eq!(enrolments.check_peer(&secret(8), west, NOW_S), Err(Refusal::NoPeerToken));
        assert_eq!(enrolments.check_peer(&secret(7), west, NOW_S + 899), Ok(()), "a look binds nobody");
        assert_eq!(enrolments.redeem_peer(&secret(7), east, NOW_S), Ok(true));
        assert_eq!(enrolments.redeem_peer(&secret(7), east, NOW_S), Ok(false), "its reply was lost");
        assert_eq!(enrolments.redeem_peer(&secret(7), west, NOW_S), Err(Refusal::UsedByPeer(east)));
        assert_eq!(enrolments.redeem_peer(&secret(7), east, NOW_S + 900), Err(Refusal::NoPeerToken));
        for n in 0..PEER_TOKENS_MAX {
            enrolments.invite_peer(secret(n as u8).hash(), NOW_S + 900).unwrap();
        }
        let refused = enrolments.invite_peer(secret(7).hash(), NOW_S + 901);
        assert_eq!(refused, Err(Refusal::TooManyPeerTokens));
    }

    #[test]
    fn what_is_kept_reads_back_and_holds_no_secret() {
        let enrolments = invited();
        let bytes = enrolments.to_bytes();
        assert_eq!(serde_json::from_slice::<Enrolments>(&bytes).unwrap(), enrolments);
        assert!(!String::from_utf8(bytes).unwrap().contains("0707"));
    }
}
