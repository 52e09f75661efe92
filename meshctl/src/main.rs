//! `meshctl`: the operator's view. Connects clusters, ends peerings, and says what is true of the mesh.
//!
//! ```text
//!  context ─▶ session (admin service, etcd API) ─▶ facts ─▶ preflight, check, agreement, status, why, peer, store (pure)
//!                                                          └─▶ text, exit code
//! ```
//!
//! Invariants: green is what was measured; what is written goes to `MeshPeer` objects only, through the apiservers; data
//! go to stdout and everything else to stderr, by [`output`].

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod agreement;
mod args;
mod check;
mod connect;
mod contexts;
mod disconnect;
mod dump;
mod ended;
mod facts;
mod kubernetes;
mod output;
mod pages;
mod peer;
mod preflight;
mod progress;
mod round_trips;
mod session;
mod status;
mod store;
mod table;
mod token;
mod vm;
mod why;

use anyhow::{Context as _, bail};
use api::{name::ClusterName, peer::MeshPeer};
use args::{
    CheckArgs, Cli, Command, ConnectArgs, DisconnectArgs, ForgetArgs, Output, PeerArgs, PeerCommand,
    StatusArgs, StoreCommand, TestArgs, WhyArgs,
};
use clap::Parser as _;
use contexts::Known;
use futures::future::try_join_all;
use session::Session;
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};
use token::TokenCommand;
use vm::VmCommand;

