//! Running the machine's own tools (`ip`, `nft`, `iptables-restore`, CNI plugins) with text in and text out.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a tool with `input` on its standard input and returns what it printed.
///
/// # Errors
/// It cannot be run, or it ended with another code than 0; the message has what it said.
pub(crate) fn feed(mut command: Command, what: &str, input: &str) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        command.spawn().with_context(|| format!("{what}: cannot run {:?}", command.get_program()))?;
    let mut stdin = child.stdin.take().expect("stdin was piped");
    // A tool that fails at once closes its end; its own message says more than our broken pipe.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().with_context(|| format!("{what}: lost the tool"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    bail!("{what}: {} ({})", format!("{} {}", complaint.trim(), said.trim()).trim(), output.status)
}
