//! The control plane of one cluster: see the library.

use anyhow::Context;
use api::bytes::ClusterUuid;
use clap::Parser;
use clustermesh_apiserver::{
    args::{CertCommand, Cli, Command, InitArgs},
    init::{self, ClusterConfig},
    keep::StateSecret,
    kubernetes,
    pki::Layout,
};
use daemon::args::exit;
use std::{process::ExitCode, time::SystemTime};

fn main() -> ExitCode {
    exit(run(&Cli::parse()))
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    daemon::log::init(&cli.log)?;
    match &cli.command {
        Command::Init(args) => {
            let config = args.config(new_uuid());
            config.check().context("these addresses cannot be a cluster's")?;
            let made = make(args, &config);
            let uuid = made.with_context(|| {
                format!("cannot make cluster {} in {}", config.name, args.data_dir.display())
            })?;
            println!("cluster {} ({uuid}) is in {}", config.name, args.data_dir.display());
            println!("operator's context: {}", args.data_dir.join("admin/config.yaml").display());
            Ok(())
        }
        Command::Cert(CertCommand::Issue(args)) => {
            let now = SystemTime::now();
            let id = init::issue(&args.data_dir, args.role, &args.name, args.days, &args.out, now)
                .with_context(|| format!("cannot issue a certificate for {} {}", args.role, args.name))?;
            println!("{id} for {} days in {}", args.days, args.out.display());
            Ok(())
        }
        Command::Run(args) => {
            let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
            runtime.block_on(async {
                let shutdown = daemon::shutdown::on_signal().context("cannot catch signals")?;
                clustermesh_apiserver::run::run(args, shutdown).await
            })
        }
    }
}

/// Makes the cluster, or takes the one that the Secret holds. Gives its UUID.
fn make(args: &InitArgs, config: &ClusterConfig) -> anyhow::Result<ClusterUuid> {
    let now = SystemTime::now();
    let Some(name) = &args.state_secret else {
        init::init(&args.data_dir, config, now)?;
        return Ok(config.uuid);
    };
    let layout = Layout::new(&args.data_dir);
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        StateSecret::new(kubernetes::client().await?, name).init(&layout, config, now).await
    })?;
    Ok(ClusterConfig::load(&layout)?.uuid)
}

/// A random UUID (RFC 9562, version 4).
fn new_uuid() -> ClusterUuid {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    ClusterUuid(bytes)
}
