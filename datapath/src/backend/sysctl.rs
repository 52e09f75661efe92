//! Settings of `mesh0` under `/proc/sys`.
//!
//! `rp_filter` is not among them: the kernel takes the larger of `all` and the device's, and strict filtering works on
//! `mesh0`, because what comes out of the tunnel has a source whose route, by our rule, is `mesh0`; the mark by which
//! our rule is not asked is on WireGuard's own datagrams only. Forwarding is the CNI's business.

use crate::observe::Sysctl;
use std::{collections::BTreeMap, fs, io, path::Path};

/// A setting could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot set /proc/sys/{path} to {value}")]
pub struct Error {
    path: &'static str,
    value: &'static str,
    source: io::Error,
}

/// Reads what there is; a kernel without IPv6 has fewer.
#[must_use]
pub fn observe() -> BTreeMap<Sysctl, String> {
    let read = |key: Sysctl| fs::read_to_string(file(key)).ok().map(|text| (key, text.trim().to_owned()));
    Sysctl::ALL.into_iter().filter_map(read).collect()
}

/// Writes what we want it to be.
///
/// # Errors
/// When the kernel, or a read-only `/proc`, refuses.
pub fn set(key: Sysctl) -> Result<(), Error> {
    fs::write(file(key), key.wanted()).map_err(|source| Error {
        path: key.path(),
        value: key.wanted(),
        source,
    })
}

fn file(key: Sysctl) -> std::path::PathBuf {
    Path::new("/proc/sys").join(key.path())
}
