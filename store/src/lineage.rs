//! Which boots wrote which revisions (design, decision 6): so that a store restored from an old copy fools nobody.

/// The most boots that are remembered; a follower of an older one lists again. A boot a minute for 17 hours.
const BOOTS_MAX: usize = 1_024;

/// A random name for the time between one start of the store and the next.
pub type BootId = [u8; 16];

/// One start of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Its name.
    pub id: BootId,
    /// The first revision it could write: one above what it found.
    pub first_revision: i64,
}

/// The boots of a store, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    boots: Vec<Boot>,
}

impl Lineage {
    /// The lineage with these boots, oldest first; the newest 1,024 are kept.
    pub fn new(mut boots: Vec<Boot>) -> Self {
        let too_many = boots.len().saturating_sub(BOOTS_MAX);
        boots.drain(..too_many);
        Self { boots }
    }

    /// Notes a start of the store at `revision`.
    pub fn begin(&mut self, id: BootId, revision: i64) {
        self.boots.push(Boot { id, first_revision: revision + 1 });
        let too_many = self.boots.len().saturating_sub(BOOTS_MAX);
        self.boots.drain(..too_many);
    }

    /// The boots, oldest first.
    pub fn boots(&self) -> &[Boot] {
        &self.boots
    }

    /// Whether a follower that has everything up to `revision` from boot `id` may go on from there, in a store at `head`.
    ///
    /// A boot's revisions end where *any* later boot began: one that began lower did so from an older copy, and what
    /// was written above it since is another history.
    pub fn admits(&self, id: &BootId, revision: i64, head: i64) -> bool {
        let Some(at) = self.boots.iter().position(|boot| boot.id == *id) else { return false };
        let end = self.boots[at + 1..].iter().map(|boot| boot.first_revision).min().unwrap_or(i64::MAX);
        // One below the first is what the boot found: whoever listed right after its start is there.
        revision >= self.boots[at].first_revision.saturating_sub(1) && revision < end && revision <= head
    }
}
