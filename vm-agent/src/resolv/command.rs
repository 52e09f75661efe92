//! Running a resolver's own program.

use anyhow::Context as _;
use daemon::args::Hint;
use std::{io, process::Stdio, time::Duration};
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

/// Such a program talks to a service of this host, and hangs when that one does.
const WITHIN: Duration = Duration::from_secs(10);

/// Runs a program, its standard input given; what it printed.
///
/// # Errors
/// It is not there, does not end in time, or says why it failed.
pub async fn run(program: &str, args: &[&str], input: &str) -> anyhow::Result<String> {
    let line = || format!("`{program} {}`", args.join(" "));
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => anyhow::Error::from(error).context(Hint::new(
            format!("cannot run {}", line()),
            format!("this host's resolver is told by `{program}`: install it"),
        )),
        _ => anyhow::Error::from(error).context(format!("cannot run {}", line())),
    })?;
    let mut stdin = child.stdin.take().context("its standard input was piped")?;
    let finished = async {
        // One that does not read has its reasons, and says them.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        child.wait_with_output().await
    };
    let output = timeout(WITHIN, finished)
        .await
        .with_context(|| format!("{} did not end within {WITHIN:?}", line()))?
        .with_context(|| format!("cannot run {}", line()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it does not say why");
    anyhow::bail!("{} failed ({}): {}", line(), output.status, first.trim())
}
