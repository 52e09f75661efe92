//! Of which epoch of its clock each peer of the tunnel's device was made. The device cannot say it and outlives agents,
//! so it stands in a file.
//!
//! What is not in the file counts as epoch 0. Should the file be lost while the device stays, peers whose clocks went back
//! once are made anew once more, which costs them a handshake.

use crate::step::TunnelStep;
use api::bytes::PublicKey;
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};
use tracing::warn;

/// Epochs other than 0, and where they are kept.
pub(super) struct ClockEpochs {
    path: PathBuf,
    by_peer: BTreeMap<PublicKey, u64>,
    unsaved: bool,
}

impl ClockEpochs {
    /// As they were kept; none when there is no file, or one that is not ours.
    pub(super) fn kept_in(path: PathBuf) -> Self {
        let by_peer = read(&path).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                warn!(path = %path.display(), %error, "Cannot read of which clock epochs the peers are");
            }
            BTreeMap::new()
        });
        Self { path, by_peer, unsaved: false }
    }

    pub(super) fn of(&self, peer: &PublicKey) -> u64 {
        self.by_peer.get(peer).copied().unwrap_or_default()
    }

    /// Notes steps that the device took.
    pub(super) fn took<'a>(&mut self, steps: impl Iterator<Item = &'a TunnelStep>) {
        for step in steps {
            let (peer, epoch) = match step {
                TunnelStep::AddPeer { peer, clock_epoch, .. }
                | TunnelStep::RenewPeer { peer, clock_epoch, .. } => (peer, *clock_epoch),
                TunnelStep::RemovePeer { peer } => (peer, 0),
                TunnelStep::SetDevice { .. }
                | TunnelStep::SetEndpoint { .. }
                | TunnelStep::SetKeepalive { .. }
                | TunnelStep::AddAllowed { .. }
                | TunnelStep::RemoveAllowed { .. } => continue,
            };
            let before = match epoch {
                0 => self.by_peer.remove(peer).unwrap_or_default(),
                epoch => self.by_peer.insert(*peer, epoch).unwrap_or_default(),
            };
            self.unsaved |= before != epoch;
        }
        if self.unsaved {
            match write(&self.path, &self.by_peer) {
                Ok(()) => self.unsaved = false,
                Err(error) => {
                    warn!(path = %self.path.display(), %error, "Cannot keep of which clock epochs the peers are");
                }
            }
        }
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<PublicKey, u64>> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Not synced: a power cut that takes it ends the sessions, too.
fn write(path: &Path, by_peer: &BTreeMap<PublicKey, u64>) -> io::Result<()> {
    let part = path.with_extension("part");
    fs::write(&part, serde_json::to_vec(by_peer)?)?;
    fs::rename(part, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn add(byte: u8, clock_epoch: u64) -> TunnelStep {
        let peer = PublicKey([byte; 32]);
        TunnelStep::AddPeer { peer, endpoint: None, keepalive_s: 5, allowed: BTreeSet::new(), clock_epoch }
    }

    #[test]
    fn another_agent_finds_of_which_epoch_each_peer_was_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clock-epochs.json");
        let mut epochs = ClockEpochs::kept_in(path.clone());
        epochs.took([add(1, 3), add(2, 0), add(3, 7)].iter());
        epochs.took([TunnelStep::RemovePeer { peer: PublicKey([3; 32]) }].iter());
        let found = ClockEpochs::kept_in(path.clone());
        assert_eq!([1, 2, 3].map(|byte| found.of(&PublicKey([byte; 32]))), [3, 0, 0]);
        fs::write(&path, "no JSON").unwrap();
        assert_eq!(ClockEpochs::kept_in(path).of(&PublicKey([1; 32])), 0, "what is not ours says nothing");
    }
}