/// How often a waiting status looks.
const POLL: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli).await {
        Ok(code) => code,
        Err(error) => {
            output::note(daemon::args::report(&error).trim_end());
            ended::code(&error)
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let contexts = || Known::load(&cli.contexts);
    match cli.command {
        Command::Connect(args) => connect(&contexts()?, args).await,
        Command::Check(args) => check(&contexts()?, args).await,
        Command::Dump(args) => {
            let ways = contexts()?.named(&args.clusters)?;
            print(&dump::dump(&ways, &args.file).await?)
        }
        Command::Disconnect(args) => disconnect(&contexts()?, args).await,
        Command::Status(args) => print_status(&contexts()?, args).await,
        Command::Test(args) => test(&contexts()?, args).await,
        Command::Why(args) => print_why(&contexts()?, args).await,
        Command::Forget(args) => forget(&contexts()?, args).await,
        Command::Peer(command) => peers(&contexts()?, command).await,
        Command::Store(command) => records(contexts, command).await,
        Command::Token(command) => tokens(&contexts()?, command).await,
        Command::Vm(command) => vms(&contexts()?, command).await,
        Command::Completion { shell } => print(&pages::completion(shell)?),
        Command::Man { dir } => pages::man(&dir).map(|()| ExitCode::SUCCESS),
    }
}

fn print(text: &str) -> anyhow::Result<ExitCode> {
    output::data(text)?;
    Ok(ExitCode::SUCCESS)
}

async fn open(contexts: &Known, names: &[String]) -> anyhow::Result<Vec<Session>> {
    try_join_all(contexts.named(names)?.iter().map(Session::open)).await
}

async fn check(contexts: &Known, args: CheckArgs) -> anyhow::Result<ExitCode> {
    let checked = check::check(&contexts.named(&args.clusters)?).await;
    print(&match args.output {
        Output::Table => checked.text(),
        Output::Json | Output::Yaml => args.output.print(&checked)?,
    })?;
    Ok(if checked.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn connect(contexts: &Known, args: ConnectArgs) -> anyhow::Result<ExitCode> {
    let sessions = open(contexts, &args.clusters).await?;
    let pairs = connect::of(&sessions);
    let through = match &args.through {
        Some(relay) => Some(connect::Through::open(contexts, relay).await?),
        None => None,
    };
    let through = through.as_ref();
    if args.dry.dry_run {
        let mut objects = Vec::new();
        for (a, b) in &pairs {
            let [on_a, on_b] = connect::would_write(a, b, through).await?;
            objects.extend([(a.name.clone(), on_a), (b.name.clone(), on_b)]);
        }
        return print(&would(&objects, args.dry.output)?);
    }
    let (timeout, progress) = (Duration::from_secs(args.timeout), progress::Progress::new());
    if let [(a, b)] = pairs[..] {
        connect::pair(a, b, through, timeout, &mut connect::Lines::Shown(&progress), &progress).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let names: Vec<String> = pairs.iter().map(|(a, b)| format!("{} and {}", a.called, b.called)).collect();
    let connect = async |at: usize| {
        let ((a, b), mut lines) = (pairs[at], String::new());
        let mut kept = connect::Lines::Kept(&mut lines);
        let ended = connect::pair(a, b, through, timeout, &mut kept, &progress).await;
        (lines, ended)
    };
    connect::every(&names, connect, &progress, output::Stdout).await?;
    Ok(ExitCode::SUCCESS)
}

/// Objects of a dry run; YAML says in a comment whose each is.
fn would(objects: &[(ClusterName, MeshPeer)], output: Output) -> anyhow::Result<String> {
    let mut text = String::new();
    match output {
        Output::Table => {
            for (on, object) in objects {
                let cidrs: Vec<String> = object.spec.contract.cidrs.iter().map(ToString::to_string).collect();
                text +=
                    &format!("{on} would hold its peer {} to {}\n", object.metadata.name, cidrs.join(" "));
            }
        }
        Output::Json => {
            let all: Vec<_> =
                objects.iter().map(|(on, object)| serde_json::json!({"on": on, "object": object})).collect();
            text = output.print(&all)?;
        }
        Output::Yaml => {
            for (on, object) in objects {
                text += &format!("---\n# on {on}\n{}", peer::yaml(object)?);
            }
        }
    }
    Ok(text)
}

async fn disconnect(contexts: &Known, args: DisconnectArgs) -> anyhow::Result<ExitCode> {
    let DisconnectArgs { a, b, .. } = &args;
    let asked = if args.force { vec![a.clone()] } else { vec![a.clone(), b.clone()] };
    let sessions = open(contexts, &asked).await?;
    // Whom we cannot ask is called by its own name.
    let dead = args.force.then(|| b.parse::<ClusterName>()).transpose()?;
    let peers = sessions.iter().skip(1).map(|session| &session.name).chain(&dead);
    let peers = peers.chain(sessions.first().map(|session| &session.name));
    let described = try_join_all(sessions.iter().map(Session::describe)).await?;
    let mut uuids: Vec<_> = described.iter().map(|facts| Some(facts.uuid)).collect();
    // Each side's peer is the other one; whom we cannot ask has no UUID that we know.
    uuids.resize(2, None);
    uuids.reverse();
    let sides = sessions.iter().zip(peers).zip(uuids);
    let sides: Vec<_> = sides.map(|((ours, peer), uuid)| disconnect::Side { ours, peer, uuid }).collect();
    if args.dry.dry_run {
        let mut objects = Vec::new();
        for side in &sides {
            match side.would_end().await? {
                Some((object, text)) => {
                    output::note(&format!(" - {text}"));
                    objects.push((side.ours.name.clone(), object));
                }
                None => output::note(&format!(" - {} has no peer {}", side.ours.name, side.peer)),
            }
        }
        return if args.dry.output == Output::Table {
            Ok(ExitCode::SUCCESS)
        } else {
            print(&would(&objects, args.dry.output)?)
        };
    }
    for side in &sides {
        side.end().await?;
    }
    print(&if args.force {
        format!(
            "disconnected on {a} alone: {b} was not asked. If it lives: meshctl disconnect {b} {a} --force, there\n"
        )
    } else {
        format!("disconnected   undo: meshctl connect {a} {b}\n")
    })
}

async fn peers(contexts: &Known, command: PeerCommand) -> anyhow::Result<ExitCode> {
    match command {
        PeerCommand::List { clusters, output } => {
            let sessions = open(contexts, &clusters).await?;
            let described = try_join_all(sessions.iter().map(Session::describe)).await?;
            let all: Vec<_> =
                described.into_iter().map(|facts| (facts.name.to_string(), facts.peers)).collect();
            print(&peer::list(&all, output)?)
        }
        PeerCommand::Get(args) => print(&peer::yaml(&held(contexts, &args).await?.1)?),
        PeerCommand::Edit { peer, dry_run } => {
            let (session, object) = held(contexts, &peer).await?;
            let dir = tempfile::tempdir().context("cannot make a directory to edit in")?;
            match peer::edit(&object, dir.path())? {
                Some(edited) => print(&peer::apply(&session, &edited, Some(&object), dry_run).await?),
                None => print("nothing was changed\n"),
            }
        }
        PeerCommand::Apply { file, cluster, dry_run } => {
            let text = if file.as_os_str() == "-" {
                std::io::read_to_string(std::io::stdin()).context("cannot read stdin")?
            } else {
                std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?
            };
            let object = peer::parse(&text).with_context(|| format!("cannot apply {}", file.display()))?;
            let session = Session::open(&contexts.find_or_only(cluster.as_deref())?).await?;
            print(&peer::apply(&session, &object, None, dry_run).await?)
        }
    }
}

async fn tokens(contexts: &Known, command: TokenCommand) -> anyhow::Result<ExitCode> {
    let cluster = match &command {
        TokenCommand::Issue(cluster) => cluster,
        TokenCommand::Redeem(args) => &args.cluster,
    };
    let session = Session::open(&contexts.find_or_only(cluster.cluster.as_deref())?).await?;
    match command {
        TokenCommand::Issue(_) => print(&token::issue(&session).await?),
        TokenCommand::Redeem(args) => token::redeem(&session, &args).await.map(|()| ExitCode::SUCCESS),
    }
}

async fn vms(contexts: &Known, command: VmCommand) -> anyhow::Result<ExitCode> {
    let cluster = match &command {
        VmCommand::Add(args) => &args.cluster,
        VmCommand::List { cluster, .. } => cluster,
        VmCommand::Token(args) | VmCommand::Status(args) | VmCommand::Remove(args) => &args.cluster,
    };
    let session = Session::open(&contexts.find_or_only(cluster.cluster.as_deref())?).await?;
    let (text, well) = vm::run(&session, command).await?;
    print(&text)?;
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn held(contexts: &Known, args: &PeerArgs) -> anyhow::Result<(Session, MeshPeer)> {
    let session = Session::open(&contexts.find_or_only(args.cluster.as_deref())?).await?;
    let name: ClusterName = args.peer.parse()?;
    match session.describe().await?.peer(&name).cloned() {
        Some(peer) => Ok((session, peer)),
        None => bail!("{} has no peer {name}; there is: meshctl peer list {}", session.name, session.name),
    }
}

async fn records(
    contexts: impl Fn() -> anyhow::Result<Known>,
    command: StoreCommand,
) -> anyhow::Result<ExitCode> {
    match command {
        StoreCommand::Get { prefix, cluster, rev, output } => {
            let contexts = contexts()?;
            let session = Session::open(&contexts.find_or_only(cluster.as_deref())?).await?;
            let (mut listed, mut head) = (Vec::new(), rev);
            for prefix in store::prefix(&session.name, prefix.as_deref()) {
                head = session.list(&prefix, head, &mut listed).await?;
            }
            print(&store::show(&listed, output)?)
        }
        // The apiserver may be down: that is when one restores.
        StoreCommand::Restore { file, data_dir } => print(&store::restore(&file, &data_dir)?),
    }
}

async fn print_status(contexts: &Known, args: StatusArgs) -> anyhow::Result<ExitCode> {
    let sessions = open(contexts, &args.clusters).await?;
    let within = if args.wait { Duration::from_secs(args.timeout) } else { status::SETTLES };
    let deadline = Instant::now() + within;
    let mut due: Vec<_> = sessions.iter().map(|_| status::Due::default()).collect();
    let progress = progress::Progress::new();
    let clusters = loop {
        let facts = try_join_all(sessions.iter().map(Session::facts)).await?;
        let look = |(facts, due)| status::cluster_again(facts, due);
        let clusters: Vec<_> = facts.iter().zip(&mut due).map(look).collect();
        let healthy = clusters.iter().all(status::ClusterStatus::is_healthy);
        let worth_it = args.wait || clusters.iter().all(status::ClusterStatus::settles);
        if healthy || !worth_it || Instant::now() >= deadline {
            break clusters;
        }
        let missing = clusters.iter().find_map(|cluster| cluster.all_problems().next());
        progress.waits_for(missing.cloned().unwrap_or_default());
        tokio::time::sleep(POLL).await;
    };
    drop(progress);
    let text = match args.output {
        Output::Table => table::status(&clusters),
        Output::Json | Output::Yaml => args.output.print(&clusters)?,
    };
    print(&text)?;
    let healthy = clusters.iter().all(status::ClusterStatus::is_healthy);
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn test(contexts: &Known, args: TestArgs) -> anyhow::Result<ExitCode> {
    let sessions = open(contexts, &args.clusters).await?;
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    let first = try_join_all(sessions.iter().map(Session::facts)).await?;
    let begun: Vec<_> = first.iter().map(round_trips::Begun::new).collect();
    let progress = progress::Progress::new();
    let cases = loop {
        let facts = try_join_all(sessions.iter().map(Session::facts)).await?;
        let cases: Vec<_> =
            begun.iter().zip(&facts).flat_map(|(begun, facts)| round_trips::cases(begun, facts)).collect();
        if cases.iter().all(round_trips::Case::passed) || Instant::now() >= deadline {
            break cases;
        }
        let passed = cases.iter().filter(|case| case.passed()).count();
        progress.waits_for(format!("{passed} of {} pairs", cases.len()));
        tokio::time::sleep(POLL).await;
    };
    drop(progress);
    if cases.is_empty() {
        bail!("there is nothing to test: no cluster that was asked has a peer");
    }
    if let Some(file) = &args.junit {
        let writing = || format!("cannot write {}", file.display());
        std::fs::write(file, round_trips::junit(&cases)?).with_context(writing)?;
    }
    print(&round_trips::text(&cases))?;
    let passed = cases.iter().all(round_trips::Case::passed);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn print_why(contexts: &Known, args: WhyArgs) -> anyhow::Result<ExitCode> {
    let session = Session::open(&contexts.find_or_only(args.cluster.as_deref())?).await?;
    let facts = session.facts().await?;
    print(&match &args.to {
        None => why::why(&facts, &args.what)?,
        Some(to) => why::why_pair(&facts, &args.what, to)?,
    })
}

async fn forget(contexts: &Known, args: ForgetArgs) -> anyhow::Result<ExitCode> {
    let session = Session::open(&contexts.find_or_only(args.cluster.as_deref())?).await?;
    let opened = session.forget(&args.peer.parse()?).await?;
    print(&match &opened[..] {
        [] => format!("{} keeps nothing closed for {}\n", session.name, args.peer),
        all => format!("{} no longer drops what goes to {}\n", session.name, all.join(" ")),
    })
}
