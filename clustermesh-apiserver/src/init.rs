//! `init`: a cluster is born. UUID, CA, the apiserver's certificate, the first operator, and `cluster.yaml`.

mod config;
#[cfg(test)]
mod tests;

pub use config::{ClusterConfig, ConfigError, EncryptionScope, host_of};

use crate::pki::{Authority, CERTIFICATE_DAYS, Existing, Issued, Layout, PkiError, write_file};
use anyhow::{Context, bail};
use daemon::{
    args::Hint,
    context::{Context as ClusterContext, Contexts},
    spiffe::{Role, SpiffeId},
    tls::IdentityPaths,
};
use std::{path::Path, time::SystemTime};
use tracing::info;

/// The first operator's name.
pub const FIRST_OPERATOR: &str = "admin";

/// Makes everything a cluster needs in `data_dir`. Nothing that is there is overwritten.
///
/// # Errors
/// When the directory already has a cluster in it, or the system refuses.
pub fn init(data_dir: &Path, config: &ClusterConfig, now: SystemTime) -> anyhow::Result<()> {
    let layout = Layout::new(data_dir);
    for path in [layout.cluster(), layout.ca_key(), layout.ca_cert()] {
        if path.try_exists().with_context(|| format!("cannot look at {}", path.display()))? {
            bail!(Hint::new(
                format!(
                    "{} exists: this directory has a cluster, and nothing of it is overwritten",
                    path.display()
                ),
                "choose another --data-dir; if an init was interrupted here (no cluster.yaml), remove the directory",
            ));
        }
    }
    let authority = Authority::create(&layout, &config.name, config.uuid, now)?;
    issue_server(&authority, &layout, config, now)?;
    issue_operator(&authority, &layout, config, now)?;
    write_file(&layout.admin_config(), context_yaml(config)?.as_bytes(), 0o644, Existing::Refuse)?;
    // Last: with it, the directory is complete.
    write_file(&layout.cluster(), config.to_yaml()?.as_bytes(), 0o644, Existing::Refuse)?;
    Ok(())
}

/// Removes what an `init` left that was killed before its last file: without `cluster.yaml` nobody is this cluster yet.
///
/// # Errors
/// When the disk refuses.
pub fn clear_unfinished(layout: &Layout) -> anyhow::Result<()> {
    for dir in [layout.ca_key(), layout.server().key, layout.admin().key] {
        let Some(dir) = dir.parent() else { continue };
        match std::fs::remove_dir_all(dir) {
            Ok(()) => info!(dir = %dir.display(), "Removed what an interrupted init left"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot remove {}", dir.display())),
        }
    }
    Ok(())
}

/// Issues the first operator's certificate, in place of the one that is there.
///
/// # Errors
/// When the library or the disk refuses.
pub fn issue_operator(
    authority: &Authority,
    layout: &Layout,
    config: &ClusterConfig,
    now: SystemTime,
) -> anyhow::Result<()> {
    let admin = SpiffeId::new(config.uuid, Role::Operator, FIRST_OPERATOR)?;
    authority.issue(&admin, &[], CERTIFICATE_DAYS, now)?.write(&layout.admin(), Existing::Replace)?;
    Ok(())
}

/// Issues the apiserver's own certificate, in place of the one that is there.
///
/// # Errors
/// [`PkiError`].
pub fn issue_server(
    authority: &Authority,
    layout: &Layout,
    config: &ClusterConfig,
    now: SystemTime,
) -> Result<(), PkiError> {
    let id = config.server_id();
    let mut hosts = vec!["localhost", "127.0.0.1", "::1"];
    hosts.extend(config.advertise.iter().filter_map(|endpoint| host_of(endpoint)));
    hosts.dedup();
    let issued: Issued = authority.issue(&id, &hosts, CERTIFICATE_DAYS, now)?;
    issued.write(&layout.server(), Existing::Replace)?;
    Ok(())
}

/// `cert issue ROLE NAME`: a certificate of our CA, into a directory of its own.
///
/// # Errors
/// When there is no cluster in `data_dir`, the name breaks its role's rule, files are there already, or it is a VM's.
pub fn issue(
    data_dir: &Path,
    role: Role,
    name: &str,
    days: u32,
    out: &Path,
    now: SystemTime,
) -> anyhow::Result<SpiffeId> {
    let layout = Layout::new(data_dir);
    let config = ClusterConfig::load(&layout)?;
    let id = SpiffeId::new(config.uuid, role, name)?;
    if role == Role::Vm {
        bail!(Hint::new(
            "a VM's certificate counts only for the key that has redeemed its token",
            "`meshctl vm add` prints the line that joins it",
        ));
    }
    if role == Role::Cluster && name != config.name.as_str() {
        bail!("a certificate of role `cluster` is this apiserver's own, and its name is `{}`", config.name);
    }
    let authority = Authority::load(&layout)?;
    let hosts: Vec<&str> = match role {
        Role::Cluster => config.advertise.iter().filter_map(|endpoint| host_of(endpoint)).collect(),
        Role::Node | Role::Vm | Role::Operator | Role::Reader => Vec::new(),
    };
    let to = crate::pki::identity(out);
    let IdentityPaths { cert, key, bundle } = &to;
    for path in [cert, key, bundle] {
        if path.try_exists().with_context(|| format!("cannot look at {}", path.display()))? {
            bail!(Hint::new(format!("{} exists", path.display()), "choose an empty directory with --out"));
        }
    }
    authority.issue(&id, &hosts, days, now)?.write(&to, Existing::Refuse)?;
    Ok(id)
}

fn context_yaml(config: &ClusterConfig) -> anyhow::Result<String> {
    let context = ClusterContext {
        name: config.name.clone(),
        uuid: config.uuid,
        endpoints: config.advertise.clone(),
        bundle: "bundle.pem".into(),
        cert: "cert.pem".into(),
        key: "key.pem".into(),
    };
    serde_saphyr::to_string(&Contexts { clusters: vec![context] }).context("cannot write the context as YAML")
}
