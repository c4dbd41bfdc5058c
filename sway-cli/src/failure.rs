//! An error that tells what to do about it.
//!
//! Errors of the libraries say what happened, to what. What a person should do next depends on
//! the command that they typed, so the commands add it here.

use std::fmt;

use crate::exit_code::ExitCode;

/// What happened, to what; what to do; what the shell is told.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What the process exits with.
    pub(crate) code: ExitCode,
    message: String,
    hint: Option<String>,
    source: Option<anyhow::Error>,
}

impl Failure {
    /// A failure of the command.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { code: ExitCode::Failed, message: message.into(), hint: None, source: None }
    }

    /// A job that is not even submitted.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self { code: ExitCode::Refused, ..Self::new(message) }
    }

    /// What to do.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// What lies behind it.
    pub(crate) fn source(self, source: impl Into<anyhow::Error>) -> Self {
        Self { source: Some(source.into()), ..self }
    }

    /// What to do, where that is known.
    pub(crate) fn what_to_do(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as &(dyn std::error::Error + 'static))
    }
}
