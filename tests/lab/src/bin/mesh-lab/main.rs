//! `mesh-lab`: brings a lab up, runs programs in it, cuts its links, and removes it.

mod show;
mod sniff;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use lab::{Entrance, HoldSpec, Lab, Name, Place, Proc, Traffic, UpOptions};
use nix::sys::signal::{SigSet, Signal};

/// A lab of clusters, nodes and pods on this machine, from one YAML file.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// The lab, when more than one is up.
    #[arg(long, global = true)]
    name: Option<Name>,
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Subcommand)]
enum Cmd {
    /// Brings up the lab of a file; an earlier one of the same name goes first.
    Up {
        /// The topology.
        file: PathBuf,
    },
    /// Takes a lab down; nothing stays, and nothing there is no error.
    Down {
        /// The lab, when more than one is up.
        lab: Option<Name>,
    },
    /// Runs a program in a place; its exit code is ours.
    Exec {
        /// For example cluster-a/pod/client.
        place: Place,
        /// The program and its arguments, after `--`.
        #[arg(last = true, required = true)]
        argv: Vec<String>,
    },
    /// Lists the places with their addresses.
    Places {
        /// How to print it.
        #[arg(short, long, value_enum, default_value_t = Format::Text)]
        output: Format,
    },
    /// Lists the processes that the topology declares.
    Ps {
        /// How to print it.
        #[arg(short, long, value_enum, default_value_t = Format::Text)]
        output: Format,
    },
    /// Starts a declared process again, with the same command line.
    Start {
        /// PLACE/NAME.
        proc: Proc,
    },
    /// Ends a process (SIGTERM, after 5 s SIGKILL) and starts it again.
    Restart {
        /// PLACE/NAME.
        proc: Proc,
    },
    /// Sends a signal to a process.
    Kill {
        /// PLACE/NAME.
        proc: Proc,
        /// KILL, TERM, HUP, …
        #[arg(long, default_value = "KILL", value_parser = parse_signal)]
        signal: Signal,
    },
    /// Stops a process where it is.
    Pause {
        /// PLACE/NAME.
        proc: Proc,
    },
    /// Lets a paused process go on.
    Resume {
        /// PLACE/NAME.
        proc: Proc,
    },
    /// Prints the log of a process.
    Logs {
        /// PLACE/NAME.
        proc: Proc,
        /// Goes on with what is still to come.
        #[arg(short, long)]
        follow: bool,
    },
    /// Cuts the link between two clusters or machines, in both directions, or makes it a bad one.
    Cut {
        /// A cluster or a machine's place.
        a: String,
        /// Another.
        b: String,
        /// Only UDP: TCP and ICMP still pass.
        #[arg(long)]
        udp: bool,
        /// Only ICMP, without neighbour discovery.
        #[arg(long, conflicts_with = "udp")]
        icmp: bool,
        /// Only this many of a hundred packets, at random.
        #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100), conflicts_with_all = ["udp", "icmp"])]
        loss: Option<u8>,
        /// Only what exceeds this rate, in each direction.
        #[arg(long, value_name = "KBIT", value_parser = clap::value_parser!(u32).range(8..), conflicts_with_all = ["udp", "icmp", "loss"])]
        rate_kbit: Option<u32>,
        /// Only IP packets that are larger than this, without a word to their sender.
        #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(68..), conflicts_with_all = ["udp", "icmp", "loss", "rate_kbit"])]
        larger_than: Option<u16>,
        /// Nothing, but every packet takes so much longer, in each direction.
        #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u16).range(1..=10_000), conflicts_with_all = ["udp", "icmp", "loss", "rate_kbit", "larger_than"])]
        delay_ms: Option<u16>,
    },
    /// Heals whatever is cut between two clusters or machines.
    Heal {
        /// A cluster or a machine's place.
        a: String,
        /// Another.
        b: String,
    },
    /// Has a NAT box forget all mappings and make new ones at other ports, as when it is restarted.
    Rebind {
        /// The box, without `nat/`.
        nat: Name,
    },
    /// Watches the frames of a place, until Ctrl-C if nothing else is said. Exit code 1 when one must not be there.
    Sniff(sniff::Options),
    /// Holds a place's namespaces (used by `up`).
    #[command(hide = true)]
    Hold { spec: String },
    /// Delays the packets of a queue (used by `cut`).
    #[command(hide = true)]
    Delay { ms: u16 },
    /// Runs a program in a place that is given whole (used by `up` and by tests).
    #[command(hide = true)]
    Enter {
        /// In a session of its own.
        #[arg(long)]
        session: bool,
        entrance: String,
        #[arg(last = true, required = true)]
        argv: Vec<String>,
    },
}

