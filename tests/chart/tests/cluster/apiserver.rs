//! The chart's apiserver, run here: what its Deployment says is started, with the account that it names.

use super::NAMESPACE;
use anyhow::{Context as _, Result, bail};
use chart::{Cluster, eventually, ours};
use lab::free_port;
use serde_json::Value;
use std::{
    fs,
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// The name of its Deployment, its account and its Role.
pub const APISERVER: &str = "mesh-clustermesh-apiserver";

/// What the Deployment says, run here: the same arguments but for the places.
pub struct Pod {
    /// A mount namespace, with a volume at the data directory.
    volume: Option<Child>,
    dir: tempfile::TempDir,
    init: Vec<String>,
    run: Vec<String>,
    kubeconfig: PathBuf,
}

/// The apiserver at work; it ends with this value.
pub struct Running {
    child: Child,
    /// Where it serves gRPC.
    pub grpc: String,
    health: String,
}

impl Pod {
    /// Of the Deployment in the cluster, with the rights of its own account.
    pub async fn of(cluster: &Cluster) -> Self {
        eventually("the CRD is served", async || cluster.api("MeshPeer", None).await.map(drop))
            .await
            .unwrap();
        let deployment = cluster.get("Deployment", &format!("{NAMESPACE}/{APISERVER}")).await.unwrap();
        Self::new(&deployment, &cluster.kubeconfig_of(NAMESPACE, APISERVER).await.unwrap())
    }

    /// Of the Deployment in the cluster, at work and ready.
    pub async fn ready(cluster: &Cluster) -> (Self, Running) {
        let pod = Self::of(cluster).await;
        pod.init().unwrap();
        let running = pod.start().await;
        (pod, running)
    }

    /// Runs it until it is ready.
    pub async fn start(&self) -> Running {
        let running = self.run().unwrap();
        eventually("it is ready", async || running.ready()).await.unwrap();
        running
    }

    /// Of a Deployment, as whom a kubeconfig says.
    pub fn new(deployment: &Value, kubeconfig: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let args = |at: &str| -> Vec<String> {
            let args = deployment.pointer(at).and_then(Value::as_array).expect("arguments");
            let data = dir.path().join("data").display().to_string();
            args.iter()
                .map(|arg| arg.as_str().expect("text").replace("/var/lib/clustermesh", &data))
                .collect()
        };
        let init = args("/spec/template/spec/initContainers/0/args");
        let run = args("/spec/template/spec/containers/0/args");
        Self { volume: None, init, run, kubeconfig: kubeconfig.to_owned(), dir }
    }

    /// The same, as whom another kubeconfig says.
    pub fn with_kubeconfig(mut self, kubeconfig: &Path) -> Self {
        kubeconfig.clone_into(&mut self.kubeconfig);
        self
    }

    /// The same, with a volume of this size, in kernel's units (`16m`). It is in a mount namespace of its own, and so gone
    /// when this is.
    pub fn on_volume(mut self, size: &str) -> Result<Self> {
        let data = self.dir.path().join("data");
        fs::create_dir(&data)?;
        let mount =
            format!("mount -t tmpfs -o size={size} volume {} && echo && exec sleep infinity", data.display());
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "--",
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            &mount,
        ]);
        let mut holder = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut line = [0];
        holder.stdout.take().expect("it was piped").read_exact(&mut line).context("cannot mount a volume")?;
        self.volume = Some(holder);
        Ok(self)
    }

    /// A path of the data directory, as this process sees it.
    pub fn path(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join("data").join(name);
        match &self.volume {
            Some(holder) => {
                let root = PathBuf::from(format!("/proc/{}/root", holder.id()));
                root.join(path.strip_prefix("/").expect("it is absolute"))
            }
            None => path,
        }
    }

    fn command(&self, args: &[String]) -> Result<Command> {
        let mut command = Command::new("setpriv");
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("log"))?;
        command.args(["--pdeathsig", "KILL", "--"]);
        if let Some(holder) = &self.volume {
            command.args(["nsenter", &format!("--mount=/proc/{}/ns/mnt", holder.id()), "--"]);
        }
        command.arg(ours("clustermesh-apiserver")?).args(args);
        command.env("KUBECONFIG", &self.kubeconfig).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    /// Its init container.
    pub fn init(&self) -> Result<()> {
        let status = self.command(&self.init)?.status()?;
        if !status.success() {
            bail!("init: {}", self.log());
        }
        Ok(())
    }

    /// Its container, on a port that is free.
    pub fn run(&self) -> Result<Running> {
        self.run_at(free_port())
    }

    /// Its container, on a port of the caller's choice.
    pub fn run_at(&self, grpc: SocketAddr) -> Result<Running> {
        let health = free_port();
        let here = |arg: &String| {
            let arg = arg.replace("--listen=0.0.0.0:2379", &format!("--listen={grpc}"));
            let arg = arg.replace("--health=0.0.0.0:9879", &format!("--health={health}"));
            // A refusal that it gets over is logged below the ordinary.
            arg.replace("--log=info", "--log=info,clustermesh_apiserver=debug")
        };
        let args: Vec<String> = self.run.iter().map(here).collect();
        Ok(Running {
            child: self.command(&args)?.spawn()?,
            grpc: grpc.to_string(),
            health: health.to_string(),
        })
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// A file of its data directory.
    pub fn file(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// The line of the cluster's UUID.
    pub fn uuid(&self) -> String {
        self.file("cluster.yaml").lines().find(|line| line.starts_with("uuid:")).expect("a UUID").to_owned()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Some(holder) = &mut self.volume {
            // One that has ended cannot be killed.
            drop(holder.kill());
            drop(holder.wait());
        }
    }
}

impl Running {
    /// Waits until it has ended by itself; whether that was with success.
    pub fn ended(&mut self) -> Result<bool> {
        match self.child.try_wait()? {
            Some(status) => Ok(status.success()),
            None => bail!("it runs"),
        }
    }

    /// A figure of its metrics.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let curl = ["-sS", "--fail-with-body", "--max-time", "5"];
        let said = Command::new("curl").args(curl).arg(format!("http://{}/metrics", self.health)).output()?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("there is no {name}: {text}"))?.parse()?)
    }

    /// Whether it is.
    pub fn ready(&self) -> Result<()> {
        let curl = ["-sS", "--fail-with-body", "--max-time", "5"];
        let said = Command::new("curl").args(curl).arg(format!("http://{}/readyz", self.health)).output()?;
        if !said.status.success() {
            bail!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended cannot be killed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
