//! The certificate authority: one ECDSA P-256 key that signs everything under our trust domain.

use super::{
    files::{Existing, FileError, write_file},
    layout::Layout,
};
use api::{
    bytes::{ClusterUuid, KeyFingerprint},
    name::ClusterName,
};
use daemon::{
    spiffe::{Role, SpiffeId},
    tls::IdentityPaths,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use std::{
    fs, io,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

/// A CA lives ten years: peers hold its bundle, and replacing it is work on both sides.
pub const CA_DAYS: u32 = 3_650;
/// A certificate lives a year unless said otherwise; ours is renewed by itself.
pub const CERTIFICATE_DAYS: u32 = 365;
/// Clocks may differ by this much before a fresh certificate is "not yet valid" somewhere.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

const DAY: Duration = Duration::from_secs(86_400);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] FileError),
    /// The library refuses.
    #[error("cannot {doing}")]
    Certificate {
        /// What we were doing.
        doing: &'static str,
        /// Why.
        source: rcgen::Error,
    },
}

fn cannot(doing: &'static str) -> impl FnOnce(rcgen::Error) -> PkiError {
    move |source| PkiError::Certificate { doing, source }
}

/// Our CA with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    cert_pem: String,
}

/// The key that signed a certificate request (PKCS #10, PEM).
///
/// # Errors
/// [`PkiError`] when it is no certificate request, or its signature is not this key's.
pub fn key_of(request_pem: &str) -> Result<KeyFingerprint, PkiError> {
    let request = CertificateSigningRequestParams::from_pem(request_pem);
    let request = request.map_err(cannot("read the certificate request"))?;
    Ok(KeyFingerprint::of(&request.public_key.subject_public_key_info()))
}

/// A fresh certificate with its key, PEM.
pub struct Issued {
    cert_pem: String,
    key_pem: String,
    bundle_pem: String,
}

impl Authority {
    /// Makes a CA and writes it; an existing one stays, and that is an error.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn create(
        layout: &Layout,
        name: &ClusterName,
        uuid: ClusterUuid,
        now: SystemTime,
    ) -> Result<Self, PkiError> {
        let key = KeyPair::generate().map_err(cannot("make the CA's key"))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&format!("mesh CA of {name}"));
        params.distinguished_name.push(DnType::OrganizationName, uuid.to_string());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + DAY * CA_DAYS).into();
        let cert_pem = params.self_signed(&key).map_err(cannot("sign the CA's certificate"))?.pem();
        write_file(&layout.ca_key(), key.serialize_pem().as_bytes(), 0o600, Existing::Refuse)?;
        write_file(&layout.ca_cert(), cert_pem.as_bytes(), 0o644, Existing::Refuse)?;
        Ok(Self { issuer: Issuer::new(params, key), cert_pem })
    }

    /// Reads the CA of a data directory.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn load(layout: &Layout) -> Result<Self, PkiError> {
        let read =
            |path: PathBuf| fs::read_to_string(&path).map_err(|source| PkiError::Read { path, source });
        let cert_pem = read(layout.ca_cert())?;
        let key = KeyPair::from_pem(&read(layout.ca_key())?).map_err(cannot("use the CA's key"))?;
        let issuer = Issuer::from_ca_cert_pem(&cert_pem, key).map_err(cannot("use the CA's certificate"))?;
        Ok(Self { issuer, cert_pem })
    }

    /// The CA's certificate: what peers and processes are given.
    #[must_use]
    pub fn bundle_pem(&self) -> &str {
        &self.cert_pem
    }

    /// A certificate for `id`, from a fresh key. `hosts` are for clients that know no SPIFFE ID.
    ///
    /// # Errors
    /// [`PkiError`] when a host is no DNS name.
    pub fn issue(
        &self,
        id: &SpiffeId,
        hosts: &[&str],
        days: u32,
        now: SystemTime,
    ) -> Result<Issued, PkiError> {
        let key = KeyPair::generate().map_err(cannot("make a key"))?;
        let cert_pem = self.sign(id, hosts, DAY * days, now, &key)?;
        Ok(Issued { cert_pem, key_pem: key.serialize_pem(), bundle_pem: self.cert_pem.clone() })
    }

    /// A certificate for `id` and the public key of a request (PKCS #10, PEM), PEM. Nothing else of the request counts.
    ///
    /// # Errors
    /// [`PkiError`] when it is no certificate request.
    pub fn issue_for(
        &self,
        request_pem: &str,
        id: &SpiffeId,
        life: Duration,
        now: SystemTime,
    ) -> Result<String, PkiError> {
        let request = CertificateSigningRequestParams::from_pem(request_pem);
        let request = request.map_err(cannot("read the certificate request"))?;
        self.sign(id, &[], life, now, &request.public_key)
    }

    fn sign(
        &self,
        id: &SpiffeId,
        hosts: &[&str],
        life: Duration,
        now: SystemTime,
        key: &impl PublicKeyData,
    ) -> Result<String, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&format!("{} {}", id.role(), id.name()));
        params.subject_alt_names = names(id, hosts).map_err(cannot("put the names into a certificate"))?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match id.role() {
            // The apiserver dials its peers with the certificate it serves with.
            Role::Cluster => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            Role::Node | Role::Vm | Role::Operator | Role::Reader => {
                vec![ExtendedKeyUsagePurpose::ClientAuth]
            }
        };
        params.use_authority_key_identifier_extension = true;
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + life).into();
        let cert = params.signed_by(key, &self.issuer).map_err(cannot("sign a certificate"))?;
        Ok(cert.pem())
    }
}

impl Issued {
    /// Writes certificate, key and bundle. The key goes first: a certificate without its key would look complete.
    ///
    /// # Errors
    /// [`FileError`] names the file.
    pub fn write(&self, to: &IdentityPaths, existing: Existing) -> Result<(), FileError> {
        write_file(&to.key, self.key_pem.as_bytes(), 0o600, existing)?;
        write_file(&to.bundle, self.bundle_pem.as_bytes(), 0o644, existing)?;
        write_file(&to.cert, self.cert_pem.as_bytes(), 0o644, existing)
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    // RFC 5280 allows 64 characters in a common name; nothing reads it but people.
    subject.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    subject
}

fn names(id: &SpiffeId, hosts: &[&str]) -> Result<Vec<SanType>, rcgen::Error> {
    let mut names = vec![SanType::URI(id.to_string().try_into()?)];
    for host in hosts {
        names.push(match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName((*host).try_into()?),
        });
    }
    Ok(names)
}
