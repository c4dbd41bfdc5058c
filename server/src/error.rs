//! The one shape of every refusal: status, code, message, hint (`sway_core::api::error`).
//!
//! Each server keeps one table that maps its errors to these; here are the constructors, and
//! extractors whose rejections have the same shape.

use std::fmt;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sway_core::api::error::{ErrorBody, ErrorDetail};

/// A refusal or failure as the caller will see it.
#[derive(Debug)]
pub struct ServerError {
    /// HTTP status.
    pub status: StatusCode,
    /// Stable name for programs.
    pub code: &'static str,
    /// What happened, to what.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// The field of the request that it is about.
    pub field: Option<String>,
    /// How long the caller should wait (`Retry-After`), in whole seconds.
    pub retry_after: Option<Duration>,
}

impl ServerError {
    /// Any status.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), hint: None, field: None, retry_after: None }
    }

    /// 400: the request makes no sense.
    pub fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// 401: who are you?
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// 403: not you.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// 404: not here.
    pub fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// 409: not as things stand.
    pub fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    /// 412: things stand otherwise than the caller expected.
    pub fn precondition_failed(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, code, message)
    }

    /// 413: more than is taken.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// 429: not so many, not now.
    pub fn too_many(message: impl Into<String>, retry_after: Duration) -> Self {
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message);
        error.retry_after = Some(retry_after);
        error
    }

    /// 503: something that this server needs is not there.
    pub fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
    }

    /// 500: this server's own fault. The caller sees `message`; log the details where they
    /// are known.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Names the field of the request that it is about.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// The body.
    pub fn body(&self) -> ErrorBody {
        ErrorBody {
            error: ErrorDetail {
                code: self.code.to_owned(),
                message: self.message.clone(),
                hint: self.hint.clone(),
                field: self.field.clone(),
            },
        }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.status, self.code, self.message)
    }
}

impl std::error::Error for ServerError {}

impl IntoResponse for ServerError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// A rejection's status and text under a code of ours.
fn rejected(status: StatusCode, code: &'static str, message: String) -> ServerError {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => ServerError::too_large(message),
        status if status.is_server_error() => ServerError::internal(message),
        status => ServerError::new(status, code, message),
    }
}

/// How long a JSON body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(60);

/// A JSON body or answer; a malformed body, or one that does not arrive, is a [`ServerError`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ServerError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ServerError> {
        let arriving = axum::Json::from_request(request, state);
        match in_time(BODY_DEADLINE, arriving).await? {
            Ok(axum::Json(value)) => Ok(Self(value)),
            Err(rejection) => Err(json_rejected(&rejection)),
        }
    }
}

/// 408 unless `arriving` ends before the deadline: for bodies, which may come as slowly as their
/// sender likes.
pub async fn in_time<T>(
    deadline: Duration,
    arriving: impl Future<Output = T>,
) -> Result<T, ServerError> {
    tokio::time::timeout(deadline, arriving).await.map_err(|_| {
        let message = format!("the body did not arrive within {} s", deadline.as_secs());
        ServerError::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", message)
    })
}

fn json_rejected(rejection: &JsonRejection) -> ServerError {
    let error = rejected(rejection.status(), "malformed_json", rejection.body_text());
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => error,
        StatusCode::UNSUPPORTED_MEDIA_TYPE => error.hint("send content-type: application/json"),
        _ => error.hint("see docs/http-api.md for the fields of this request"),
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// Parameters of the path; a malformed one is a [`ServerError`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ServerError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ServerError> {
        axum::extract::Path::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Path(value)| Self(value))
            .map_err(|rejection: PathRejection| {
                rejected(rejection.status(), "malformed_path", rejection.body_text())
            })
    }
}

/// Parameters of the query; a malformed one is a [`ServerError`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ServerError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ServerError> {
        axum::extract::Query::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Query(value)| Self(value))
            .map_err(|rejection: QueryRejection| {
                rejected(rejection.status(), "malformed_query", rejection.body_text())
            })
    }
}
