//! What of a scheduler, a kubelet and a cloud's load balancers runs the chart's pods in a lab: each container is a
//! program of ours, with the arguments, the files and the account that its spec names.
//!
//! A pod of the host's network runs on its node, every other one on the host `control`, which stands where a load
//! balancer does. There is no container: a mount is a directory of its own, named in the arguments instead of where
//! it would be mounted.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::ProcessId;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::kubernetes::{JSON, Kubernetes};

/// How often a kubelet looks at its pods: short beside the seconds in which an operator waits for them.
const LOOK: Duration = Duration::from_millis(200);

/// What a program may take to end when its pod is deleted: as Kubernetes gives it.
const GRACE: Duration = Duration::from_secs(30);

/// The chart's images, and the programs in them.
const IMAGES: [(&str, &str); 4] = [
    ("clustermesh-apiserver", "clustermesh-apiserver"),
    ("clustermesh-node-agent", "mesh-node-agent"),
    ("clustermesh-tunnel", "mesh-tunnel"),
    ("clustermesh-meshctl", "meshctl"),
];

/// Runs the pods of a namespace of these clusters as long as `work` lasts; its programs end with the lab.
pub fn run_while<T>(clusters: &[&Kubernetes<'_>], namespace: &str, work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let mut ends = Vec::new();
        for kubernetes in clusters {
            let (end, ended) = mpsc::channel::<()>();
            ends.push(end);
            let mut kubelet = Kubelet { kubernetes, namespace, pods: BTreeMap::new(), said: String::new() };
            scope.spawn(move || {
                while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(LOOK) {
                    kubelet.look();
                }
            });
        }
        // A panic of `work` drops the ends, too, and with them the threads end.
        let _ends = ends;
        work()
    })
}

struct Kubelet<'a> {
    kubernetes: &'a Kubernetes<'a>,
    namespace: &'a str,
    /// By UID.
    pods: BTreeMap<String, Running>,
    /// What went wrong last: said once.
    said: String,
}

/// A pod whose program was started.
struct Running {
    child: Child,
    ready: bool,
}

