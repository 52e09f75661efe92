//! A cluster's directory and its program.

use clustermesh_apiserver::{
    init::{self, ClusterConfig},
    pki::Layout,
};
use daemon::{
    spiffe::Role,
    tls::{Expected, Identity, Tls, connect},
};
use lab::free_port;
use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};
use tempfile::TempDir;
use tokio::time::sleep;
use tonic::transport::Channel;

/// A start takes half a second; a machine under load ten times that.
const START_WITHIN: Duration = Duration::from_secs(60);

/// What the program logs when its doors open.
const SERVING: &str = "Serving";

/// Between two tries to connect to a program that starts.
const RETRY: Duration = Duration::from_millis(20);

/// A cluster that was made by `init`, and where its program listens.
pub struct Cluster {
    pub data: PathBuf,
    listen: String,
    health: String,
    tls: Tls,
    _dir: TempDir,
}

impl Cluster {
    pub fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        let data = dir.path().join("data");
        let range = |text: &str| vec![text.parse().expect("a range")];
        let config = ClusterConfig {
            name: "west".parse().expect("a name"),
            uuid: "11111111-1111-1111-1111-111111111111".parse().expect("a UUID"),
            pod_cidrs: range("10.1.0.0/16"),
            service_cidrs: range("10.96.0.0/16"),
            mesh_cidrs: range("100.64.1.0/24"),
            encryption_scope: init::EncryptionScope::default(),
            advertise: vec![String::from("127.0.0.1:2379")],
            dial_out: false,
        };
        init::init(&data, &config, SystemTime::now()).expect("initialised");
        write_manifests(dir.path());
        let operator = Identity::load(&Layout::new(&data).admin(), Role::Operator).expect("an operator");
        Self {
            data,
            listen: free_port().to_string(),
            health: free_port().to_string(),
            tls: Tls::new(operator),
            _dir: dir,
        }
    }

    /// The same directory at another place, with ports and a log of its own.
    pub fn copy(&self) -> Self {
        let dir = TempDir::new().expect("a directory");
        let data = dir.path().join("data");
        for file in files(&self.data) {
            let to = data.join(&file);
            fs::create_dir_all(to.parent().expect("it has one")).expect("a directory");
            fs::copy(self.data.join(&file), to).expect("a copy");
        }
        write_manifests(dir.path());
        Self {
            data,
            listen: free_port().to_string(),
            health: free_port().to_string(),
            tls: self.tls.clone(),
            _dir: dir,
        }
    }

    /// Starts the program; its log goes to `log` in the data directory's parent.
    pub fn start(&self) -> Program {
        let beside = self.data.parent().expect("it has one");
        let log = fs::File::options().create(true).append(true).open(beside.join("log")).expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_clustermesh-apiserver"))
            .args(["run", "--listen", &self.listen, "--health", &self.health, "--log", "info"])
            .arg("--data-dir")
            .arg(&self.data)
            .arg("--manifests")
            .arg(beside.join("manifests"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        Program(child)
    }

    /// What the programs logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.data.parent().expect("it has one").join("log")).unwrap_or_default()
    }

    /// Connects to a program that is starting.
    pub async fn connect(&self, program: &mut Program) -> Channel {
        let expected = Expected::cluster_of(self.tls.trust().own());
        let give_up = Instant::now() + START_WITHIN;
        loop {
            match connect(&self.tls, &self.listen, &expected).await {
                Ok(connection) => return connection.channel,
                Err(error) => {
                    if let Some(status) = program.0.try_wait().expect("our child") {
                        panic!("the program ended ({status}) instead of serving:\n{}", self.log());
                    }
                    assert!(Instant::now() < give_up, "{error:?}\n{}", self.log());
                    sleep(RETRY).await;
                }
            }
        }
    }
}

/// A running program; killed when dropped.
pub struct Program(Child);

impl Program {
    /// SIGKILL, and its end.
    pub fn kill(&mut self) {
        self.0.kill().expect("SIGKILL is delivered");
        self.0.wait().expect("our child");
    }

    /// Whether it ends by itself before it serves.
    pub async fn ended(&mut self, within: Duration, of: &Cluster) -> bool {
        let give_up = Instant::now() + within;
        while self.0.try_wait().expect("our child").is_none() {
            if TcpStream::connect(&of.listen).is_ok() && of.log().contains(SERVING) {
                return false;
            }
            assert!(Instant::now() < give_up, "it neither serves nor ends:\n{}", of.log());
            sleep(RETRY).await;
        }
        true
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A node, so that there are addresses to remember.
fn write_manifests(beside: &Path) {
    fs::create_dir(beside.join("manifests")).expect("a directory");
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: w1}\n";
    fs::write(beside.join("manifests/node.yaml"), node).expect("a file");
}

/// All files below a directory, by their path in it.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(&at).expect("a directory").map(|entry| entry.expect("an entry")) {
            match entry.file_type().expect("a type").is_dir() {
                true => left.push(entry.path()),
                false => found.push(entry.path().strip_prefix(dir).expect("below it").to_owned()),
            }
        }
    }
    found.sort();
    found
}
