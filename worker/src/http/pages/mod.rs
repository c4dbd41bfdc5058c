//! The pages for people: the runs, one run with its live output, a form that runs something, and
//! jobs that an owner decides on.
//!
//! They are made here, and can be read without scripts; those of `assets/` add what is live, and the
//! form. A page shows what strangers chose (names, output): [`text`] makes text of it, the
//! templates escape, and the content security policy allows this worker's own files and nothing
//! else. [`session`] says who comes in.

mod assets;
mod figures;
mod form;
mod list;
mod review;
mod run;
mod session;
mod submissions;
mod text;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use futures::StreamExt as _;
use maud::{DOCTYPE, Markup, html};
use sway_core::access::Scope::{Approve, Read, Run, Submit};
use sway_core::access::Scopes;
use sway_core::api::jobs::{JobList, JobView, OutputStream};
use sway_core::job::JobState;
use sway_server::error::{Path, Query, ServerError};
use sway_server::guard::{self, ANONYMOUS, Identity};

use self::list::ListQuery;
pub(in crate::http) use self::session::{Session, with_sign_in};
use self::submissions::{JobsQuery, Side};
use super::openapi::Guarded;
use super::{App, health, jobs, outputs};
use crate::db::{DbError, JobFilter, Scope};
use crate::queue::{FoundRun, QueueError};

/// Everything from this worker alone; what makes markup of text, from nowhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

/// Jobs without a run that the list shows.
const WAITING_MAX: u32 = 20;

/// The pages beside [`root`]: for people, and so not described as an interface.
pub(super) fn routes() -> Router<App> {
    let needs = |scope| middleware::from_fn_with_state(Scopes::of(&[scope]), guard::needs);
    Router::new()
        .route("/run/{id}", get(run))
        .route("/run/{id}/events", get(events))
        .route("/run/{id}/stdout", get(stdout))
        .route("/run/{id}/stderr", get(stderr))
        .route("/run/{id}/output.tar", get(output_files))
        .route("/job/{id}", get(job))
        .route_layer(needs(Read))
        .route("/new", get(new).route_layer(needs(Run)))
        .route("/inbox", get(inbox).route_layer(needs(Approve)))
        .route("/submissions", get(own).route_layer(needs(Submit)))
        .route("/assets/{version}/{name}", get(assets::show))
}

/// Paths that hold nothing of any run.
pub(super) fn public_paths() -> impl Iterator<Item = &'static str> {
    assets::paths()
}

/// Health for programs; for browsers the runs, or a form that asks for the token.
#[utoipa::path(get, path = "/", tag = "worker", security((), ("token" = [])), params(ListQuery),
    responses((status = 200, description = "It works.",
        content((Object = "application/json"), (String = "text/html"))), Guarded))]
pub(super) async fn root(
    State(app): State<App>,
    identity: Option<Identity>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> Result<Response, ServerError> {
    if !session::wants_html(&headers) {
        return Ok(health::health(&app).await.into_response());
    }
    let Some(identity) = identity else {
        return Ok(session::form_page(StatusCode::OK, "/", None));
    };
    let runs = app.queue.runs(query.filter(scope(&identity))?).await?;
    let waiting = if query.is_all() { waiting(&app, &identity).await? } else { Vec::new() };
    let page = Page { title: "Runs", current: "/", script: Some("list.js"), ..Page::of(&identity) };
    Ok(page.answer(StatusCode::OK, list::body(&query, &waiting, &runs, identity.may(Run))))
}

async fn waiting(app: &App, identity: &Identity) -> Result<Vec<JobView>, ServerError> {
    let filter = JobFilter {
        state: Some(JobState::Approved),
        limit: WAITING_MAX,
        ..JobFilter::all(scope(identity))
    };
    let mut jobs = app.queue.jobs(filter).await?.jobs;
    jobs.retain(|job| job.run.is_none());
    Ok(jobs)
}

/// `GET /new`: a fileserver that can't be asked has no images to suggest.
async fn new(State(app): State<App>, identity: Identity) -> Response {
    let images = app.queue.images(&identity).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "no images to suggest");
        Vec::new()
    });
    let page =
        Page { title: "New run", current: "/new", script: Some("form.js"), ..Page::of(&identity) };
    page.answer(StatusCode::OK, form::body(&images, &app.maxima))
}

