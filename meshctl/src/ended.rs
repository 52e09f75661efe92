//! How a command ends: what scripts read from its exit code.

use anyhow::Error;
use std::process::ExitCode;

// 0: all is well.
/// It failed, or something is not as it should be.
pub const NOT_WELL: u8 = 1;
// 2: the command line is wrong (clap).
/// A cluster cannot be reached, or does not believe us.
pub const UNREACHABLE: u8 = 3;
/// A cluster was reached and refused; nothing was changed by what it refused.
pub const REFUSED: u8 = 4;

/// An error whose kind a script may want to know.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// Nobody there, or nobody who believes us.
    #[error("cannot connect to {0}")]
    Unreachable(String),
    /// In the words of whoever refused: a gRPC status also carries codes and metadata that help nobody here.
    #[error("{0}")]
    Refused(String),
    /// It went away while we spoke.
    #[error("{0}")]
    Lost(String),
}

impl Ended {
    /// What an apiserver answered to a call.
    pub fn from_status(status: &tonic::Status) -> Self {
        let text = status.message().to_owned();
        match status.code() {
            tonic::Code::Unavailable | tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => {
                Self::Lost(text)
            }
            _ => Self::Refused(text),
        }
    }
}

/// The exit code of an error.
pub fn code(error: &Error) -> ExitCode {
    ExitCode::from(match kind(error) {
        Some(Ended::Unreachable(_) | Ended::Lost(_)) => UNREACHABLE,
        Some(Ended::Refused(_)) => REFUSED,
        None => NOT_WELL,
    })
}

/// Of which kind an error is, wherever it stands in the chain.
pub fn kind(error: &Error) -> Option<&Ended> {
    error.chain().find_map(|cause| cause.downcast_ref::<Ended>()).or(error.downcast_ref())
}
