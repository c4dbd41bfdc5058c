//! Wire types of both HTTP APIs: what `docs/http-api.md` describes, as serde types.

pub mod error;
pub mod blobs;
pub mod jobs;
pub mod submissions;
pub mod execute;
pub mod start;
pub mod users;