/// `GET /run/{n or job id}`, with the beginnings of the outputs.
async fn run(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
) -> Result<Response, ServerError> {
    let scope = scope(&identity);
    let found = match app.queue.run(&id, &scope).await.map_err(ServerError::from) {
        Ok(FoundRun { run, .. }) => Ok(Some(run)),
        Err(error) if error.status == StatusCode::NOT_FOUND => Ok(None),
        Err(error) => Err(error),
    }?;
    let of_job = found.as_ref().map_or(id.as_str(), |run| run.job_id.as_str());
    let job = match app.queue.job(of_job, &scope).await.map_err(ServerError::from) {
        Ok(job) => Some(job),
        Err(error) if error.status == StatusCode::NOT_FOUND => None,
        Err(error) => return Err(error),
    };
    let page = Page { script: Some("run.js"), ..Page::of(&identity) };
    let title = match (&found, &job) {
        (None, None) => {
            return Ok(not_found(&identity, &html! { "There is no run " (text::name(&id)) "." }));
        }
        (Some(run), _) => format!("#{} {}", run.id, text::plain(&run.filename)),
        (None, Some(job)) => text::plain(&job.filename).into_owned(),
    };
    let body = run::body(job.as_ref(), found.as_ref());
    Ok(Page { title: &title, ..page }.answer(StatusCode::OK, body))
}

/// `GET /inbox`: jobs that the reader decides on.
async fn inbox(
    app: State<App>,
    identity: Identity,
    query: Query<JobsQuery>,
) -> Result<Response, ServerError> {
    submitted(app, &identity, query, Side::Inbox).await
}

/// `GET /submissions`: jobs that the reader submitted.
async fn own(
    app: State<App>,
    identity: Identity,
    query: Query<JobsQuery>,
) -> Result<Response, ServerError> {
    submitted(app, &identity, query, Side::Own).await
}

async fn submitted(
    State(app): State<App>,
    identity: &Identity,
    Query(query): Query<JobsQuery>,
    side: Side,
) -> Result<Response, ServerError> {
    let jobs = match query.filter(side, identity)? {
        Some(filter) => app.queue.jobs(filter).await?,
        None => JobList::default(),
    };
    let script = (side == Side::Inbox).then_some("decide.js");
    let page = Page { title: side.title(), current: side.path(), script, ..Page::of(identity) };
    Ok(page.answer(StatusCode::OK, submissions::body(side, &query, &jobs, identity)))
}

/// `GET /job/{id}`: a submitted job, to be decided on.
async fn job(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
) -> Result<Response, ServerError> {
    let review = match app.queue.review(&id, &scope(&identity)).await {
        Ok(review) => review,
        Err(QueueError::Db(DbError::NotSubmitted(id))) => {
            return Ok(Redirect::to(&format!("/run/{id}")).into_response());
        }
        Err(error) => {
            let error = ServerError::from(error);
            if error.status != StatusCode::NOT_FOUND {
                return Err(error);
            }
            return Ok(not_found(&identity, &html! { "There is no job " (text::name(&id)) "." }));
        }
    };
    let submission = review.job.submission.as_ref();
    let title = submission.map_or("", |submission| &submission.name);
    let title = text::code(title).into_owned();
    let reader = identity.clone();
    let making = tokio::task::spawn_blocking(move || review::body(&review, &reader));
    let body = making.await.map_err(|_| QueueError::Stopping)?;
    let page = Page { script: Some("decide.js"), ..Page::of(&identity) };
    Ok(Page { title: &title, ..page }.answer(StatusCode::OK, body))
}

fn not_found(identity: &Identity, told: &Markup) -> Response {
    let body = html! {
        h1 { "Not found" }
        p { (told) }
        p { a .button href="/" { "All runs" } }
    };
    Page { title: "Not found", ..Page::of(identity) }.answer(StatusCode::NOT_FOUND, body)
}

