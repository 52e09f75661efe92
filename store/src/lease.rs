//! Leases: keys that go when nobody keeps them alive.
//!
//! A lease is an id, a time to live, an owner and the keys that hang on it. Granting and ending one is durable with the
//! batch it is in, beside the deletes of its keys; being kept alive is not, so after a restart every lease begins a whole
//! time to live anew (as etcd's do without checkpoints): a crash can lengthen a lease and never shorten it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::row::RowError;
use crate::state::{ChangeSet, Store};
use crate::{Error, LEASE_TTL_MAX_S, LEASE_TTL_MIN_S, LEASES_MAX, LEASES_PER_OWNER_MAX};

/// The first byte of every lease on disk.
const LAYOUT: u8 = 1;

/// The longest name of an owner: SPIFFE's bound on an ID.
const LEASE_OWNER_BYTES_MAX: usize = 2_048;

/// One look at the clock ends at most this many leases, so that many that expire at once do not hold the store for
/// longer than a full group of requests does; the rest go with the next look.
const EXPIRED_PER_LOOK_MAX: usize = 256;

/// As `etcdserverpb.LeaseGrantRequest`, and whose it will be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseGrant {
    /// Its name, not 0: whoever asks for one chooses, because nothing here is random.
    pub id: i64,
    /// Seconds it lives without being kept alive; raised to [`LEASE_TTL_MIN_S`].
    pub ttl_s: i64,
    /// Who granted it: bytes that mean something to the shell alone.
    pub owner: Bytes,
}

/// As `etcdserverpb.LeaseTimeToLiveResponse`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseStatus {
    /// The store's revision.
    pub revision: i64,
    /// Whole seconds that are left.
    pub remaining_s: i64,
    /// Seconds it lives each time it is kept alive.
    pub granted_s: i64,
    /// Who granted it.
    pub owner: Bytes,
    /// The keys that hang on it, in order.
    pub keys: Vec<Bytes>,
}

#[derive(Debug)]
struct Lease {
    ttl_s: i64,
    owner: Bytes,
    expires_at: Instant,
    keys: BTreeSet<Bytes>,
}

impl Lease {
    fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(9 + self.owner.len());
        out.put_u8(LAYOUT);
        out.put_i64(self.ttl_s);
        out.put_slice(&self.owner);
        out.freeze()
    }

    fn decode(id: i64, mut bytes: Bytes, now: Instant) -> Result<Self, RowError> {
        let damaged = |what| RowError::Lease { id, what };
        if bytes.try_get_u8().map_err(|_| damaged("it is empty"))? != LAYOUT {
            return Err(damaged("its layout is unknown"));
        }
        let ttl_s = bytes.try_get_i64().map_err(|_| damaged("it is cut off"))?;
        if !(LEASE_TTL_MIN_S..=LEASE_TTL_MAX_S).contains(&ttl_s) {
            return Err(damaged("its time to live is out of bounds"));
        }
        Ok(Self { ttl_s, owner: bytes, expires_at: after(now, ttl_s), keys: BTreeSet::new() })
    }
}

/// All leases, and which expires next.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    by_id: BTreeMap<i64, Lease>,
    by_expiry: BTreeSet<(Instant, i64)>,
    per_owner: BTreeMap<Bytes, usize>,
}

impl Leases {
    /// The leases of a disk, each with a whole time to live from `now`.
    pub(crate) fn restore(
        kept: impl IntoIterator<Item = (i64, Bytes)>,
        now: Instant,
    ) -> Result<Self, RowError> {
        let mut leases = Self::default();
        for (id, bytes) in kept {
            leases.insert(id, Lease::decode(id, bytes, now)?);
        }
        Ok(leases)
    }

    pub(crate) fn contains(&self, id: i64) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Every lease as it lies on the disk.
    pub(crate) fn encoded(&self) -> impl Iterator<Item = (i64, Bytes)> {
        self.by_id.iter().map(|(id, lease)| (*id, lease.encode()))
    }

    /// A key that hung on `from` hangs on `to`; 0 is no lease.
    ///
    /// One that is unknown is ended or, during a restore, will be ended by a later row.
    pub(crate) fn rehang(&mut self, key: &Bytes, from: i64, to: i64) {
        if from == to {
            return;
        }
        if let Some(lease) = self.by_id.get_mut(&from) {
            lease.keys.remove(key);
        }
        if let Some(lease) = self.by_id.get_mut(&to) {
            lease.keys.insert(key.clone());
        }
    }

    fn insert(&mut self, id: i64, lease: Lease) {
        self.by_expiry.insert((lease.expires_at, id));
        *self.per_owner.entry(lease.owner.clone()).or_default() += 1;
        self.by_id.insert(id, lease);
    }

