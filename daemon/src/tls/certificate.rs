//! What we read in a certificate.

use super::refused::Reason;
use crate::spiffe::SpiffeId;
use api::bytes::KeyFingerprint;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::{
    fs, io,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time};

/// The parts of a certificate that we judge it by. Nothing here says that anybody signed it.
#[derive(Debug, Clone, PartialEq)]
pub struct Certificate {
    /// The one URI SAN, or why there is none.
    pub id: Result<SpiffeId, Reason>,
    /// The subject, for people.
    pub subject: String,
    /// In hexadecimal.
    pub serial: String,
    /// Unix time in seconds.
    pub not_before_s: i64,
    /// Unix time in seconds.
    pub not_after_s: i64,
    /// Whose possession the handshake proves.
    pub key: KeyFingerprint,
}

impl Certificate {
    /// Reads one.
    ///
    /// # Errors
    /// [`Reason::Unreadable`] when it is not X.509; what is wrong with its identity is in [`Certificate::id`].
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, Reason> {
        let (_, cert) = X509Certificate::from_der(der).map_err(|_| Reason::Unreadable)?;
        Ok(Self {
            id: identity(&cert),
            subject: printable(&cert.subject().to_string()),
            serial: cert.raw_serial_as_string(),
            not_before_s: cert.validity().not_before.timestamp(),
            not_after_s: cert.validity().not_after.timestamp(),
            key: KeyFingerprint::of(cert.public_key().raw),
        })
    }

    /// Reads the first one of a PEM file.
    ///
    /// # Errors
    /// When the file cannot be read, or has no X.509 certificate in it.
    pub fn load(path: &Path) -> io::Result<Self> {
        let pem = fs::read(path)?;
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let der = CertificateDer::from_pem_slice(&pem).map_err(|error| invalid(error.to_string()))?;
        Self::read(&der).map_err(|reason| invalid(reason.to_string()))
    }

    /// Whether its time is now.
    pub(super) fn check_time(&self, now_s: i64) -> Result<(), Reason> {
        if now_s < self.not_before_s {
            Err(Reason::NotYetValid { from_s: self.not_before_s, now_s })
        } else if now_s > self.not_after_s {
            Err(Reason::Expired { until_s: self.not_after_s, now_s })
        } else {
            Ok(())
        }
    }

    /// Whether less than a third of its life remains.
    #[must_use]
    pub fn due_for_renewal(&self, now: SystemTime) -> bool {
        let now_s = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let left = self.not_after_s.saturating_sub(i64::try_from(now_s).unwrap_or(i64::MAX));
        left < (self.not_after_s - self.not_before_s) / 3
    }

    /// For messages: the ID if there is one, else the subject; and the serial number.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.id {
            Ok(id) => format!("{id} (serial {})", self.serial),
            Err(_) => format!("`{}` (serial {})", self.subject, self.serial),
        }
    }
}

fn identity(cert: &X509Certificate<'_>) -> Result<SpiffeId, Reason> {
    let names = cert.subject_alternative_name().ok().flatten().map(|san| &san.value.general_names);
    let uris: Vec<&str> = names
        .into_iter()
        .flatten()
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    match uris[..] {
        [uri] => Ok(uri.parse()?),
        _ => Err(Reason::NotOneUri(uris.len())),
    }
}

/// A stranger chose this text: no line breaks in our log, and no megabytes.
fn printable(text: &str) -> String {
    text.chars().take(128).flat_map(char::escape_debug).collect()
}

/// A Unix time as people read it.
pub(super) fn date(unix_s: i64) -> String {
    ASN1Time::from_timestamp(unix_s).map_or_else(|_| format!("{unix_s} s"), |time| time.to_string())
}
