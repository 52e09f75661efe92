//! Logs on stderr: one line an event, for people or for machines.

use tracing_subscriber::{EnvFilter, filter::ParseError};

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A line of text.
    Text,
    /// A JSON object a line.
    Json,
}

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error("`{filter}` is not a log filter (try `info` or `warn,daemon=debug`)")]
    Filter {
        /// What was given.
        filter: String,
        /// Why.
        source: ParseError,
    },
    /// Somebody was faster.
    #[error("logs are already set up in this process")]
    Twice,
}

/// Libraries that log what we log with more words; a filter that names one brings it back.
const QUIET: &str = "kube_client=off";

/// Sends the events of this process to stderr.
///
/// # Errors
/// [`LogError`] for a filter that does not parse, or a second call.
pub fn init(args: &crate::args::LogArgs) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", args.log))
        .map_err(|source| LogError::Filter { filter: args.log.clone(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = match args.log_format {
        Format::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    set.map_err(|_| LogError::Twice)
}
