//! A follower that was away for longer than the history.

use super::*;

#[test]
fn history_that_was_forgotten_is_caught_up_without_a_list_and_misses_no_delete() {
    let mut bench = of_nodes(3);
    bench.away(|store| {
        store.delete("mesh/v1/east/nodes/n1");
        store.put("mesh/v1/east/nodes/n2", b"2");
        store.delete("mesh/v1/east/nodes/n0");
        store.put("mesh/v1/east/nodes/n0", b"again");
        store.put("mesh-local/v1/applied/n1", b"new");
    });
    assert_eq!(bench.lists, 1);
    bench.check();
    // From there it follows on.
    bench.store.delete("mesh/v1/east/nodes/n2");
    bench.run();
    assert_eq!(bench.lists, 1);
    bench.check();
}

#[test]
fn of_ten_thousand_records_of_which_ten_changed_and_ten_vanished_few_are_moved() {
    let mut bench = of_nodes(10_000);
    assert_eq!(
        bench.moved,
        Moved { records: 10_002, buckets: 0, entries: 0 },
        "a list, and the lineage first"
    );
    bench.moved = Moved::default();
    bench.away(|store| {
        for n in 0..10 {
            store.put(&format!("mesh/v1/east/nodes/n{n}"), b"2");
            store.delete(&format!("mesh/v1/east/nodes/n{}", 5_000 + n));
        }
    });
    assert_eq!(bench.lists, 1);
    bench.check();
    let Moved { records, buckets, entries } = bench.moved;
    assert_eq!(records, 12, "what changed, and the lineage: to resume, and to resync");
    // 256 buckets and one for the other prefix; the entries of ten of them. 18 and 16 bytes each: 11 KB.
    assert_eq!(buckets, 257);
    assert!((200..=600).contains(&entries), "{entries}");
}

#[test]
fn a_slow_follower_is_told_of_what_changed_once_however_often_it_did() {
    let mut bench = of_nodes(100);
    bench.moved = Moved::default();
    bench.away(|store| {
        for n in 0..250 {
            store.put("mesh/v1/east/nodes/n7", &[n]);
        }
    });
    assert_eq!((bench.lists, bench.moved.records), (1, 3), "its last value, and the lineage twice");
    bench.check();
}

#[test]
fn a_store_that_restarted_meanwhile_is_caught_up_and_one_from_an_old_copy_is_listed() {
    let mut bench = of_nodes(3);
    bench.store.heartbeat();
    bench.run();
    let copy = bench.store.clone();
    bench.away(|store| {
        store.heartbeat();
        store.restart(2);
        store.delete("mesh/v1/east/nodes/n1");
    });
    assert_eq!(bench.lists, 1, "the heartbeat is of the boot before, and that boot is in the lineage");
    bench.check();
    bench.away(|store| {
        *store = copy;
        store.restart(3);
        for n in 0..20 {
            store.put("mesh/v1/east/nodes/n9", &[n]);
        }
    });
    assert_eq!(bench.lists, 2, "another history");
    bench.check();
}

#[test]
fn a_store_that_does_not_serve_buckets_is_listed() {
    let mut bench = of_nodes(3);
    bench.store.is_stock = true;
    bench.away(|store| store.delete("mesh/v1/east/nodes/n1"));
    assert_eq!(bench.lists, 2);
    bench.check();
}

#[test]
fn a_resync_that_history_overtakes_is_begun_again_as_a_list() {
    let mut bench = of_nodes(3);
    bench.cut("away");
    bench.store.delete("mesh/v1/east/nodes/n1");
    bench.store.put("mesh/v1/east/nodes/n8", b"1");
    bench.store.compact();
    bench.until_resyncing();
    bench.store.put("mesh/v1/east/nodes/n9", b"1");
    bench.store.compact();
    bench.run();
    bench.check();
    assert_eq!(bench.lists, 2);
}

