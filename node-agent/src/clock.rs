//! Whether this host's clock went back. Pure, but for the file.
//!
//! WireGuard stamps the handshakes that it opens with the wall clock, and who answered one refuses every later one of the
//! same key that is not stamped after it (WireGuard whitepaper, section 5.1). So what counts is the latest time that this
//! clock has ever shown: a clock that shows less has gone back, no matter whether while we looked, or while the machine was
//! off. Then our clock epoch grows, with our key's record it is told, and each peer forgets our stamp once.
//!
//! While nobody can be told, sessions go on for as long as they last (three minutes); after them, whoever knows where
//! we are opens the next one from his side. Who cannot dial us is reached again when the record arrives, or when the
//! clock has passed where it was.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};
use tracing::warn;

/// A smaller step is over before tunnels count as silent (15 s), and is what time daemons do to a clock that is off by
/// a little.
const TOLERATED: Duration = Duration::from_secs(10);
/// The latest time goes to the disk this often. A machine that loses power and starts with an earlier clock is noticed
/// when that is earlier than what was kept; the stamps of the last minute are passed within a minute.
const KEEP_EVERY: Duration = Duration::from_secs(60);

/// What a wall clock has shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Clock {
    /// How often it went back.
    epoch: u64,
    /// The latest time of this epoch, Unix time in milliseconds.
    latest_ms: u64,
}

impl Clock {
    /// Looks at the clock. How far it has gone back, when it has since the last look.
    pub fn look(&mut self, now_ms: u64) -> Option<Duration> {
        let back = Duration::from_millis(self.latest_ms.saturating_sub(now_ms));
        if back <= TOLERATED {
            self.latest_ms = self.latest_ms.max(now_ms);
            return None;
        }
        *self = Self { epoch: self.epoch.saturating_add(1), latest_ms: now_ms };
        Some(back)
    }

    /// Takes an epoch that we have told earlier: a disk that was put back to an old state has a smaller one, and nobody
    /// would heed the next.
    pub fn has_told(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
    }

    /// How often it went back.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether it is worth a write, when that is what the disk has: a new epoch at once, a later time each minute.
    #[must_use]
    pub fn is_news_to(&self, kept: &Self) -> bool {
        let later = Duration::from_millis(self.latest_ms.saturating_sub(kept.latest_ms));
        self.epoch != kept.epoch || later >= KEEP_EVERY
    }
}

/// A clock that is remembered over restarts.
#[derive(Debug)]
pub struct KeptClock {
    path: PathBuf,
    clock: Clock,
    kept: Clock,
}

impl KeptClock {
    /// As it was kept in the state directory. A file that cannot be read says nothing of the past.
    #[must_use]
    pub fn in_dir(state_dir: &Path) -> Self {
        let path = state_dir.join("clock.json");
        let clock = read(&path).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                warn!(path = %path.display(), %error, "Cannot read what our clock has shown");
            }
            Clock::default()
        });
        Self { path, clock, kept: clock }
    }

    /// Looks at the clock, and keeps what is worth it. `told` is the epoch that our store has of us.
    pub fn look(&mut self, now_ms: u64, told: Option<u64>) -> u64 {
        self.clock.has_told(told.unwrap_or_default());
        if let Some(back) = self.clock.look(now_ms) {
            warn!(
                ?back,
                clock_epoch = self.clock.epoch(),
                "This host's clock went back: peers are told to forget the stamps of our handshakes"
            );
        }
        if self.clock.is_news_to(&self.kept) {
            // Also when it fails: the next try is as far away as after a success.
            self.kept = self.clock;
            if let Err(error) = write(&self.path, &self.clock) {
                warn!(path = %self.path.display(), %error, "Cannot keep what our clock has shown");
            }
        }
        self.clock.epoch()
    }
}

fn read(path: &Path) -> io::Result<Clock> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn write(path: &Path, clock: &Clock) -> io::Result<()> {
    daemon::durable::write(path, &serde_json::to_vec(clock)?)
}

#[cfg(test)]
mod tests;
