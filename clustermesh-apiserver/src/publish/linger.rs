//! Identities stay for a while after their last use: packets and policies in flight still name them.

use api::key::{Key, MeshKey};
use std::{collections::BTreeMap, time::Duration};

/// How long an identity stays after its last use (design, Numbers).
pub const IDENTITY_LINGERS: Duration = Duration::from_secs(600);

/// Since when each held but no longer desired identity is unused.
#[derive(Debug, Clone, Default)]
pub struct Linger {
    unused_since: BTreeMap<Key, Duration>,
}

impl Linger {
    /// Adds to `desired` what is still to be kept of `held`. `now` is any monotonic time; after a restart the ten
    /// minutes begin again.
    pub fn keep(
        &mut self,
        desired: &mut BTreeMap<Key, Vec<u8>>,
        held: &BTreeMap<Key, Vec<u8>>,
        now: Duration,
    ) {
        self.unused_since.retain(|key, _| held.contains_key(key) && !desired.contains_key(key));
        for (key, value) in held {
            if !matches!(key, Key::Mesh(_, MeshKey::Identity(..))) || desired.contains_key(key) {
                continue;
            }
            let since = *self.unused_since.entry(key.clone()).or_insert(now);
            if now.saturating_sub(since) < IDENTITY_LINGERS {
                desired.insert(key.clone(), value.clone());
            }
        }
    }

    /// When the next identity goes, if nothing changes.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.unused_since.values().min().map(|since| *since + IDENTITY_LINGERS)
    }
}
