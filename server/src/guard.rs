//! Who may come in: every request passes here before it reaches a route.
//!
//! In this order: the Host header must name this server (an address, `localhost`, or a listed
//! name), or a page in a browser could reach it by rebinding its own name to 127.0.0.1; an
//! Origin must be the server's own; a body must be of a type that a page can't send without
//! asking first; the bearer token must be right. What passes carries an [`Identity`].
//! This module alone decides who a caller is; each route says what scope it [`needs`].

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::HttpBody as _;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use sway_core::access::{Scope, Scopes};
use sway_core::api::blobs::FRAMES_MEDIA_TYPE;
use sway_core::api::jobs::USER_HEADER;
use sway_core::name::UserName;

use crate::error::ServerError;
use crate::token::Token;

/// Whom the operator's token speaks for where it names no user.
pub const OPERATOR: &str = "operator";

/// Whom a request without a token speaks for on an open path, where it names no user.
pub const ANONYMOUS: &str = "anonymous";

/// What a guard lets through.
#[derive(Clone, Debug)]
pub struct GuardOptions {
    /// Where the server listens: its address is a name of the server.
    pub listen: SocketAddr,
    /// Further names by which clients may address the server.
    pub names: Vec<String>,
    /// Paths that need no token and get no identity, such as `/healthz`.
    pub public: Vec<&'static str>,
    /// Whether [`GuardOptions::open_paths`] are open. Only a server on loopback may be.
    pub open: bool,
    /// Paths that are answered without a token if `open`, as the user that the caller names.
    pub open_paths: Vec<&'static str>,
}

impl GuardOptions {
    /// Only `/healthz` without a token.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            names: Vec::new(),
            public: vec!["/healthz"],
            open: false,
            open_paths: Vec::new(),
        }
    }
}

/// Whom to ask about tokens, and the exceptions.
#[derive(Clone, Debug)]
pub struct Guard(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    authority: Arc<dyn Authority>,
    options: GuardOptions,
}

impl Guard {
    /// A guard that asks `authority` about tokens.
    pub fn new(authority: Arc<dyn Authority>, options: GuardOptions) -> Self {
        Self(Arc::new(Inner { authority, options }))
    }
}

/// Says who holds a bearer token. Asked for every request, it waits for nothing.
pub trait Authority: fmt::Debug + Send + Sync {
    /// Whom `secret` speaks for.
    fn identify(&self, secret: &str) -> Result<Identity, WrongToken>;
}

/// A token that opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongToken {
    /// It never did.
    #[error("the bearer token is wrong")]
    Unknown,
    /// Somebody ended it.
    #[error("the bearer token was revoked")]
    Revoked,
    /// Its time is over.
    #[error("the bearer token has expired")]
    Expired,
}

/// The data directory's token is the operator's.
impl Authority for Token {
    fn identify(&self, secret: &str) -> Result<Identity, WrongToken> {
        if self.matches(secret) { Ok(Identity::operator()) } else { Err(WrongToken::Unknown) }
    }
}

/// Puts `guard` before every route of `router`, also before its fallback.
pub fn protect(router: Router, guard: Guard) -> Router {
    router.layer(middleware::from_fn_with_state(guard, admit))
}

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub user: UserName,
    /// What for.
    pub scopes: Scopes,
    /// The public id of the token, where it is a user's.
    pub token: Option<Arc<str>>,
}

impl Identity {
    /// The operator, who may do all.
    pub fn operator() -> Self {
        let user = OPERATOR.parse().expect("a good user name");
        Self { user, scopes: Scopes::ALL, token: None }
    }

    /// Whether what needs `scope` is open to this caller.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(scope)
    }

    /// Whether everything of everybody is, in the name of any user.
    pub fn is_operator(&self) -> bool {
        self.may(Scope::Admin)
    }

    /// Refuses whoever has none of `scopes`, before anything is looked up.
    pub fn needs_one_of(&self, scopes: Scopes) -> Result<(), ServerError> {
        if !self.scopes.intersection(scopes).is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = scopes.iter().map(Scope::as_str).collect();
        let message = format!("this needs a token with the scope {}", names.join(" or "));
        Err(ServerError::new(StatusCode::FORBIDDEN, "scope_missing", message))
    }
}