impl Kubelet<'_> {
    fn look(&mut self) {
        // An API server that is away is asked again.
        let _ = self.balance();
        let pods = match self.kubernetes.request("GET", &self.path(""), None) {
            Ok(text) => text,
            // There is no namespace yet, or the API server is away: nothing changes.
            Err(_) => return,
        };
        let pods: Value = serde_json::from_str(&pods).unwrap_or_default();
        for pod in pods["items"].as_array().into_iter().flatten() {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            if let Err(error) = self.tend(name, pod) {
                let said = format!("pod {name}: {error:#}\n");
                if said != self.said {
                    // A log that cannot be written fails no pod.
                    if let Ok(mut log) = self.kubernetes.log_file("kubelet") {
                        let _ = log.write_all(said.as_bytes());
                    }
                    self.said = said;
                }
            }
        }
    }

    /// What asks for a load balancer has one.
    fn balance(&self) -> Result<()> {
        let path = format!("/api/v1/namespaces/{}/services", self.namespace);
        let services: Value = serde_json::from_str(&self.kubernetes.request("GET", &path, None)?)?;
        let host = self.kubernetes.host()?;
        for service in services["items"].as_array().into_iter().flatten() {
            let waits = service["spec"]["type"] == "LoadBalancer"
                && service.pointer("/status/loadBalancer/ingress").is_none();
            if let (true, Some(name)) = (waits, service["metadata"]["name"].as_str()) {
                let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": host}]}}});
                let patch = Some(("application/merge-patch+json", &status));
                self.kubernetes.request("PATCH", &format!("{path}/{name}/status"), patch)?;
            }
        }
        Ok(())
    }

    fn tend(&mut self, name: &str, pod: &Value) -> Result<()> {
        let uid = pod["metadata"]["uid"].as_str().context("a pod has a UID")?;
        if pod["metadata"].get("deletionTimestamp").is_some() {
            return self.end(name, uid);
        }
        if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
            return Ok(());
        }
        let Some(node) = pod["spec"]["nodeName"].as_str() else { return self.schedule(name, pod) };
        match self.pods.get_mut(uid) {
            None => {
                let child = self.start(name, uid, node, pod)?;
                self.pods.insert(uid.to_owned(), Running { child, ready: false });
                let addresses = if on_host(pod) { self.kubernetes.node_address(node)? } else { Value::Null };
                let status = json!({"phase": "Running", "podIP": addresses, "conditions": [ready(false)]});
                self.set_status(name, &status)
            }
            Some(running) => match running.child.try_wait().context("cannot ask for its end")? {
                Some(status) if pod["spec"]["restartPolicy"] == "Never" => {
                    let phase = if status.success() { "Succeeded" } else { "Failed" };
                    self.set_status(name, &json!({"phase": phase}))
                }
                Some(status) => {
                    self.pods.remove(uid);
                    bail!("its program ended with {status}; starting it again")
                }
                None if running.ready => Ok(()),
                None => {
                    self.probe(node, pod)?;
                    self.set_status(name, &json!({"conditions": [ready(true)]}))?;
                    self.pods.get_mut(uid).expect("it was there").ready = true;
                    Ok(())
                }
            },
        }
    }

    /// A DaemonSet says which node it means; a Deployment's pod goes to the first one.
    fn schedule(&self, name: &str, pod: &Value) -> Result<()> {
        let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0\
                     /matchFields/0/values/0";
        let first = self.kubernetes.nodes()[0];
        let node = pod.pointer(terms).and_then(Value::as_str).unwrap_or(first);
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
        let at = self.path(&format!("/{name}/binding"));
        self.kubernetes.request("POST", &at, Some((JSON, &binding))).map(drop)
    }

    fn start(&self, name: &str, uid: &str, node: &str, pod: &Value) -> Result<Child> {
        let place = self.place(node, pod);
        let dir = self.kubernetes.dir().join("pods").join(uid);
        let mounts = self.mounts(name, uid, &dir, pod)?;
        let account = pod["spec"]["automountServiceAccountToken"] != json!(false);
        let kubeconfig = if account { Some(self.account(&dir, pod)?) } else { None };
        for container in pod["spec"]["initContainers"].as_array().into_iter().flatten() {
            let status = self.program(name, &place, container, &mounts, kubeconfig.as_deref())?.wait()?;
            if !status.success() {
                bail!("its init container ended with {status}");
            }
        }
        self.program(name, &place, &pod["spec"]["containers"][0], &mounts, kubeconfig.as_deref())
    }

    fn program(
        &self,
        pod: &str,
        place: &str,
        container: &Value,
        mounts: &BTreeMap<String, String>,
        kubeconfig: Option<&str>,
    ) -> Result<Child> {
        let image = container["image"].as_str().context("a container has an image")?;
        let repository = image.rsplit('/').next().unwrap_or_default().split([':', '@']).next();
        let program = IMAGES.iter().find(|(image, _)| Some(*image) == repository);
        let (_, program) = program.with_context(|| format!("there is no image {image}"))?;
        let mut args = Vec::new();
        for arg in container["args"].as_array().into_iter().flatten() {
            let mut arg = self.kubernetes.resolve(arg.as_str().context("an argument is text")?);
            for mount in container["volumeMounts"].as_array().into_iter().flatten() {
                let at = mount["mountPath"].as_str().context("a mount has a path")?;
                let volume = mount["name"].as_str().context("a mount has a volume")?;
                arg = arg.replace(at, &mounts[volume]);
            }
            args.push(arg);
        }
        let mut command = self.kubernetes.program(place, program, &args)?;
        if let Some(kubeconfig) = kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        let log = self.kubernetes.log_file(pod)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.spawn().with_context(|| format!("cannot start {program} in {place}"))
    }

    /// What each volume is on the machine.
    fn mounts(&self, pod: &str, uid: &str, dir: &Path, spec: &Value) -> Result<BTreeMap<String, String>> {
        let mut mounts = BTreeMap::new();
        for volume in spec["spec"]["volumes"].as_array().into_iter().flatten() {
            let name = volume["name"].as_str().context("a volume has a name")?;
            let at = dir.join(name);
            fs::create_dir_all(&at)?;
            let text = |value: &Value| value.as_str().map(str::to_owned);
            if let Some(path) = text(&volume["hostPath"]["path"]) {
                mounts.insert(name.to_owned(), path);
                continue;
            }
            if let Some(secret) = text(&volume["secret"]["secretName"]) {
                self.files("secrets", &secret, &volume["secret"]["items"], &at)?;
            }
            if let Some(map) = text(&volume["configMap"]["name"]) {
                self.files("configmaps", &map, &volume["configMap"]["items"], &at)?;
            }
            for source in volume["projected"]["sources"].as_array().into_iter().flatten() {
                let token = &source["serviceAccountToken"];
                let (Some(audience), Some(path)) = (text(&token["audience"]), text(&token["path"])) else {
                    continue;
                };
                let account = spec["spec"]["serviceAccountName"].as_str().context("a pod has an account")?;
                let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid});
                let wish = json!({"audiences": [audience], "boundObjectRef": bound});
                fs::write(at.join(path), self.token(account, &wish)?)?;
            }
            mounts.insert(name.to_owned(), at.display().to_string());
        }
        Ok(mounts)
    }

    /// The items of a Secret or ConfigMap. One that is not there yet is waited for, as a kubelet does.
    fn files(&self, plural: &str, name: &str, items: &Value, at: &Path) -> Result<()> {
        let path = format!("/api/v1/namespaces/{}/{plural}/{name}", self.namespace);
        let object: Value = serde_json::from_str(&self.kubernetes.request("GET", &path, None)?)?;
        for item in items.as_array().into_iter().flatten() {
            let (key, file) = (item["key"].as_str().unwrap_or_default(), item["path"].as_str());
            let held = object["data"][key].as_str().with_context(|| format!("{name} has no {key} yet"))?;
            let bytes = if plural == "secrets" { base64(held)? } else { held.as_bytes().to_vec() };
            fs::write(at.join(file.context("an item has a path")?), bytes)?;
        }
        Ok(())
    }

    /// A kubeconfig of the pod's account.
    fn account(&self, dir: &Path, pod: &Value) -> Result<String> {
        let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or("default");
        let token = self.token(account, &json!({}))?;
        let path = dir.join("kubeconfig");
        fs::write(&path, self.kubernetes.kubeconfig_of(&token, self.namespace)?)?;
        Ok(path.display().to_string())
    }

    fn token(&self, account: &str, spec: &Value) -> Result<String> {
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{account}/token", self.namespace);
        let wish = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let answer: Value =
            serde_json::from_str(&self.kubernetes.request("POST", &path, Some((JSON, &wish)))?)?;
        answer["status"]["token"].as_str().map(str::to_owned).context("the answer has no token")
    }

    /// Its readiness probe, when it has one.
    fn probe(&self, node: &str, pod: &Value) -> Result<()> {
        let container = &pod["spec"]["containers"][0];
        let probe = &container["readinessProbe"]["httpGet"];
        let Some(path) = probe["path"].as_str() else { return Ok(()) };
        let ports = container["ports"].as_array().into_iter().flatten();
        let port =
            ports.filter(|port| port["name"] == probe["port"]).find_map(|it| it["containerPort"].as_u64());
        let url = format!("http://127.0.0.1:{}{path}", port.context("the probe's port has a number")?);
        self.kubernetes
            .exec(&self.place(node, pod), &["curl", "-sS", "--fail-with-body", "--max-time", "5", &url])
    }

    fn end(&mut self, name: &str, uid: &str) -> Result<()> {
        if let Some(mut running) = self.pods.remove(uid) {
            if running.child.try_wait()?.is_none() {
                let process = ProcessId::of(running.child.id())?;
                process.signal(Signal::SIGTERM)?;
                if !process.wait_gone(GRACE) {
                    process.signal(Signal::SIGKILL)?;
                }
            }
            // Whoever asked for its activity may have collected it.
            let _ = running.child.wait();
        }
        let now = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
            "preconditions": {"uid": uid}});
        self.kubernetes.request("DELETE", &self.path(&format!("/{name}")), Some((JSON, &now))).map(drop)
    }

    fn set_status(&self, name: &str, status: &Value) -> Result<()> {
        self.kubernetes.set_pod_status(self.namespace, name, status)
    }

    fn place(&self, node: &str, pod: &Value) -> String {
        if on_host(pod) { self.kubernetes.node(node) } else { self.kubernetes.control() }
    }

    fn path(&self, rest: &str) -> String {
        format!("/api/v1/namespaces/{}/pods{rest}", self.namespace)
    }
}

fn on_host(pod: &Value) -> bool {
    pod["spec"]["hostNetwork"] == json!(true)
}

fn ready(is: bool) -> Value {
    json!({"type": "Ready", "status": if is { "True" } else { "False" }})
}

fn base64(text: &str) -> Result<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).context("a Secret holds base64")
}
