//! A cluster by a context of a kubeconfig: found, persuaded of who we are, and reached.
//!
//! ```text
//!  kubeconfig ─▶ ConfigMap, by its label: which cluster, where, whom to believe
//!             ─▶ a token of the operators' service account, for ten minutes
//!             ─▶ the apiserver at its address, or else by a port-forward ─▶ a certificate for an hour ─▶ mutual TLS
//! ```
//!
//! Invariants
//! - no Secret is read, and nothing that is secret touches the disk;
//! - the token is shown only to a server whose certificate the published CA has signed, for that cluster;
//! - a right that is missing is named as RBAC names it: verb, resource, namespace.

mod forward;

use crate::{ended::Ended, session::twice};
use anyhow::{Context as _, bail};
use api::name::ClusterName;
use daemon::{
    args::Hint,
    context::{BUNDLE_KEY, CLUSTER_KEY, Published, TOKEN_AUDIENCE},
    spiffe::Role,
    tls::{
        ConnectError, Connection, Expected, Identity, IdentityPem, Tls, certificate_request, connect,
        connect_as_stranger,
    },
};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, ServiceAccount},
};
use kube::{
    Api, Client, Config,
    api::{ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use rpc::mesh::enrolment::v1::{EnrolOperatorRequest, enrolment_client::EnrolmentClient};
use std::time::Duration;
use tokio::time::timeout;

/// Where docs/kubernetes.md has the chart installed.
const NAMESPACE: &str = "clustermesh";
/// Labels of the chart's objects that belong to the apiserver.
const APISERVER: &str = "app.kubernetes.io/name=clustermesh,app.kubernetes.io/component=apiserver";
/// The shortest life that Kubernetes gives a token; it is used once, at once.
const TOKEN_S: i64 = 600;
/// How long the Kubernetes API may take over a request, a credential plugin's work included.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// A context of a kubeconfig.
#[derive(Debug, Clone)]
pub struct KubeContext {
    name: String,
    namespace: String,
    kubeconfig: Box<Kubeconfig>,
}

/// What the apiserver published, and which release it is of.
struct Found {
    cluster: Published,
    bundle_pem: String,
    /// `app.kubernetes.io/instance`, to tell its pods from another release's.
    instance: String,
}

impl KubeContext {
    /// With the chart in this namespace.
    pub fn new(name: &str, namespace: Option<String>, kubeconfig: Kubeconfig) -> Self {
        let namespace = namespace.unwrap_or_else(|| NAMESPACE.to_owned());
        Self { name: name.to_owned(), namespace, kubeconfig: Box::new(kubeconfig) }
    }

    /// As the kubeconfig calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which cluster it is, and a connection to its apiserver as an operator.
    ///
    /// # Errors
    /// [`Ended::Unreachable`] when Kubernetes or the apiserver does not answer, [`Ended::Refused`] when a right is missing.
    pub async fn connect(&self) -> anyhow::Result<(ClusterName, Connection)> {
        let client = self.client().await?;
        let found = self.find(&client).await?;
        let token = self.token(&client, &found).await?;
        let stranger = self.reach(&client, &found).await?;
        let identity = self.enrol(&stranger, &found, token).await?;
        let expected = Expected::cluster(found.cluster.uuid, found.cluster.name.clone());
        let tls = Tls::new(identity);
        let connection = twice(|| connect(&tls, &stranger.endpoint, &expected)).await;
        let connection = connection.with_context(|| self.unreachable())?;
        Ok((found.cluster.name, connection))
    }

    async fn client(&self) -> anyhow::Result<Client> {
        let options = KubeConfigOptions { context: Some(self.name.clone()), ..Default::default() };
        let config = Config::from_custom_kubeconfig((*self.kubeconfig).clone(), &options).await;
        let client = config.map_err(anyhow::Error::from).and_then(|config| Ok(Client::try_from(config)?));
        client.with_context(|| format!("cannot use context {} of the kubeconfig", self.name))
    }

    async fn find(&self, client: &Client) -> anyhow::Result<Found> {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), &self.namespace);
        let list = ListParams::default().labels(APISERVER);
        let maps = self.ask("list", "configmaps", api.list(&list)).await?;
        let mut found = Vec::new();
        for map in maps {
            let mut data = map.data.unwrap_or_default();
            let (Some(cluster), Some(bundle_pem)) = (data.remove(CLUSTER_KEY), data.remove(BUNDLE_KEY))
            else {
                continue;
            };
            let name = map.metadata.name.unwrap_or_default();
            let cluster = serde_saphyr::from_str(&cluster).with_context(|| {
                format!("cannot understand {CLUSTER_KEY} of ConfigMap {}/{name}", self.namespace)
            })?;
            let mut labels = map.metadata.labels.unwrap_or_default();
            let instance = labels.remove("app.kubernetes.io/instance").unwrap_or_default();
            found.push(Found { cluster, bundle_pem, instance });
        }
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => bail!(Hint::new(
                format!(
                    "there is no cluster of the mesh in namespace {} of context {}",
                    self.namespace, self.name
                ),
                "name the chart's namespace with --mesh-namespace; a chart that was installed just now needs its apiserver to run",
            )),
            _ => bail!(
                "namespace {} of context {} holds {} clusters of the mesh, and one is expected",
                self.namespace,
                self.name,
                found.len()
            ),
        }
    }

    async fn token(&self, client: &Client, found: &Found) -> anyhow::Result<String> {
        let Some(account) = &found.cluster.operator_account else {
            bail!(Hint::new(
                format!("the apiserver of context {} makes no operators", self.name),
                "start it with --operator-service-account, as the chart does, or use a context file with --config",
            ));
        };
        let api: Api<ServiceAccount> = Api::namespaced(client.clone(), &self.namespace);
        let spec = TokenRequestSpec {
            audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
            expiration_seconds: Some(TOKEN_S),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let params = PostParams::default();
        let asked = api.create_token_request(account, &params, &request);
        let answer = self.ask("create", &format!("serviceaccounts/token {account}"), asked).await?;
        answer.status.and_then(|status| status.token).context("the TokenRequest was answered without a token")
    }

    /// A connection on which we are nobody yet: to the first address that answers, or else by a port-forward.
    async fn reach(&self, client: &Client, found: &Found) -> anyhow::Result<Connection> {
        let Found { cluster, bundle_pem, instance } = found;
        let mut silent = None;
        for endpoint in &cluster.endpoints {
            match twice(|| connect_as_stranger(bundle_pem, endpoint)).await {
                Ok(connection) => return self.believe(connection, cluster),
                // Somebody is there who is not that apiserver: worth a person's look, not a way around.
                Err(error @ ConnectError::Refused { .. }) => {
                    return Err(error).with_context(|| self.unreachable());
                }
                Err(error) => silent = Some(error),
            }
        }
        let forwarded = async {
            let labels = format!("{APISERVER},app.kubernetes.io/instance={instance}");
            let endpoint = self.forward(client, &labels).await?;
            anyhow::Ok(connect_as_stranger(bundle_pem, &endpoint).await?)
        };
        let why = || match &silent {
            Some(error) => format!("{error}, nor is there a way by a port-forward"),
            None => "it publishes no address, nor is there a way by a port-forward".to_owned(),
        };
        let connection = forwarded.await.with_context(why).with_context(|| self.unreachable())?;
        self.believe(connection, cluster)
    }

    /// The CA vouches for all of its cluster's certificates; the server's must be the apiserver's of this name.
    fn believe(&self, connection: Connection, cluster: &Published) -> anyhow::Result<Connection> {
        let server = &connection.server;
        if server.trust_domain() == cluster.uuid && server.cluster_name().as_ref() == Some(&cluster.name) {
            return Ok(connection);
        }
        let (at, name) = (&connection.endpoint, &cluster.name);
        Err(anyhow::anyhow!("{at} is {server}, and not the apiserver of {name}"))
            .with_context(|| self.unreachable())
    }

    async fn enrol(&self, stranger: &Connection, found: &Found, token: String) -> anyhow::Result<Identity> {
        let key = rcgen::KeyPair::generate().context("cannot make a key")?;
        let request = EnrolOperatorRequest { token, certificate_request: certificate_request(&key)? };
        let answer = EnrolmentClient::new(stranger.channel.clone()).enrol_operator(request).await;
        let answer = answer.map_err(|status| Ended::from_status(&status));
        let answer = answer.with_context(|| format!("{} gives us no certificate", found.cluster.name))?;
        let pem = IdentityPem {
            cert: answer.into_inner().certificate.into(),
            key: key.serialize_pem().into(),
            bundle: found.bundle_pem.clone().into(),
        };
        let what = format!("what {} issued to us", found.cluster.name);
        Ok(Identity::issued(&pem, &what, Role::Operator)?)
    }

    /// Asks the Kubernetes API, within a time, and names the right that is missing.
    async fn ask<T>(
        &self,
        verb: &str,
        resource: &str,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> anyhow::Result<T> {
        let doing = || format!("cannot {verb} {resource} in namespace {}", self.namespace);
        match timeout(ANSWER_MAX, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if forbids(&error) => Err(self.forbidden(verb, resource)),
            Ok(Err(kube::Error::Api(status))) if status.code != 401 => {
                Err(Ended::Refused(status.message)).with_context(doing)
            }
            Ok(Err(error)) => Err(error).with_context(doing).with_context(|| self.unreachable()),
            Err(_) => Err(anyhow::anyhow!("the Kubernetes API does not answer within {ANSWER_MAX:?}"))
                .with_context(doing)
                .with_context(|| self.unreachable()),
        }
    }

    fn forbidden(&self, verb: &str, resource: &str) -> anyhow::Error {
        let Self { name, namespace, .. } = self;
        let what = format!("context {name} may not {verb} {resource} in namespace {namespace}");
        let hint = format!(
            "whoever administers {namespace} binds the chart's Role to you: kubectl -n {namespace} create rolebinding \
             mesh-operators --role=RELEASE-clustermesh-operator --user=YOU"
        );
        anyhow::Error::from(Ended::Refused("the Kubernetes API forbids it".to_owned()))
            .context(Hint::new(what, hint))
    }

    fn unreachable(&self) -> Ended {
        Ended::Unreachable(self.name.clone())
    }
}

/// A refusal of RBAC's, also of a request that would have become a stream.
fn forbids(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 403,
        kube::Error::UpgradeConnection(kube::client::UpgradeConnectionError::ProtocolSwitch(code)) => {
            code.as_u16() == 403
        }
        // A foreign enum: nothing else of it is an answer.
        _ => false,
    }
}
