//! How much may pass: so many units a second, and some at once.

use std::time::{Duration, Instant};

/// A rate with a burst. It owes nothing at first, and time pays what it owes.
#[derive(Debug, Clone)]
pub struct Bucket {
    per_s: u64,
    /// How far ahead of the clock the debt may reach.
    burst: Duration,
    paid_until: Option<Instant>,
}

impl Bucket {
    /// `per_s` units a second, and at once as many as `burst` would bring.
    pub fn new(per_s: u64, burst: Duration) -> Self {
        Self { per_s: per_s.max(1), burst, paid_until: None }
    }

    /// Takes this many units, or none.
    pub fn take(&mut self, now: Instant, units: u64) -> bool {
        let takes = Duration::from_nanos(units.saturating_mul(1_000_000_000) / self.per_s);
        let until = self.paid_until.map_or(now, |until| until.max(now)) + takes;
        let fits = until <= now + self.burst;
        if fits {
            self.paid_until = Some(until);
        }
        fits
    }
}
