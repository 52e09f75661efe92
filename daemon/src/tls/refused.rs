//! Why a certificate is refused, and what the other side is told.

use super::certificate::{Certificate, date};
use crate::spiffe::{BadId, Role};
use api::{bytes::ClusterUuid, name::ClusterName};
use rustls::CertificateError;
use std::fmt;

/// Whose certificate it is, seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one in our own files.
    Ours,
    /// What a client showed us.
    Client,
    /// What a server showed us.
    Server,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "our own",
            Self::Client => "the client's",
            Self::Server => "the server's",
        })
    }
}

/// A certificate that is not accepted here.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{side} certificate {certificate} is refused: {reason}")]
pub struct Refused {
    /// Whose.
    pub side: Side,
    /// Which: its ID and serial number, as far as they could be read.
    pub certificate: String,
    /// Why.
    pub reason: Reason,
}

/// Why a certificate is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Reason {
    /// Not X.509.
    #[error("it is not an X.509 certificate")]
    Unreadable,
    /// Not exactly one URI SAN.
    #[error("it has {0} URI names, and an identity is exactly one")]
    NotOneUri(usize),
    /// Its URI SAN is not one of our IDs.
    #[error(transparent)]
    Id(#[from] BadId),
    /// Its time is over.
    #[error("it expired on {}, and this host's clock shows {}", date(*.until_s), date(*.now_s))]
    Expired {
        /// When it ended, Unix time in seconds.
        until_s: i64,
        /// What the clock showed.
        now_s: i64,
    },
    /// Its time has not come: usually a clock is wrong.
    #[error(
        "it is not valid before {}, and this host's clock shows {}: if that is wrong, set it (`timedatectl` shows \
         whether it is synchronized)", date(*.from_s), date(*.now_s)
    )]
    NotYetValid {
        /// When it begins, Unix time in seconds.
        from_s: i64,
        /// What the clock showed.
        now_s: i64,
    },
    /// Nobody here vouches for its trust domain.
    #[error("its trust domain {0} is neither ours nor a peer's")]
    UnknownTrustDomain(ClusterUuid),
    /// The bundle of its trust domain did not sign it.
    #[error("it was not signed by a CA in the trust bundle of {domain}")]
    WrongSigner {
        /// Whose bundle: the peer's name, or ours.
        domain: String,
    },
    /// A peer's CA gives only that peer's cluster certificate.
    #[error(
        "a peer's CA can only vouch for spiffe://{domain}/cluster/{name}, and this is role `{role}`, name `{found}`"
    )]
    NotThePeer {
        /// The peer's trust domain.
        domain: ClusterUuid,
        /// The peer's name.
        name: ClusterName,
        /// The role that was shown.
        role: Role,
        /// The name that was shown.
        found: String,
    },
    /// A right certificate of the wrong server.
    #[error("expected {0}")]
    NotExpected(String),
    /// A right certificate of ours for the wrong process.
    #[error("this process needs role `{needed}`, and it is for role `{found}`")]
    WrongRole {
        /// What the process is.
        needed: Role,
        /// What the certificate is for.
        found: Role,
    },
    /// The key file holds another key.
    #[error("the private key does not belong to it")]
    OtherKey,
    /// What the library found.
    #[error("{0}")]
    Invalid(CertificateError),
}

impl Refused {
    pub(super) fn new(side: Side, certificate: &Certificate, reason: impl Into<Reason>) -> Self {
        Self { side, certificate: certificate.describe(), reason: reason.into() }
    }
}

impl Reason {
    /// The error whose alert tells the other side as much as TLS can.
    pub(super) fn as_rustls(&self) -> CertificateError {
        match self {
            Self::Expired { .. } => CertificateError::Expired,
            Self::NotYetValid { .. } => CertificateError::NotValidYet,
            Self::UnknownTrustDomain(_) | Self::WrongSigner { .. } => CertificateError::UnknownIssuer,
            Self::NotThePeer { .. } | Self::NotExpected(_) | Self::WrongRole { .. } => {
                CertificateError::ApplicationVerificationFailure
            }
            Self::Unreadable | Self::NotOneUri(_) | Self::Id(_) | Self::OtherKey => {
                CertificateError::BadEncoding
            }
            Self::Invalid(error) => error.clone(),
        }
    }
}
