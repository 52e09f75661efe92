//! Our certificate: a day's, given for our key for as long as we are a member.

use crate::membership::{self, Membership};
use anyhow::{Context as _, bail};
use api::bytes::Secret;
use daemon::{
    args::Hint,
    durable,
    spiffe::Role,
    tls::{Certificate, Identity, Tls, connect_as_stranger},
};
use mesh_node_agent::identity::Credentials;
use rcgen::{CertificateParams, KeyPair};
use rpc::mesh::enrolment::v1::{EnrolVmRequest, EnrolVmResponse, enrolment_client::EnrolmentClient};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::{info, warn};

/// Time between looks at our certificate: of a day's, eight hours are left at the first.
const LOOK: Duration = Duration::from_secs(600);

/// Time between attempts when the certificate has ended: until then there is no connection.
const RETRY: Duration = Duration::from_secs(15);

/// How long an apiserver may take.
const ENROL_MAX: Duration = Duration::from_secs(10);

/// What an apiserver gave us.
#[derive(Debug)]
pub struct Enrolled {
    /// PEM.
    pub certificate: String,
    /// `host:port` of the apiserver as they are now.
    pub endpoints: Vec<String>,
}

/// The key of this machine: what is there, else a new one, which is on the disk when this returns.
///
/// # Errors
/// When the file cannot be read or written.
pub fn key(path: &Path) -> anyhow::Result<KeyPair> {
    match fs::read_to_string(path) {
        Ok(pem) => KeyPair::from_pem(&pem).with_context(|| {
            Hint::new(
                format!("there is no key in {}", path.display()),
                "`mesh-vm-agent leave`, and join again",
            )
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = KeyPair::generate().context("cannot make a key")?;
            durable::write_as(path, key.serialize_pem().as_bytes(), 0o600)
                .with_context(|| format!("cannot write {}", path.display()))?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Asks one apiserver after the other for a certificate of our key.
///
/// # Errors
/// The reason of the first that refuses, else that of the last.
pub async fn enrol(
    membership: &Membership,
    bundle: &str,
    key: &KeyPair,
    secret: Option<&Secret>,
) -> anyhow::Result<Enrolled> {
    // What the certificate says is the apiserver's to decide.
    let request = CertificateParams::default().serialize_request(key).and_then(|request| request.pem());
    let request = EnrolVmRequest {
        name: membership.name.to_string(),
        secret: secret.map(|secret| secret.bytes().to_vec().into()).unwrap_or_default(),
        certificate_request: request.context("cannot make a certificate request")?,
    };
    let mut last = anyhow::anyhow!("there is no apiserver to ask");
    for endpoint in &membership.endpoints {
        let asked = async {
            let channel = connect_as_stranger(bundle, endpoint).await?.channel;
            anyhow::Ok(EnrolmentClient::new(channel).enrol_vm(request.clone()).await)
        };
        match timeout(ENROL_MAX, asked).await {
            Ok(Ok(Ok(answer))) => {
                let EnrolVmResponse { certificate, endpoints } = answer.into_inner();
                return Ok(Enrolled { certificate, endpoints });
            }
            Ok(Ok(Err(status))) if [Code::PermissionDenied, Code::NotFound].contains(&status.code()) => {
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

/// See the module.
#[derive(Debug, Clone)]
pub struct VmCredentials {
    /// Where the identity is.
    pub state_dir: PathBuf,
}

impl Credentials for VmCredentials {
    /// Who we are, also when the certificate has ended: who we are it says all the same, and a machine that starts without
    /// any control plane needs no more.
    async fn identity(&self) -> anyhow::Result<Identity> {
        let paths = membership::identity(&self.state_dir);
        match Identity::load(&paths, Role::Vm) {
            Ok(identity) => Ok(identity),
            Err(error) => {
                let Ok(certificate) = Certificate::load(&paths.cert) else { return Err(error.into()) };
                let when = Duration::from_secs(u64::try_from(certificate.not_before_s + 1).unwrap_or(0));
                let identity = Identity::load_at(&paths, Role::Vm, UNIX_EPOCH + when)?;
                let why = format!("{:#}", anyhow::Error::new(error));
                warn!(why, "Our certificate does not count now: there is no connection before it is renewed");
                Ok(identity)
            }
        }
    }

    async fn keep_good(self, tls: Tls, cancel: CancellationToken) {
        let mut wait = Duration::ZERO;
        while cancel.run_until_cancelled(sleep(wait)).await.is_some() {
            wait = LOOK;
            let (now, held) = (SystemTime::now(), tls.identity());
            if !held.certificate().due_for_renewal(now) {
                continue;
            }
            match self.renew().await.and_then(|new| Ok((new.certificate().not_after_s, tls.renew(new)?))) {
                Ok((until, ())) => info!(valid_until_unix_s = until, "Our certificate is renewed"),
                Err(error) => {
                    warn!(error = format!("{error:#}"), "Cannot renew our certificate");
                    let ends = UNIX_EPOCH
                        + Duration::from_secs(u64::try_from(held.certificate().not_after_s).unwrap_or(0));
                    if ends <= now {
                        wait = RETRY;
                    }
                }
            }
        }
    }
}

impl VmCredentials {
    /// Another certificate for our key; the key is all that it takes.
    async fn renew(&self) -> anyhow::Result<Identity> {
        let paths = membership::identity(&self.state_dir);
        let membership = Membership::required(&self.state_dir)?;
        let bundle = fs::read_to_string(&paths.bundle)
            .with_context(|| format!("cannot read the trust bundle in {}", paths.bundle.display()))?;
        let Enrolled { certificate, endpoints } =
            enrol(&membership, &bundle, &key(&paths.key)?, None).await?;
        durable::write(&paths.cert, certificate.as_bytes())
            .with_context(|| format!("cannot write {}", paths.cert.display()))?;
        if !endpoints.is_empty() && endpoints != membership.endpoints {
            info!(?endpoints, "Our apiserver is somewhere else from the next start on");
            Membership { endpoints, ..membership }.write(&self.state_dir)?;
        }
        Ok(Identity::load(&paths, Role::Vm)?)
    }
}
