//! A sustained TCP transfer: the sender paces, the receiver checks every byte and acknowledges what it has.
//!
//! The stream is units of 32 bytes: a counter (u64, little endian) and the canary. After each read the receiver
//! answers with the bytes it has so far (u64, little endian), so that the sender measures progress end to end and not
//! the filling of its own buffer.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{CANARY, LongestGap, the_end};

/// A counter and the canary.
const UNIT: usize = 8 + CANARY.len();

/// What is written at once: 512 units.
const CHUNK: usize = 512 * UNIT;

/// How long the last bytes may take to be acknowledged.
const DRAIN: Duration = Duration::from_secs(5);

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);

/// What a receiver says of one connection.
#[derive(Debug, Serialize)]
pub struct Received {
    /// Bytes that were received.
    pub bytes: u64,
    /// The longest time without a byte.
    pub longest_gap_ms: u128,
    /// Whether every byte was the one that belongs there.
    pub intact: bool,
    /// Why it ended, unless the sender was done.
    pub error: Option<String>,
}

/// What a sender says.
#[derive(Debug, Serialize)]
pub struct Sent {
    /// Bytes that were written.
    pub bytes: u64,
    /// Bytes that the receiver has checked.
    pub acknowledged: u64,
    /// The longest time without a new acknowledgement.
    pub longest_gap_ms: u128,
    /// Why it ended before its time, if it did.
    pub error: Option<String>,
}

impl Sent {
    /// Whether all that was sent arrived as it was sent.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.error.is_none() && self.bytes > 0 && self.acknowledged == self.bytes
    }
}

/// The byte that belongs at an offset of the stream.
#[must_use]
pub fn expected_byte(offset: u64) -> u8 {
    let (unit, within) = (offset / UNIT as u64, (offset % UNIT as u64) as usize);
    match within.checked_sub(8) {
        None => unit.to_le_bytes()[within],
        Some(at) => CANARY.as_bytes()[at],
    }
}

/// Receives streams on a port, several at once, and prints a line for each.
///
/// # Errors
/// The port is taken.
pub async fn serve(port: u16, seconds: Option<f64>) -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await;
    let listener = listener.with_context(|| format!("cannot listen on TCP port {port}"))?;
    let accept = async {
        loop {
            let (connection, _) = listener.accept().await.context("cannot accept")?;
            tokio::spawn(async move {
                let received = receive(connection).await;
                println!("{}", serde_json::to_string(&received).expect("a report is plain data"));
            });
        }
    };
    tokio::select! {
        result = accept => result,
        result = the_end(seconds) => result,
    }
}

async fn receive(mut connection: TcpStream) -> Received {
    let mut gap = LongestGap::since(Instant::now());
    let mut bytes = 0_u64;
    let mut buffer = vec![0; CHUNK];
    let mut error = None;
    let mut intact = true;
    while intact {
        let length = match connection.read(&mut buffer).await {
            Ok(0) => break,
            Ok(length) => length,
            Err(broken) => {
                error = Some(broken.to_string());
                break;
            }
        };
        gap.progress(Instant::now());
        intact = (bytes..).zip(&buffer[..length]).all(|(offset, byte)| *byte == expected_byte(offset));
        bytes += length as u64;
        // Nothing is acknowledged behind a wrong byte: closing tells the sender.
        if intact && let Err(broken) = connection.write_all(&bytes.to_le_bytes()).await {
            error = Some(broken.to_string());
            break;
        }
    }
    Received { bytes, longest_gap_ms: gap.longest_ms(), intact, error }
}

/// Sends a stream for some seconds at a rate (kbit/s; 0 is as fast as it goes).
///
/// # Errors
/// No connection could be made.
pub async fn send(target: SocketAddr, seconds: f64, rate_kbit: u64) -> Result<Sent> {
    let connection =
        timeout(CONNECT, TcpStream::connect(target)).await.map_err(|_| anyhow::anyhow!("timed out"));
    let connection =
        connection.and_then(|it| Ok(it?)).with_context(|| format!("cannot connect to {target}"))?;
    connection.set_nodelay(true).context("cannot set TCP_NODELAY")?;
    let (reader, mut writer) = connection.into_split();
    let acknowledgements = tokio::spawn(follow(reader));
    let mut bytes = 0;
    let wrote = tokio::select! {
        result = write(&mut writer, &mut bytes, rate_kbit) => result,
        result = the_end(Some(seconds)) => result,
    };
    // Closes our direction: the receiver ends when it has read everything, and then `follow` does.
    let closed = writer.shutdown().await.context("cannot close");
    let drained = timeout(DRAIN, acknowledgements).await;
    let (acknowledged, gap, broken) = match drained {
        Ok(joined) => joined.context("the reader of acknowledgements died")?,
        Err(_) => bail!("the last bytes were not acknowledged within {DRAIN:?}"),
    };
    let error = wrote.err().or(closed.err()).map(|error| format!("{error:#}")).or(broken);
    Ok(Sent { bytes, acknowledged, longest_gap_ms: gap.longest_ms(), error })
}

async fn write(writer: &mut OwnedWriteHalf, bytes: &mut u64, rate_kbit: u64) -> Result<()> {
    let chunk_bits = CHUNK as u64 * 8;
    let mut pace = (rate_kbit > 0).then(|| {
        let mut pace = interval(Duration::from_micros((chunk_bits * 1_000 / rate_kbit).max(1)));
        // After a stall the stream goes on at its pace; what was missed is not made up for in a burst.
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pace
    });
    loop {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        let chunk: Vec<u8> = (*bytes..*bytes + CHUNK as u64).map(expected_byte).collect();
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            // One write at a time: when our time is up in the middle, `bytes` still tells what was written.
            let length = writer.write(rest).await.context("cannot write")?;
            *bytes += length as u64;
            rest = &rest[length..];
        }
    }
}

/// Reads acknowledgements until the receiver closes.
async fn follow(mut reader: OwnedReadHalf) -> (u64, LongestGap, Option<String>) {
    let mut gap = LongestGap::since(Instant::now());
    let mut acknowledged = 0;
    loop {
        match reader.read_u64_le().await {
            Ok(total) => {
                acknowledged = total;
                gap.progress(Instant::now());
            }
            Err(end) if end.kind() == std::io::ErrorKind::UnexpectedEof => return (acknowledged, gap, None),
            Err(broken) => return (acknowledged, gap, Some(broken.to_string())),
        }
    }
}
