use super::{
    model::{LINEAGE, Model, Watch},
    watching::SILENCE_MAX,
    *,
};
use proptest::prelude::{Strategy, any, prop_oneof};
use std::collections::BTreeMap;

#[test]
fn a_new_follower_lists_and_then_hears_of_every_change() {
    let mut bench = Bench::new();
    bench.store.put("mesh/v1/east/nodes/n1", b"1");
    bench.run();
    assert_eq!(bench.lists, 1);
    bench.check();
    bench.store.put("mesh-local/v1/applied/n1", b"2");
    bench.store.delete("mesh/v1/east/nodes/n1");
    bench.run();
    assert_eq!(bench.lists, 1);
    bench.check();
}

#[test]
fn after_a_cut_it_resumes_and_misses_no_delete() {
    let mut bench = Bench::new();
    bench.store.put("mesh/v1/east/nodes/n1", b"1");
    bench.run();
    bench.cut("cable");
    bench.store.delete("mesh/v1/east/nodes/n1");
    bench.run();
    assert_eq!(bench.lists, 1);
    bench.check();
}

#[test]
fn a_restarted_store_is_resumed_and_one_restored_from_an_old_copy_is_listed() {
    let mut bench = Bench::new();
    bench.store.put("mesh/v1/east/nodes/n1", b"1");
    let copy = bench.store.clone();
    bench.store.put("mesh/v1/east/nodes/n2", b"2");
    bench.run();
    bench.cut("restart");
    // The last word of the boot that we followed, which we have not heard.
    bench.store.heartbeat();
    bench.store.restart(2);
    bench.store.put("mesh/v1/east/nodes/n3", b"3");
    bench.run();
    assert_eq!(bench.lists, 1, "the same history goes on");
    bench.check();

    bench.cut("restored");
    bench.store = copy;
    bench.store.restart(3);
    // As far as the follower is, and further, so that revisions alone say nothing.
    for n in 0..20 {
        bench.store.put("mesh/v1/east/nodes/n9", &[n]);
    }
    bench.run();
    assert_eq!(bench.lists, 2, "another history");
    bench.check();
}

#[test]
fn a_store_that_lost_everything_is_listed_though_it_is_behind() {
    let mut bench = Bench::new();
    for n in 0..9 {
        bench.store.put("mesh/v1/east/nodes/n1", &[n]);
    }
    bench.run();
    bench.cut("lost");
    bench.store = Model::new(2);
    bench.run();
    assert_eq!(bench.lists, 2);
    bench.check();
}

#[test]
fn a_store_that_was_swapped_under_a_standing_session_is_found_out_by_its_heartbeat() {
    let mut bench = Bench::new();
    bench.store.put("mesh/v1/east/nodes/n1", b"1");
    bench.run();
    bench.store = Model::new(2);
    for _ in 0..9 {
        bench.store.put("mesh/v1/east/nodes/n2", b"2");
    }
    bench.store.heartbeat();
    bench.run();
    assert_eq!(bench.lists, 2);
    bench.check();
}

#[test]
fn a_list_is_read_in_pages_at_one_revision() {
    let mut bench = Bench::new();
    for n in 0..PAGE_KEYS * 2 + 1 {
        bench.store.put(&format!("mesh/v1/east/nodes/n{n}"), b"1");
    }
    // The store changes behind each page: the watch tells it, the list does not.
    bench.between = |store| store.delete("mesh/v1/east/nodes/n0");
    bench.run();
    bench.check();
}

#[test]
fn an_answer_of_an_older_session_changes_nothing() {
    let mut bench = Bench::new();
    bench.store.put("mesh/v1/east/nodes/n1", b"1");
    bench.run();
    let old = bench.follower.session;
    bench.cut("cable");
    bench.run();
    let late = Change::Delete { key: "mesh/v1/east/nodes/n1".into(), mod_revision: 99 };
    bench
        .follower
        .handle(Answer::Changes { session: old, watch: 0, changes: vec![late], more: false }, bench.now);
    bench.run();
    bench.check();
}

#[test]
fn the_halves_of_a_fragmented_revision_advance_it_once() {
    let mut bench = Bench::new();
    bench.run();
    let (session, at) = (bench.follower.session, bench.progress);
    let half = |key: &str, more| {
        let put = Value { key: key.into(), value: vec![1], mod_revision: at + 1 };
        Answer::Changes { session, watch: 0, changes: vec![Change::Put(put)], more }
    };
    bench.follower.handle(half("mesh/v1/east/nodes/n1", true), bench.now);
    bench.drain();
    assert_eq!(bench.progress, at);
    bench.follower.handle(half("mesh/v1/east/nodes/n2", false), bench.now);
    bench.follower.handle(Answer::Progress { session, watch: Some(1), revision: at + 1 }, bench.now);
    bench.drain();
    assert_eq!((bench.progress, bench.lists), (at + 1, 1));
}

