//! The one shape of every error body.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `{"error": {"code", "message", "hint", "field"}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The only field.
    pub error: ErrorDetail,
}

/// What happened, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// Stable name for programs, such as `blob_not_found`.
    pub code: String,
    /// What happened, to what.
    pub message: String,
    /// What to do; absent where nothing helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The field of the request that it is about, such as `limits.pids`; absent where it is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}
