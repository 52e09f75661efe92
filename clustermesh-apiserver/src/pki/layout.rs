//! Where things are in the data directory.

use daemon::tls::IdentityPaths;
use std::path::{Path, PathBuf};

/// The data directory of one apiserver.
///
/// | path | what | mode |
/// |---|---|---|
/// | `cluster.yaml` | name, UUID, ranges, endpoints; written last: with it the directory is complete | 0644 |
/// | `ca/key.pem`, `ca/cert.pem` | the certificate authority | 0600, 0644 |
/// | `server/{cert,key,bundle}.pem` | the apiserver's own certificate | key 0600 |
/// | `admin/{cert,key,bundle}.pem`, `admin/config.yaml` | the first operator, and a context for `meshctl` | key 0600 |
/// | `lock`, `lineage`, `store/` | the store's (see [`crate::backend`]) | |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Of the directory `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The directory itself: the store's, too.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Who the cluster is.
    #[must_use]
    pub fn cluster(&self) -> PathBuf {
        self.root.join("cluster.yaml")
    }

    /// The CA's certificate.
    #[must_use]
    pub fn ca_cert(&self) -> PathBuf {
        self.root.join("ca/cert.pem")
    }

    /// The CA's private key.
    #[must_use]
    pub fn ca_key(&self) -> PathBuf {
        self.root.join("ca/key.pem")
    }

    /// The apiserver's own certificate.
    #[must_use]
    pub fn server(&self) -> IdentityPaths {
        identity(&self.root.join("server"))
    }

    /// The first operator's certificate.
    #[must_use]
    pub fn admin(&self) -> IdentityPaths {
        identity(&self.root.join("admin"))
    }

    /// The first operator's context.
    #[must_use]
    pub fn admin_config(&self) -> PathBuf {
        self.root.join("admin/config.yaml")
    }
}

/// The three files of an identity in a directory.
pub(crate) fn identity(dir: &Path) -> IdentityPaths {
    IdentityPaths { cert: dir.join("cert.pem"), key: dir.join("key.pem"), bundle: dir.join("bundle.pem") }
}
