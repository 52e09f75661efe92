//! Every pair of several clusters: a few at a time, each told whole when it is done, and in the end what came of all.
//!
//! A pair that fails stops no other: running the command again connects what is missing.

use crate::progress::Progress;
use anyhow::{Error, Result};
use futures::{StreamExt as _, stream};
use std::{collections::BTreeMap, io::Write, time::Instant};

/// Pairs at the same time. Each reads both stores four times a second while it waits, and with a cluster in all of them
/// this is 16 lists a second of it, which is less than its agents cost it.
const AT_ONCE: usize = 4;

/// Every pair of `all`, in the order of the command line.
pub fn of<T>(all: &[T]) -> Vec<(&T, &T)> {
    let mut pairs = Vec::new();
    for (at, a) in all.iter().enumerate() {
        pairs.extend(all[at + 1..].iter().map(|b| (a, b)));
    }
    pairs
}

/// Connects pairs by `connect`, which gives the lines to tell of its pair and how it ended; writes them to `out` under the
/// pair's name.
///
/// # Errors
/// That of the first pair, in the order of the command line, that is not connected, after a sentence that names all those.
pub async fn every<F: Future<Output = (String, Result<()>)>>(
    names: &[String],
    connect: impl Fn(usize) -> F,
    progress: &Progress,
    mut out: impl Write,
) -> Result<()> {
    let (started, total) = (Instant::now(), names.len());
    let connecting = (0..total).map(|at| {
        let connecting = connect(at);
        async move { (at, connecting.await) }
    });
    let mut done = stream::iter(connecting).buffer_unordered(AT_ONCE);
    let mut failed: BTreeMap<usize, Error> = BTreeMap::new();
    while let Some((at, (lines, ended))) = done.next().await {
        let mut text = format!("{}\n{lines}", names[at]);
        if let Err(error) = ended {
            text += &format!(" ✗ {error:#}\n");
            failed.insert(at, error);
        }
        progress.aside(|| out.write_all(text.as_bytes()))?;
    }
    let missing: Vec<&str> = failed.keys().map(|at| names[*at].as_str()).collect();
    let said = format!("{} of {total} pairs are not connected ({})", missing.len(), missing.join(", "));
    match failed.into_values().next() {
        Some(first) => Err(first.context(said)),
        None => Ok(writeln!(out, "connected all {total} pairs in {:.1} s", started.elapsed().as_secs_f64())?),
    }
}

#[cfg(test)]
mod tests;
