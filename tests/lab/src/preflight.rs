//! What the machine must have, asked before anything is made.

use std::path::Path;

use anyhow::{Result, bail};
use nix::unistd::geteuid;

use crate::cgroup;
use crate::cni::PLUGIN_DIR;

/// Programs that the lab runs, and the Debian packages that have them.
const TOOLS: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("iptables-restore", "iptables"),
    ("ip6tables-restore", "iptables"),
    ("sh", "dash"),
];

/// CNI plugins that the lab runs.
const PLUGINS: [&str; 3] = ["bridge", "ptp", "host-local"];

/// Finds out whether a lab can come up here at all.
///
/// # Errors
/// Something is missing: every missing thing is named, with what to do.
pub(crate) fn check() -> Result<()> {
    let mut missing = Vec::new();
    if !geteuid().is_root() {
        missing.push("root: run it as root, it makes namespaces and devices".to_owned());
    }
    if let Err(error) = cgroup::unified_root() {
        missing.push(format!("{error:#}"));
    }
    let search = std::env::var_os("PATH").unwrap_or_default();
    for (tool, package) in TOOLS {
        if !std::env::split_paths(&search).any(|dir| dir.join(tool).is_file()) {
            missing.push(format!("`{tool}`: apt-get install {package}"));
        }
    }
    if let Some(plugin) = PLUGINS.iter().find(|plugin| !Path::new(PLUGIN_DIR).join(plugin).is_file()) {
        missing.push(format!("{PLUGIN_DIR}/{plugin}: apt-get install containernetworking-plugins"));
    }
    if missing.is_empty() { Ok(()) } else { bail!("this machine lacks\n  {}", missing.join("\n  ")) }
}
