//! A Kubernetes API server with the controllers that an installation needs, on loopback, for one test.

use anyhow::{Context, Result, bail};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use kube::{
    Api, Client, Config, Discovery,
    api::{ApiResource, DynamicObject, ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    discovery::{ApiCapabilities, Scope, verbs},
};
use lab::{cached, free_port};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The API server is ready in 5 s, on a machine that builds meanwhile in some more.
const WITHIN: Duration = Duration::from_secs(120);

/// What turns DaemonSets into pods and takes away what has no owner.
const CONTROLLERS: &str = "--controllers=daemonset-controller,deployment-controller,garbage-collector-controller,\
     namespace-controller,persistentvolumeclaim-protection-controller,replicaset-controller,serviceaccount-controller";

/// The names of objects, as `Kind namespace/name`.
pub type Installed = BTreeSet<String>;

/// A cluster without nodes' programs.
pub struct Cluster {
    dir: TempDir,
    children: Vec<Child>,
    url: String,
    client: Client,
}

impl Cluster {
    /// Starts one, and waits until it serves.
    ///
    /// # Errors
    /// What is missing, or what did not start.
    pub async fn start() -> Result<Self> {
        let kubernetes = |program| cached(&format!("kubernetes-1.37.2/{program}"), "ci/kubernetes.sh");
        let etcd = cached("etcd-3.5.1/etcd", "ci/etcd.sh")?;
        let (apiserver, controllers) =
            (kubernetes("kube-apiserver")?, kubernetes("kube-controller-manager")?);
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name).display().to_string();
        let [client, peers, secure, control] = [(); 4].map(|()| free_port().port());
        let key = rcgen::KeyPair::generate().context("cannot make a key for service accounts")?;
        fs::write(at("sa.key"), key.serialize_pem())?;
        fs::write(at("sa.pub"), key.public_key_pem())?;
        fs::write(at("tokens.csv"), "admin,admin,1,\"system:masters\"\n")?;

        let mut children = Children(Vec::new());
        let store = format!("http://127.0.0.1:{client}");
        children.spawn(
            dir.path(),
            &etcd,
            &[
                format!("--data-dir={}", at("etcd")),
                "--unsafe-no-fsync".to_owned(),
                format!("--listen-client-urls={store}"),
                format!("--advertise-client-urls={store}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peers}"),
            ],
        )?;
        children.spawn(
            dir.path(),
            &apiserver,
            &[
                format!("--etcd-servers={store}"),
                "--bind-address=127.0.0.1".to_owned(),
                "--advertise-address=127.0.0.1".to_owned(),
                format!("--secure-port={secure}"),
                format!("--cert-dir={}", at("certs")),
                "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112".to_owned(),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                format!("--service-account-key-file={}", at("sa.pub")),
                format!("--service-account-signing-key-file={}", at("sa.key")),
                format!("--token-auth-file={}", at("tokens.csv")),
                "--authorization-mode=RBAC".to_owned(),
                "--endpoint-reconciler-type=none".to_owned(),
                "--allow-privileged=true".to_owned(),
            ],
        )?;
        let url = format!("https://127.0.0.1:{secure}");
        let client = children.serves(dir.path(), &url).await?;
        children.spawn(
            dir.path(),
            &controllers,
            &[
                format!("--kubeconfig={}", at("admin.kubeconfig")),
                format!("--service-account-private-key-file={}", at("sa.key")),
                CONTROLLERS.to_owned(),
                "--use-service-account-credentials=false".to_owned(),
                "--leader-elect=false".to_owned(),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--secure-port={control}"),
            ],
        )?;
        let cluster = Self { children: std::mem::take(&mut children.0), dir, url, client };
        // Its own objects come one after the other; the last ones it needs are there before anybody counts.
        eventually("the controllers are at work", async || {
            cluster.get("ServiceAccount", "default/default").await.map(drop)
        })
        .await?;
        for ready in ["/readyz", "/readyz/poststarthook/scheduling/bootstrap-system-priority-classes"] {
            eventually(ready, async || {
                cluster.client.request_text(http_get(ready)?).await.map(drop).map_err(Into::into)
            })
            .await?;
        }
        Ok(cluster)
    }

    /// As whoever may everything.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// A kubeconfig of whoever may everything.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("admin.kubeconfig")
    }

    /// A kubeconfig as a pod of this service account would have: its namespace, and a token of the API server's.
    ///
    /// # Errors
    /// When there is no such account.
    pub async fn kubeconfig_of(&self, namespace: &str, account: &str) -> Result<PathBuf> {
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
            Api::namespaced(self.client(), namespace);
        let request = TokenRequest { spec: Some(TokenRequestSpec::default()), ..TokenRequest::default() };
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await?;
        let token = answer.status.and_then(|status| status.token).context("the answer has no token")?;
        write_kubeconfig(self.dir.path(), &self.url, account, &token, namespace)
    }

    /// As a service account.
    ///
    /// # Errors
    /// When there is no such account.
    pub async fn client_of(&self, namespace: &str, account: &str) -> Result<Client> {
        client(&self.kubeconfig_of(namespace, account).await?).await
    }

    /// Every object that can be listed, but Events and what the API server writes by itself as time passes.
    ///
    /// # Errors
    /// When a list is refused.
    pub async fn inventory(&self) -> Result<Installed> {
        let mut all = BTreeSet::new();
        for (resource, capabilities) in self.resources().await? {
            let passing = ["Event", "Lease", "ComponentStatus", "IPAddress"];
            if !capabilities.supports_operation(verbs::LIST) || passing.contains(&resource.kind.as_str()) {
                continue;
            }
            let api: Api<DynamicObject> = Api::all_with(self.client(), &resource);
            for object in api.list(&ListParams::default()).await.with_context(|| format!("{resource:?}"))? {
                let namespace = object.metadata.namespace.map(|it| it + "/").unwrap_or_default();
                let name = object.metadata.name.unwrap_or_default();
                all.insert(format!("{} {namespace}{name}", resource.kind));
            }
        }
        Ok(all)
    }

    /// The API of a kind, in a namespace or of the cluster.
    ///
    /// # Errors
    /// When the API server has no such kind.
    pub async fn api(&self, kind: &str, namespace: Option<&str>) -> Result<Api<DynamicObject>> {
        let all = self.resources().await?;
        let (resource, capabilities) = all
            .into_iter()
            .find(|(it, _)| it.kind == kind)
            .with_context(|| format!("there is no kind {kind}"))?;
        Ok(match (capabilities.scope, namespace) {
            (Scope::Namespaced, Some(namespace)) => Api::namespaced_with(self.client(), namespace, &resource),
            (Scope::Namespaced, None) | (Scope::Cluster, _) => Api::all_with(self.client(), &resource),
        })
    }

    /// One object, by `namespace/name` or `name`.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn get(&self, kind: &str, name: &str) -> Result<Value> {
        let (namespace, name) = match name.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, name),
        };
        let object = self.api(kind, namespace).await?.get(name).await?;
        Ok(serde_json::to_value(object)?)
    }

    /// Makes an object, as its author would.
    ///
    /// # Errors
    /// What the API server has against it.
    pub async fn create(&self, object: &Value) -> Result<()> {
        let text = |at: &str| object.pointer(at).and_then(Value::as_str);
        let kind = text("/kind").context("an object has a kind")?;
        let api = self.api(kind, text("/metadata/namespace")).await?;
        api.create(&PostParams::default(), &serde_json::from_value(object.clone())?).await?;
        Ok(())
    }

    async fn resources(&self) -> Result<Vec<(ApiResource, ApiCapabilities)>> {
        let discovery = Discovery::new(self.client()).run().await?;
        Ok(discovery.groups().flat_map(|group| group.recommended_resources()).collect())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        end(&mut self.children);
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Asks until it is so.
///
/// # Errors
/// Why it was not, the last time.
pub async fn eventually<T>(what: &str, mut is: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + WITHIN;
    loop {
        match is().await {
            Ok(it) => return Ok(it),
            Err(why) if Instant::now() > deadline => {
                return Err(why.context(format!("{what}: not within {WITHIN:?}")));
            }
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// Processes that end when the start does not succeed.
struct Children(Vec<Child>);

impl Children {
    fn spawn(&mut self, dir: &Path, program: &Path, args: &[String]) -> Result<()> {
        let name = program.file_name().context("a program has a name")?;
        let log = fs::File::create(dir.join(name).with_extension("log"))?;
        // They end with the thread of the test also where nobody can drop anything any more.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(args);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.0.push(command.spawn().with_context(|| format!("cannot start {}", program.display()))?);
        Ok(())
    }

    async fn serves(&mut self, dir: &Path, url: &str) -> Result<Client> {
        let deadline = Instant::now() + WITHIN;
        loop {
            for child in &mut self.0 {
                if let Some(status) = child.try_wait()? {
                    let log = fs::read_to_string(dir.join("kube-apiserver.log")).unwrap_or_default();
                    bail!("etcd or kube-apiserver ended with {status}:\n{log}");
                }
            }
            let ready = async {
                let client = client(&write_kubeconfig(dir, url, "admin", "admin", "default")?).await?;
                client.request_text(http_get("/readyz")?).await?;
                anyhow::Ok(client)
            };
            match ready.await {
                Ok(client) => return Ok(client),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context("kube-apiserver is not ready"));
                }
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

fn end(children: &mut Vec<Child>) {
    for mut child in children.drain(..).rev() {
        // One that has ended cannot be killed.
        drop(child.kill());
        drop(child.wait());
    }
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>> {
    Ok(http::Request::get(path).body(Vec::new())?)
}

fn write_kubeconfig(dir: &Path, url: &str, user: &str, token: &str, namespace: &str) -> Result<PathBuf> {
    let certificate = dir.join("certs/apiserver.crt");
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": certificate}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": user, "namespace": namespace}}],
        "current-context": "test",
    });
    let path = dir.join(format!("{user}.kubeconfig"));
    fs::write(&path, config.to_string())?;
    Ok(path)
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