/// A layer's function: lets through who has one of the scopes.
pub async fn needs(
    State(scopes): State<Scopes>,
    identity: Identity,
    request: Request,
    next: Next,
) -> Result<Response, ServerError> {
    identity.needs_one_of(scopes)?;
    Ok(next.run(request).await)
}

impl<S: Sync> FromRequestParts<S> for Identity {
    type Rejection = ServerError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ServerError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(missing_token)
    }
}

/// The identity if there is one: on public paths.
impl<S: Sync> axum::extract::OptionalFromRequestParts<S> for Identity {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}

async fn admit(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let checked = check_host(&guard.0.options, &request)
        .and_then(|()| check_origin(&request))
        .and_then(|()| check_content_type(&request))
        .and_then(|()| identify(&guard.0, &request));
    match checked {
        Ok(identity) => {
            if let Some(identity) = identity {
                request.extensions_mut().insert(identity);
            }
            next.run(request).await
        }
        Err(refusal) => {
            tracing::debug!(
                http.status = refusal.status.as_u16(),
                reason = refusal.message,
                "refused"
            );
            refusal.into_response()
        }
    }
}

/// `host[:port]` that the request is addressed to: `:authority` in HTTP/2, else `Host`.
fn authority(request: &Request) -> Option<&str> {
    match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => request.headers().get(header::HOST)?.to_str().ok(),
    }
}

/// The host without its port; brackets of an IPv6 address removed.
fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

fn check_host(options: &GuardOptions, request: &Request) -> Result<(), ServerError> {
    let host = host_of(authority(request).unwrap_or_default());
    let known = host.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || options.names.iter().any(|name| name.eq_ignore_ascii_case(host));
    if known {
        Ok(())
    } else {
        Err(ServerError::forbidden("the Host header does not name this server")
            .hint("use the server's IP address, or start it with --name for this name"))
    }
}

fn check_origin(request: &Request) -> Result<(), ServerError> {
    let Some(origin) = request.headers().get(header::ORIGIN) else {
        return Ok(());
    };
    let own = origin.to_str().ok().and_then(|origin| origin.split_once("://")).is_some_and(
        |(_, origin)| authority(request).is_some_and(|own| own.eq_ignore_ascii_case(origin)),
    );
    if own {
        Ok(())
    } else {
        Err(ServerError::forbidden("requests of pages from other origins are refused"))
    }
}

/// A page can send forms and plain text anywhere; anything else makes its browser ask first,
/// and nobody here answers that. Methods other than POST always make it ask.
fn check_content_type(request: &Request) -> Result<(), ServerError> {
    if request.body().is_end_stream() {
        return Ok(());
    }
    let known = match request.headers().get(header::CONTENT_TYPE) {
        None => request.method() != Method::POST,
        Some(value) => value.to_str().is_ok_and(|value| {
            let essence = value.split(';').next().unwrap_or_default().trim();
            ["application/json", "application/octet-stream", FRAMES_MEDIA_TYPE]
                .iter()
                .any(|known| essence.eq_ignore_ascii_case(known))
        }),
    };
    if known {
        Ok(())
    } else {
        Err(ServerError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "bodies are JSON, bytes or frames",
        )
        .hint(format!(
            "send content-type: application/json, application/octet-stream or {FRAMES_MEDIA_TYPE}"
        )))
    }
}

fn missing_token() -> ServerError {
    ServerError::unauthorized("a bearer token is needed")
        .hint("send authorization: Bearer with the token of the server's data directory")
}

