//! Real parts of Kubernetes in a cluster of the lab: etcd, kube-apiserver and kube-controller-manager on the host `control`,
//! kube-proxy on nodes.
//!
//! `ci/kubernetes.sh` builds them, `ci/etcd.sh` installs etcd. They run as they do anywhere, and end with the lab.

mod proxy;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::{Lab, ProcessId, cached};
use nix::sys::signal::Signal;
use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::{Cluster, Mesh, files, succeed};

pub use proxy::{KubeProxy, ProxyMode};

/// Beside the mesh's own store, which has etcd's port there.
const ETCD: &str = "http://127.0.0.1:12379";
const ETCD_PEERS: &str = "http://127.0.0.1:12380";

/// The apiserver's port on the control host.
const PORT: u16 = 6443;

/// Who may everything.
const TOKEN: &str = "lab-admin";

/// The apiserver is ready in 5 s, on a machine that builds meanwhile in some more.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// The kind of a body that is JSON.
pub(crate) const JSON: &str = "application/json";

/// Those that make slices and accounts, turn the chart's objects into pods, and take away what has no owner.
const CONTROLLERS: &str = "--controllers=endpoints-controller,endpointslice-controller,serviceaccount-controller,\
     daemonset-controller,deployment-controller,replicaset-controller,namespace-controller,garbage-collector-controller";

/// A cluster's Kubernetes.
#[derive(Debug)]
pub struct Kubernetes<'a> {
    mesh: &'a Mesh,
    cluster: Cluster,
    dir: PathBuf,
    apiserver: Option<ProcessId>,
}

impl<'a> Kubernetes<'a> {
    /// Starts etcd and kube-apiserver, and waits until it serves.
    pub fn start(mesh: &'a Mesh, cluster: Cluster) -> Result<Self> {
        let etcd = cached("etcd-3.5.1/etcd", "ci/etcd.sh")?;
        let mut kubernetes =
            Self { apiserver: None, mesh, cluster, dir: mesh.dir().join(cluster.name).join("kubernetes") };
        fs::create_dir_all(&kubernetes.dir)?;
        let key = KeyPair::generate().context("cannot make a key for service accounts")?;
        kubernetes.write("sa.key", &key.serialize_pem())?;
        kubernetes.write("sa.pub", &key.public_key_pem())?;
        kubernetes.write("tokens.csv", &format!("{TOKEN},admin,1,\"system:masters\"\n"))?;

        let data = kubernetes.path("etcd");
        kubernetes.spawn(
            &kubernetes.control(),
            "etcd",
            &[
                &etcd.display().to_string(),
                "--data-dir",
                &data,
                "--unsafe-no-fsync",
                "--listen-client-urls",
                ETCD,
                "--advertise-client-urls",
                ETCD,
                "--listen-peer-urls",
                ETCD_PEERS,
            ],
        )?;
        kubernetes.start_apiserver()?;
        let (context, certificate) = (kubernetes.context(), kubernetes.path("certs/apiserver.crt"));
        let kubeconfig = kubeconfig(&context, kubernetes.host()?, &certificate, TOKEN, None);
        kubernetes.write("kubeconfig", &kubeconfig)?;
        Ok(kubernetes)
    }

    /// Starts kube-apiserver, and waits until it serves.
    pub fn start_apiserver(&mut self) -> Result<()> {
        let host = self.host()?;
        let process = self.spawn(
            &self.control(),
            "kube-apiserver",
            &[
                &program("kube-apiserver")?,
                &format!("--etcd-servers={ETCD}"),
                &format!("--bind-address={host}"),
                &format!("--advertise-address={host}"),
                &format!("--secure-port={PORT}"),
                &format!("--cert-dir={}", self.path("certs")),
                &format!("--service-cluster-ip-range={}", self.cluster.services),
                "--service-account-issuer=https://kubernetes.default.svc",
                &format!("--service-account-key-file={}", self.path("sa.pub")),
                &format!("--service-account-signing-key-file={}", self.path("sa.key")),
                &format!("--token-auth-file={}", self.path("tokens.csv")),
                "--authorization-mode=RBAC",
                "--endpoint-reconciler-type=none",
                "--allow-privileged=true",
            ],
        )?;
        self.apiserver = Some(process);
        self.await_ok("kube-apiserver", || self.request("GET", "/readyz", None).map(drop))
    }

    /// Ends kube-apiserver as a crash would.
    pub fn kill_apiserver(&mut self) -> Result<()> {
        end(self.apiserver.take().context("kube-apiserver runs")?, "kube-apiserver")
    }

    /// Starts the controllers.
    pub fn start_controllers(&self) -> Result<()> {
        self.spawn(
            &self.control(),
            "kube-controller-manager",
            &[
                &program("kube-controller-manager")?,
                &format!("--kubeconfig={}", self.kubeconfig()),
                CONTROLLERS,
                &format!("--service-account-private-key-file={}", self.path("sa.key")),
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
            ],
        )?;
        Ok(())
    }

