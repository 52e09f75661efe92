//! Our own certificate is renewed by ourselves: at the start, and while we run.

use crate::{
    init::{ClusterConfig, issue_server},
    pki::{Authority, Layout, PkiError},
};
use anyhow::Context;
use daemon::{
    spiffe::Role,
    tls::{Certificate, Identity, Tls},
};
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// Time between looks: a third of the shortest certificate, a day, leaves eight of them.
const LOOK: Duration = Duration::from_secs(3_600);

/// Issues a new certificate when less than a third of its life remains, or when it cannot be read at all. True when it
/// did.
///
/// # Errors
/// When the CA cannot be used, or the disk refuses.
pub(super) fn if_due(layout: &Layout, config: &ClusterConfig, now: SystemTime) -> Result<bool, PkiError> {
    match Certificate::load(&layout.server().cert) {
        Ok(certificate) if !certificate.due_for_renewal(now) => return Ok(false),
        Ok(certificate) => info!(certificate = certificate.describe(), "Renewing our own certificate"),
        Err(error) => error!(%error, "Cannot read our own certificate; issuing a new one"),
    }
    issue_server(&Authority::load(layout)?, layout, config, now)?;
    Ok(true)
}

/// Our identity at the start. A crash between the files of a renewal leaves a pair that does not belong together, and an
/// apiserver that was off for long finds an expired one: with the CA at hand, neither is a reason not to start.
///
/// # Errors
/// When the CA cannot be used, or the disk refuses.
pub(super) fn identity(layout: &Layout, config: &ClusterConfig, now: SystemTime) -> anyhow::Result<Identity> {
    if_due(layout, config, now).context("cannot renew our own certificate")?;
    match Identity::load(&layout.server(), Role::Cluster) {
        Ok(identity) if *identity.id() == config.server_id() => return Ok(identity),
        Ok(identity) => {
            error!(is = %identity.id(), "Our own certificate is somebody else's; issuing a new one");
        }
        Err(error) => {
            error!(
                error = format!("{:#}", anyhow::Error::new(error)),
                "Our own certificate is unusable; issuing a new one"
            );
        }
    }
    issue_server(&Authority::load(layout)?, layout, config, now)
        .context("cannot replace our own certificate")?;
    Ok(Identity::load(&layout.server(), Role::Cluster)?)
}

/// Renews when due until cancelled; connections made from then on show the new one.
pub(super) async fn every_hour(layout: Layout, config: ClusterConfig, tls: Tls, cancel: CancellationToken) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        match if_due(&layout, &config, SystemTime::now()) {
            Ok(false) => {}
            Ok(true) => match Identity::load(&layout.server(), Role::Cluster)
                .and_then(|identity| tls.renew(identity))
            {
                Ok(()) => info!("Our own certificate is renewed"),
                Err(error) => error!(
                    error = format!("{:#}", anyhow::Error::new(error)),
                    "Cannot use the new certificate"
                ),
            },
            Err(error) => {
                error!(
                    error = format!("{:#}", anyhow::Error::new(error)),
                    "Cannot renew our own certificate"
                );
            }
        }
    }
}