#[test]
fn what_a_lying_store_says_ends_the_session_and_is_listed_again() {
    let changes = |key: &str, mod_revision: u64| vec![Change::Delete { key: key.into(), mod_revision }];
    for (why, changes) in [
        ("a key that was not asked for", changes("secret", 50)),
        ("a revision that was complete", changes("mesh/v1/east/nodes/n1", 1)),
    ] {
        let mut bench = Bench::new();
        bench.run();
        let session = bench.follower.session;
        bench.follower.handle(Answer::Changes { session, watch: 0, changes, more: false }, bench.now);
        bench.run();
        assert_eq!(bench.lists, 2, "{why}");
        bench.check();
    }
    let mut bench = Bench::new();
    bench.run();
    let session = bench.follower.session;
    bench.follower.handle(Answer::Watching { session, watch: 0, revision: 0 }, bench.now);
    bench.run();
    assert_eq!(bench.lists, 2, "a store that is behind what it gave us");
}

#[test]
fn a_page_that_does_not_move_on_is_not_asked_for_for_ever() {
    let value = |key: &str| Value { key: key.into(), value: vec![], mod_revision: 1 };
    for (why, values) in [
        ("empty", vec![]),
        ("out of order", vec![value("mesh/v1/b"), value("mesh/v1/a")]),
        ("a foreign key", vec![value("other")]),
        ("from the future", vec![Value { mod_revision: 1_000, ..value("mesh/v1/a") }]),
    ] {
        let mut listing = Listing::new(&["mesh/v1/".to_owned()], None, 9, Now::START);
        assert!(listing.take(values, true, Now::START).is_err(), "{why}");
    }
}

#[test]
fn waits_grow_to_a_bound_and_differ_between_followers() {
    let waits = |seed: u64| [0, 1, 5, 9, 1_000].map(|failures| backoff::wait(failures, seed));
    let (one, other) = (waits(1), waits(2));
    assert_ne!(one, other);
    for (wait, full) in one.iter().zip([250, 500, 8_000, 15_000, 15_000]) {
        assert!((full / 2..=full).contains(&(wait.as_millis() as u64)), "{wait:?} of {full} ms");
    }
}

#[test]
fn a_silent_watch_is_asked_and_then_given_up() {
    let mut bench = Bench::new();
    bench.run();
    let (at, why) = bench.follower.poll_timeout().expect("a wake");
    assert_eq!((at.since(bench.now), why), (SILENCE_MAX, Wake::Silence));
    assert!(matches!(bench.follower.poll_request(at), Some(Request::Progress { .. })));
    let (at, why) = bench.follower.poll_timeout().expect("a wake");
    assert_eq!(why, Wake::Overdue);
    assert!(matches!(bench.follower.poll_request(at), Some(Request::Disconnect { .. })));
    bench.watches.clear();
    bench.run();
    assert_eq!(bench.lists, 1, "a quiet store is resumed, not listed");
}

mod resync;
mod thin;

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    Heartbeat,
    Cut,
    Restart,
    Restore,
    Compact,
    Stock(bool),
    Copy,
    Run,
    OneRequest,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6u8, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        3 => (0..6u8).prop_map(Step::Delete),
        1 => prop_oneof![
            proptest::strategy::Just(Step::Heartbeat),
            proptest::strategy::Just(Step::Cut),
            proptest::strategy::Just(Step::Restart),
            proptest::strategy::Just(Step::Restore),
            proptest::strategy::Just(Step::Compact),
            any::<bool>().prop_map(Step::Stock),
            proptest::strategy::Just(Step::Copy),
        ],
        3 => proptest::strategy::Just(Step::OneRequest),
        2 => proptest::strategy::Just(Step::Run),
    ]
}

proptest::proptest! {
    #[test]
    fn whatever_happens_after_quiet_time_it_holds_what_the_store_holds(
        steps in proptest::collection::vec(step(), 0..80)
    ) {
        let mut bench = Bench::new();
        let mut copy = bench.store.clone();
        let mut boot = 1;
        let key = |n: u8| if n < 4 { format!("mesh/v1/east/nodes/n{n}") } else { format!("mesh-local/v1/applied/n{n}") };
        for step in steps {
            match step {
                Step::Put(n, value) => bench.store.put(&key(n), &[value]),
                Step::Delete(n) => bench.store.delete(&key(n)),
                Step::Heartbeat => bench.store.heartbeat(),
                Step::Cut => bench.cut("cable"),
                Step::Compact => bench.store.compact(),
                Step::Stock(is_stock) => bench.store.is_stock = is_stock,
                Step::Copy => copy = bench.store.clone(),
                Step::Restart | Step::Restore => {
                    boot += 1;
                    if matches!(step, Step::Restore) {
                        bench.store = copy.clone();
                    }
                    bench.store.restart(boot);
                    bench.cut("restart");
                }
                Step::Run => bench.run(),
                Step::OneRequest => drop(bench.one_request()),
            }
        }
        bench.run();
        bench.check();
    }
}

