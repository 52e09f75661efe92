use std::time::{Duration, Instant};

use super::Line;

#[test]
fn a_packet_arrives_when_its_time_has_come_and_after_those_before_it() {
    let began = Instant::now();
    let at = |ms| began + Duration::from_millis(ms);
    let mut line = Line::new(Duration::from_millis(250));
    for (ms, packet) in [(0, "first"), (10, "second"), (10, "third")] {
        line.take(at(ms), packet);
    }
    assert_eq!((line.arrived(at(249)), line.next()), (None, Some(at(250))));
    assert_eq!(line.arrived(at(250)), Some("first"));
    assert_eq!((line.arrived(at(259)), line.next()), (None, Some(at(260))));
    assert_eq!((line.arrived(at(300)), line.arrived(at(300))), (Some("second"), Some("third")));
    assert_eq!((line.arrived(at(300)), line.next()), (None, None));
}
