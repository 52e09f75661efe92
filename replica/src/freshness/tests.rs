use super::*;
use api::record::StalePolicy;
use expect_test::{Expect, expect};
use std::fmt::Write;

#[test]
fn a_new_peer_is_fresh_when_its_heart_was_seen_to_beat_and_stale_ten_seconds_after_its_last() {
    check(
        "at 0 is stale; at 1 beat; at 1 is stale; at 3 beat; at 3 is fresh; at 12.9 is fresh; at 13 is stale",
        StalePolicy::Demote,
        expect![[r#"
            0 stale
            1 stale
            3 fresh
            12.9 fresh
            13 stale
        "#]],
    );
}

#[test]
fn it_takes_two_beats_to_be_fresh_again() {
    check(
        "at 1 beat; at 3 beat; at 20 is stale; at 21 beat; at 21 is stale; at 23 beat; at 23 is fresh",
        StalePolicy::Demote,
        expect![[r#"
            20 stale
            21 stale
            23 fresh
        "#]],
    );
    check(
        "at 1 beat; at 3 beat; at 20 is stale; at 21 beat; at 40 beat; at 40 is stale; at 42 beat; at 42 is fresh",
        StalePolicy::Demote,
        expect![[r#"
            20 stale
            40 stale
            42 fresh
        "#]],
    );
}

#[test]
fn a_heartbeat_read_again_is_no_beat() {
    check(
        "at 0 beat; at 1 beat; at 5 again; at 9 again; at 11 is stale; at 12 again; at 13 again; at 13 is stale",
        StalePolicy::Demote,
        expect![[r#"
            11 stale
            13 stale
        "#]],
    );
}

#[test]
fn a_dead_source_is_age_too() {
    check(
        "at 0 beat; at 0 beat 6; at 3.9 is fresh; at 4 is stale; at 5 beat 11; at 7 beat 13; at 7 is stale; at 9 beat; at 11 beat; at 11 is fresh",
        StalePolicy::Demote,
        expect![[r#"
            3.9 fresh
            4 stale
            7 stale
            11 fresh
        "#]],
    );
}

#[test]
fn drop_after_counts_from_the_moment_it_became_stale() {
    check(
        "at 0 beat; at 1 beat; at 70 is stale; at 71 is stale; at 72 beat; at 72 is stale; at 74 beat; at 74 is fresh",
        StalePolicy::DropAfter,
        expect![[r#"
            70 stale
            71 stale, dropped
            72 stale, dropped
            74 fresh
        "#]],
    );
}

#[test]
fn it_says_when_to_look_again() {
    let mut age = Age::new(policy(StalePolicy::DropAfter), None, Now::START);
    assert_eq!(age.poll_timeout(at("0")), Some(at("60")));
    age.handle(&heartbeat(1, 0), at("0"));
    age.handle(&heartbeat(2, 0), at("1"));
    assert_eq!(age.poll_timeout(at("1")), Some(at("11")));
    age.verdict(at("11"));
    assert_eq!(age.poll_timeout(at("11")), Some(at("71")));
    assert_eq!(age.poll_timeout(at("71")), None);
}

#[test]
fn a_restart_of_ours_is_no_news_until_the_peer_is_silent_for_as_long_as_ever() {
    let held = |freshness, dropped| Some(Verdict { freshness, dropped });
    let mut age = Age::new(policy(StalePolicy::DropAfter), held(Freshness::Fresh, false), Now::START);
    assert_eq!(age.verdict(at("9.9")).freshness, Freshness::Fresh);
    assert_eq!(age.verdict(at("10")).freshness, Freshness::Stale);
    let mut age = Age::new(policy(StalePolicy::DropAfter), held(Freshness::Stale, true), Now::START);
    assert_eq!(Some(age.verdict(at("0"))), held(Freshness::Stale, true));
    for revision in 0..=FRESH_AFTER_BEATS.into() {
        assert_eq!(age.verdict(at("1")).freshness, Freshness::Stale);
        age.handle(&heartbeat(revision, 0), at("1"));
    }
    assert_eq!(Some(age.verdict(at("1"))), held(Freshness::Fresh, false));
}

// ---- helpers ----

fn policy(policy: StalePolicy) -> Stale {
    Stale { policy, drop_after_s: (policy == StalePolicy::DropAfter).then_some(60) }
}

fn at(seconds: &str) -> Now {
    Now::at(Duration::from_secs_f64(seconds.parse().expect("seconds")))
}

fn heartbeat(revision: u64, source_age_s: u64) -> Heartbeat {
    Heartbeat { boot: BootId([1; 16]), revision, source_age_ms: source_age_s * 1_000 }
}

/// `beat AGE` is a new heartbeat, `again` the last one once more, `is` the verdict that is expected.
fn check(script: &str, stale: StalePolicy, expected: Expect) {
    let mut age = Age::new(policy(stale), None, Now::START);
    let (mut revision, mut out) = (0, String::new());
    for step in script.split("; ") {
        let words: Vec<&str> = step.split(' ').collect();
        let now = at(words[1]);
        match words[2] {
            "beat" => {
                revision += 1;
                age.handle(
                    &heartbeat(revision, words.get(3).map_or(0, |age| age.parse().expect("seconds"))),
                    now,
                );
            }
            "again" => age.handle(&heartbeat(revision, 0), now),
            _ => {
                let Verdict { freshness, dropped } = age.verdict(now);
                let freshness = format!("{freshness:?}").to_lowercase();
                writeln!(out, "{} {freshness}{}", words[1], if dropped { ", dropped" } else { "" })
                    .expect("a string");
                assert_eq!(freshness, words[3], "{step}");
            }
        }
    }
    expected.assert_eq(&out);
}
