//! What a session says in our own store: our side of the peering, the verdict, the records, the counters.

use super::{COUNTERS_EVERY, RETRY, Session, Wish, WishKind};
use crate::{
    pipes::{Route, way},
    publish::{Op, TXN_OPS, writes},
    source::driver::unix_s,
};
use api::{
    bytes::Nonce,
    key::{LocalKey, MeshKey},
    record::{ImportState, PeerState, Phase},
};
use replica::{
    import::Write,
    peering::{self, Decision},
};
use std::sync::atomic::Ordering;
use tokio::time::Instant;
use tracing::{error, info};

impl Session {
    /// Our side of the peering, and the verdict; what differs is written.
    pub(super) async fn tell(&mut self) -> anyhow::Result<()> {
        let now = self.now();
        let object = self.object;
        let Decision { publish, wish, phase, .. } =
            self.side.decide(&object, self.import.seen().peering(), now, unix_s());
        let verdict = self.age.verdict(now);
        let state = PeerState {
            uuid: self.peer.spec.uuid,
            phase,
            freshness: verdict.freshness,
            stale_policy: self.peer.spec.stale.policy,
            drop_after_ms: self.peer.spec.stale.drop_after_s().map_or(0, |s| u64::from(s) * 1_000),
            prefixes: self.peer.spec.contract.cidrs.clone(),
            nonce: object.nonce,
            dropped: verdict.dropped,
            through: self.peer.spec.through.clone(),
            relay: self.peer.spec.contract.relay.clone(),
        };
        let mut ops = Vec::new();
        if self.told.0.as_ref() != Some(&publish) {
            let key = MeshKey::Peering(self.name.clone()).of(&self.around.own.name);
            ops.push(Op::Put { key, value: publish.encode() });
        }
        if self.told.1.as_ref() != Some(&state) {
            ops.push(Op::Put { key: LocalKey::Peer(self.name.clone()).into(), value: state.encode() });
        }
        if !ops.is_empty() {
            writes::write(&self.around.engine, &ops).await?;
            if self.told.1.as_ref().map(|was| (was.freshness, was.phase))
                != Some((state.freshness, state.phase))
            {
                info!(freshness = ?state.freshness, phase = ?state.phase, "Verdict about the peer");
            }
            self.told = (Some(publish), Some(state));
        }
        self.was_active.fetch_or(phase == Phase::Active, Ordering::AcqRel);
        self.import.set_active(phase == Phase::Active);
        self.wish(object.nonce, wish);
        Ok(())
    }

    fn wish(&mut self, nonce: Option<Nonce>, wish: peering::Wish) {
        let kind = match wish {
            peering::Wish::Keep => {
                self.wished = None;
                return;
            }
            peering::Wish::Activate => WishKind::Activate,
            peering::Wish::Remove(why) => WishKind::Remove(why.to_string()),
        };
        let wish = Wish { peer: self.name.clone(), nonce, kind };
        let again = self.wished.as_ref().is_none_or(|(last, at)| *last != wish || at.elapsed() >= RETRY);
        // A full queue is a busy manager; the wish is said again.
        if again && self.around.wishes.try_send(wish.clone()).is_ok() {
            self.wished = Some((wish, Instant::now()));
        }
    }

    pub(super) async fn write(&mut self) -> anyhow::Result<()> {
        let mut written = false;
        loop {
            let wanted = self.import.poll_writes(TXN_OPS, self.now());
            if wanted.is_empty() {
                if let Some(received) = self.received.take().filter(|_| written) {
                    self.took.observe(received.elapsed().as_secs_f64());
                }
                return Ok(());
            }
            written = true;
            let ops = wanted.iter().map(|write| match write {
                Write::Put { key, value } => Op::Put { key: key.clone(), value: value.clone() },
                Write::Delete { key } => Op::Delete { key: key.clone() },
            });
            // Records of 64 KiB would not fit by the hundred; in pieces they do.
            for txn in crate::publish::txns(ops.collect()) {
                if let Err(error) = writes::write(&self.around.engine, &txn).await {
                    self.import.requeue(wanted);
                    return Err(error.into());
                }
            }
        }
    }

    /// Counters, at most once a second; says when the next ones may be written.
    pub(super) async fn count(&mut self) -> Option<Instant> {
        let way = way(&Route::from(&self.peer));
        let state = ImportState { way, ..self.import.state() };
        let (written, at) = &self.counters;
        let next = *at + COUNTERS_EVERY;
        let same = |written: &ImportState| {
            // The peer's heartbeat moves its revision every two seconds; that alone is no news.
            ImportState { peer_revision: 0, ..written.clone() }
                == ImportState { peer_revision: 0, ..state.clone() }
        };
        let quiet = written.as_ref().is_some_and(same);
        if quiet && written.as_ref().is_some_and(|written| written.peer_revision == state.peer_revision) {
            return None;
        }
        if written.is_some() && Instant::now() < next {
            return Some(next);
        }
        let op = Op::Put { key: LocalKey::Import(self.name.clone()).into(), value: state.encode() };
        match writes::write(&self.around.engine, &[op]).await {
            Ok(()) => {
                self.counters = (Some(state), Instant::now());
                None
            }
            Err(error) => {
                error!(%error, "Cannot write the import's counters; trying again");
                self.counters.1 = Instant::now();
                Some(Instant::now() + COUNTERS_EVERY)
            }
        }
    }
}
