//! What `mesh-lab` prints: data on standard output, one thing a line.

use std::io::{ErrorKind, Write};

use anyhow::{Context, Result};
use lab::{Lab, Proc};
use serde_json::json;

use crate::Format;

/// Prints a text. A reader that has seen enough and closed the pipe is no error.
pub(crate) fn print(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}

/// `mesh-lab places`.
pub(crate) fn places(lab: &Lab, format: Format) -> Result<()> {
    let state = lab.state()?;
    let topology = lab.topology();
    let places = topology.places().into_iter();
    print(&match format {
        Format::Text => places
            .map(|place| {
                let addresses: Vec<_> = topology.addresses(&place).iter().map(ToString::to_string).collect();
                format!("{place:<28} {}\n", addresses.join(" "))
            })
            .collect(),
        Format::Json => {
            let list: Vec<_> = places
                .map(|place| {
                    let entrance = &state.places[&place];
                    let (cgroup, holder) = (&entrance.cgroup, entrance.net.pid);
                    json!({ "place": place, "addresses": topology.addresses(&place), "cgroup": cgroup, "holder": holder })
                })
                .collect();
            serde_json::to_string_pretty(&list)?
        }
    })
}

/// `mesh-lab ps`.
pub(crate) fn ps(lab: &Lab, format: Format) -> Result<()> {
    let all = lab.ps()?;
    print(&match format {
        Format::Text => all
            .iter()
            .map(|process| {
                let pid = process.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
                format!("{:<36} {pid:>8} {}\n", process.proc, process.activity)
            })
            .collect(),
        Format::Json => serde_json::to_string_pretty(&all)?,
    })
}

/// `mesh-lab logs`.
pub(crate) fn log(lab: &Lab, proc: &Proc, follow: bool) -> Result<()> {
    let mut tail = std::process::Command::new("tail");
    tail.args(["-n", "+1"]).args(follow.then_some("-F")).arg(lab.paths().log(proc));
    tail.status().context("cannot run `tail`").map(drop)
}
