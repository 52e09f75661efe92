//! New TCP connections, one after the other: what a client without a pool sees.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::the_end;

/// An answer is a name; a server that says more is not read further.
const ANSWER_MAX: u64 = 64 * 1024;

/// What was seen.
#[derive(Debug, Default, Serialize)]
pub struct Connections {
    /// Connections that were tried.
    pub attempts: u64,
    /// Those that could not be made, or whose request was not answered.
    pub failures: u64,
    /// The longest time from a failed attempt to the next that went well, or to the end.
    pub longest_failure_ms: u128,
    /// The first failure's reason.
    pub first_error: Option<String>,
    /// With `--http`: how often each answer came.
    pub answers: BTreeMap<String, u64>,
}

/// Connects every `every`, and with `http` asks for `/`.
///
/// # Errors
/// Signals cannot be listened to; a failed connection is counted instead.
pub async fn run(
    target: SocketAddr,
    every: Duration,
    patience: Duration,
    http: bool,
    seconds: f64,
) -> Result<Connections> {
    let mut seen = Connections::default();
    let mut failing_since: Option<Instant> = None;
    let attempts = async {
        let mut pace = interval(every);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            pace.tick().await;
            let began = Instant::now();
            let tried = timeout(patience, attempt(target, http)).await.context("timed out").flatten();
            // Not before: one that the end cuts off has neither failed nor not.
            seen.attempts += 1;
            match tried {
                Ok(answer) => {
                    seen.longest_failure_ms = seen.longest_failure_ms.max(stretch(failing_since.take()));
                    if let Some(answer) = answer {
                        *seen.answers.entry(answer).or_default() += 1;
                    }
                }
                Err(error) => {
                    seen.failures += 1;
                    seen.first_error.get_or_insert_with(|| format!("{error:#}"));
                    failing_since.get_or_insert(began);
                }
            }
        }
    };
    tokio::select! {
        () = attempts => {}
        result = the_end(Some(seconds)) => result?,
    }
    seen.longest_failure_ms = seen.longest_failure_ms.max(stretch(failing_since));
    Ok(seen)
}

async fn attempt(target: SocketAddr, http: bool) -> Result<Option<String>> {
    let mut connection = TcpStream::connect(target).await.context("cannot connect")?;
    if !http {
        return Ok(None);
    }
    let request = format!("GET / HTTP/1.0\r\nHost: {target}\r\n\r\n");
    connection.write_all(request.as_bytes()).await.context("cannot ask")?;
    let mut said = Vec::new();
    connection.take(ANSWER_MAX).read_to_end(&mut said).await.context("no answer")?;
    let said = String::from_utf8_lossy(&said);
    let (_, body) = said.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    Ok(Some(body.trim_end().to_owned()))
}

fn stretch(since: Option<Instant>) -> u128 {
    since.map_or(0, |since| since.elapsed().as_millis())
}
