//! The pages for people: a list of runs and one run, rendered here, without scripts.
//!
//! A page shows what strangers chose (names, output), so everything passes [`Text`], which
//! escapes, and the content security policy allows this worker's style sheet and nothing else.
//! A browser can't send a bearer token: `POST /login` takes it once from a form and sets a cookie
//! that opens these pages only. It is not the token, since a browser sends cookies of 127.0.0.1
//! to every port there.

use std::fmt::{self, Write as _};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, FromRequest as _, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Form, Router, routing::post};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use sway_core::api::error::ErrorBody;
use sway_core::api::jobs::{RunList, RunView, TraceUse};
use sway_core::job::Cause;
use sway_server::error::{Path, Query, ServerError, in_time};
use sway_server::guard::{ANONYMOUS, Identity};
use sway_server::token::Token;
use utoipa::IntoParams;

use super::openapi::Guarded;
use super::{App, health};
use crate::db::{RunFilter, Scope};
use crate::queue::{FoundRun, may_go_on};

/// Where the style sheet is.
pub(super) const STYLE_PATH: &str = "/style.css";

const COOKIE: &str = "sway_pages";

const POLICY: &str = "default-src 'none'; style-src 'self'; form-action 'self'; \
                      base-uri 'none'; frame-ancestors 'none'";

/// Above an output that a page does not show to its end.
const BEGINNING: &str = "<p class=\"notice\">This is its first MiB; \
                         <code>sway logs</code> with the job's id shows all that is kept.</p>\n";

/// Runs on one page of the list.
const PAGE_LEN: u32 = 50;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// What the page's runs contain.
    q: Option<String>,
    /// The page's runs are older than this one.
    before: Option<i64>,
}

/// `GET /`: health for programs; for browsers the runs, or a form that asks for the token.
#[utoipa::path(get, path = "/", tag = "worker", security((), ("token" = [])), params(ListQuery),
    responses((status = 200, description = "It works.",
        content((Object = "application/json"), (String = "text/html"))), Guarded))]
pub(super) async fn root(
    State(app): State<App>,
    identity: Option<Identity>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> Result<Response, ServerError> {
    if !wants_html(&headers) {
        return Ok(health::health(&app).await.into_response());
    }
    let Some(identity) = identity else {
        return Ok(page(StatusCode::OK, "Sign in", LOGIN));
    };
    let search = query.q.filter(|search| !search.is_empty());
    let filter = RunFilter {
        scope: scope(&identity),
        before: query.before,
        limit: PAGE_LEN,
        search: search.clone(),
        output_len: 0,
    };
    let runs = app.queue.runs(filter).await?;
    Ok(page(StatusCode::OK, "Runs", &list_page(&runs, search.as_deref().unwrap_or_default())))
}

/// The page of a run, with the beginnings of its outputs.
#[utoipa::path(get, path = "/run/{id}", tag = "runs",
    params(("id" = String, Path, description = "Its number, or its job's id")),
    responses((status = 200, description = "The page.", body = String, content_type = "text/html"),
        (status = 404, description = "There is none.", body = String, content_type = "text/html"),
        (status = 409, description = "The id stands for several.", body = ErrorBody), Guarded))]
pub(super) async fn run(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
) -> Result<Response, ServerError> {
    match app.queue.run(&id, &scope(&identity)).await.map_err(ServerError::from) {
        Ok(FoundRun { run, .. }) => {
            Ok(page(StatusCode::OK, &format!("Run {}", run.id), &run_page(&run)))
        }
        Err(error) if error.status == StatusCode::NOT_FOUND => {
            let body = format!("<main><p>{}</p></main>", Text(&error.message));
            Ok(page(error.status, "Not found", &body))
        }
        Err(error) => Err(error),
    }
}

pub(super) async fn style() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, "text/css; charset=utf-8"),
        (header::CACHE_CONTROL, "max-age=3600"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, include_str!("style.css"))
}

/// A browser can't name a user: the operator's pages show everybody's runs. Without the token the
/// name that a caller gives proves nothing, and opens nobody's runs.
fn scope(identity: &Identity) -> Scope {
    if identity.operator {
        return Scope::All;
    }
    Scope::User(ANONYMOUS.parse().expect("a good user name"))
}

/// Puts the login before the guard: its cookie stands for the token on `GET` of the pages.
pub(super) fn with_login(guarded: Router, token: Token) -> Router {
    let login = Router::new()
        .route("/login", post(login).layer(DefaultBodyLimit::max(FORM_LEN_MAX)))
        .with_state(token.clone());
    guarded.layer(middleware::from_fn_with_state(token, admit_cookie)).merge(login)
}

