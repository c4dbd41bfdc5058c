//! The runs, newest first, with search and filters that are plain forms, and the jobs that wait.

use maud::{Markup, html};
use serde::Deserialize;
use sway_core::api::jobs::{JobView, RunList, RunView};
use sway_core::job::{Cause, JobState};
use sway_server::error::ServerError;
use utoipa::IntoParams;

use super::figures::{size, time};
use super::text::name;
use super::{moment, percent_encoded};
use crate::db::{RunFilter, Scope};

/// Runs on one page.
const PAGE_LEN: u32 = 50;

/// States that a run's job can have, with how a person would say it.
const STATES: [JobState; 5] = [
    JobState::Approved,
    JobState::Running,
    JobState::Completed,
    JobState::Failed,
    JobState::Cancelled,
];

const CAUSES: [Cause; 7] = [
    Cause::Exited,
    Cause::Timeout,
    Cause::MemoryExceeded,
    Cause::OutputLimit,
    Cause::Cancelled,
    Cause::Policy,
    Cause::Infrastructure,
];

/// What the form sends; an empty field asks for nothing.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(in crate::http) struct ListQuery {
    /// What file name, user, image or job id contain.
    q: String,
    /// Of the run's job.
    state: String,
    /// Why it ended.
    cause: String,
    /// What the image's name contains.
    image: String,
    /// Older than this run.
    before: Option<i64>,
}

impl ListQuery {
    pub(super) fn filter(&self, scope: Scope) -> Result<RunFilter, ServerError> {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Ok(RunFilter {
            before: self.before,
            search: given(&self.q),
            image: given(&self.image),
            state: chosen("state", &self.state, &STATES, JobState::as_str)?,
            cause: chosen("cause", &self.cause, &CAUSES, Cause::as_str)?,
            ..RunFilter::newest(scope, PAGE_LEN)
        })
    }

    /// Whether all that there is is asked for.
    pub(super) fn is_all(&self) -> bool {
        self.before.is_none() && !self.is_filtered()
    }

    fn is_filtered(&self) -> bool {
        [&self.q, &self.state, &self.cause, &self.image].iter().any(|field| !field.is_empty())
    }

    fn next_page(&self, before: i64) -> String {
        let fields = [
            ("q", &self.q),
            ("state", &self.state),
            ("cause", &self.cause),
            ("image", &self.image),
        ];
        let mut url = format!("/?before={before}");
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
            url.push_str(&format!("&{name}={}", percent_encoded(value)));
        }
        url
    }
}

pub(super) fn chosen<T: Copy>(
    field: &str,
    asked: &str,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<Option<T>, ServerError> {
    if asked.is_empty() {
        return Ok(None);
    }
    let found = all.iter().copied().find(|value| name(*value) == asked);
    found.map(Some).ok_or_else(|| {
        let known = all.iter().map(|value| name(*value)).collect::<Vec<_>>().join(", ");
        ServerError::bad_request("malformed_query", format!("{field} is none of {known}"))
    })
}

pub(super) fn body(
    query: &ListQuery,
    waiting: &[JobView],
    runs: &RunList,
    may_run: bool,
) -> Markup {
    html! {
        div .head {
            h1 { "Runs" }
            @if may_run {
                a .button.primary href="/new" { "New run" }
            }
        }
        (filters(query))
        div #runs {
            @if !waiting.is_empty() {
                h2 #waiting { "Waiting" }
                ul .cards aria-labelledby="waiting" { @for job in waiting { li { (waits(job)) } } }
                h2 { "Recent" }
            }
            @if runs.runs.is_empty() {
                div .panel.empty {
                    p { "No runs." }
                    p .hint {
                        @if query.is_filtered() { "Nothing fits all of these filters." }
                        @else { "What is run in an image appears here, the newest first." }
                    }
                }
            } @else {
                ul .cards aria-label="Runs, newest first" {
                    @for run in &runs.runs { li { (card(run)) } }
                }
            }
            @if let Some(before) = runs.next_before {
                p .more { a .button href=(query.next_page(before)) rel="next" { "Older runs" } }
            }
        }
    }
}

fn filters(query: &ListQuery) -> Markup {
    html! {
        form .filters.panel role="search" method="get" action="/" aria-label="Runs" {
            div .field.wide {
                label for="q" { "Search" }
                input #q name="q" type="search" value=(query.q)
                    placeholder="Script, user, image or job";
            }
            (select("state", "State", &query.state, STATES.map(JobState::as_str).into_iter()))
            (select("cause", "Ended by", &query.cause, CAUSES.map(Cause::as_str).into_iter()))
            div .field {
                label for="image" { "Image" }
                input #image name="image" value=(query.image) placeholder="Any" autocapitalize="none";
            }
            div .actions {
                button { "Filter" }
                @if !query.is_all() { a .quiet href="/" { "Clear" } }
            }
        }
    }
}

pub(super) fn select(
    id: &str,
    label: &str,
    asked: &str,
    options: impl Iterator<Item = &'static str>,
) -> Markup {
    html! {
        div .field {
            label for=(id) { (label) }
            select id=(id) name=(id) {
                option value="" { "Any" }
                @for option in options {
                    option value=(option) selected[option == asked] { (option.replace('_', " ")) }
                }
            }
        }
    }
}

fn waits(job: &JobView) -> Markup {
    html! {
        a .card href={ "/run/" (job.id) } {
            span .title { (filename(&job.filename)) }
            span .badge.waiting { "waiting" }
            span .about { (name(job.username.as_ref())) " · " (name(&job.image.to_string())) }
            span .when { (moment(&job.created_at)) }
        }
    }
}

fn card(run: &RunView) -> Markup {
    html! {
        a .card href={ "/run/" (run.id) } {
            span .title { (filename(&run.filename)) }
            (badge(run))
            span .about { (name(&run.username)) " · " (name(&run.image)) " · #" (run.id) }
            span .when { (moment(&run.started_at)) }
            span .figures {
                @if let Some(ms) = run.duration_ms { span { b { (time(ms)) } } }
                @if let Some(peak) = run.memory_peak_bytes { span { b { (size(peak)) } " peak" } }
                span title="Chunks answered from memory, from disk, and fetched" {
                    b { (run.memory_cache_hits) } " memory · "
                    b { (run.disk_cache_hits) } " disk · "
                    b { (run.server_fetches) } " fetched"
                }
            }
        }
    }
}

/// What ran, by name.
pub(super) fn filename(filename: &str) -> Markup {
    match filename {
        "" => html! { "image’s command" },
        filename => name(filename),
    }
}

/// How it stands, in words and by a colour.
pub(super) fn badge(run: &RunView) -> Markup {
    let (class, text) = match (run.cause, run.exit_code) {
        (None, _) => ("running", "running".to_owned()),
        (Some(Cause::Exited), Some(0)) => ("good", "completed".to_owned()),
        (Some(Cause::Exited), Some(code)) => ("bad", format!("exit {code}")),
        (Some(Cause::Cancelled), _) => ("still", "cancelled".to_owned()),
        (Some(cause), _) => ("bad", cause.as_str().replace('_', " ")),
    };
    html! { span .badge .(class) { (text) } }
}
