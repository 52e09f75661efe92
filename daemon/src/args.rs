//! Arguments that all processes share, and how a process ends.

use crate::log::Format;
use std::{fmt, io::Write, process::ExitCode};

/// `--log` and `--log-format`.
#[derive(Debug, Clone, clap::Args)]
pub struct LogArgs {
    /// What to log: a level (error, warn, info, debug, trace) or a filter like `info,clustermesh_apiserver=debug`.
    #[arg(long, value_name = "FILTER", default_value = "info", global = true)]
    pub log: String,
    /// How to write it.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text", global = true)]
    pub log_format: Format,
}

/// What somebody can do about an error: given as the context of an `anyhow` error, printed under it by [`exit`].
#[derive(Debug)]
pub struct Hint {
    /// What went wrong, with the noun.
    pub what: String,
    /// What to try.
    pub hint: String,
}

impl Hint {
    /// An error's text and what to try.
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Hint {}

/// The end of `main`: nothing and 0, or `error: …` (and `hint: …`) on stderr and 1.
#[must_use]
pub fn exit(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed stderr is no reason to panic at the very end.
            let _written = write!(std::io::stderr(), "{}", report(&error));
            ExitCode::FAILURE
        }
    }
}

/// `error: …` with the whole chain and, when somebody knows what to try, `hint: …`.
#[must_use]
pub fn report(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error:#}\n");
    if let Some(hint) = error.downcast_ref::<Hint>() {
        text += &format!("hint: {}\n", hint.hint);
    }
    text
}

#[cfg(test)]
mod tests;
