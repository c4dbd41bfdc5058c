//! Why a call failed; variants differ where the caller's next step does.

use std::error::Error as StdError;
use std::time::Duration;

use sway_core::blob::BlobError;
use sway_core::digest::Digest;

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection, or it broke: the server may be down. Try later.
    #[error("{url} can't be reached")]
    Unreachable {
        /// The server.
        url: String,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The server did not answer, or stopped answering. Try later.
    #[error("{url} did not answer within {} s", after.as_secs_f32())]
    Timeout {
        /// The server.
        url: String,
        /// How long was waited.
        after: Duration,
    },
    /// The server's certificate is not the one that is trusted. Never go on; ask its operator.
    #[error("{url} shows a certificate that is not trusted")]
    Untrusted {
        /// The server.
        url: String,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The server said no: change the request, or tell the user.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Stable name, such as `ref_conflict`.
        code: String,
        /// What the server says.
        message: String,
        /// What the server says to do.
        hint: Option<String>,
    },
    /// The server does not have this blob.
    #[error("the fileserver has no blob {0}")]
    Missing(Digest),
    /// The server sent other bytes than the blob's. Never use them; ask again.
    #[error(transparent)]
    Corrupt(#[from] BlobError),
    /// The answer is none of this API's: another program, or another version.
    #[error("{url} gave an answer that is not understood: {message}")]
    Protocol {
        /// The server.
        url: String,
        /// What is wrong with it.
        message: String,
    },
    /// The client can't be made as configured.
    #[error("{0}")]
    Config(String),
}

impl ClientError {
    /// Whether the same call can succeed later.
    #[deny(clippy::wildcard_enum_match_arm)]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } => true,
            Self::Refused { status, .. } => *status == 429 || *status >= 500,
            Self::Untrusted { .. }
            | Self::Missing(_)
            | Self::Corrupt(_)
            | Self::Protocol { .. }
            | Self::Config(_) => false,
        }
    }

    /// Whether there was no server that could be asked (exit code 69 of `sway`).
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Untrusted { .. } | Self::Timeout { .. })
    }

    /// What to do, where the server or this program knows.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Refused { hint, .. } => hint.as_deref(),
            Self::Untrusted { .. } => Some(
                "pin the fingerprint that lies in tls/fingerprint of the server's data directory, \
                 as fileserver_pin or worker_pin",
            ),
            Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Missing(_)
            | Self::Corrupt(_)
            | Self::Protocol { .. }
            | Self::Config(_) => None,
        }
    }
}
