//! `mesh-lab sniff`: watches until told otherwise, and reports.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use lab::{Lab, Place, Sniffer, Watch};

use crate::{Format, on_signal, show};

/// How often `sniff` looks whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What to watch, for how long.
#[derive(Args)]
pub(crate) struct Options {
    /// `underlay` for every link between the machines.
    #[arg(default_value = "underlay")]
    place: Place,
    /// Only this device; may be given several times.
    #[arg(long)]
    iface: Vec<String>,
    /// A YAML list of what may be seen: arp, neighbour-discovery, {wireguard: {between: [PLACE or ADDRESS…], port: N}},
    /// {tcp: {to: […], port: N}}, {udp: {to: […], port: N}}, {icmp: {between: […]}}. Everything else is a violation.
    #[arg(long)]
    allow: Option<PathBuf>,
    /// What no frame may contain; may be given several times.
    #[arg(long)]
    canary: Vec<String>,
    /// Seconds to watch.
    #[arg(long = "for")]
    seconds: Option<f64>,
    /// Watches until this file exists.
    #[arg(long, conflicts_with = "seconds")]
    until_file: Option<PathBuf>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Watches, prints the report, and ends with 1 unless it is clean.
pub(crate) fn run(lab: &Lab, options: &Options) -> Result<ExitCode> {
    let interrupted = on_signal()?;
    let mut watch = Watch::at(options.place.clone());
    for name in &options.iface {
        watch = watch.interface(name);
    }
    for canary in &options.canary {
        watch = watch.canary(canary);
    }
    if let Some(path) = &options.allow {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        watch =
            watch.allow(lab::parse_rules(&text).with_context(|| format!("cannot use {}", path.display()))?);
    }
    let began = Instant::now();
    let sniffer = Sniffer::start(lab, watch)?;
    eprintln!("Watching {}.", options.place);
    let is_over = || {
        interrupted.load(Ordering::SeqCst)
            || options.seconds.is_some_and(|seconds| began.elapsed().as_secs_f64() >= seconds)
            || options.until_file.as_ref().is_some_and(|file| file.exists())
    };
    while !is_over() {
        std::thread::sleep(LOOK_EVERY);
    }
    let report = sniffer.stop()?;
    show::print(&match options.output {
        Format::Text => report.to_string(),
        Format::Json => serde_json::to_string_pretty(&report)?,
    })?;
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
