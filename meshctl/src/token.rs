//! Tokens: how two administrators who share no kubeconfig connect their clusters.

use crate::{args::ClusterArg, connect, output::note, progress::Progress, session::Session};
use anyhow::Context as _;
use api::token::Token;
use clap::{Args, Subcommand};
use std::{io, time::Duration};

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Makes a token, and prints the line that the administrator of the other cluster runs within 15 minutes. It counts once.
    Issue(ClusterArg),
    /// Connects a cluster of ours with the one that issued a token, and proves it by round trips.
    Redeem(RedeemArgs),
}

#[derive(Debug, Args)]
pub struct RedeemArgs {
    /// The token; `-` reads it from stdin, where no list of processes shows it.
    #[arg(value_name = "TOKEN")]
    pub token: String,
    #[command(flatten)]
    pub cluster: ClusterArg,
    /// Seconds until it is given up.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub timeout: u64,
}

/// The line that redeems a token of this cluster.
pub async fn issue(session: &Session) -> anyhow::Result<String> {
    let token = session.invite_peer().await?;
    note(
        "for the administrator of the other cluster, once, within 15 minutes; add --cluster where several are known:",
    );
    Ok(format!("meshctl token redeem {token}\n"))
}

/// Redeems a token for this cluster.
pub async fn redeem(session: &Session, args: &RedeemArgs) -> anyhow::Result<()> {
    let line = match args.token.as_str() {
        "-" => io::read_to_string(io::stdin()).context("cannot read the token from stdin")?,
        line => line.to_owned(),
    };
    let token: Token = line.parse().context("this is not a token of `meshctl token issue`")?;
    connect::by_token(&token, session, Duration::from_secs(args.timeout), &Progress::new()).await
}
