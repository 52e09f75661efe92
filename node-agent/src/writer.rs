//! Writes our two records, `keys/<node>` and `applied/<node>`: the newest wish wins, and a failure is tried again.

use api::{key::Key, record::Record};
use backon::{BackoffBuilder as _, ExponentialBuilder};
use etcd_client::{Client, ConnectOptions};
use std::{collections::BTreeMap, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// First and longest wait after a failure: an apiserver that restarts is back within a second, and 5 000 agents that
/// each wait up to 10 s are 500 writes a second at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// A write that takes longer is given up; the next one carries the newer value.
const WRITE_WITHIN: Duration = Duration::from_secs(5);

/// What is to be written now; what the store holds already is not among it.
pub type Wishes = BTreeMap<Key, Record>;

/// Writes each wish once, until `shutdown`.
pub async fn run(
    connect: impl follow::Connect,
    mut wishes: watch::Receiver<Wishes>,
    shutdown: CancellationToken,
) {
    let policy = ExponentialBuilder::new()
        .with_min_delay(BACKOFF.0)
        .with_max_delay(BACKOFF.1)
        .with_jitter()
        .without_max_times();
    let mut client: Option<Client> = None;
    let mut waits = policy.build();
    loop {
        let wished = wishes.borrow_and_update().clone();
        let pause = match write(&connect, &mut client, &wished).await {
            Ok(()) => {
                waits = policy.build();
                None
            }
            Err(error) => {
                client = None;
                let wait = waits.next().unwrap_or(BACKOFF.1);
                warn!(error, ?wait, "Cannot write our records");
                Some(wait)
            }
        };
        let next = async {
            match pause {
                Some(wait) => tokio::time::sleep(wait).await,
                None => drop(wishes.changed().await),
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = next => {}
        }
    }
}

async fn write(
    connect: &impl follow::Connect,
    client: &mut Option<Client>,
    wished: &Wishes,
) -> Result<(), String> {
    for (key, record) in wished {
        let open = match client {
            Some(open) => open,
            None => {
                let channel = etcd_client::Channel::Tonic(connect.connect().await?);
                let opened = Client::from_channel(channel, Some(ConnectOptions::new()))
                    .await
                    .map_err(|e| e.to_string())?;
                client.insert(opened)
            }
        };
        let put = open.put(key.to_string(), record.encode(), None);
        match tokio::time::timeout(WRITE_WITHIN, put).await {
            Ok(Ok(_)) => debug!(%key, "Wrote our record"),
            Ok(Err(error)) => return Err(format!("cannot write {key}: {error}")),
            Err(_) => return Err(format!("no answer to the write of {key} within {WRITE_WITHIN:?}")),
        }
    }
    Ok(())
}
