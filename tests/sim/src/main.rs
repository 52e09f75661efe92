//! `sim SEEDS [FIRST]`: random days under the laws, as many as there is time for. `make sim` calls it.

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use sim::{
    explore::{explore, shorten},
    laws::Broken,
    tunnels,
};
use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

/// What the ordinary tests run is below this.
const FIRST: u64 = 500;

fn main() -> anyhow::Result<()> {
    let mut numbers = std::env::args().skip(1).map(|text| {
        text.parse::<u64>()
            .with_context(|| format!("cannot read `{text}` as a number of seeds or a first seed"))
    });
    let Some(seeds) = numbers.next().transpose()? else { bail!("say how many seeds: sim SEEDS [FIRST]") };
    let first = numbers.next().transpose()?.unwrap_or(FIRST);
    // A broken law is told by its script, not by a panic's own words on the way.
    std::panic::set_hook(Box::new(|_| ()));

    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} days, {per_sec}, {eta} left")?;
    let progress = ProgressBar::new(seeds).with_style(style);
    let (next, stop, failed) = (AtomicU64::new(first), AtomicBool::new(false), Mutex::new(None));
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                return;
            }
            let day = explore(seed, None).map_err(|failure| {
                stop.store(true, Ordering::Relaxed);
                shorten(failure, None).to_string()
            });
            let of_tunnels = || {
                let told = |broken: Broken| format!("seed {seed}, tunnels: {}: {}", broken.law, broken.how);
                tunnels::explore(seed, None).map_err(told)
            };
            if let Err(told) = day.and_then(|()| of_tunnels()) {
                stop.store(true, Ordering::Relaxed);
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(told);
            }
            progress.inc(1);
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
    progress.finish_and_clear();
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        None => println!("{seeds} days from seed {first} on kept every law"),
        Some(told) => bail!("{told}"),
    }
    Ok(())
}
