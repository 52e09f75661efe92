//! What a sniffer saw.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, bail};
use serde::Serialize;

use super::Class;

/// Decoded frames that are kept of each kind of offence: enough to see the pattern.
const KEPT: usize = 20;

/// What a sniffer saw. A frame that crosses the underlay counts once at each of its two links.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Frames by what allowed them.
    pub frames: BTreeMap<Class, u64>,
    /// Frames that no rule allowed.
    pub violations: u64,
    /// The first of them, decoded.
    pub first_violations: Vec<String>,
    /// Frames with a canary in them.
    pub canary_hits: u64,
    /// The first of them, decoded.
    pub first_canary_hits: Vec<String>,
    /// Frames that the kernel dropped before we could read them: then nothing is proven.
    pub missed: u64,
}

impl Report {
    /// Every frame that was judged.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.frames.values().sum::<u64>() + self.violations
    }

    /// Whether nothing was seen that must not be there, and nothing was missed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations == 0 && self.canary_hits == 0 && self.missed == 0
    }

    /// Fails with the first offences unless the report is clean.
    ///
    /// # Errors
    /// It is not clean.
    pub fn check(&self) -> Result<()> {
        if self.is_clean() { Ok(()) } else { bail!("the sniffer saw what must not be there\n{self}") }
    }

    pub(super) fn saw(&mut self, class: Option<Class>, decoded: impl FnOnce() -> String) {
        if let Some(class) = class {
            *self.frames.entry(class).or_default() += 1;
            return;
        }
        self.violations += 1;
        if self.first_violations.len() < KEPT {
            self.first_violations.push(decoded());
        }
    }

    pub(super) fn saw_canary(&mut self, decoded: String) {
        self.canary_hits += 1;
        if self.first_canary_hits.len() < KEPT {
            self.first_canary_hits.push(decoded);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (class, count) in &self.frames {
            writeln!(f, "{count:>10} {class}")?;
        }
        writeln!(f, "{:>10} not allowed", self.violations)?;
        self.first_violations.iter().try_for_each(|frame| writeln!(f, "           {frame}"))?;
        writeln!(f, "{:>10} with a canary", self.canary_hits)?;
        self.first_canary_hits.iter().try_for_each(|frame| writeln!(f, "           {frame}"))?;
        write!(f, "{:>10} missed", self.missed)
    }
}