/// `GET /run/{id}/events`: the events of `GET /v1/jobs/{id}/logs`, without following the job: it
/// does not end because a person looks away.
async fn events(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ServerError> {
    let after = jobs::last_event_id(&headers)?;
    let events = app.queue.watch(&id, &scope(&identity), after).await?;
    Ok(jobs::told(events).into_response())
}

async fn stdout(app: State<App>, who: Identity, id: Path<String>) -> Result<Response, ServerError> {
    saved(app, who, id, OutputStream::Stdout).await
}

async fn stderr(app: State<App>, who: Identity, id: Path<String>) -> Result<Response, ServerError> {
    saved(app, who, id, OutputStream::Stderr).await
}

/// One stream so far, whole, as a file to save: a job chose the bytes.
async fn saved(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
    stream: OutputStream,
) -> Result<Response, ServerError> {
    let FoundRun { run, whole } = app.queue.run(&id, &scope(&identity)).await?;
    let body = match whole {
        Some(output) => Body::from_stream(Arc::clone(&output).bytes(stream).boxed()),
        None => Body::from(
            match stream {
                OutputStream::Stdout => run.stdout,
                OutputStream::Stderr => run.stderr,
            }
            .unwrap_or_default(),
        ),
    };
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CONTENT_DISPOSITION, "attachment"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, body).into_response())
}

/// What the run left in `/output`, as one archive.
async fn output_files(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
) -> Result<Response, ServerError> {
    let scope = scope(&identity);
    let run = app.queue.run(&id, &scope).await?.run;
    let outputs = app.queue.outputs(&run.job_id, &scope).await?;
    outputs::answer(outputs.whole().await?, "application/x-tar").await
}

/// A browser can't name a user: the operator's pages show everybody's runs. Without a token the
/// name that a caller gives proves nothing, and opens nobody's runs.
fn scope(identity: &Identity) -> Scope {
    match (identity.is_operator(), identity.may(Read)) {
        (true, _) => Scope::All,
        (false, true) => Scope::User(identity.user.clone()),
        (false, false) => Scope::User(ANONYMOUS.parse().expect("a good user name")),
    }
}

/// What surrounds a page's own content.
#[derive(Clone, Copy, Default)]
struct Page<'a> {
    title: &'a str,
    /// Which page of the menu this is.
    current: &'static str,
    script: Option<&'static str>,
    /// Who reads it, where that is known.
    reader: Option<&'a Identity>,
}

impl<'a> Page<'a> {
    fn of(identity: &'a Identity) -> Self {
        Self { reader: Some(identity), ..Self::default() }
    }

    #[expect(clippy::needless_pass_by_value, reason = "what is put into the page is used up")]
    fn answer(self, status: StatusCode, body: Markup) -> Response {
        let headers = [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::CACHE_CONTROL, "no-store"),
        ];
        (status, headers, self.html(&body).into_string()).into_response()
    }

    fn html(self, body: &Markup) -> Markup {
        let menu = [
            ("/", "Runs", None),
            ("/inbox", "Inbox", Some(Approve)),
            ("/submissions", "Submissions", Some(Submit)),
            ("/new", "New run", Some(Run)),
        ];
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) " · Sway" }
                    link rel="icon" type="image/svg+xml" href=(assets::path("icon.svg"));
                    link rel="stylesheet" href=(assets::path("style.css"));
                    script type="module" src=(assets::path("page.js")) {}
                    @if let Some(script) = self.script {
                        script type="module" src=(assets::path(script)) {}
                    }
                }
                body {
                    a .skip href="#main" { "Skip to the content" }
                    header .top {
                        a .brand href="/" { img src=(assets::path("icon.svg")) alt="" width="24" height="24"; "Sway" }
                        @if let Some(reader) = self.reader {
                            nav aria-label="Main" {
                                @for (href, name, _) in menu.into_iter().filter(|(_, _, scope)| scope.is_none_or(|scope| reader.may(scope))) {
                                    a href=(href) aria-current=[(href == self.current).then_some("page")] { (name) }
                                }
                                // Who came in by `--open` reads nothing of anybody's.
                                @if reader.may(Read) {
                                    span .who.faint title={ "Signed in as " (reader.user) } { (reader.user) }
                                    button #sign-out .quiet type="button" hidden { "Sign out" }
                                } @else {
                                    a href="/login" { "Sign in" }
                                }
                            }
                        }
                    }
                    main #main tabindex="-1" { (body) }
                }
            }
        }
    }
}

/// A time of the record, which is in UTC; `assets/page.js` tells it as the reader's clock does.
fn moment(rfc3339: &str) -> Markup {
    let to_the_second = rfc3339.get(..19).unwrap_or(rfc3339).replace('T', " ");
    html! { time datetime=(rfc3339) { (to_the_second) " UTC" } }
}

fn percent_encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
