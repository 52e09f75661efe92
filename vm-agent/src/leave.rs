//! `leave`: this machine is no part of the mesh any more, and nothing of it is left.
//!
//! ```text
//!  units stopped ─▶ no agent runs ─▶ membership gone ─▶ resolver as before ─▶ tunnel, routes, filters, programs gone ─▶ files gone
//! ```
//!
//! The membership goes first: half of the rest is none. The files go last: while one of them is there, another `leave`
//! goes on where this one ended. A host that has none of them is left alone: it may be a node of a cluster.

use crate::{
    DEVICE, UNIT,
    alone::Alone,
    membership::{self, Membership},
    resolv,
};
use anyhow::Context as _;
use datapath::host::PIN_DIR;
use std::{
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// The tunnel's unit.
const TUNNEL_UNIT: &str = "mesh-tunnel.service";
/// Where a tunnel listens for its configuration, and where one that was started by hand keeps it.
const TUNNEL_SOCKET: &str = "/var/run/wireguard/mesh0.sock";
const TUNNEL_BY_HAND: &str = "/var/lib/mesh/tunnel/mesh0.conf";
/// A tunnel whose device is gone writes its file once more, and ends.
const TUNNEL_ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Leaves.
///
/// # Errors
/// What stands in the way, by name; it may be repeated.
pub async fn leave(state_dir: &Path) -> anyhow::Result<()> {
    let membership = Membership::load(state_dir);
    let is_left = matches!(membership, Ok(None)) && !membership::has_remains(state_dir);
    if is_left {
        println!("this machine had not joined a cluster");
        return Ok(());
    }
    stop_units()?;
    let _alone = Alone::on_this_host()?;
    Membership::remove(state_dir)?;
    resolv::Host::this().restore(DEVICE).await.context("cannot put this machine's resolver back")?;
    tokio::task::spawn_blocking(dismantle).await.context("cannot take the data path away")??;
    membership::remove_remains(state_dir)?;
    membership::remove(Path::new(TUNNEL_BY_HAND))?;
    match membership {
        Ok(Some(Membership { name, cluster, .. })) => println!(
            "this machine is {name} of {cluster} no longer; until `meshctl vm remove {name}` its name is taken there"
        ),
        Ok(None) | Err(_) => println!("what was left of a membership is removed"),
    }
    Ok(())
}

/// Where systemd runs them.
fn stop_units() -> anyhow::Result<()> {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    for unit in [UNIT, TUNNEL_UNIT] {
        // One that is not there is not running either.
        let known = Command::new("systemctl").args(["--quiet", "is-active", unit]).status();
        if known.with_context(|| format!("cannot ask systemctl for {unit}"))?.success() {
            let stopped = Command::new("systemctl").args(["stop", unit]).status();
            let stopped = stopped.with_context(|| format!("cannot stop {unit}"))?;
            anyhow::ensure!(stopped.success(), "cannot stop {unit}: `systemctl status {unit}` says why");
        }
    }
    Ok(())
}

fn dismantle() -> anyhow::Result<()> {
    datapath::dismantle::dismantle(Path::new(PIN_DIR)).context("cannot take the data path away")?;
    let deadline = Instant::now() + TUNNEL_ENDS_WITHIN;
    while UnixStream::connect(TUNNEL_SOCKET).is_ok() {
        anyhow::ensure!(
            Instant::now() < deadline,
            "mesh-tunnel still runs, though its device is gone: end it, and repeat this"
        );
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
