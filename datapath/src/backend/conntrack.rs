//! UDP flows that connection tracking keeps sending to a backend that is gone, where nftables balances: forgotten, by the
//! program `conntrack`, so that the next datagram is balanced anew.
//!
//! Of TCP the client hears by itself that its other end is gone. A UDP flow has no end: as long as the client sends, its
//! entry lives, and translates to where it began. (kube-proxy does the same)

use anyhow::{Context, bail};
use std::{collections::BTreeSet, net::SocketAddr, process::Command};

/// Forgets the UDP flows that were translated to one of these. A call takes 3 ms, and few go at once.
///
/// # Errors
/// When `conntrack` is missing, or cannot do it.
pub fn forget_udp(backends: &BTreeSet<SocketAddr>) -> anyhow::Result<()> {
    backends.iter().try_for_each(forget)
}

fn forget(backend: &SocketAddr) -> anyhow::Result<()> {
    let family = if backend.is_ipv4() { "ipv4" } else { "ipv6" };
    let output = Command::new("conntrack")
        // Its messages are compared.
        .env("LC_ALL", "C")
        .args(["--delete", "--family", family, "--proto", "udp", "--reply-src", &backend.ip().to_string()])
        .args(["--reply-port-src", &backend.port().to_string()])
        .output()
        .context("cannot run conntrack, which ends UDP flows to backends that are gone: install conntrack")?;
    let said = String::from_utf8_lossy(&output.stderr);
    // Without such a flow its exit code is that of an error, and this sentence is the only difference.
    if !output.status.success() && !said.contains("flow entries have been deleted") {
        bail!("conntrack cannot end UDP flows to {backend}: {}", said.trim());
    }
    Ok(())
}