fn identify(guard: &Inner, request: &Request) -> Result<Option<Identity>, ServerError> {
    let path = request.uri().path();
    let headers = request.headers();
    let public = guard.options.public.contains(&path);
    let open = guard.options.open
        && guard.options.listen.ip().to_canonical().is_loopback()
        && guard.options.open_paths.contains(&path);
    match bearer(headers) {
        Some(secret) => match guard.authority.identify(secret) {
            Ok(identity) => Ok(Some(speaking_for(identity, headers)?)),
            Err(_) if public => Ok(None),
            Err(wrong) => Err(ServerError::unauthorized(wrong.to_string())),
        },
        None if public => Ok(None),
        None if open => {
            let user = match named_user(headers)? {
                Some(user) => user,
                None => ANONYMOUS.parse().expect("a good user name"),
            };
            Ok(Some(Identity { user, scopes: Scopes::of(&[Scope::Run]), token: None }))
        }
        None => Err(missing_token()),
    }
}

/// The operator speaks for whom it names; for anybody else, the token says it.
fn speaking_for(identity: Identity, headers: &HeaderMap) -> Result<Identity, ServerError> {
    if !identity.is_operator() {
        return Ok(identity);
    }
    let user = named_user(headers)?;
    Ok(Identity { user: user.unwrap_or(identity.user), ..identity })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn named_user(headers: &HeaderMap) -> Result<Option<UserName>, ServerError> {
    let name = headers.get(USER_HEADER).map(|value| value.to_str().unwrap_or_default().parse());
    name.transpose().map_err(|error| {
        ServerError::bad_request("malformed_user", format!("header {USER_HEADER}: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;

    /// A server on loopback whose `/run` is open, and which tells callers who they are.
    fn app(open: bool, listen: &str) -> Router {
        let routes = Router::new()
            .route("/run", get(|who: Identity| async move { who.user.to_string() }))
            .route("/jobs", get(|who: Identity| async move { who.user.to_string() }))
            .route(
                "/healthz",
                get(|who: Option<Identity>| async move { who.is_some().to_string() }),
            );
        let options = GuardOptions {
            open,
            open_paths: vec!["/run"],
            names: vec!["sway.example".to_owned()],
            ..GuardOptions::new(listen.parse().unwrap())
        };
        protect(routes, Guard::new(Arc::new(Token::parse("secret").unwrap()), options))
    }

    async fn ask(app: &Router, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let mut request = Request::get(path).header("host", "sway.example:1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_token_speaks_for_the_user_that_it_names() {
        let app = app(false, "127.0.0.1:1");
        let token = ("authorization", "Bearer secret");
        assert_eq!(ask(&app, "/jobs", &[token]).await, (200, OPERATOR.to_owned()));
        let ada = (USER_HEADER, "ada@example.org");
        assert_eq!(ask(&app, "/jobs", &[token, ada]).await, (200, "ada@example.org".to_owned()));
        let bad = (USER_HEADER, "../ada");
        assert_eq!(ask(&app, "/jobs", &[token, bad]).await.0, 400);
        assert_eq!(ask(&app, "/jobs", &[ada]).await.0, 401);
        assert_eq!(ask(&app, "/healthz", &[]).await, (200, "false".to_owned()));
        assert_eq!(ask(&app, "/healthz", &[token]).await, (200, "true".to_owned()));
    }

    #[tokio::test]
    async fn open_paths_are_open_only_if_asked_for_and_only_on_loopback() {
        let ada = [(USER_HEADER, "ada")];
        let open = app(true, "127.0.0.1:1");
        assert_eq!(ask(&open, "/run", &ada).await, (200, "ada".to_owned()));
        assert_eq!(ask(&open, "/run", &[]).await, (200, ANONYMOUS.to_owned()));
        assert_eq!(ask(&open, "/run", &[("authorization", "Bearer wrong")]).await.0, 401);
        assert_eq!(ask(&open, "/jobs", &ada).await.0, 401);
        assert_eq!(ask(&app(false, "127.0.0.1:1"), "/run", &ada).await.0, 401);
        assert_eq!(ask(&app(true, "192.0.2.1:1"), "/run", &ada).await.0, 401);
    }

    #[test]
    fn a_host_is_told_from_its_port() {
        for (authority, host) in [
            ("localhost", "localhost"),
            ("localhost:80", "localhost"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]:80", "::1"),
            ("[::1]", "::1"),
            ("user@127.0.0.1:80", "user@127.0.0.1"),
        ] {
            assert_eq!(host_of(authority), host);
        }
    }
}
