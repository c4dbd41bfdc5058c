//! Who may come in: every request passes here before it reaches a route.
//!
//! In this order: the Host header must name this server (an address, `localhost`, or a listed
//! name), or a page in a browser could reach it by rebinding its own name to 127.0.0.1; an
//! Origin must be the server's own; a body must be of a type that a page can't send without
//! asking first; the bearer token must be right, and wrong ones come only so often; a user's
//! requests too. What passes carries an [`Identity`].
//! This module alone decides who a caller is; each route says what scope it [`needs`].

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::HttpBody as _;
use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use sway_core::access::{Scope, Scopes};
use sway_core::api::blobs::FRAMES_MEDIA_TYPE;
use sway_core::api::jobs::USER_HEADER;
use sway_core::api::users::PASS_REFUSED;
use sway_core::name::UserName;

use crate::error::ServerError;
use crate::throttle::Throttle;
use crate::token::Token;

/// Whom the operator's token speaks for where it names no user.
pub const OPERATOR: &str = "operator";

/// Whom a request without a token speaks for on an open path, where it names no user.
pub const ANONYMOUS: &str = "anonymous";

/// Wrong tokens that a peer may send at once, and the time after which it may send one more.
const WRONG_TOKENS_MAX: NonZeroU32 = NonZeroU32::new(100).expect("not zero");
const WRONG_TOKEN_PAUSE: Duration = Duration::from_secs(1);

/// For how many seconds' worth of requests a user may send at once.
const BURST_S: u32 = 10;

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
    /// Requests that a user may send for each second, ten seconds' worth of them at once; any
    /// number where it is absent. The operator and workers are not counted, and who comes without a
    /// token counts as one user.
    pub requests_per_second: Option<NonZeroU32>,
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
            requests_per_second: None,
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
    wrong_tokens: Throttle<IpAddr>,
    requests: Option<Throttle<UserName>>,
}

impl Guard {
    /// A guard that asks `authority` about tokens.
    pub fn new(authority: Arc<dyn Authority>, options: GuardOptions) -> Self {
        let requests = options.requests_per_second.map(|rate| {
            let burst = rate.saturating_mul(NonZeroU32::new(BURST_S).expect("not zero"));
            Throttle::new(burst, Duration::from_secs(1) / rate.get())
        });
        let wrong_tokens = Throttle::new(WRONG_TOKENS_MAX, WRONG_TOKEN_PAUSE);
        Self(Arc::new(Inner { authority, options, wrong_tokens, requests }))
    }

    /// Whom a token speaks for that came in this request. A right one is let in however many wrong
    /// ones came from the same address, which others may share.
    pub fn identify(&self, secret: &str, peer: IpAddr) -> Result<Identity, ServerError> {
        self.0.authority.identify(secret).map_err(|wrong| {
            match self.0.wrong_tokens.take(household(peer)) {
                Ok(()) => wrong.into(),
                Err(wait) => ServerError::too_many("too many wrong tokens from this address", wait),
            }
        })
    }

    fn count_request(&self, identity: &Identity) -> Result<(), ServerError> {
        // What a worker asks for, it asks for all its users.
        let is_counted = !identity.is_operator() && !identity.may(Scope::Worker);
        let Some(requests) = self.0.requests.as_ref().filter(|_| is_counted) else {
            return Ok(());
        };
        let user = match identity.token {
            Some(_) => identity.user.clone(),
            // Without a token a name proves nothing.
            None => ANONYMOUS.parse().expect("a good user name"),
        };
        requests.take(user).map_err(|wait| {
            ServerError::too_many(format!("{} sends too many requests", identity.user), wait)
        })
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
    /// It is a pass that nobody signed whom this server knows, or that was changed.
    #[error("the pass is not signed by a worker that this server knows")]
    Unsigned,
    /// It is a pass that shows something to another server.
    #[error("the pass is for another server")]
    Elsewhere,
}

impl From<WrongToken> for ServerError {
    #[deny(clippy::wildcard_enum_match_arm)]
    fn from(wrong: WrongToken) -> Self {
        let refusal = Self::unauthorized(wrong.to_string());
        match wrong {
            WrongToken::Unknown | WrongToken::Revoked | WrongToken::Expired => refusal,
            WrongToken::Unsigned => Self { code: PASS_REFUSED, ..refusal }
                .hint("start the fileserver with --worker-key and the key of the worker"),
            WrongToken::Elsewhere => Self { code: PASS_REFUSED, ..refusal }
                .hint("use the fileserver that the worker uses"),
        }
    }
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
        Err(scope_missing(&names.join(" or ")))
    }

