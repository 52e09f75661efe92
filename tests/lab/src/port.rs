//! Ports of loopback for programs that are told theirs.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process,
    sync::atomic::{AtomicU16, Ordering},
};

/// Below those that the kernel gives to a connection, or to who asks for any (`ip_local_port_range`, from 32,768 on), so that
/// nobody else gets one before its program has it, or while that starts again.
const FIRST: u16 = 20_000;
const PORTS: u16 = 12_000;

/// A port of loopback that nobody has. Each call of a process finds another one.
///
/// # Panics
/// When all are taken.
#[must_use]
pub fn free_port() -> SocketAddr {
    static CALLS: AtomicU16 = AtomicU16::new(0);
    let begin = (process::id() % u32::from(PORTS)) as u16;
    let next = || FIRST + begin.wrapping_add(CALLS.fetch_add(1, Ordering::Relaxed)) % PORTS;
    let mut ports = (0..PORTS).map(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, next())));
    ports.find(|at| TcpListener::bind(at).is_ok()).expect("one of 12,000 ports is free")
}
