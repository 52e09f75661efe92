//! What anybody was told by any of the programs, and whether the last one still says so.

use rpc::etcdserverpb as pb;
use std::collections::BTreeMap;

/// A change of one key: its revision, the key, the value.
pub type Change = (i64, Vec<u8>, Vec<u8>);

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// All that was told.
#[derive(Debug, Default)]
pub struct Witness {
    /// To a writer: the key has the value, by a txn of this revision.
    pub acknowledged: BTreeMap<i64, Vec<Pair>>,
    /// To the reader: at the header's revision, the keys had these versions.
    pub read: BTreeMap<i64, Vec<Change>>,
    /// To the watcher, which resumed behind the last one it had.
    pub watched: Vec<Change>,
    /// The newest revision that anybody saw.
    pub newest: i64,
}

impl Witness {
    pub fn acknowledge(&mut self, revision: i64, pairs: Vec<Pair>) {
        self.newest = self.newest.max(revision);
        self.acknowledged.insert(revision, pairs);
    }

    pub fn read(&mut self, answer: pb::RangeResponse) {
        let revision = answer.header.map_or(0, |header| header.revision);
        self.newest = self.newest.max(revision);
        let kvs =
            answer.kvs.into_iter().map(|kv| (kv.mod_revision, kv.key.into(), kv.value.into())).collect();
        self.read.insert(revision, kvs);
    }

    pub fn watch(&mut self, answer: pb::WatchResponse) {
        assert!(!answer.canceled, "nothing was compacted: {answer:?}");
        for kv in answer.events.into_iter().filter_map(|event| event.kv) {
            self.newest = self.newest.max(kv.mod_revision);
            self.watched.push((kv.mod_revision, kv.key.into(), kv.value.into()));
        }
    }

    /// From where the watcher goes on. A revision is told whole, so the next one is what is missing.
    pub fn resume(&self) -> i64 {
        self.watched.last().map_or(1, |(revision, ..)| revision + 1)
    }

    /// What of it is not in the history that the store tells now: nothing, or sentences.
    pub fn contradictions(&self, history: &[Change], head: i64) -> Vec<String> {
        let mut wrong = Vec::new();
        if head < self.newest {
            wrong.push(format!("the revision went back to {head} from {}", self.newest));
        }
        let mut at: BTreeMap<i64, BTreeMap<&[u8], &[u8]>> = BTreeMap::new();
        for (revision, key, value) in history {
            at.entry(*revision).or_default().insert(key, value);
        }
        for (revision, changes) in &at {
            // Every txn of a writer puts the same number under two keys.
            let values: Vec<_> = changes.values().collect();
            if changes.len() != 2 || values[0] != values[1] {
                wrong.push(format!("revision {revision} is torn: {}", show(changes)));
            }
        }
        for (revision, pairs) in &self.acknowledged {
            let held = at.get(revision);
            if !pairs
                .iter()
                .all(|(key, value)| held.is_some_and(|held| held.get(&key[..]) == Some(&&value[..])))
            {
                wrong.push(format!("revision {revision} was acknowledged and is gone"));
            }
        }
        for (revision, kvs) in &self.read {
            for (written, key, value) in kvs {
                if at.get(written).and_then(|held| held.get(&key[..])) != Some(&&value[..]) {
                    let key = key.escape_ascii();
                    wrong.push(format!(
                        "a reader saw {key} of revision {written} at {revision}, and it is gone"
                    ));
                }
            }
        }
        let told = &history[..history.len().min(self.watched.len())];
        if told != self.watched {
            let differs = told.iter().zip(&self.watched).find(|(a, b)| a != b).map(|(a, b)| (a.0, b.0));
            wrong.push(format!(
                "the watcher was told another history: {} changes of {}, they differ at {differs:?}",
                self.watched.len(),
                history.len()
            ));
        }
        wrong
    }
}

fn show(changes: &BTreeMap<&[u8], &[u8]>) -> String {
    let pairs = changes.iter().map(|(key, value)| format!("{}={}", key.escape_ascii(), value.escape_ascii()));
    pairs.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_witness_notices_what_is_lost_torn_or_told_otherwise() {
    let change = |revision: i64, key: &str, value: &str| {
        (revision, key.as_bytes().to_vec(), value.as_bytes().to_vec())
    };
    let history: Vec<Change> = [(5, "1"), (6, "2")]
        .iter()
        .flat_map(|(at, n)| [change(*at, "left", n), change(*at, "right", n)])
        .collect();
    let pair =
        |n: &str| vec![(b"left".to_vec(), n.as_bytes().to_vec()), (b"right".to_vec(), n.as_bytes().to_vec())];
    let mut witness = Witness { watched: history[..2].to_vec(), ..Witness::default() };
    witness.acknowledge(5, pair("1"));
    witness.acknowledge(6, pair("2"));
    witness.read.insert(6, history[2..].to_vec());
    assert_eq!(witness.contradictions(&history, 6), Vec::<String>::new());

    let says = |history: &[Change], head| witness.contradictions(history, head).join("; ");
    assert_eq!(
        says(&history[..2], 5),
        "the revision went back to 5 from 6; revision 6 was acknowledged and is gone; a reader saw left of revision 6 \
         at 6, and it is gone; a reader saw right of revision 6 at 6, and it is gone"
    );
    assert!(says(&history[..3], 6).contains("revision 6 is torn: left=2"));
    let other =
        [change(5, "left", "9"), change(5, "right", "9"), change(6, "left", "2"), change(6, "right", "2")];
    assert!(says(&other, 6).ends_with("told another history: 2 changes of 4, they differ at Some((5, 5))"));
}