// ---- helpers: a follower, a model store, and what an owner would hold ----

struct Bench {
    follower: Follower,
    store: Model,
    watches: Vec<Watch>,
    between: fn(&mut Model),
    now: Now,
    held: BTreeMap<Vec<u8>, Value>,
    next: Option<BTreeMap<Vec<u8>, Value>>,
    lists: usize,
    progress: u64,
    moved: Moved,
}

/// What came over the wire.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Moved {
    records: usize,
    buckets: usize,
    entries: usize,
}

impl Moved {
    fn count(&mut self, answer: &Answer) {
        match answer {
            Answer::Page { values, .. } => self.records += values.len(),
            Answer::Changes { changes, .. } => self.records += changes.len(),
            Answer::Buckets { buckets, .. } => self.buckets += buckets.len(),
            Answer::Entries { entries, .. } => self.entries += entries.len(),
            Answer::Connected { .. }
            | Answer::Unserved { .. }
            | Answer::Watching { .. }
            | Answer::Progress { .. }
            | Answer::Compacted { .. }
            | Answer::Refused { .. }
            | Answer::Failed { .. } => {}
        }
    }
}

fn prefixes() -> Follow {
    let prefixes = vec!["mesh/v1/".to_owned(), "mesh-local/v1/".to_owned()];
    Follow { cluster: "east".parse().expect("a name"), prefixes }
}

impl Bench {
    fn new() -> Self {
        Self {
            follower: Follower::new(prefixes(), 7),
            store: Model::new(1),
            watches: Vec::new(),
            between: |_| (),
            now: Now::START,
            held: BTreeMap::new(),
            next: None,
            lists: 0,
            progress: 0,
            moved: Moved::default(),
        }
    }

    fn cut(&mut self, error: &str) {
        self.watches.clear();
        let session = self.follower.session;
        self.follower.handle(Answer::Failed { session, error: error.to_owned() }, self.now);
    }

    fn one_request(&mut self) -> bool {
        let Some(request) = self.follower.poll_request(self.now) else { return false };
        for answer in self.store.answer(request, &mut self.watches) {
            self.moved.count(&answer);
            self.follower.handle(answer, self.now);
        }
        self.drain();
        (self.between)(&mut self.store);
        true
    }

    /// Until nobody has anything to say but timers of silence.
    fn run(&mut self) {
        for _ in 0..200 {
            while self.one_request() {}
            let owed = self.store.deliver(&mut self.watches);
            let quiet = owed.is_empty();
            for answer in owed {
                self.moved.count(&answer);
                self.follower.handle(answer, self.now);
            }
            self.drain();
            match self.follower.poll_timeout() {
                Some((_, Wake::Silence)) | None if quiet => return,
                Some((at, Wake::Reconnect | Wake::Progress | Wake::Overdue)) => self.now = at.max(self.now),
                Some((_, Wake::Silence)) | None => {}
            }
        }
        panic!("the follower does not come to rest: {:?}", self.follower);
    }

    fn drain(&mut self) {
        while let Some(event) = self.follower.poll_event() {
            match event {
                Event::Init => self.next = Some(BTreeMap::new()),
                Event::InitApply(value) => {
                    self.next.as_mut().expect("a list was begun").insert(value.key.clone(), value);
                }
                Event::InitDone { revision } => {
                    self.held = self.next.take().expect("a list was begun");
                    self.lists += 1;
                    self.progress = revision;
                }
                Event::Apply(value) => drop(self.held.insert(value.key.clone(), value)),
                Event::Delete { key, .. } => {
                    assert!(self.held.remove(&key).is_some(), "a delete of what was never told");
                }
                Event::Progress { revision } => {
                    assert!(revision > self.progress, "progress goes forward");
                    self.progress = revision;
                }
                Event::Resumed { revision } => {
                    assert!(revision >= self.progress, "nothing is told twice as new");
                    self.progress = revision;
                }
                Event::Disconnected { .. } => {}
            }
        }
    }

    #[track_caller]
    fn check(&self) {
        let mut expected = self.store.content(&self.follower.follow.prefixes);
        // Its own lineage key is as good a record as any; only its presence matters here.
        assert!(expected.remove(LINEAGE.as_bytes()).is_some());
        let mut held = self.held.clone();
        assert!(held.remove(LINEAGE.as_bytes()).is_some());
        assert_eq!(held, expected);
    }
}
