//! The worker's HTTP interface: routes that decode, call the queue, and encode.
//!
//! [`router`] lists all routes in one place. Who may come in is decided by
//! `sway_server::guard` before a route is reached; `error` maps what goes wrong to statuses.

mod audit;
mod bodies;
mod caller;
mod compat;
mod error;
mod health;
mod jobs;
mod libraries;
mod openapi;
mod outputs;
mod pages;
mod runs;
mod scopes;
mod submissions;
mod traces;
mod users;
mod whole;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::{Extension, Router};
use sway_core::access::Scope::{Admin, Approve, Read, Run, Submit, Worker};
use sway_core::api::jobs::JOB_BODY_LEN_MAX;
use sway_server::error::ServerError;
use sway_server::guard::{Guard, GuardOptions, Identity, OPERATOR, protect};
use sway_server::telemetry::Metrics;
use sway_server::token::Token;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt as _};
use utoipa_axum::routes;

use self::bodies::Bodies;
pub use self::compat::Uploads;
pub use self::libraries::Libraries;
use self::openapi::Document;
use self::scopes::needs;
use crate::account::Accounts;
use crate::db;
use crate::passes::PassDesk;
use crate::queue::Queue;
use crate::trace::Traces;
use crate::users::Users;

/// What the routes need.
#[derive(Clone, Debug)]
pub struct App {
    /// Jobs and runs.
    pub queue: Queue,
    /// Who may come in.
    pub users: Users,
    /// What they show to the fileserver.
    pub passes: PassDesk,
    /// Traces of images; none where they are off.
    pub traces: Option<Arc<Traces>>,
    /// Whose reads no run caused, for the metrics.
    pub accounts: Arc<Accounts>,
    /// The process's metrics.
    pub metrics: Metrics,
    /// Scripts that were sent ahead of their runs.
    pub uploads: Arc<Uploads>,
    /// What the default image has.
    pub libraries: Arc<Libraries>,
    /// What jobs may ask for at most.
    pub maxima: sway_core::job::Limits,
}

/// Who may come in, and by which names.
#[derive(Clone, Debug)]
pub struct Access {
    /// The operator's token.
    pub token: Token,
    /// Where the worker listens.
    pub listen: SocketAddr,
    /// Further names of it.
    pub names: Vec<String>,
    /// Requests that a user may send for each second; any number where it is absent.
    pub requests_per_second: Option<NonZeroU32>,
    /// Whether `GET /` and the paths of the other systems' clients need no token.
    pub open: bool,
}

/// What needs no token on an open worker: the requests of other systems' clients.
const OPEN_PATHS: [&str; 4] = ["/", "/run", "/execute", "/batch-upload"];

/// All routes.
pub fn router(app: App, access: Access) -> Router {
    let permit = middleware::from_fn_with_state(Bodies::new(), bodies::permit_body);
    let permits: [_; 6] = std::array::from_fn(|_| permit.clone());
    let [for_batch, for_traces, for_run, for_execute, for_uploads, for_submissions] = permits;
    // Whatever is for programs is described where it is handled: `routes!` takes nothing else.
    let (routes, described) = OpenApiRouter::new()
        .routes(needs(&[Run], routes!(jobs::submit).layer(permit)))
        .routes(needs(&[Run], routes!(jobs::submit_batch).layer(for_batch)))
        .routes(needs(&[Read], routes!(jobs::list)))
        .routes(needs(&[Submit], routes!(submissions::submit).layer(for_submissions)))
        .routes(needs(&[Read], routes!(submissions::review)))
        .routes(needs(&[Approve], routes!(submissions::approve)))
        .routes(needs(&[Approve], routes!(submissions::reject)))
        .routes(needs(&[Read], routes!(submissions::queue)))
        .routes(needs(&[Approve], routes!(submissions::set_queue)))
        .routes(needs(&[Read], routes!(submissions::datasets)))
        .routes(needs(&[Read], routes!(audit::list)))
        .routes(needs(&[Admin], routes!(audit::verify)))
        .routes(needs(&[Run], routes!(traces::prepare).layer(for_traces)))
        .routes(needs(&[Run], routes!(compat::run).layer(for_run)))
        .routes(needs(&[Run], routes!(compat::execute).layer(for_execute)))
        .routes(needs(&[Run], routes!(compat::upload).layer(for_uploads)))
        .routes(needs(&[Read], routes!(jobs::show)))
        .routes(needs(&[Read], routes!(jobs::logs)))
        .routes(needs(&[Run, Submit], routes!(jobs::cancel)))
        .routes(needs(&[Read], routes!(outputs::list)))
        .routes(needs(&[Read], routes!(outputs::show)))
        .layer(DefaultBodyLimit::max(JOB_BODY_LEN_MAX))
        // Streamed with back pressure: its length needs no limit.
        .routes(needs(&[Run], routes!(jobs::stdin).layer(DefaultBodyLimit::disable())))
        .routes(needs(&[Read], routes!(runs::list)))
        .routes(needs(&[Read], routes!(runs::show)))
        .routes(needs(&[Read], routes!(runs::images)))
        .routes(needs(&[Read], routes!(runs::stats)))
        .routes(routes!(users::me))
        .routes(routes!(users::make_pass))
        .routes(needs(&[Admin], routes!(users::list)))
        .routes(needs(&[Admin], routes!(users::add)))
        .routes(needs(&[Admin], routes!(users::revoke)))
        .routes(needs(&[Read, Admin], routes!(users::list_tokens)))
        .routes(needs(&[Admin], routes!(users::add_token)))
        .routes(needs(&[Read, Admin], routes!(users::revoke_token)))
        .routes(routes!(health::healthz))
        .routes(needs(&[Worker], routes!(health::metrics)))
        .routes(routes!(openapi::show))
        .routes(routes!(pages::root))
        .split_for_parts();
    let open_paths: &[&str] = if access.open { &OPEN_PATHS } else { &[] };
    let document = Document::new(described, open_paths);
    let users = app.users.clone();
    let routes = routes
        .layer(Extension(document))
        .merge(pages::routes())
        .fallback(async || ServerError::not_found("no_such_route", "there is no such route"))
        .method_not_allowed_fallback(async || {
            ServerError::new(
                axum::http::StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this path does not take this method",
            )
        })
        .with_state(app);

    let mut options = GuardOptions::new(access.listen);
    options.names = access.names;
    options.open = access.open;
    options.requests_per_second = access.requests_per_second;
    options.public.extend(pages::public_paths());
    if access.open {
        options.open_paths.extend(OPEN_PATHS);
    } else {
        // Health for programs, a form for people: nothing of any run.
        options.public.push("/");
    }
    let guard = Guard::new(Arc::new(users.clone()), options);
    let guarded = protect(routes, guard.clone());
    // Without TLS a server listens on loopback alone.
    let secure = !access.listen.ip().to_canonical().is_loopback();
    pages::with_sign_in(guarded, pages::Session::new(users, guard, access.token, secure))
}

/// Whose rows to show: the caller's own, or everybody's where the operator speaks for nobody else
/// or asks for them.
fn scope(identity: &Identity, all: bool) -> Result<db::Scope, ServerError> {
    let for_itself = identity.user.as_ref() == OPERATOR;
    match (identity.is_operator(), all) {
        (true, all) if all || for_itself => Ok(db::Scope::All),
        (false, true) => Err(ServerError::forbidden("only the operator sees everybody's jobs")),
        _ => Ok(db::Scope::User(identity.user.clone())),
    }
}