    /// Refuses whoever lacks one of `scopes`.
    pub fn needs_all_of(&self, scopes: Scopes) -> Result<(), ServerError> {
        match scopes.iter().find(|&scope| !self.may(scope)) {
            Some(scope) => Err(scope_missing(scope.as_str())),
            None => Ok(()),
        }
    }
}

fn scope_missing(scope: &str) -> ServerError {
    let message = format!("this needs a token with the scope {scope}");
    ServerError::new(StatusCode::FORBIDDEN, "scope_missing", message)
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
        .and_then(|()| identify(&guard, &request));
    let checked = checked.and_then(|identity| {
        identity.as_ref().map_or(Ok(()), |identity| guard.count_request(identity))?;
        Ok(identity)
    });
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

/// The address of whoever sent a request.
pub fn peer(request: &Request) -> IpAddr {
    let info = request.extensions().get::<ConnectInfo<SocketAddr>>();
    // Nobody but a test calls a router without a connection.
    info.map_or(IpAddr::from(Ipv6Addr::UNSPECIFIED), |ConnectInfo(addr)| addr.ip())
}

/// What one household has: an IPv4 address, or all of 64 bits of IPv6.
fn household(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
    }
}

/// Who a layer before the guard found a request to come from. No request can bring it along.
#[derive(Clone, Debug)]
pub struct SignedIn(pub Identity);

fn identify(guard: &Guard, request: &Request) -> Result<Option<Identity>, ServerError> {
    let path = request.uri().path();
    let headers = request.headers();
    if let Some(SignedIn(identity)) = request.extensions().get() {
        return speaking_for(identity.clone(), headers).map(Some);
    }
    let options = &guard.0.options;
    let public = options.public.contains(&path);
    let open = options.open
        && options.listen.ip().to_canonical().is_loopback()
        && options.open_paths.contains(&path);
    match bearer(headers) {
        Some(secret) => match guard.identify(secret, peer(request)) {
            Ok(identity) => Ok(Some(speaking_for(identity, headers)?)),
            Err(_) if public => Ok(None),
            Err(refusal) => Err(refusal),
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

    #[tokio::test]
    async fn wrong_tokens_come_only_so_often_and_lock_nobody_out() {
        let app = app(false, "127.0.0.1:1");
        let wrong = [("authorization", "Bearer wrong")];
        let mut statuses = Vec::new();
        for _ in 0..10 * WRONG_TOKENS_MAX.get() {
            statuses.push(ask(&app, "/jobs", &wrong).await.0);
        }
        let first = WRONG_TOKENS_MAX.get() as usize;
        assert!(statuses[..first].iter().all(|&status| status == 401), "{statuses:?}");
        assert!(statuses[first..].contains(&429), "{statuses:?}");
        assert_eq!(ask(&app, "/jobs", &[("authorization", "Bearer secret")]).await.0, 200);
        assert_eq!(ask(&app, "/healthz", &wrong).await.0, 200);
    }

    #[test]
    fn a_household_is_one_peer() {
        let of = |text: &str| household(text.parse().unwrap()).to_string();
        assert_eq!(of("192.0.2.1"), "192.0.2.1");
        assert_eq!(of("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }

    /// Says that everybody is the user whose name is the token.
    #[derive(Debug)]
    struct Names;

    impl Authority for Names {
        fn identify(&self, secret: &str) -> Result<Identity, WrongToken> {
            if secret == OPERATOR {
                return Ok(Identity::operator());
            }
            let user = secret.parse().map_err(|_| WrongToken::Unknown)?;
            Ok(Identity { user, scopes: Scopes::NONE, token: Some(secret.into()) })
        }
    }

    #[tokio::test]
    async fn one_users_requests_come_only_so_often_and_the_operators_always() {
        let routes = Router::new().route("/jobs", get(async || "ok"));
        let options = GuardOptions {
            requests_per_second: NonZeroU32::new(1),
            names: vec!["sway.example".to_owned()],
            ..GuardOptions::new("127.0.0.1:1".parse().unwrap())
        };
        let app = protect(routes, Guard::new(Arc::new(Names), options));
        let mut statuses = Vec::new();
        for _ in 0..20 * BURST_S {
            statuses.push(ask(&app, "/jobs", &[("authorization", "Bearer ada")]).await.0);
        }
        assert!(statuses[..BURST_S as usize].iter().all(|&status| status == 200), "{statuses:?}");
        assert!(statuses.contains(&429), "{statuses:?}");
        for _ in 0..20 * BURST_S {
            assert_eq!(ask(&app, "/jobs", &[("authorization", "Bearer operator")]).await.0, 200);
        }
        assert_eq!(ask(&app, "/jobs", &[("authorization", "Bearer bob")]).await.0, 200);
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
