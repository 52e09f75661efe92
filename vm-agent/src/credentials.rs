//! Our certificate: a day's, given for our key for as long as we are a member.

use crate::membership::{self, Membership};
use anyhow::Context as _;
use api::bytes::Secret;
use daemon::{
    args::Hint,
    durable,
    spiffe::Role,
    tls::{Certificate, Identity, certificate_request},
};
use mesh_node_agent::identity::{Credentials, enrol_at_one_of};
use rcgen::KeyPair;
use rpc::mesh::enrolment::v1::{EnrolVmRequest, EnrolVmResponse, enrolment_client::EnrolmentClient};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tonic::{Code, transport::Channel};
use tracing::{info, warn};

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
    let request = EnrolVmRequest {
        name: membership.name.to_string(),
        secret: secret.map(|secret| secret.bytes().to_vec().into()).unwrap_or_default(),
        certificate_request: certificate_request(key)?,
    };
    let enrol = |mut client: EnrolmentClient<Channel>| {
        let request = request.clone();
        async move { client.enrol_vm(request).await }
    };
    let refusals = [Code::PermissionDenied, Code::NotFound];
    let enrolled = enrol_at_one_of(&membership.endpoints, bundle, &refusals, enrol).await?;
    let EnrolVmResponse { certificate, endpoints } = enrolled;
    Ok(Enrolled { certificate, endpoints })
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

    async fn renewed(&self, held: &Certificate) -> Option<anyhow::Result<Identity>> {
        if held.due_for_renewal(SystemTime::now()) { Some(self.renew().await) } else { None }
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
