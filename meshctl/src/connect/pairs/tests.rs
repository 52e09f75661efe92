use super::*;
use crate::ended::{self, Ended};
use expect_test::expect;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Barrier;

fn names(of_all: &[&str]) -> Vec<String> {
    of(of_all).into_iter().map(|(a, b)| format!("{a} and {b}")).collect()
}

fn text(out: Vec<u8>) -> String {
    String::from_utf8(out).expect("text")
}

#[test]
fn three_clusters_are_three_pairs_in_the_order_of_the_command_line() {
    assert_eq!(names(&["a", "b", "c"]), ["a and b", "a and c", "b and c"]);
    assert_eq!(names(&["a", "b"]).len(), 1);
    assert_eq!(names(&["a", "b", "c", "d", "e"]).len(), 10);
}

#[tokio::test]
async fn pairs_are_connected_at_the_same_time_and_never_more_than_a_few() {
    let names = names(&["a", "b", "c", "d", "e"]);
    let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    // Nobody gets past it before as many are there as may be: with fewer at a time this test would not end. Two times
    // four of the ten pairs meet at it; the last two do not wait.
    let (together, begun) = (Barrier::new(AT_ONCE), AtomicUsize::new(0));
    let connect = |_| async {
        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        if begun.fetch_add(1, Ordering::SeqCst) < 2 * AT_ONCE {
            together.wait().await;
        }
        running.fetch_sub(1, Ordering::SeqCst);
        (String::new(), Ok(()))
    };
    let mut out = Vec::new();
    every(&names, connect, &Progress::new(), &mut out).await.expect("all connected");
    assert_eq!(most.into_inner(), AT_ONCE);
    assert!(text(out).contains("connected all 10 pairs in "));
}

#[tokio::test]
async fn a_pair_that_fails_stops_no_other_and_the_first_one_gives_the_exit_code() {
    let names = names(&["a", "b", "c"]);
    let connect = async |at| match at {
        0 => (" ✓ trust\n".to_owned(), Ok(())),
        1 => (" ✓ reach\n".to_owned(), Err(Ended::Refused("a and c overlap".to_owned()).into())),
        _ => (String::new(), Err(Error::from(Ended::Unreachable("c".to_owned())).context("no answer"))),
    };
    let mut out = Vec::new();
    let error = every(&names, connect, &Progress::new(), &mut out).await.expect_err("not all");
    expect![[r#"
        a and b
         ✓ trust
        a and c
         ✓ reach
         ✗ a and c overlap
        b and c
         ✗ no answer: cannot connect to c
    "#]]
    .assert_eq(&text(out));
    expect!["2 of 3 pairs are not connected (a and c, b and c): a and c overlap"]
        .assert_eq(&format!("{error:#}"));
    assert_eq!(ended::code(&error), std::process::ExitCode::from(ended::REFUSED));
}
