//! How a process ends: when asked, and in order.

use std::{io, time::Duration};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// The exit code after a second signal: 128 and SIGINT, as a shell shows it.
const IMPATIENT: i32 = 130;

/// A token that SIGTERM or SIGINT cancels. The second signal ends the process at once.
///
/// # Errors
/// When the system gives no signal handler.
pub fn on_signal() -> io::Result<CancellationToken> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        for last in [false, true] {
            let which = tokio::select! {
                _ = term.recv() => "SIGTERM",
                _ = int.recv() => "SIGINT",
            };
            if last {
                warn!(signal = which, "Ended at the second signal");
                std::process::exit(IMPATIENT);
            }
            info!(signal = which, "Ending");
            cancel.cancel();
        }
    });
    Ok(token)
}

/// Waits for a part of the process that was asked to end. One that does not end in time is left behind and named.
pub async fn finish(part: &'static str, mut task: JoinHandle<()>, within: Duration) {
    match timeout(within, &mut task).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => error!(part, %error, "A part of the process failed"),
        Err(_) => {
            warn!(part, ?within, "A part of the process did not end in time");
            task.abort();
        }
    }
}
