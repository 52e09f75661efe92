use super::*;

const MINUTE_MS: u64 = 60_000;
/// Some day.
const DAY_MS: u64 = 1_790_000_000_000;

#[test]
fn a_clock_that_shows_less_than_ever_before_begins_a_new_epoch_once() {
    let mut clock = Clock::default();
    let mut shows = |minutes: i64, seconds: i64| {
        let now_ms = DAY_MS.saturating_add_signed((minutes * 60 + seconds) * 1_000);
        (clock.look(now_ms).map(|back| back.as_secs()), clock.epoch)
    };
    assert_eq!(shows(0, 0), (None, 0), "the first look has nothing to compare with");
    assert_eq!(shows(1, 0), (None, 0));
    assert_eq!(shows(0, 50), (None, 0), "ten seconds are what time daemons do");
    assert_eq!(shows(0, 49), (Some(11), 1), "one more is not, counted from the latest time");
    assert_eq!(shows(0, 49), (None, 1), "once");
    assert_eq!(shows(-50, 0), (Some(50 * 60 + 49), 2));
    assert_eq!(shows(-50, 30), (None, 2), "it goes on where it is");
    assert_eq!(shows(30, 0), (None, 2), "a clock that jumps ahead is heeded by everybody");
    assert_eq!(shows(0, 0), (Some(30 * 60), 3), "and its way back is a way back");
}

#[test]
fn many_small_steps_back_are_one_large_one() {
    let mut clock = Clock::default();
    clock.look(DAY_MS);
    let steps = (1..=4).map(|step| clock.look(DAY_MS - step * 4_000).is_some());
    assert_eq!(steps.collect::<Vec<_>>(), [false, false, true, false]);
}

#[test]
fn a_start_compares_with_what_an_earlier_agent_has_seen() {
    let dir = tempfile::tempdir().unwrap();
    let mut clock = KeptClock::in_dir(dir.path());
    assert_eq!(clock.look(DAY_MS, None), 0);
    assert_eq!(clock.look(DAY_MS + 5 * MINUTE_MS, None), 0);
    // Less than a minute later: not worth a write.
    assert_eq!(clock.look(DAY_MS + 5 * MINUTE_MS + 30_000, None), 0);
    assert_eq!(KeptClock::in_dir(dir.path()).clock.latest_ms, DAY_MS + 5 * MINUTE_MS);

    let mut rebooted = KeptClock::in_dir(dir.path());
    assert_eq!(rebooted.look(DAY_MS + MINUTE_MS, None), 1);
    // The epoch is on the disk at once.
    assert_eq!(KeptClock::in_dir(dir.path()).look(DAY_MS + MINUTE_MS, None), 1);
}

#[test]
fn an_epoch_is_above_every_one_that_was_told_although_the_disk_was_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut clock = KeptClock::in_dir(dir.path());
    assert_eq!(clock.look(DAY_MS, Some(7)), 7);
    assert_eq!(clock.look(DAY_MS - MINUTE_MS, Some(7)), 8);
}

#[test]
fn a_file_that_is_not_ours_says_nothing_and_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("clock.json"), "{").unwrap();
    assert_eq!(KeptClock::in_dir(dir.path()).look(DAY_MS, None), 0);
    assert_eq!(KeptClock::in_dir(dir.path()).clock.latest_ms, DAY_MS);
}
