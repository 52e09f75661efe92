//! A follower behind a link that is slow, or breaks while a list comes.

use super::*;

/// What the pings of a connection wait for behind an answer.
const PING_WITHIN: Duration = Duration::from_secs(5);

impl Bench {
    /// How long the slowest answer took.
    fn run_at_64_kbit(&mut self) -> Duration {
        let mut slowest = Duration::ZERO;
        self.run_over(|bytes| {
            let took = at_64_kbit(bytes);
            slowest = took.max(slowest);
            took
        });
        slowest
    }
}

#[test]
fn over_a_thin_link_no_answer_takes_as_long_as_a_ping_may_and_over_a_fast_one_pages_are_full() {
    let mut bench = Bench::with_nodes(2_000);
    let slowest = bench.run_at_64_kbit();
    assert_eq!(bench.lists, 1);
    bench.check();
    assert!(slowest < PING_WITHIN, "{slowest:?}");
    assert!(bench.now.elapsed() < at_64_kbit(2_000 * RECORD_BYTES) * 2, "{} for a list", bench.now);

    let mut bench = Bench::with_nodes(2_000);
    let mut largest = 0;
    bench.run_over(|bytes| {
        largest = bytes.max(largest);
        Duration::from_millis(1)
    });
    assert_eq!((bench.lists, largest), (1, PAGE_KEYS * RECORD_BYTES));
    bench.check();
}

#[test]
fn over_a_thin_link_a_resync_of_much_comes_in_small_answers_too() {
    let mut bench = Bench::with_nodes(2_000);
    bench.run_over(at_64_kbit);
    bench.cut("away");
    for n in 0..800 {
        bench.store.delete(&format!("mesh/v1/east/nodes/n{n}"));
    }
    bench.store.compact();
    bench.moved = Moved::default();
    let slowest = bench.run_at_64_kbit();
    assert_eq!(bench.lists, 1);
    bench.check();
    assert_eq!(bench.moved.entries, 1_201, "every bucket differs");
    assert!(slowest < PING_WITHIN, "{slowest:?}");
}

#[test]
fn a_list_that_a_broken_session_interrupts_goes_on_where_it_was() {
    let mut bench = Bench::with_nodes(1_000);
    while bench.moved.records < 500 {
        bench.one_request();
    }
    let before = bench.moved.records;
    bench.cut("cable");
    // What happens meanwhile is told by the watch, as for a list in one session.
    bench.store.delete("mesh/v1/east/nodes/n999");
    bench.store.put("mesh/v1/east/nodes/n0", b"2");
    bench.run();
    assert_eq!(bench.lists, 1);
    bench.check();
    let moved = bench.moved.records - before;
    assert_eq!(moved, 1_000 + 2 - before + 1 + 2, "the rest, the lineage again, and two changes");
}

#[test]
fn a_list_that_was_interrupted_begins_anew_where_another_history_answers_or_its_revision_is_forgotten() {
    type Happens = fn(&mut Model);
    let cases: [(&str, Happens); 2] = [
        ("another store", |store| {
            *store = Model::new(2);
            for n in 0..800 {
                store.put(&format!("mesh/v1/east/nodes/m{n}"), b"1");
            }
        }),
        ("compacted", |store| {
            store.delete("mesh/v1/east/nodes/n0");
            store.compact();
        }),
    ];
    for (what, happens) in cases {
        let mut bench = Bench::with_nodes(1_000);
        while bench.moved.records < 500 {
            bench.one_request();
        }
        bench.cut("cable");
        happens(&mut bench.store);
        bench.run();
        assert_eq!(bench.lists, 1, "{what}");
        bench.check();
    }
}

#[test]
fn resyncs_that_break_again_and_again_give_way_to_a_list_which_goes_on_where_it_was() {
    let mut bench = Bench::with_nodes(1_000);
    bench.run();
    bench.cut("away");
    for n in 0..400 {
        bench.store.delete(&format!("mesh/v1/east/nodes/n{n}"));
    }
    bench.store.compact();
    for round in 1..=BROKEN_RESYNCS_MAX as usize {
        // It hears that history is forgotten, connects anew, and is told the buckets.
        let told = bench.moved.buckets;
        for _ in 0..20 {
            if bench.moved.buckets == told {
                bench.step();
            }
        }
        assert!(bench.moved.buckets > told && bench.lists == 1, "round {round}");
        bench.cut("away again");
    }
    bench.run();
    assert_eq!(bench.lists, 2);
    bench.check();
}

#[test]
fn an_owner_that_is_slow_makes_no_link_slow() {
    let mut bench = Bench::with_nodes(4 * PAGE_KEYS);
    let mut largest = 0;
    bench.run_for(Duration::from_secs(4), |bytes| {
        largest = bytes.max(largest);
        Duration::from_millis(1)
    });
    assert_eq!(largest, PAGE_KEYS * RECORD_BYTES);
}

#[test]
fn however_slow_a_link_the_least_answer_of_a_resync_of_many_records_is_small() {
    let mut slowest = Pace::new();
    (0..10).for_each(|_| slowest.slow_down());
    for entries in [0, 1, 100, 10_000, 100_000, 1_000_000] {
        let bits = super::super::resync::bits(entries, slowest);
        let (buckets, bucket) = ((1 << bits) * 18, (entries >> bits) * 16);
        assert!(at_64_kbit(buckets.max(bucket)) < PING_WITHIN, "{entries}: {buckets} or {bucket} bytes");
    }
}

/// A record's size on the wire.
const RECORD_BYTES: usize = 300;

/// Half a second there and back.
fn at_64_kbit(bytes: usize) -> Duration {
    Duration::from_millis(500) + Duration::from_secs(1) * u32::try_from(bytes).expect("few") / 8_000
}

impl Bench {
    fn with_nodes(count: usize) -> Self {
        let mut bench = Self::new();
        for n in 0..count {
            bench.store.put(&format!("mesh/v1/east/nodes/n{n}"), b"1");
        }
        bench
    }

    /// One request, or the end of a wait, and what its watches are owed.
    fn step(&mut self) {
        if let Some((at, Wake::Reconnect)) = self.follower.poll_timeout() {
            self.now = at.max(self.now);
        }
        if !self.one_request() {
            for answer in self.store.deliver(&mut self.watches) {
                self.follower.handle(answer, self.now);
            }
        }
    }

    /// Until it watches, over a link on which so many bytes take so long.
    fn run_over(&mut self, takes: impl FnMut(usize) -> Duration) {
        self.run_for(Duration::ZERO, takes);
    }

    /// The same for an owner that takes so long for what an answer tells.
    fn run_for(&mut self, owner: Duration, mut takes: impl FnMut(usize) -> Duration) {
        while !self.follower.is_watching() {
            if let Some((at, Wake::Reconnect)) = self.follower.poll_timeout() {
                self.now = at.max(self.now);
            }
            let request = self.follower.poll_request(self.now).expect("who does not watch asks");
            for answer in self.store.answer(request, &mut self.watches) {
                let before = self.moved;
                self.moved.count(&answer);
                let Moved { records, buckets, entries } = self.moved;
                let bytes = (records - before.records) * RECORD_BYTES
                    + (buckets - before.buckets) * 18
                    + (entries - before.entries) * 16;
                self.now = self.now + takes(bytes);
                self.follower.handle(answer, self.now);
            }
            self.drain();
            self.now = self.now + owner;
        }
        self.run();
    }
}
