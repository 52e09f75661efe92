//! A one-way UDP stream of numbered packets: nothing flows back that could hide a loss.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::net::UdpSocket;
use tokio::time::{MissedTickBehavior, interval};

use super::{CANARY, LongestGap, the_end};

/// Number (u64, little endian), total (u64, little endian; 0 while the stream goes on), canary.
const HEADER: usize = 16 + CANARY.len();

/// Missing numbers that are remembered, to tell a late packet from a second one: a minute at 1,000 packets/s.
const MISSING_MAX: usize = 60_000;

/// How often the end is said, in case the last packets are lost.
const FAREWELLS: u32 = 5;

/// The largest UDP payload. (RFC 768, RFC 791)
const UDP_MAX: usize = 65_507;

/// Which numbers arrived.
#[derive(Debug, Default)]
pub struct Tracker {
    next: u64,
    received: u64,
    reordered: u64,
    duplicated: u64,
    forgotten: u64,
    missing: BTreeSet<u64>,
}

/// What a receiver says.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub struct Received {
    /// Different packets that arrived.
    pub received: u64,
    /// Packets that did not, up to the last one that did, or to the total when the sender's end was heard.
    pub lost: u64,
    /// Packets that arrived after a later one.
    pub reordered: u64,
    /// Packets that arrived again.
    pub duplicated: u64,
    /// The longest time without a packet, from the first to the sender's end, or to ours when that was not heard.
    pub longest_gap_ms: u128,
    /// Whether the sender's end was heard.
    pub finished: bool,
}

/// What a sender says.
#[derive(Debug, Serialize)]
pub struct Sent {
    /// Packets that were handed to the kernel.
    pub sent: u64,
    /// Packets that the kernel refused (no route, refused by the receiver's host): they count as numbers, too.
    pub refused: u64,
}

impl Tracker {
    /// A packet with this number arrived.
    pub fn observe(&mut self, number: u64) {
        if number >= self.next {
            self.skip_to(number);
            self.next = number + 1;
            self.received += 1;
        } else if self.missing.remove(&number) {
            self.received += 1;
            self.reordered += 1;
        } else {
            self.duplicated += 1;
        }
    }

    /// The sender has sent numbers below `total`.
    pub fn end(&mut self, total: u64) {
        self.skip_to(total);
        self.next = self.next.max(total);
    }

    /// Numbers that did not arrive.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.forgotten + self.missing.len() as u64
    }

    fn skip_to(&mut self, number: u64) {
        for missing in self.next..number {
            if self.missing.len() >= MISSING_MAX {
                self.forgotten += number - missing;
                return;
            }
            self.missing.insert(missing);
        }
    }

    fn report(&self, longest_gap_ms: u128, finished: bool) -> Received {
        let (received, reordered, duplicated) = (self.received, self.reordered, self.duplicated);
        Received { received, lost: self.lost(), reordered, duplicated, longest_gap_ms, finished }
    }
}

/// Receives one stream until its sender ends it, or time is up.
///
/// # Errors
/// The port is taken.
pub async fn receive(port: u16, seconds: Option<f64>) -> Result<Received> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).await;
    let socket = socket.with_context(|| format!("cannot listen on UDP port {port}"))?;
    let mut tracker = Tracker::default();
    let mut gap: Option<LongestGap> = None;
    let finished = tokio::select! {
        result = listen(&socket, &mut tracker, &mut gap) => result.map(|()| true)?,
        result = the_end(seconds) => result.map(|()| false)?,
    };
    if !finished && let Some(gap) = &mut gap {
        gap.progress(Instant::now());
    }
    Ok(tracker.report(gap.map_or(0, |gap| gap.longest_ms()), finished))
}

async fn listen(socket: &UdpSocket, tracker: &mut Tracker, gap: &mut Option<LongestGap>) -> Result<()> {
    let mut packet = vec![0; UDP_MAX];
    loop {
        let (length, _) = socket.recv_from(&mut packet).await.context("cannot receive")?;
        let Some((number, rest)) = packet[..length].split_first_chunk::<8>() else { continue };
        let Some((total, rest)) = rest.split_first_chunk::<8>() else { continue };
        if !rest.starts_with(CANARY.as_bytes()) {
            continue;
        }
        let now = Instant::now();
        gap.get_or_insert_with(|| LongestGap::since(now)).progress(now);
        match u64::from_le_bytes(*total) {
            0 => tracker.observe(u64::from_le_bytes(*number)),
            total => {
                tracker.end(total);
                return Ok(());
            }
        }
    }
}

/// Sends numbered packets of `size` bytes at a fixed rate for some seconds.
///
/// # Errors
/// No socket can be made.
pub async fn send(target: SocketAddr, seconds: f64, packets_per_s: u32, size: usize) -> Result<Sent> {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await.context("cannot make a UDP socket")?;
    let mut report = Sent { sent: 0, refused: 0 };
    let mut number = 0;
    let size = size.clamp(HEADER, UDP_MAX);
    let stream = async {
        let mut pace = interval(Duration::from_secs(1) / packets_per_s.max(1));
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        loop {
            pace.tick().await;
            match socket.send_to(&packet(number, 0, size), target).await {
                Ok(_) => report.sent += 1,
                Err(_) => report.refused += 1,
            }
            number += 1;
        }
    };
    tokio::select! {
        () = stream => {}
        result = the_end(Some(seconds)) => result?,
    }
    for _ in 0..FAREWELLS {
        // Not counted: the receiver reports what it heard, and says whether this was part of it.
        let _ = socket.send_to(&packet(number, number.max(1), size), target).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(report)
}

fn packet(number: u64, total: u64, size: usize) -> Vec<u8> {
    let mut packet = Vec::with_capacity(size);
    packet.extend_from_slice(&number.to_le_bytes());
    packet.extend_from_slice(&total.to_le_bytes());
    packet.extend_from_slice(CANARY.as_bytes());
    packet.resize(size, b'.');
    packet
}