#[derive(Deserialize)]
struct LoginForm {
    token: String,
}

/// How long a form may take to arrive, and how long it may be: anybody may send one.
const FORM_DEADLINE: Duration = Duration::from_secs(10);
const FORM_LEN_MAX: usize = 4096;

async fn login(State(token): State<Token>, request: Request) -> Result<Response, ServerError> {
    let form = Form::<LoginForm>::from_request(request, &());
    let form = match in_time(FORM_DEADLINE, form).await? {
        Ok(Form(form)) => form,
        Err(rejection) => {
            return Err(ServerError::new(
                rejection.status(),
                "malformed_form",
                rejection.body_text(),
            ));
        }
    };
    if !token.matches(form.token.trim()) {
        let body = format!("{LOGIN}<p class=\"notice\">That is not the worker's token.</p>");
        return Ok(page(StatusCode::UNAUTHORIZED, "Sign in", &body));
    }
    let cookie = format!("{COOKIE}={}; HttpOnly; SameSite=Strict; Path=/", cookie_value(&token));
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response())
}

async fn admit_cookie(State(token): State<Token>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_page = request.method() == Method::GET && (path == "/" || path.starts_with("/run/"));
    let for_browser = is_page && wants_html(request.headers());
    if for_browser && !request.headers().contains_key(header::AUTHORIZATION) {
        let expected = cookie_value(&token);
        let known = cookies(request.headers()).any(|(name, value)| {
            name == COOKIE && value.as_bytes().ct_eq(expected.as_bytes()).into()
        });
        if known {
            let bearer = HeaderValue::try_from(format!("Bearer {}", token.expose()))
                .expect("a token is visible ASCII");
            request.headers_mut().insert(header::AUTHORIZATION, bearer);
        }
    }
    let response = next.run(request).await;
    if for_browser && response.status() == StatusCode::UNAUTHORIZED {
        return Redirect::to("/").into_response();
    }
    response
}

/// What only a holder of the token can make, and what does not give the token away.
fn cookie_value(token: &Token) -> String {
    hex::encode(Sha256::digest(format!("sway pages {}", token.expose())))
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
fn wants_html(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"))
}

/// Text of unknown origin within HTML.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\0' => f.write_char('\u{fffd}')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

const LOGIN: &str = r#"<main><form class="login" method="post" action="/login">
<label for="token">Token of this worker</label>
<input id="token" name="token" type="password" autocomplete="off" required autofocus>
<button>Sign in</button>
<p class="faint">It lies in the worker's data directory, in the file <code>token</code>.</p>
</form></main>"#;

fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title} · Sway</title>\n<link rel=\"stylesheet\" href=\"{STYLE_PATH}\">\n\
         </head>\n<body>\n<header><a href=\"/\">Sway</a></header>\n{body}\n</body>\n</html>\n",
        title = Text(title),
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, html).into_response()
}

fn list_page(runs: &RunList, search: &str) -> String {
    let mut html = format!(
        "<main>\n<form class=\"search\" method=\"get\" action=\"/\">\n\
         <input name=\"q\" type=\"search\" value=\"{0}\" aria-label=\"Search\" \
         placeholder=\"Search by script, user, image or job\">\n\
         <button>Search</button> <a class=\"button\" href=\"/?q={1}\">Refresh</a>\n</form>\n",
        Text(search),
        Text(&query_value(search)),
    );
    if runs.runs.is_empty() {
        html.push_str("<p class=\"faint\">No runs.</p>\n");
    }
    for run in &runs.runs {
        html.push_str(&card(run));
    }
    if let Some(before) = runs.next_before {
        let q = query_value(search);
        let _ = writeln!(
            html,
            "<p><a class=\"button\" href=\"/?q={q}&amp;before={before}\">Older</a></p>"
        );
    }
    html.push_str("</main>");
    html
}

