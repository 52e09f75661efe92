//! `meshctl`: the operator's view. Connects clusters, ends peerings, and says what is true of the mesh.
//!
//! ```text
//!  context ─▶ session (admin service, etcd API) ─▶ facts ─▶ preflight, agreement, status, why (pure) ─▶ text, exit code
//! ```
//!
//! Invariants: green is what was measured; what is written goes to `MeshPeer` objects only, through the apiservers; data
//! go to stdout and everything else to stderr.

mod agreement;
mod args;
mod connect;
mod contexts;
mod facts;
mod preflight;
mod session;
mod status;
mod table;
mod why;

use anyhow::{Context as _, bail};
use args::{Cli, Command, ConnectArgs, DisconnectArgs, ForgetArgs, Output, StatusArgs, WhyArgs};
use clap::Parser as _;
use contexts::Known;
use daemon::context::Context;
use futures::future::try_join_all;
use session::Session;
use std::{
    io::Write as _,
    process::ExitCode,
    time::{Duration, Instant},
};

/// How often a waiting status looks.
const POLL: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli).await {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `meshctl status | head` is not an error.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let closed = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(closed))
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let contexts = Known::load(&cli.config)?;
    match cli.command {
        Command::Connect(args) => connect(&contexts, args).await,
        Command::Disconnect(args) => disconnect(&contexts, args).await,
        Command::Status(args) => print_status(&contexts, args).await,
        Command::Why(args) => print_why(&contexts, args).await,
        Command::Forget(args) => forget(&contexts, args).await,
    }
}

async fn open(contexts: &Known, names: &[String]) -> anyhow::Result<Vec<Session>> {
    let clusters: Vec<&Context> = if names.is_empty() {
        contexts.all().collect()
    } else {
        names.iter().map(|name| contexts.find(name)).collect::<Result<_, _>>()?
    };
    try_join_all(clusters.into_iter().map(Session::open)).await
}

async fn connect(contexts: &Known, args: ConnectArgs) -> anyhow::Result<ExitCode> {
    let sessions = open(contexts, &args.clusters).await?;
    let mut pairs = Vec::new();
    for (at, a) in sessions.iter().enumerate() {
        for b in &sessions[at + 1..] {
            pairs.push((a, b));
        }
    }
    if let [(a, b)] = pairs[..] {
        connect::pair(a, b, Duration::from_secs(args.timeout)).await?;
        return Ok(ExitCode::SUCCESS);
    }
    // One after the other, so that the lines of a pair stand together; the waiting is seconds a pair.
    for (a, b) in pairs {
        println!("{} and {}", a.name, b.name);
        connect::pair(a, b, Duration::from_secs(args.timeout)).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn disconnect(contexts: &Known, args: DisconnectArgs) -> anyhow::Result<ExitCode> {
    let sessions = open(contexts, &[args.a, args.b]).await?;
    let [a, b] = &sessions[..] else { bail!("disconnect takes two clusters") };
    for (ours, theirs) in [(a, b), (b, a)] {
        let removed = ours.remove_peer(&theirs.name).await?;
        if !removed.removed {
            println!(" - {} had no peer {}", ours.name, theirs.name);
            continue;
        }
        let mut records: Vec<_> = removed.records.into_iter().filter(|(_, count)| *count > 0).collect();
        records.sort();
        let records: Vec<String> =
            records.into_iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        println!(" ✓ {} removed its peer {}: {}", ours.name, theirs.name, records.join(", "));
        if !removed.closed.is_empty() {
            println!(
                "   still closed: {} (what goes there is dropped until `meshctl forget {}`)",
                removed.closed.join(" "),
                theirs.name
            );
        }
    }
    println!("disconnected   undo: meshctl connect {} {}", a.name, b.name);
    Ok(ExitCode::SUCCESS)
}

async fn print_status(contexts: &Known, args: StatusArgs) -> anyhow::Result<ExitCode> {
    let sessions = open(contexts, &args.clusters).await?;
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    let clusters = loop {
        let facts = try_join_all(sessions.iter().map(Session::facts)).await?;
        let clusters: Vec<_> = facts.iter().map(status::cluster).collect();
        let healthy = clusters.iter().all(status::ClusterStatus::is_healthy);
        if !args.wait || healthy || Instant::now() >= deadline {
            break clusters;
        }
        tokio::time::sleep(POLL).await;
    };
    let text = match args.output {
        Output::Table => table::status(&clusters),
        Output::Json => serde_json::to_string_pretty(&clusters)? + "\n",
        Output::Yaml => serde_saphyr::to_string(&clusters).context("cannot print the status as YAML")?,
    };
    std::io::stdout().write_all(text.as_bytes())?;
    let healthy = clusters.iter().all(status::ClusterStatus::is_healthy);
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn print_why(contexts: &Known, args: WhyArgs) -> anyhow::Result<ExitCode> {
    let key = why::parse(&args.service)?;
    let session = Session::open(contexts.find_or_only(args.cluster.as_deref())?).await?;
    let facts = session.facts().await?;
    let Some(text) = why::service(&facts, &key) else {
        bail!(
            "{} has no Service {key}: a global Service needs one of the same name and namespace in each cluster that uses it",
            session.name
        );
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

async fn forget(contexts: &Known, args: ForgetArgs) -> anyhow::Result<ExitCode> {
    let session = Session::open(contexts.find_or_only(args.cluster.as_deref())?).await?;
    let opened = session.forget(&args.peer.parse()?).await?;
    match &opened[..] {
        [] => println!("{} keeps nothing closed for {}", session.name, args.peer),
        all => println!("{} no longer drops what goes to {}", session.name, all.join(" ")),
    }
    Ok(ExitCode::SUCCESS)
}
