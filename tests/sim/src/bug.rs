//! Bugs that are planted on purpose, one at a time, to prove that random days find them.
//!
//! All of them live in the simulation's own shells: in the wire that drops a word, the driver that
//! calls a core at the wrong moment or hands it the wrong fact, the host that does not do what it says. That is where
//! each of these mistakes would be made in the product, too (its cores are pure, and its shells do exactly this work),
//! and so the product carries no switch for them.

use std::fmt;

macro_rules! bugs {
    ($($(#[doc = $doc:literal])* $bug:ident = $name:literal,)*) => {
        /// A mistake.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug { $($(#[doc = $doc])* $bug,)* }

        impl Bug {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$bug,)*];

            /// For people.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$bug => $name,)* }
            }
        }
    };
}

bugs! {
    /// A watch that history left behind goes on at the oldest revision there is, and nobody is told.
    ResumesAfterCompaction = "resumes-after-compaction",
    /// A publisher that has not listed its source takes that for an empty one.
    SweepsBeforeSync = "sweeps-before-sync",
    /// A store that starts from an old copy goes on under the name of the boot before.
    KeepsItsBoot = "keeps-its-boot",
    /// Nobody looks after leases.
    LeasesNeverExpire = "leases-never-expire",
    /// Whatever a peer announces is imported.
    ImportsWithoutContract = "imports-without-contract",
    /// A peer may announce as much as it likes, and as fast.
    CountsNothing = "counts-nothing",
    /// A watch loses a delete at times.
    LosesDeletes = "loses-deletes",
    /// What a peer announced stays when it is disconnected.
    KeepsTheDisconnected = "keeps-the-disconnected",
    /// A node that lost its key makes another, and does not say so while its store has the old one.
    HidesItsNewKey = "hides-its-new-key",
    /// A node never takes anything out of its maps.
    NeverRemoves = "never-removes",
    /// The first beat of a peer is the only one that counts.
    HearsOneBeat = "hears-one-beat",
    /// A peer's backends are written under the name of another.
    WritesUnderAnotherName = "writes-under-another-name",
    /// A watch begins one revision too late.
    WatchesTooLate = "watches-too-late",
    /// A map that is full takes nothing, and nobody is told.
    HidesThatItIsFull = "hides-that-it-is-full",
    /// An agent never looks at its host's clock.
    IgnoresItsClock = "ignores-its-clock",
    /// A host forgets of which epoch of its clock a peer was made.
    ForgetsEpochs = "forgets-epochs",
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The bug of a run, if it has one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Planted(pub Option<Bug>);

impl Planted {
    /// Whether it is this one.
    #[must_use]
    pub fn is(self, bug: Bug) -> bool {
        self.0 == Some(bug)
    }
}
