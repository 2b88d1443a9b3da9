//! [`CliError`]: why a command did not succeed, with its exit status.

use std::fmt;
use std::process::ExitCode;

use crate::service::error::Error;

/// Why a command did not succeed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CliError {
    /// It was refused, or it failed.
    Refused(String),
    /// There is no such service, or the server is no admin interface.
    NotFound(String),
    /// The admin interface cannot be reached, or does not answer.
    Unreachable(String),
}

impl CliError {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Refused(_) | Self::NotFound(_) => ExitCode::FAILURE,
            // 2 means that the arguments are wrong.
            Self::Unreachable(_) => ExitCode::from(3),
        }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Refused(why) | Self::NotFound(why) | Self::Unreachable(why)) = self;
        f.write_str(why)
    }
}

impl From<Error> for CliError {
    fn from(error: Error) -> Self {
        Self::Refused(format!("{error:#}"))
    }
}