    fn remove(&mut self, id: i64) -> Option<Lease> {
        let lease = self.by_id.remove(&id)?;
        self.by_expiry.remove(&(lease.expires_at, id));
        let owned = self.per_owner.get_mut(&lease.owner).expect("every lease is counted under its owner");
        *owned -= 1;
        if *owned == 0 {
            self.per_owner.remove(&lease.owner);
        }
        Some(lease)
    }

    fn expired(&self, now: Instant) -> Vec<i64> {
        let expired = self.by_expiry.iter().take_while(|(at, _)| *at <= now);
        expired.take(EXPIRED_PER_LOOK_MAX).map(|(_, id)| *id).collect()
    }
}

impl Store {
    /// Grants a lease; returns its time to live in seconds. The answer may be given away after the commit.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`] for the id 0, [`Error::LeaseTtlTooLarge`], [`Error::LeaseExists`],
    /// [`Error::RequestTooLarge`] for the owner's name; [`Error::TooManyRequests`] when there are as many leases as there may be.
    pub fn lease_grant(&mut self, request: &LeaseGrant, now: Instant) -> Result<i64, Error> {
        if request.owner.len() > LEASE_OWNER_BYTES_MAX {
            return Err(Error::RequestTooLarge);
        }
        // etcd's order: 0 names no lease.
        if request.id == 0 {
            return Err(Error::LeaseNotFound);
        }
        if request.ttl_s > LEASE_TTL_MAX_S {
            return Err(Error::LeaseTtlTooLarge);
        }
        if self.leases.contains(request.id) {
            return Err(Error::LeaseExists);
        }
        let owned = self.leases.per_owner.get(&request.owner).copied().unwrap_or_default();
        if self.leases.len() >= LEASES_MAX || owned >= LEASES_PER_OWNER_MAX {
            return Err(Error::TooManyRequests);
        }
        let ttl_s = request.ttl_s.max(LEASE_TTL_MIN_S);
        let lease = Lease {
            ttl_s,
            owner: request.owner.clone(),
            expires_at: after(now, ttl_s),
            keys: BTreeSet::new(),
        };
        self.pending.leases.insert(request.id, Some(lease.encode()));
        self.leases.insert(request.id, lease);
        Ok(ttl_s)
    }

    /// Ends a lease and deletes its keys, in one revision; returns the store's revision.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`].
    pub fn lease_revoke(&mut self, id: i64, now: Instant) -> Result<i64, Error> {
        let lease = self.leases.remove(id).ok_or(Error::LeaseNotFound)?;
        self.pending.leases.insert(id, None);
        let mut set = ChangeSet::begin(self, now);
        for key in lease.keys {
            set.delete(key);
        }
        Ok(set.end())
    }

    /// Gives a lease its whole time to live again, which it returns in seconds.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`].
    pub fn lease_keep_alive(&mut self, id: i64, now: Instant) -> Result<i64, Error> {
        let Leases { by_id, by_expiry, .. } = &mut self.leases;
        let lease = by_id.get_mut(&id).ok_or(Error::LeaseNotFound)?;
        by_expiry.remove(&(lease.expires_at, id));
        lease.expires_at = after(now, lease.ttl_s);
        by_expiry.insert((lease.expires_at, id));
        Ok(lease.ttl_s)
    }

    /// What is applied of a lease; the answer may be given away after the commit.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`].
    pub fn lease(&self, id: i64, now: Instant) -> Result<LeaseStatus, Error> {
        let lease = self.leases.by_id.get(&id).ok_or(Error::LeaseNotFound)?;
        let remaining = lease.expires_at.saturating_duration_since(now).as_secs();
        Ok(LeaseStatus {
            revision: self.applied(),
            remaining_s: i64::try_from(remaining).unwrap_or(i64::MAX),
            granted_s: lease.ttl_s,
            owner: lease.owner.clone(),
            keys: lease.keys.iter().cloned().collect(),
        })
    }

    /// Who granted a lease.
    pub fn lease_owner(&self, id: i64) -> Option<&Bytes> {
        self.leases.by_id.get(&id).map(|lease| &lease.owner)
    }

    /// The ids of all leases, the one that expires next first (as etcd's); the answer may be given away after the commit.
    pub fn leases(&self) -> Vec<i64> {
        self.leases.by_expiry.iter().map(|(_, id)| *id).collect()
    }

    /// Ends leases whose time is up, each in a revision of its own, the oldest first; returns their ids. There may be
    /// more: look at [`Store::lease_expiry`].
    pub fn expire_leases(&mut self, now: Instant) -> Vec<i64> {
        let expired = self.leases.expired(now);
        for id in &expired {
            self.lease_revoke(*id, now).expect("a lease that expires is there");
        }
        expired
    }

    /// When the next lease expires.
    pub fn lease_expiry(&self) -> Option<Instant> {
        self.leases.by_expiry.first().map(|(at, _)| *at)
    }
}

fn after(now: Instant, ttl_s: i64) -> Instant {
    now + Duration::from_secs(u64::try_from(ttl_s).expect("a time to live is at least LEASE_TTL_MIN_S"))
}