#[test]
fn what_does_not_fit_is_a_reason_to_list() {
    type Lie = fn(&mut Answer);
    let lies: [(&str, Lie); 7] = [
        ("too few buckets", |answer| {
            if let Answer::Buckets { buckets, .. } = answer {
                buckets.clear();
            }
        }),
        ("another store's buckets", |answer| {
            if let Answer::Buckets { buckets, .. } = answer {
                buckets[0].hash[0] ^= 1;
            }
        }),
        ("more entries than can be", |answer| {
            if let Answer::Buckets { buckets, .. } = answer {
                buckets[0].count = u64::MAX;
            }
        }),
        ("too few entries", |answer| {
            if let Answer::Entries { entries, .. } = answer {
                entries.clear();
            }
        }),
        ("other entries", |answer| {
            if let Answer::Entries { entries, .. } = answer {
                entries[0].0[15] ^= 1;
            }
        }),
        ("a change that is not told", |answer| {
            if let Answer::Page { values, .. } = answer {
                values.retain(|value| value.key == LINEAGE.as_bytes());
            }
        }),
        ("old values", |answer| {
            if let Answer::Page { values, .. } = answer {
                values.iter_mut().filter(|v| v.key != LINEAGE.as_bytes()).for_each(|v| v.mod_revision = 1);
            }
        }),
    ];
    for (what, lie) in lies {
        let mut bench = of_nodes(3);
        bench.cut("away");
        bench.store.delete("mesh/v1/east/nodes/n1");
        bench.store.put("mesh/v1/east/nodes/n0", b"2");
        bench.store.compact();
        bench.run_with(lie);
        assert_eq!(bench.lists, 2, "{what}");
        bench.check();
    }
    // From the connection that was swapped after the lineage was read: another boot's heartbeat.
    let beat =
        api::record::Heartbeat { boot: api::bytes::BootId([9; 16]), revision: 1, source_age_ms: 0 }.encode();
    let mut bench = of_nodes(3);
    bench.cut("away");
    bench.store.put("mesh/v1/east/heartbeat", &beat);
    bench.store.compact();
    bench.run();
    assert_eq!(bench.lists, 2);
}

proptest::proptest! {
    #[test]
    fn it_ends_as_a_list_would_whatever_happened_meanwhile(
        before in proptest::collection::vec((0..40u8, any::<bool>()), 0..60),
        meanwhile in proptest::collection::vec((0..40u8, any::<bool>()), 0..60),
    ) {
        let change = |store: &mut Model, steps: &[(u8, bool)]| for (n, put) in steps {
            let key = if n % 4 == 0 { format!("mesh-local/v1/applied/n{n}") } else { format!("mesh/v1/east/nodes/n{n}") };
            if *put { store.put(&key, &[*n]) } else { store.delete(&key) }
        };
        let mut bench = Bench::new();
        change(&mut bench.store, &before);
        bench.run();
        bench.away(|store| change(store, &meanwhile));
        bench.check();
        proptest::prop_assert_eq!(bench.lists, 1);
    }
}

fn of_nodes(count: usize) -> Bench {
    let mut bench = Bench::new();
    for n in 0..count {
        bench.store.put(&format!("mesh/v1/east/nodes/n{n}"), b"1");
    }
    bench.run();
    bench
}

impl Bench {
    /// Cut off while this happens and history is forgotten.
    fn away(&mut self, happens: impl FnOnce(&mut Model)) {
        self.cut("away");
        // So that there is something to have missed.
        self.store.put("mesh/v1/east/nodes/last", b"1");
        self.store.delete("mesh/v1/east/nodes/last");
        happens(&mut self.store);
        self.store.compact();
        self.run();
    }

    fn until_resyncing(&mut self) {
        for _ in 0..50 {
            if matches!(self.follower.state, State::Resyncing(_)) {
                return;
            }
            if !self.one_request() {
                for answer in self.store.deliver(&mut self.watches) {
                    self.follower.handle(answer, self.now);
                }
                if let Some((at, Wake::Reconnect)) = self.follower.poll_timeout() {
                    self.now = at;
                }
            }
        }
        panic!("it does not resync: {:?}", self.follower);
    }

    /// To the end of the resync, with each of its answers changed.
    fn run_with(&mut self, lie: fn(&mut Answer)) {
        self.until_resyncing();
        while matches!(self.follower.state, State::Resyncing(_)) {
            let request = self.follower.poll_request(self.now).expect("a resync asks until it ends");
            for mut answer in self.store.answer(request, &mut self.watches) {
                lie(&mut answer);
                self.follower.handle(answer, self.now);
            }
        }
        self.run();
    }
}
