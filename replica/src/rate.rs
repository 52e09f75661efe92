//! A token bucket: so many a second on average, some seconds' worth at once.

use crate::Now;
use std::time::Duration;

/// Allows `rate` things a second, and what was not used in the last [`BURST`] on top.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate_per_s: u32,
    /// In millionths of a token, so that slow rates fill, too.
    level_millionths: u64,
    at: Now,
}

/// How long unused allowance is kept (the contract's limit is an average over ten seconds).
pub const BURST: Duration = Duration::from_secs(10);

const MILLION: u64 = 1_000_000;

impl Bucket {
    /// A full bucket. A rate of zero counts as one, so that nothing waits for ever.
    #[must_use]
    pub fn new(rate_per_s: u32, now: Now) -> Self {
        let mut bucket = Self { rate_per_s: rate_per_s.max(1), level_millionths: 0, at: now };
        bucket.level_millionths = bucket.capacity_millionths();
        bucket
    }

    fn capacity_millionths(&self) -> u64 {
        u64::from(self.rate_per_s) * BURST.as_secs() * MILLION
    }

    /// Takes a token if there is one.
    pub fn take(&mut self, now: Now) -> bool {
        self.take_many(1, now)
    }

    /// Takes so many tokens if there are; at most a burst's can ever be.
    pub fn take_many(&mut self, count: u32, now: Now) -> bool {
        let passed_us = u64::try_from(now.since(self.at).min(BURST).as_micros()).unwrap_or(u64::MAX);
        let filled = self.level_millionths + passed_us * u64::from(self.rate_per_s);
        self.level_millionths = filled.min(self.capacity_millionths());
        self.at = self.at.max(now);
        let wanted = u64::from(count) * MILLION;
        let there = self.level_millionths >= wanted;
        if there {
            self.level_millionths -= wanted;
        }
        there
    }

    /// When there is a token again.
    #[must_use]
    pub fn ready_at(&self) -> Now {
        self.many_ready_at(1)
    }

    /// When there are so many tokens again.
    #[must_use]
    pub fn many_ready_at(&self, count: u32) -> Now {
        let missing = (u64::from(count) * MILLION).saturating_sub(self.level_millionths);
        self.at + Duration::from_micros(missing.div_ceil(u64::from(self.rate_per_s)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_tokens_are_taken_at_once_or_not_at_all() {
        let mut bucket = Bucket::new(2, Now::START);
        assert!(bucket.take_many(18, Now::START));
        assert!(!bucket.take_many(4, Now::START));
        assert_eq!(bucket.many_ready_at(4), Now::at(Duration::from_secs(1)));
        assert!(bucket.take_many(2, Now::START), "what is there stays for those who need less");
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let mut bucket = Bucket::new(2, Now::START);
        let taken = |bucket: &mut Bucket, at| (0..100).filter(|_| bucket.take(at)).count();
        assert_eq!(taken(&mut bucket, Now::START), 20);
        assert_eq!(bucket.ready_at(), Now::at(Duration::from_millis(500)));
        assert_eq!(taken(&mut bucket, Now::at(Duration::from_millis(499))), 0);
        assert_eq!(taken(&mut bucket, Now::at(Duration::from_millis(1_600))), 3);
        assert_eq!(
            taken(&mut bucket, Now::at(Duration::from_secs(3_600))),
            20,
            "no more than a burst is kept"
        );
    }
}
