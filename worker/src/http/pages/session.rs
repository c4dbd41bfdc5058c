//! How a browser signs in.
//!
//! A browser can't send a bearer token: `POST /login` takes it once from a form and sets a cookie
//! that opens the pages, for reading alone, as whoever holds the token and for as long as the token
//! opens something. It is not the token, since a browser sends cookies of 127.0.0.1 to every port
//! there. What changes something (a job that is submitted, cancelled or decided on) needs a second secret
//! besides, in a header: sign-in tells it to the page's script, which keeps it in the storage of
//! this origin, port included. No other page can read it or set the header.

use std::time::Duration;

use axum::extract::{DefaultBodyLimit, FromRequest as _, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use sway_core::access::{Scope, Scopes};
use sway_server::error::{Json, Query, ServerError, in_time};
use sway_server::guard::{self, Guard, Identity, SignedIn};
use sway_server::token::Token;

use super::{Page, percent_encoded};
use crate::users::Users;

const COOKIE: &str = "sway_pages";

/// In which a page's script sends the second secret.
const KEY_HEADER: &str = "x-sway-page";

/// What is said to a token that opens nothing.
const WRONG: &str = "That is not the worker's token, and none of its users'.";

/// How long a form may take to arrive, and how long it may be: anybody may send one.
const FORM_DEADLINE: Duration = Duration::from_secs(10);
const FORM_LEN_MAX: usize = 4096;

/// What sign-in needs to know.
#[derive(Clone)]
pub(in crate::http) struct Session {
    users: Users,
    /// Counts wrong tokens.
    guard: Guard,
    /// A secret that is in no database: who reads one makes no cookie of it.
    operator: Token,
    /// Whether the cookie is sent over TLS alone.
    secure: bool,
}

/// A browser's user, and what its cookie and its key must be.
struct Browser {
    identity: Identity,
    /// `<id of the token>.<proof>`; the operator's token has no id.
    cookie: String,
    key: String,
}

impl Session {
    pub(in crate::http) fn new(users: Users, guard: Guard, operator: Token, secure: bool) -> Self {
        Self { users, guard, operator, secure }
    }

    /// What the browser of whoever holds a token has; none where the token opens nothing.
    fn browser(&self, id: Option<&str>) -> Option<Browser> {
        let (identity, hash) = self.users.holder(id)?;
        // Only this worker can make them, and neither gives a token or the other one away.
        let derived = |purpose: &str| {
            let (operator, hash) = (self.operator.expose(), hex::encode(hash));
            hex::encode(Sha256::digest(format!("sway {purpose} {operator} {hash}")))
        };
        let cookie = format!("{}.{}", id.unwrap_or_default(), derived("pages"));
        Some(Browser { identity, cookie, key: derived("page actions") })
    }

    fn set_cookie(&self, value: &str, rest: &str) -> String {
        let secure = if self.secure { "; Secure" } else { "" };
        format!("{COOKIE}={value}; HttpOnly; SameSite=Strict; Path=/{secure}{rest}")
    }

    /// Whose browser this is, where it has signed in.
    fn signed_in(&self, headers: &HeaderMap) -> Option<Browser> {
        cookies(headers).filter(|(name, _)| *name == COOKIE).find_map(|(_, told)| {
            let (id, _) = told.split_once('.')?;
            let browser = self.browser((!id.is_empty()).then_some(id))?;
            equal(told, &browser.cookie).then_some(browser)
        })
    }

    /// As whom a browser that signed in may do this.
    fn opens(&self, method: &Method, path: &str, headers: &HeaderMap) -> Option<Identity> {
        let browser = self.signed_in(headers)?;
        let key = headers.get(KEY_HEADER).and_then(|value| value.to_str().ok());
        let acts = method == Method::POST && is_action(path);
        let may = method == Method::GET && is_page(path)
            || acts && key.is_some_and(|key| equal(key, &browser.key));
        may.then_some(browser.identity)
    }
}

fn is_page(path: &str) -> bool {
    matches!(path, "/" | "/new" | "/inbox" | "/submissions")
        || path.starts_with("/run/")
        || path.starts_with("/job/")
}

fn is_action(path: &str) -> bool {
    path == "/v1/jobs"
        || path == "/v1/jobs/batch"
        || path
            .strip_prefix("/v1/jobs/")
            .and_then(|path| path.split_once('/'))
            .is_some_and(|(_, action)| matches!(action, "cancel" | "approve" | "reject"))
}

fn equal(told: &str, expected: &str) -> bool {
    told.as_bytes().ct_eq(expected.as_bytes()).into()
}

/// Puts signing in and out before the guard.
pub(in crate::http) fn with_sign_in(guarded: Router, session: Session) -> Router {
    let routes = Router::new()
        .route("/login", get(form).post(sign_in).layer(DefaultBodyLimit::max(FORM_LEN_MAX)))
        .route("/logout", post(sign_out))
        .with_state(session.clone());
    guarded.layer(middleware::from_fn_with_state(session, admit)).merge(routes)
}

/// Has the cookie, with the key where that is needed, say who is there.
async fn admit(State(session): State<Session>, mut request: Request, next: Next) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let headers = request.headers();
    let for_browser = method == Method::GET && is_page(uri.path()) && wants_html(headers);
    if !headers.contains_key(header::AUTHORIZATION)
        && let Some(identity) = session.opens(&method, uri.path(), headers)
    {
        request.extensions_mut().insert(SignedIn(identity));
    }
    let response = next.run(request).await;
    if for_browser && response.status() == StatusCode::UNAUTHORIZED {
        return Redirect::to(&format!("/login?next={}", percent_encoded(uri.path())))
            .into_response();
    }
    response
}