fn query_value(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn card(run: &RunView) -> String {
    format!(
        "<a class=\"card\" href=\"/run/{id}\">\n<span class=\"dot {class}\" title=\"{cause}\"></span>\n\
         <span class=\"name\">{name}</span>\n<span class=\"faint\">{user} · {image} · #{id}</span>\n\
         <span class=\"faint time\">{started}</span>\n<span class=\"figures\">{code}{took}{caches}</span>\n</a>\n",
        id = run.id,
        class = class(run),
        cause = Text(cause(run)),
        name = Text(if run.filename.is_empty() { "(image's command)" } else { &run.filename }),
        user = Text(&run.username),
        image = Text(&run.image),
        started = Text(&run.started_at),
        code = figure("exit", "Exit code of the program", &exit(run)),
        took = figure("took", "From the start of the program to its end", &duration(run)),
        caches = caches(run),
    )
}

fn caches(run: &RunView) -> String {
    [
        (
            "memory",
            "Chunks answered from the worker's memory",
            run.memory_cache_hits,
            run.memory_cache_bytes,
        ),
        (
            "disk",
            "Chunks answered from the worker's disk",
            run.disk_cache_hits,
            run.disk_cache_bytes,
        ),
        ("server", "Chunks fetched from the fileserver", run.server_fetches, run.bytes_fetched),
    ]
    .map(|(name, what, chunks, bytes)| {
        figure(name, &format!("{what} ({})", size(bytes)), &chunks.to_string())
    })
    .concat()
}

fn figure(name: &str, tooltip: &str, value: &str) -> String {
    let (tooltip, value) = (Text(tooltip), Text(value));
    format!("<span class=\"figure\" title=\"{tooltip}\"><b>{value}</b> {name}</span>")
}

/// What a run's trace brought, what of that was used where it is known, and what it missed.
fn trace(run: &RunView) -> String {
    let brought = match run.trace {
        TraceUse::None => "none".to_owned(),
        used => format!("{}, {} brought", used.as_str(), size(run.trace_pushed_bytes)),
    };
    let used = run.trace_used_bytes.map_or(String::new(), |used| format!(", {} used", size(used)));
    let recorded = if run.records_trace { "; the run was made to record one" } else { "" };
    format!("{brought}{used}, {} missed{recorded}", size(run.trace_missed_bytes))
}

fn run_page(run: &RunView) -> String {
    let rows = [
        ("User", run.username.clone()),
        ("Image", run.image.clone()),
        ("Manifest", run.manifest.clone()),
        ("Job", run.job_id.clone()),
        ("Started", run.started_at.clone()),
        ("Ended by", cause(run).to_owned()),
        ("Exit code", exit(run)),
        ("Duration", duration(run)),
        (
            "Before the start",
            format!(
                "queue {} ms, mount {} ms, start {} ms",
                run.queued_ms, run.mount_ms, run.start_ms
            ),
        ),
        ("Start trace", trace(run)),
        ("Memory at its peak", run.memory_peak_bytes.map_or("–".to_owned(), size)),
    ];
    let rows: String = rows
        .iter()
        .map(|(name, value)| format!("<dt>{name}</dt><dd>{}</dd>\n", Text(value)))
        .collect();
    let message = run
        .message
        .as_deref()
        .map_or(String::new(), |message| format!("<p class=\"notice\">{}</p>\n", Text(message)));
    format!(
        "<main>\n<h1><span class=\"dot {class}\"></span> {name} <span class=\"faint\">#{id}</span></h1>\n\
         {message}<p class=\"figures\">{caches}</p>\n<dl>\n{rows}</dl>\n{stdout}{stderr}</main>",
        class = class(run),
        name = Text(&run.filename),
        id = run.id,
        caches = caches(run),
        stdout = pane("stdout", run.stdout.as_deref(), run.stdout_truncated),
        stderr = pane("stderr", run.stderr.as_deref(), run.stderr_truncated),
    )
}

fn pane(name: &str, text: Option<&str>, truncated: bool) -> String {
    let mark = if truncated { " <span class=\"faint\">(cut at its limit)</span>" } else { "" };
    let text = text.unwrap_or_default();
    let beginning = if may_go_on(Some(text)) { BEGINNING } else { "" };
    // A line break right after <pre> is dropped: one of the output's own must survive.
    format!("<h2>{name}{mark}</h2>\n{beginning}<pre>\n{}</pre>\n", Text(text))
}

fn class(run: &RunView) -> &'static str {
    match (run.cause, run.exit_code) {
        (None, _) => "running",
        (Some(Cause::Exited), Some(0)) => "good",
        (Some(_), _) => "bad",
    }
}

fn cause(run: &RunView) -> &'static str {
    run.cause.map_or("running", Cause::as_str)
}

fn exit(run: &RunView) -> String {
    run.exit_code.map_or("–".to_owned(), |code| code.to_string())
}

fn duration(run: &RunView) -> String {
    match run.duration_ms {
        None => "–".to_owned(),
        Some(ms) if ms < 1000 => format!("{ms} ms"),
        Some(ms) => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
    }
}

fn size(bytes: i64) -> String {
    match bytes {
        ..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_wrote_is_text_and_not_markup() {
        let hostile = "<script>'\"&\0";
        assert_eq!(Text(hostile).to_string(), "&lt;script&gt;&#39;&quot;&amp;\u{fffd}");
        assert!(!pane("stdout", Some("</pre><script>"), false).contains("<script>"));
        assert!(!list_page(&RunList::default(), "\"><script>").contains("<script>"));
    }
}
