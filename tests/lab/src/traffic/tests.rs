use super::CANARY;
use super::seq::Tracker;
use super::stream::expected_byte;

/// Lost, after these numbers arrived and the sender ended at `total`.
fn lost(numbers: &[u64], total: u64) -> u64 {
    let mut tracker = Tracker::default();
    numbers.iter().for_each(|number| tracker.observe(*number));
    tracker.end(total);
    tracker.lost()
}

#[test]
fn what_did_not_arrive_is_lost_and_what_came_late_or_twice_is_not() {
    assert_eq!(lost(&[0, 1, 2, 3], 4), 0);
    assert_eq!(lost(&[0, 3, 1, 2, 2], 4), 0);
    assert_eq!(lost(&[1, 2], 3), 1, "the first was lost");
    assert_eq!(lost(&[0, 1], 5), 3, "the end was lost");
    assert_eq!(lost(&[], 5), 5, "all were lost");
    assert_eq!(lost(&[0, 1_000_000], 1_000_001), 999_999, "more than is remembered one by one");
}

#[test]
fn a_stream_holds_the_canary_and_differs_from_unit_to_unit() {
    let bytes: Vec<u8> = (0..4_096).map(expected_byte).collect();
    let units: Vec<&[u8]> = bytes.chunks(32).collect();
    assert!(units.iter().all(|unit| unit.ends_with(CANARY.as_bytes())));
    assert!(units.windows(2).all(|pair| pair[0] != pair[1]));
}