#[derive(Deserialize)]
struct FormQuery {
    #[serde(default)]
    next: String,
}

/// `GET /login`.
async fn form(Query(query): Query<FormQuery>) -> Response {
    form_page(StatusCode::OK, &query.next, None)
}

#[derive(Deserialize)]
struct SignIn {
    token: String,
    #[serde(default)]
    next: String,
}

/// `POST /login`: the cookie; for the page's script the key besides.
async fn sign_in(
    State(session): State<Session>,
    request: Request,
) -> Result<Response, ServerError> {
    let wants_html = wants_html(request.headers());
    let peer = guard::peer(&request);
    let form = Form::<SignIn>::from_request(request, &());
    let form = match in_time(FORM_DEADLINE, form).await? {
        Ok(Form(form)) => form,
        Err(rejection) => {
            let (status, text) = (rejection.status(), rejection.body_text());
            return Err(ServerError::new(status, "malformed_form", text));
        }
    };
    let identified = session.guard.identify(form.token.trim(), peer);
    let readable = identified.and_then(|identity| {
        identity.needs_one_of(Scopes::of(&[Scope::Read]))?;
        Ok(identity)
    });
    let browser = match readable.map(|identity| session.browser(identity.token.as_deref())) {
        Ok(Some(browser)) => browser,
        // It ended just now.
        Ok(None) => return Err(ServerError::unauthorized(WRONG)),
        Err(refusal) => {
            let message = match refusal.status {
                StatusCode::UNAUTHORIZED => WRONG,
                _ => &refusal.message,
            };
            return Ok(match wants_html {
                true => form_page(refusal.status, &form.next, Some(message)),
                false => ServerError { message: message.to_owned(), ..refusal }.into_response(),
            });
        }
    };
    let cookie = [
        (header::SET_COOKIE, session.set_cookie(&browser.cookie, "")),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    let next = own_page(&form.next);
    Ok(match wants_html {
        true => (cookie, Redirect::to(next)).into_response(),
        false => (cookie, Json(json!({ "key": browser.key, "next": next }))).into_response(),
    })
}

/// `POST /logout`: no other page can send the header.
async fn sign_out(
    State(session): State<Session>,
    headers: HeaderMap,
) -> Result<Response, ServerError> {
    if !headers.contains_key(KEY_HEADER) {
        return Err(ServerError::forbidden("only the page itself signs out"));
    }
    let gone = [(header::SET_COOKIE, session.set_cookie("", "; Max-Age=0"))];
    Ok((StatusCode::NO_CONTENT, gone).into_response())
}

/// Where to go after signing in: a page of this worker, and nowhere else.
fn own_page(next: &str) -> &str {
    let is_own = next.parse::<Uri>().is_ok_and(|uri| {
        uri.authority().is_none() && is_page(uri.path()) && next.starts_with(uri.path())
    });
    if is_own { next } else { "/" }
}

/// The form that asks for the token.
pub(super) fn form_page(status: StatusCode, next: &str, wrong: Option<&str>) -> Response {
    let page = Page { title: "Sign in", script: Some("sign-in.js"), ..Page::default() };
    page.answer(status, form_of(own_page(next), wrong))
}

fn form_of(next: &str, wrong: Option<&str>) -> Markup {
    html! {
        form #sign-in .panel.sign-in method="post" action="/login" {
            h1 { "Sign in" }
            input type="hidden" name="next" value=(next);
            div .field {
                label for="token" { "Token of this worker" }
                input #token name="token" type="password" autocomplete="current-password"
                    required autofocus aria-describedby="token-hint token-error"
                    aria-invalid=[wrong.map(|_| "true")];
                p #token-error .error role="alert" { (wrong.unwrap_or_default()) }
                p #token-hint .hint {
                    "One of your own, or the operator's, which lies in the worker's data directory in the file "
                    code { "token" } "."
                }
            }
            button .primary { "Sign in" }
        }
    }
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
}

/// Browsers ask for HTML by name; programs take anything.
pub(super) fn wants_html(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signing_in_leads_to_pages_of_this_worker_alone() {
        for own in
            ["/", "/new", "/run/12", "/run/abc?x=1", "/inbox?state=", "/job/abc", "/submissions"]
        {
            assert_eq!(own_page(own), own);
        }
        for other in [
            "",
            "//evil.example/run/1",
            "https://evil.example/",
            "/\\evil.example",
            "/v1/jobs",
            "x",
        ] {
            assert_eq!(own_page(other), "/", "{other}");
        }
    }
}