    /// What a `kubectl` that must succeed prints.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_with(args, "")
    }

    /// The same with a text on its standard input.
    pub fn kubectl_with(&self, args: &[&str], stdin: &str) -> Result<String> {
        let kubeconfig = self.kubeconfig();
        let argv = ["kubectl", "--kubeconfig", &kubeconfig].into_iter().chain(args.iter().copied());
        self.feed(argv, stdin).with_context(|| format!("kubectl {}", args.join(" ")))
    }

    /// A kubeconfig of somebody who may everything.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        self.path("kubeconfig")
    }

    /// The context of that kubeconfig, which no other cluster's has: `ctx-a` of `cluster-a`.
    #[must_use]
    pub fn context(&self) -> String {
        self.cluster.name.replace("cluster", "ctx")
    }

    /// Makes the objects of one of this crate's manifests, as an operator's `kubectl apply` would; what controllers and
    /// kubelets would write, too.
    pub fn apply(&self, file: &str) -> Result<()> {
        let source = files().join("manifests").join(self.cluster.name).join(file);
        let text =
            fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
        self.apply_text(&text).with_context(|| format!("cannot apply {file}"))
    }

    /// The same with a text of the caller's own.
    pub fn apply_text(&self, text: &str) -> Result<()> {
        for document in text.split("\n---\n") {
            let object: Value = serde_saphyr::from_str(document).context("not an object in YAML")?;
            self.create(&object)?;
        }
        Ok(())
    }

    /// Makes a namespace.
    pub fn namespace(&self, name: &str) -> Result<()> {
        self.create(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }))
    }

    /// Puts a pod on a node and gives it addresses, as a scheduler and a kubelet do; it is not ready yet.
    pub fn run_pod(&self, namespace: &str, name: &str, node: &str, ips: [&str; 2]) -> Result<()> {
        let at = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
        self.request("POST", &format!("{at}/binding"), Some((JSON, &binding)))?;
        let ready = json!({"type": "Ready", "status": "False"});
        let ips_of = ips.map(|ip| json!({ "ip": ip }));
        let status = json!({"phase": "Running", "podIP": ips[0], "podIPs": ips_of, "conditions": [ready]});
        self.set_pod_status(namespace, name, &status)
    }

    /// Says that a pod is ready.
    pub fn make_pod_ready(&self, namespace: &str, name: &str) -> Result<()> {
        let ready = json!({"type": "Ready", "status": "True"});
        self.set_pod_status(namespace, name, &json!({ "conditions": [ready] }))
    }

    /// Writes into a pod's status, as its kubelet does.
    pub(crate) fn set_pod_status(&self, namespace: &str, name: &str, status: &Value) -> Result<()> {
        let at = format!("/api/v1/namespaces/{namespace}/pods/{name}/status");
        let patch = json!({ "status": status });
        self.request("PATCH", &at, Some(("application/merge-patch+json", &patch))).map(drop)
    }

    fn create(&self, object: &Value) -> Result<()> {
        let at = collection(object)?;
        match self.request("POST", &at, Some((JSON, object))) {
            // Whoever needed accounts in it made it before.
            Err(error) if object["kind"] == "Namespace" && format!("{error:#}").contains("AlreadyExists") => {
            }
            answer => drop(answer?),
        }
        // The status of a new object is nobody's yet; a kubelet writes it afterwards.
        if object["kind"] == "Node" || object["kind"] == "Pod" {
            let name = object["metadata"]["name"].as_str().context("an object has a name")?;
            let status = json!({ "status": object["status"] });
            let patch = Some(("application/merge-patch+json", &status));
            self.request("PATCH", &format!("{at}/{name}/status"), patch)?;
        }
        Ok(())
    }

    /// What the API server answers to whoever may everything.
    pub(crate) fn request(&self, method: &str, path: &str, body: Option<(&str, &Value)>) -> Result<String> {
        let host = self.host()?;
        let (kind, body) = body.map_or((JSON, String::new()), |(kind, it)| (kind, it.to_string()));
        let certificate = self.path("certs/apiserver.crt");
        let url = format!("https://{host}:{PORT}{path}");
        let (token, kind) = (format!("Authorization: Bearer {TOKEN}"), format!("Content-Type: {kind}"));
        let argv =
            ["curl", "-sS", "--fail-with-body", "--max-time", "10", "--cacert", &certificate, "-X", method];
        let argv = argv.into_iter().chain(["-H", &token, "-H", &kind, "--data-binary", "@-", &url]);
        self.feed(argv, &body).with_context(|| format!("{method} {path}"))
    }

    /// What a program on the control host prints that reads a text.
    fn feed<'b>(&self, argv: impl Iterator<Item = &'b str>, text: &str) -> Result<String> {
        let mut command = self.lab().command(&self.control(), argv)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot run it")?;
        let mut stdin = child.stdin.take().expect("stdin was piped");
        // One that fails at once closes its end, and says more than our broken pipe.
        let _ = stdin.write_all(text.as_bytes());
        drop(stdin);
        succeed(child.wait_with_output()?)
    }

    /// The address of its control plane.
    pub(crate) fn host(&self) -> Result<&'static str> {
        let (host, _) = self.cluster.apiserver.split_once(':').context("an apiserver is HOST:PORT")?;
        Ok(host)
    }

    fn await_ok(&self, what: &str, mut ok: impl FnMut() -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            match ok() {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!("{what} was not ready within {READY_WITHIN:?}")));
                }
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    fn spawn(&self, place: &str, name: &str, argv: &[&str]) -> Result<ProcessId> {
        let log = self.log_file(name)?;
        let mut command = self.lab().command(place, argv)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {name} in {place}"))?;
        ProcessId::of(child.id())
    }

    /// A kubeconfig of whoever has this token.
    pub(crate) fn kubeconfig_of(&self, token: &str, namespace: &str) -> Result<String> {
        let certificate = self.path("certs/apiserver.crt");
        Ok(kubeconfig(&self.context(), self.host()?, &certificate, token, Some(namespace)))
    }

    /// Its nodes.
    pub(crate) fn nodes(&self) -> [&'static str; 2] {
        self.cluster.nodes
    }

    /// The first address of a node, as its status says it.
    pub(crate) fn node_address(&self, node: &str) -> Result<Value> {
        let node: Value =
            serde_json::from_str(&self.request("GET", &format!("/api/v1/nodes/{node}"), None)?)?;
        let all = node["status"]["addresses"].as_array().into_iter().flatten();
        let mut internal = all.filter(|it| it["type"] == "InternalIP").map(|it| it["address"].clone());
        internal.next().context("a node has an InternalIP")
    }

    /// A text as the cluster's DNS would have it: the apiserver's Service is where the apiserver is.
    pub(crate) fn resolve(&self, text: &str) -> String {
        text.replace("mesh-clustermesh-apiserver.clustermesh.svc:2379", self.cluster.apiserver)
    }

    /// A command that runs one of our programs in a place.
    pub(crate) fn program(&self, place: &str, name: &str, args: &[String]) -> Result<Command> {
        let program = self.mesh.program(name);
        self.lab().command(place, [program].iter().chain(args))
    }

    /// Runs a program in a place; it has to succeed.
    pub(crate) fn exec(&self, place: &str, argv: &[&str]) -> Result<()> {
        succeed(self.lab().exec(place, argv)?).map(drop)
    }

    /// Where its files are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A log, to be written on: a failed test prints its end.
    pub(crate) fn log_file(&self, name: &str) -> Result<File> {
        let logs = self.mesh.dir().join("logs").join(self.cluster.name).join("kubernetes");
        fs::create_dir_all(&logs)?;
        let path = logs.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&path);
        file.with_context(|| format!("cannot open {}", path.display()))
    }

    fn lab(&self) -> &Lab {
        &self.mesh.lab
    }

    /// The host of its control plane, as a place.
    pub(crate) fn control(&self) -> String {
        format!("{}/host/control", self.cluster.name)
    }

    /// A node, as a place.
    pub(crate) fn node(&self, node: &str) -> String {
        format!("{}/node/{node}", self.cluster.name)
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.dir.join(name), text).with_context(|| format!("cannot write {name}"))
    }
}

