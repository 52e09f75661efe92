//! The cluster's own certificate authority: who is who under our trust domain.
//!
//! ```text
//!  ca/key.pem ──▶ Authority::issue(SpiffeId, names, days) ──▶ Issued { cert, key } ──▶ server/ · admin/ · cert issue's DIR
//! ```
//!
//! Invariants
//! - the CA's key never leaves the data directory: peers get the bundle, and processes their own certificate;
//! - a certificate says exactly one SPIFFE ID; only the apiserver's own has host names, for stock `etcdctl`;
//! - every file is on disk before the next step begins, keys are readable by root alone, and nothing is overwritten.

mod authority;
mod files;
mod layout;
#[cfg(test)]
mod tests;

pub use authority::{Authority, CERTIFICATE_DAYS, Issued, PkiError, key_of};
pub use files::{Existing, FileError, write_file};
pub use layout::Layout;
pub(crate) use layout::identity;
