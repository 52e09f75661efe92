//! The two servers, each with an empty store of its own, each gone when it is dropped.

use ::api::bytes::ClusterUuid;
use anyhow::{Context, Result, bail};
use clustermesh_apiserver::{
    authz::Own,
    backend::Engine,
    face::{Doors, bind},
    init::{self, ClusterConfig},
    pipes::Reach,
    pki::Layout,
    vms::Members,
};
use daemon::{
    spiffe::Role,
    tls::{Expected, Identity, IdentityPaths, Tls, connect},
};
use lab::cached;
use rpc::mesh::admin::v1::admin_server::Admin;
use std::{
    net::SocketAddr,
    path::Path,
    process::Stdio,
    time::{Duration, SystemTime},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
    time::timeout,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint};

const UUID: ClusterUuid = ClusterUuid([0x11; 16]);

/// etcd elects itself within 2 s; a start that hangs fails the test.
const START_MAX: Duration = Duration::from_secs(30);

/// A running server.
#[derive(Debug)]
pub struct Server {
    at: SocketAddr,
    channel: Channel,
    running: Running,
}

#[derive(Debug)]
enum Running {
    Etcd { _child: Child, _dir: TempDir },
    Ours { operator: Tls, _end: DropGuard, _dir: TempDir },
}

impl Server {
    /// The etcd 3.5.1 that `ci/etcd.sh` installs.
    ///
    /// # Errors
    /// What is missing, or why it does not start.
    pub async fn etcd() -> Result<Self> {
        Self::etcd_of("3.5.1").await
    }

    /// An etcd of another version, that `ci/etcd.sh VERSION` installs.
    ///
    /// # Errors
    /// As [`Server::etcd`].
    pub async fn etcd_of(version: &str) -> Result<Self> {
        let program = cached(&format!("etcd-{version}/etcd"), &format!("ci/etcd.sh {version}"))?;
        let dir = TempDir::new().context("cannot make a directory for etcd")?;
        let (mut child, mut log) = spawn_etcd(&program, dir.path())?;
        let at = match timeout(START_MAX, address(&mut log)).await {
            Ok(at) => at?,
            Err(_) => bail!("etcd is not ready after {START_MAX:?}"),
        };
        // Whatever it says from now on is read, so that it never waits for us; it ends with the process.
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        if let Some(status) = child.try_wait()? {
            bail!("etcd has ended: {status}");
        }
        let channel = plain(at).await?;
        Ok(Self { at, channel, running: Running::Etcd { _child: child, _dir: dir } })
    }

    /// Our engine behind our doors.
    ///
    /// # Errors
    /// Why it does not start.
    pub async fn ours() -> Result<Self> {
        let dir = TempDir::new().context("cannot make a directory for our store")?;
        let config = config()?;
        init::init(dir.path(), &config, SystemTime::now())?;
        let layout = Layout::new(dir.path());
        let engine = Engine::open(dir.path()).await?;
        let shutdown = CancellationToken::new();
        let own = Own { uuid: UUID, name: config.name };
        let tls = load(&layout.server(), Role::Cluster)?;
        let doors = Doors::new(own, tls.clone(), Members::nobody(), engine, shutdown.clone());
        let port = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let at = port.address();
        tokio::spawn(port.serve(doors, NoAdmin, None, Reach::new(tls)));
        let operator = load(&layout.admin(), Role::Operator)?;
        let channel = mutual(at, &operator).await?;
        let running = Running::Ours { operator, _end: shutdown.drop_guard(), _dir: dir };
        Ok(Self { at, channel, running })
    }

    /// The first connection.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// One more connection.
    ///
    /// # Errors
    /// Why it is not made.
    pub async fn connect(&self) -> Result<Channel> {
        match &self.running {
            Running::Etcd { .. } => plain(self.at).await,
            Running::Ours { operator, .. } => mutual(self.at, operator).await,
        }
    }
}

async fn plain(at: SocketAddr) -> Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://{at}"))?.connect().await?)
}

async fn mutual(at: SocketAddr, operator: &Tls) -> Result<Channel> {
    Ok(connect(operator, &at.to_string(), &Expected::cluster_of(UUID)).await?.channel)
}

fn spawn_etcd(program: &Path, dir: &Path) -> Result<(Child, Lines<BufReader<ChildStderr>>)> {
    // The kernel chooses both ports; etcd tells the one of clients when it is ready. It goes with the thread that started
    // it, which is the test's own, should that be killed.
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(program)
        .args(["--name=m", "--log-level=info", "--unsafe-no-fsync", "--enable-grpc-gateway=false"])
        .arg(format!("--data-dir={}", dir.join("etcd").display()))
        .args(["--listen-client-urls=http://127.0.0.1:0", "--advertise-client-urls=http://127.0.0.1:0"])
        .args(["--listen-peer-urls=http://127.0.0.1:0", "--initial-advertise-peer-urls=http://127.0.0.1:0"])
        .arg("--initial-cluster=m=http://127.0.0.1:0")
        // Silent watches say how far they are every 600 s otherwise.
        .arg("--experimental-watch-progress-notify-interval=100ms")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let stderr = child.stderr.take().context("etcd has no stderr")?;
    Ok((child, BufReader::new(stderr).lines()))
}

/// Reads etcd's log up to where it serves its clients.
async fn address(log: &mut Lines<BufReader<ChildStderr>>) -> Result<SocketAddr> {
    let mut last = String::new();
    while let Some(line) = log.next_line().await? {
        let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if entry["msg"].as_str().is_some_and(|said| said.starts_with("serving client traffic")) {
            return Ok(entry["address"].as_str().context("etcd tells no address")?.parse()?);
        }
        last = line;
    }
    bail!("etcd ended before it was ready: {last}")
}

fn load(paths: &IdentityPaths, role: Role) -> Result<Tls> {
    Ok(Tls::new(Identity::load(paths, role)?))
}

fn config() -> Result<ClusterConfig> {
    Ok(ClusterConfig {
        name: "west".parse()?,
        uuid: UUID,
        pod_cidrs: vec!["10.1.0.0/16".parse()?],
        service_cidrs: vec!["10.96.0.0/16".parse()?],
        mesh_cidrs: vec!["100.64.1.0/24".parse()?],
        encryption_scope: Default::default(),
        advertise: vec!["127.0.0.1:2379".to_owned()],
        dial_out: false,
    })
}

/// Peerings are nobody's business here: every call is answered by `Unimplemented`.
struct NoAdmin;

impl Admin for NoAdmin {}
