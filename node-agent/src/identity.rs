//! Who we are: a certificate that somebody gave us, or one that we get for the token of the pod we run in.
//!
//! ```text
//!  --cert --key ──────────────────────────────────────┐
//!  --enrol-token ─▶ key ─▶ EnrolNode ─▶ <state>/identity ┴─▶ Identity ─▶ looked at every ten minutes: renewed, or read again
//! ```
//!
//! Invariants
//! - the key is made here and never leaves this machine;
//! - an identity that is still good is used without asking anybody: a restart needs no apiserver.

use anyhow::{Context as _, bail};
use backon::{BackoffBuilder as _, ExponentialBuilder};
use daemon::{
    durable,
    spiffe::Role,
    tls::{Certificate, Identity, IdentityPaths, Tls, certificate_request, connect_as_stranger},
};
use rcgen::KeyPair;
use rpc::mesh::enrolment::v1::{EnrolNodeRequest, enrolment_client::EnrolmentClient};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Response, Status, transport::Channel};
use tracing::{info, warn};

/// Time between looks at our certificate: of a week's certificate, two days and a third are left at the first that renews it, of
/// a day's eight hours.
const LOOK: Duration = Duration::from_secs(600);

/// The same when the certificate has ended: until there is another one there is no connection.
const LOOK_ENDED: Duration = Duration::from_secs(15);

/// How long an apiserver may take: it asks the Kubernetes API, which has five seconds.
const ENROL_MAX: Duration = Duration::from_secs(10);

/// First and longest wait between attempts to enrol.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// `--bundle`, and `--cert` with `--key` or `--enrol-token`.
#[derive(Debug, Clone, clap::Args)]
pub struct IdentityArgs {
    /// The CA certificates of our cluster, PEM.
    #[arg(long, value_name = "FILE")]
    pub bundle: PathBuf,
    /// Our certificate, PEM. It is read again when the file changes.
    #[arg(long, value_name = "FILE", requires = "key", required_unless_present = "enrol_token")]
    pub cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// A service-account token of the pod this runs in, projected for the audience `clustermesh`: the apiserver gives us
    /// the certificate of our node for it, and renews it.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cert", "key"])]
    pub enrol_token: Option<PathBuf>,
}

/// Who an agent is, and how it stays so.
pub trait Credentials: Clone + Send + Sync + 'static {
    /// Who we are; this may wait for somebody to say so.
    ///
    /// # Errors
    /// When that will not become better.
    fn identity(&self) -> impl Future<Output = anyhow::Result<Identity>> + Send;

    /// What is to take the place of the certificate that is held; none while it may stay.
    ///
    /// # Errors
    /// When there is nothing better: it stays, and this is asked again.
    fn renewed(&self, held: &Certificate) -> impl Future<Output = Option<anyhow::Result<Identity>>> + Send;

    /// Keeps `tls` with a good certificate until cancelled.
    fn keep_good(self, tls: Tls, cancel: CancellationToken) -> impl Future<Output = ()> + Send {
        async move {
            let mut wait = Duration::ZERO;
            while cancel.run_until_cancelled(sleep(wait)).await.is_some() {
                wait = LOOK;
                let held = tls.identity();
                let until = held.certificate().not_after_s;
                let Some(renewed) = self.renewed(held.certificate()).await else { continue };
                match renewed.and_then(|new| Ok((new.certificate().not_after_s, tls.renew(new)?))) {
                    Ok((now_until, ())) if now_until == until => {}
                    Ok((now_until, ())) => {
                        info!(valid_until_unix_s = now_until, "Our certificate is renewed");
                    }
                    Err(error) => {
                        warn!(error = format!("{error:#}"), "Cannot renew our certificate");
                        let ends = UNIX_EPOCH + Duration::from_secs(u64::try_from(until).unwrap_or(0));
                        if ends <= SystemTime::now() {
                            wait = LOOK_ENDED;
                        }
                    }
                }
            }
        }
    }
}

/// Where a node's identity comes from.
#[derive(Debug, Clone)]
pub struct NodeCredentials {
    paths: IdentityPaths,
    enrolment: Option<Enrolment>,
}

#[derive(Debug, Clone)]
struct Enrolment {
    token: PathBuf,
    endpoints: Vec<String>,
}

impl NodeCredentials {
    /// As the arguments say; what is enrolled is kept in the state directory.
    #[must_use]
    pub fn new(args: &IdentityArgs, endpoints: &[String], state_dir: &Path) -> Self {
        let bundle = args.bundle.clone();
        if let (Some(cert), Some(key)) = (&args.cert, &args.key) {
            let paths = IdentityPaths { cert: cert.clone(), key: key.clone(), bundle };
            return Self { paths, enrolment: None };
        }
        let dir = state_dir.join("identity");
        let paths = IdentityPaths { cert: dir.join("cert.pem"), key: dir.join("key.pem"), bundle };
        let enrolment = args
            .enrol_token
            .as_ref()
            .map(|token| Enrolment { token: token.clone(), endpoints: endpoints.to_vec() });
        Self { paths, enrolment }
    }
}