fn end(process: ProcessId, name: &str) -> Result<()> {
    process.signal(Signal::SIGKILL)?;
    if process.wait_gone(Duration::from_secs(10)) { Ok(()) } else { bail!("{name} did not end") }
}

/// One of Kubernetes' programs.
fn program(name: &str) -> Result<String> {
    Ok(cached(&format!("kubernetes-1.37.2/{name}"), "ci/kubernetes.sh")?.display().to_string())
}

/// The path of the collection that an object belongs to.
fn collection(object: &Value) -> Result<String> {
    let text = |at: &str| object.pointer(at).and_then(Value::as_str);
    let kind = text("/kind").context("an object has a kind")?;
    let namespace = text("/metadata/namespace").map_or(String::new(), |name| format!("/namespaces/{name}"));
    Ok(match kind {
        "Namespace" | "Node" => format!("/api/v1/{}s", kind.to_lowercase()),
        "Service" | "Pod" => format!("/api/v1{namespace}/{}s", kind.to_lowercase()),
        "EndpointSlice" => format!("/apis/discovery.k8s.io/v1{namespace}/endpointslices"),
        other => bail!("this test does not know the objects of kind {other}"),
    })
}

fn kubeconfig(context: &str, host: &str, certificate: &str, token: &str, namespace: Option<&str>) -> String {
    let namespace = namespace.map(|name| format!(", namespace: {name}")).unwrap_or_default();
    format!(
        "apiVersion: v1
kind: Config
clusters:
  - name: {context}
    cluster: {{ server: \"https://{host}:{PORT}\", certificate-authority: {certificate} }}
users:
  - name: {context}
    user: {{ token: {token} }}
contexts:
  - name: {context}
    context: {{ cluster: {context}, user: {context}{namespace} }}
current-context: {context}
"
    )
}
