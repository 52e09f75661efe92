use super::twice;
use std::{cell::Cell, future::pending, time::Duration};
use tokio::time::{Instant, sleep};

/// Dials whose `n`th ends as the `n`th of `ends` says: after so many seconds, well or not; `None`: never.
async fn dialled(ends: &[Option<(u64, Result<u64, u64>)>]) -> (usize, u64, Result<u64, u64>) {
    let (dials, started) = (Cell::new(0), Instant::now());
    let ended = twice(|| {
        let end = ends[dials.replace(dials.get() + 1)];
        async move {
            let Some((after_s, end)) = end else { return pending().await };
            sleep(Duration::from_secs(after_s)).await;
            end
        }
    });
    let ended = ended.await;
    (dials.get(), started.elapsed().as_secs(), ended)
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_is_slow_is_tried_once_more_beside_it_and_whichever_is_there_first_is_taken() {
    for (ends, expected) in [
        (&[Some((1, Ok(1)))][..], (1, 1, Ok(1))),
        (&[Some((1, Err(1)))], (1, 1, Err(1))),
        (&[None, Some((1, Ok(2)))], (2, 3, Ok(2))),
        (&[Some((3, Ok(1))), None], (2, 3, Ok(1))),
        (&[Some((5, Err(1))), Some((1, Ok(2)))], (2, 3, Ok(2))),
        (&[Some((4, Ok(1))), Some((0, Err(2)))], (2, 4, Ok(1))),
        (&[Some((5, Err(1))), Some((5, Err(2)))], (2, 7, Err(2))),
    ] {
        assert_eq!(dialled(ends).await, expected, "{ends:?}");
    }
}