/// How a list is printed.
#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let colour = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_target(false)
        .without_time()
        .init();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let attach = || Lab::attach(cli.name.as_ref());
    match cli.command {
        Cmd::Up { file } => {
            let interrupted = on_signal()?;
            let lab = Lab::up_with(file, UpOptions { name: cli.name, interrupted, mesh_lab: None })?.keep();
            show::print(lab.name().as_str())?;
        }
        Cmd::Down { lab } => match Lab::down(lab.or(cli.name).as_ref())? {
            Some(name) => eprintln!("The lab {name} is down."),
            None => eprintln!("There was no lab to take down."),
        },
        Cmd::Exec { place, argv } => return Err(attach()?.entrance(&place)?.become_program(&argv)),
        Cmd::Places { output } => show::places(&attach()?, output)?,
        Cmd::Ps { output } => show::ps(&attach()?, output)?,
        Cmd::Start { proc } => attach()?.start(&proc.to_string())?,
        Cmd::Restart { proc } => attach()?.restart(&proc.to_string())?,
        Cmd::Kill { proc, signal } => attach()?.kill(&proc.to_string(), signal)?,
        Cmd::Pause { proc } => attach()?.pause(&proc.to_string())?,
        Cmd::Resume { proc } => attach()?.resume(&proc.to_string())?,
        Cmd::Logs { proc, follow } => show::log(&attach()?, &proc, follow)?,
        Cmd::Cut { a, b, udp, icmp, loss, rate_kbit, larger_than, delay_ms } => {
            let what = match (udp, icmp, loss, rate_kbit, larger_than, delay_ms) {
                (true, ..) => Traffic::Udp,
                (_, true, ..) => Traffic::Icmp,
                (_, _, Some(percent), ..) => Traffic::Percent(percent),
                (_, _, _, Some(rate), ..) => Traffic::AboveKbit(rate),
                (.., Some(bytes), _) => Traffic::LargerThan(bytes),
                (.., Some(delay_ms)) => Traffic::DelayMs(delay_ms),
                (false, false, None, None, None, None) => Traffic::All,
            };
            attach()?.cut(&a, &b, what)?;
        }
        Cmd::Heal { a, b } => attach()?.heal(&a, &b)?,
        Cmd::Rebind { nat } => attach()?.rebind(&nat)?,
        Cmd::Sniff(options) => return sniff::run(&attach()?, &options),
        Cmd::Hold { spec } => {
            let spec: HoldSpec = serde_json::from_str(&spec).context("not a holder's task")?;
            lab::hold(&spec)?;
        }
        Cmd::Delay { ms } => lab::relay(ms)?,
        Cmd::Enter { session, entrance, argv } => {
            if session {
                nix::unistd::setsid().context("cannot leave the terminal's session")?;
            }
            let entrance: Entrance = serde_json::from_str(&entrance).context("not an entrance")?;
            return Err(entrance.become_program(&argv));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A flag that SIGINT, SIGTERM and SIGHUP set, so that `up` can take down what it made.
fn on_signal() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    // Blocked here and in every thread made later; children start with an empty mask. (std::process)
    signals.thread_block().context("cannot block signals")?;
    let flag = Arc::clone(&interrupted);
    std::thread::spawn(move || {
        while signals.wait().is_ok() {
            flag.store(true, Ordering::SeqCst);
        }
    });
    Ok(interrupted)
}

fn parse_signal(text: &str) -> Result<Signal, String> {
    let upper = text.to_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    name.parse().map_err(|_| format!("`{text}` is not a signal"))
}
