//! `mesh-traffic`: makes traffic and says, in one line of JSON, what happened to it.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use lab::traffic::{connect_loop, http, seq, stream};
use serde::Serialize;

/// Makes traffic. Every command ends after `--seconds`, or at SIGINT or SIGTERM, and then prints what it saw.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Subcommand)]
enum Cmd {
    /// Answers every GET with its name, and every UDP packet with its name and the packet.
    HttpServe {
        /// What to answer.
        #[arg(long)]
        name: String,
        /// TCP and UDP port.
        #[arg(long)]
        port: u16,
        /// None: until it is ended.
        #[arg(long)]
        seconds: Option<f64>,
    },
    /// A sustained TCP transfer, every byte checked.
    TcpStream {
        #[command(subcommand)]
        side: TcpSide,
    },
    /// A one-way UDP stream of numbered packets.
    UdpSeq {
        #[command(subcommand)]
        side: UdpSide,
    },
    /// A new TCP connection each time.
    ConnectLoop {
        /// IP:PORT.
        #[arg(long)]
        target: SocketAddr,
        /// Milliseconds from one attempt to the next.
        #[arg(long, default_value_t = 200)]
        interval_ms: u64,
        /// Milliseconds that an attempt may take.
        #[arg(long, default_value_t = 1_000)]
        timeout_ms: u64,
        /// Asks for `/` on each connection and counts the answers.
        #[arg(long)]
        http: bool,
        /// For how long.
        #[arg(long)]
        seconds: f64,
    },
}

#[derive(Subcommand)]
enum TcpSide {
    /// Receives streams; one line of JSON for each.
    Serve {
        /// TCP port.
        #[arg(long)]
        port: u16,
        /// None: until it is ended.
        #[arg(long)]
        seconds: Option<f64>,
    },
    /// Sends one. Exit code 1 when not everything arrived as it was sent.
    Send {
        /// IP:PORT.
        #[arg(long)]
        target: SocketAddr,
        /// For how long.
        #[arg(long)]
        seconds: f64,
        /// kbit/s; 0 is as fast as it goes.
        #[arg(long, default_value_t = 8_000)]
        rate_kbit: u64,
    },
}

#[derive(Subcommand)]
enum UdpSide {
    /// Receives one stream, until its sender ends it.
    Receive {
        /// UDP port.
        #[arg(long)]
        port: u16,
        /// None: until the sender ends.
        #[arg(long)]
        seconds: Option<f64>,
    },
    /// Sends one.
    Send {
        /// IP:PORT.
        #[arg(long)]
        target: SocketAddr,
        /// For how long.
        #[arg(long)]
        seconds: f64,
        /// Packets a second.
        #[arg(long, default_value_t = 100)]
        rate: u32,
        /// Bytes of UDP payload.
        #[arg(long, default_value_t = 200)]
        size: usize,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Cli::parse().command).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Cmd) -> Result<ExitCode> {
    match command {
        Cmd::HttpServe { name, port, seconds } => http::serve(name, port, seconds).await?,
        Cmd::TcpStream { side: TcpSide::Serve { port, seconds } } => stream::serve(port, seconds).await?,
        Cmd::TcpStream { side: TcpSide::Send { target, seconds, rate_kbit } } => {
            let sent = stream::send(target, seconds, rate_kbit).await?;
            say(&sent);
            return Ok(if sent.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Cmd::UdpSeq { side: UdpSide::Receive { port, seconds } } => say(&seq::receive(port, seconds).await?),
        Cmd::UdpSeq { side: UdpSide::Send { target, seconds, rate, size } } => {
            say(&seq::send(target, seconds, rate, size).await?);
        }
        Cmd::ConnectLoop { target, interval_ms, timeout_ms, http, seconds } => {
            let (every, patience) =
                (Duration::from_millis(interval_ms.max(1)), Duration::from_millis(timeout_ms));
            say(&connect_loop::run(target, every, patience, http, seconds).await?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn say(report: &impl Serialize) {
    println!("{}", serde_json::to_string(report).expect("a report is plain data"));
}
