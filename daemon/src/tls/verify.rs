//! The two verifiers: rustls asks, [`judge`] answers.

use super::{
    certificate::Certificate,
    connect::Expected,
    provider,
    refused::{Reason, Refused, Side},
    trust::{TrustStore, Voucher},
};
use crate::spiffe::{Role, SpiffeId};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use std::sync::{Arc, OnceLock};

/// Who the chain is, or why we do not believe it.
fn judge(
    side: Side,
    trust: &TrustStore,
    leaf: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<SpiffeId, Refused> {
    let certificate = Certificate::read(leaf).map_err(|reason| Refused {
        side,
        certificate: "(unreadable)".to_owned(),
        reason,
    })?;
    let no = |reason: Reason| Refused::new(side, &certificate, reason);
    let id = certificate.id.clone().map_err(no)?;
    let (roots, vouched_by) = match trust.voucher(id.trust_domain()) {
        None => return Err(no(Reason::UnknownTrustDomain(id.trust_domain()))),
        Some(Voucher::Own(roots)) => (roots, "our own cluster".to_owned()),
        Some(Voucher::Peer { name, roots }) => {
            if id.role() != Role::Cluster || id.name() != name.as_str() {
                let found = id.name().to_owned();
                return Err(no(Reason::NotThePeer {
                    domain: id.trust_domain(),
                    name,
                    role: id.role(),
                    found,
                }));
            }
            (roots, format!("peer {name}"))
        }
    };
    certificate.check_time(i64::try_from(now.as_secs()).unwrap_or(i64::MAX)).map_err(no)?;
    signed_by(leaf, between, &roots, now, side).map_err(|reason| no(reason.of(&vouched_by)))?;
    Ok(id)
}

/// What the library found wrong with a chain.
pub(super) struct BadChain(Error);

impl BadChain {
    /// As a reason; `whose` names the bundle it was held against.
    pub(super) fn of(self, whose: &str) -> Reason {
        match self.0 {
            Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                Reason::WrongSigner { domain: whose.to_owned() }
            }
            Error::InvalidCertificate(other) => Reason::Invalid(other),
            other => Reason::Invalid(CertificateError::Other(rustls::OtherError(Arc::new(other)))),
        }
    }
}

/// The path to a trust anchor, the validity on the way, and the usage that goes with the side.
pub(super) fn signed_by(
    leaf: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    roots: &Arc<RootCertStore>,
    now: UnixTime,
    side: Side,
) -> Result<(), BadChain> {
    match side {
        Side::Server => {
            let parsed = ParsedCertificate::try_from(leaf).map_err(BadChain)?;
            verify_server_cert_signed_by_trust_anchor(&parsed, roots, between, now, algorithms().all)
                .map_err(BadChain)
        }
        // Every certificate we hold is used as a client's.
        Side::Client | Side::Ours => {
            WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider())
                .build()
                .map_err(|error| BadChain(Error::General(error.to_string())))?
                .verify_client_cert(leaf, between, now)
                .map(drop)
                .map_err(BadChain)
        }
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

/// What one handshake found out; rustls' own error has no room for it.
pub(super) type Verdict = Arc<OnceLock<Result<SpiffeId, Refused>>>;

fn answer(verdict: &Verdict, judged: Result<SpiffeId, Refused>) -> Result<(), Error> {
    let error = judged.as_ref().err().map(|refused| refused.reason.as_rustls());
    // Set once: a handshake shows one certificate.
    let _already_set = verdict.set(judged);
    error.map_or(Ok(()), |error| Err(Error::InvalidCertificate(error)))
}

/// Judges the clients of one connection.
#[derive(Debug)]
pub(super) struct ClientJudge {
    pub(super) trust: TrustStore,
    /// Whether a client may show no certificate.
    pub(super) strangers: bool,
    pub(super) verdict: Verdict,
}

impl ClientCertVerifier for ClientJudge {
    fn client_auth_mandatory(&self) -> bool {
        !self.strangers
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        answer(&self.verdict, judge(Side::Client, &self.trust, leaf, between, now))
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// Judges the server of one connection.
#[derive(Debug)]
pub(super) struct ServerJudge {
    pub(super) trust: TrustStore,
    pub(super) expected: Expected,
    pub(super) verdict: Verdict,
}

impl ServerCertVerifier for ServerJudge {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judged = judge(Side::Server, &self.trust, leaf, between, now).and_then(|id| {
            if self.expected.matches(&id) {
                return Ok(id);
            }
            let certificate = id.to_string();
            let reason = Reason::NotExpected(self.expected.to_string());
            Err(Refused { side: Side::Server, certificate, reason })
        });
        answer(&self.verdict, judged).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}
