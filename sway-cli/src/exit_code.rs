//! What `sway` exits with: one table, told in the help of `sway run` and in the README.

use std::process;

use sway_client::ClientError;
use sway_core::job::Cause;

use crate::failure::Failure;

/// How a command ended, as far as a shell is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitCode {
    /// All went well.
    Success,
    /// A run ended: the job's own code, or one that names the cause.
    Run {
        /// Why it ended.
        cause: Cause,
        /// The process's code, where it had one.
        code: Option<i32>,
    },
    /// The command failed, and nothing below says it better.
    Failed,
    /// The command line makes no sense.
    Usage,
    /// A server can't be reached.
    Unreachable,
    /// Worker, fileserver or machine failed.
    Infrastructure,
    /// The job was refused, or failed before it started.
    Refused,
    /// The caller stopped it.
    Cancelled,
}

impl ExitCode {
    /// The table.
    #[deny(clippy::wildcard_enum_match_arm)]
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Run { cause, code } => u8::try_from(cause.exit_code(code)).unwrap_or(70),
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 69,
            Self::Infrastructure => 70,
            Self::Refused => 125,
            Self::Cancelled => 130,
        }
    }

    /// What an error that reached `main` ends in: the code that a failure carries, else the one
    /// that suits what a server or the way to it did.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        for cause in error.chain() {
            if let Some(failure) = cause.downcast_ref::<Failure>() {
                return failure.code;
            }
            if let Some(error) = cause.downcast_ref::<ClientError>() {
                return Self::of_client_error(error);
            }
        }
        Self::Failed
    }

    #[deny(clippy::wildcard_enum_match_arm)]
    fn of_client_error(error: &ClientError) -> Self {
        match error {
            ClientError::Unreachable { .. }
            | ClientError::Untrusted { .. }
            | ClientError::Timeout { .. } => Self::Unreachable,
            ClientError::Refused { status: 0..500, .. } => Self::Failed,
            ClientError::Refused { .. }
            | ClientError::Missing(_)
            | ClientError::Corrupt(_)
            | ClientError::Protocol { .. } => Self::Infrastructure,
            ClientError::Config(_) => Self::Failed,
        }
    }
}

impl From<ExitCode> for process::ExitCode {
    fn from(code: ExitCode) -> Self {
        code.number().into()
    }
}