impl Credentials for NodeCredentials {
    /// With a token, this waits until an apiserver has said so. An error when the given certificate cannot be used.
    async fn identity(&self) -> anyhow::Result<Identity> {
        let kept = Identity::load(&self.paths, Role::Node);
        let Some(enrolment) = &self.enrolment else { return Ok(kept?) };
        if let Ok(identity) = kept {
            return Ok(identity);
        }
        let backoff = ExponentialBuilder::default().with_min_delay(RETRY.0).with_max_delay(RETRY.1);
        let mut delays = backoff.with_jitter().without_max_times().build();
        loop {
            match self.enrol(enrolment).await {
                Ok(identity) => return Ok(identity),
                Err(error) => warn!(error = format!("{error:#}"), "Cannot enrol this node; trying again"),
            }
            sleep(delays.next().unwrap_or(RETRY.1)).await;
        }
    }

    async fn renewed(&self, held: &Certificate) -> Option<anyhow::Result<Identity>> {
        match &self.enrolment {
            Some(_) if !held.due_for_renewal(SystemTime::now()) => None,
            Some(enrolment) => Some(self.enrol(enrolment).await),
            None => Some(Identity::load(&self.paths, Role::Node).map_err(anyhow::Error::new)),
        }
    }
}

impl NodeCredentials {
    /// A new key, and a certificate for it.
    async fn enrol(&self, enrolment: &Enrolment) -> anyhow::Result<Identity> {
        let token = fs::read_to_string(&enrolment.token)
            .with_context(|| format!("cannot read the token in {}", enrolment.token.display()))?;
        let bundle = fs::read_to_string(&self.paths.bundle)
            .with_context(|| format!("cannot read the trust bundle in {}", self.paths.bundle.display()))?;
        let key = KeyPair::generate().context("cannot make a key")?;
        let request = EnrolNodeRequest {
            token: token.trim().to_owned(),
            certificate_request: certificate_request(&key)?,
        };
        let enrol = |mut client: EnrolmentClient<Channel>| {
            let request = request.clone();
            async move { client.enrol_node(request).await }
        };
        let enrolled = enrol_at_one_of(&enrolment.endpoints, &bundle, &[], enrol).await?;
        let Some(dir) = self.paths.cert.parent() else { bail!("the state directory has no name") };
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("cannot close {} to others", dir.display()))?;
        // A crash in between leaves a pair that does not belong together: it is not used, and enrolled again.
        let IdentityPaths { key: key_path, cert, .. } = &self.paths;
        durable::write_as(key_path, key.serialize_pem().as_bytes(), 0o600)
            .with_context(|| format!("cannot write {}", key_path.display()))?;
        durable::write(cert, enrolled.certificate.as_bytes())
            .with_context(|| format!("cannot write {}", cert.display()))?;
        let identity = Identity::load(&self.paths, Role::Node)?;
        info!(id = %identity.id(), "Enrolled");
        Ok(identity)
    }
}

/// Has one apiserver after the other enrol us, as strangers to all of them.
///
/// # Errors
/// The first refusal by an answer of one of these codes, else why the last one did not.
pub async fn enrol_at_one_of<A, F>(
    endpoints: &[String],
    bundle: &str,
    refusals: &[Code],
    enrol: impl Fn(EnrolmentClient<Channel>) -> F,
) -> anyhow::Result<A>
where
    F: Future<Output = Result<Response<A>, Status>>,
{
    let mut last = anyhow::anyhow!("there is no apiserver to ask");
    for endpoint in endpoints {
        let asked = async {
            let channel = connect_as_stranger(bundle, endpoint).await?.channel;
            anyhow::Ok(enrol(EnrolmentClient::new(channel)).await)
        };
        match timeout(ENROL_MAX, asked).await {
            Ok(Ok(Ok(answer))) => return Ok(answer.into_inner()),
            Ok(Ok(Err(status))) if refusals.contains(&status.code()) => {
                bail!("apiserver {endpoint} refuses us: {}", status.message())
            }
            Ok(Ok(Err(status))) => {
                last = anyhow::anyhow!("apiserver {endpoint} does not enrol us: {}", status.message());
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = anyhow::anyhow!("apiserver {endpoint} does not answer in {ENROL_MAX:?}"),
        }
    }
    Err(last)
}
