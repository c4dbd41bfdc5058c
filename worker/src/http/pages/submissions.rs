//! Jobs that an owner decides on, newest first: the reader's inbox, and what the reader submitted.
//!
//! `assets/decide.js` sends decisions, each with the digest of the job that was shown.

use maud::{Markup, html};
use serde::Deserialize;
use sway_core::api::jobs::{JobList, JobView};
use sway_core::api::submissions::{Decision, Packages, SubmissionView};
use sway_core::job::JobState;
use sway_core::name::UserName;
use sway_server::error::ServerError;
use sway_server::guard::Identity;

use super::list::{chosen, select};
use super::text::exact;
use super::{moment, percent_encoded, scope};
use crate::db::JobFilter;

/// Jobs on one page.
const PAGE_LEN: u32 = 50;

/// Which of the two lists.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// What others ask the reader for.
    Inbox,
    /// What the reader asks others for.
    Own,
}

impl Side {
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Inbox => "/inbox",
            Self::Own => "/submissions",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Inbox => "Inbox",
            Self::Own => "Submissions",
        }
    }
}

/// What the form sends; an empty field asks for nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct JobsQuery {
    /// What name, tags, description, file name, user, image or id contain.
    q: String,
    /// Where it is absent, an inbox shows what is pending.
    state: Option<String>,
    /// Who submitted it.
    submitter: String,
    /// `next_before` of the page before.
    before: Option<i64>,
}

impl JobsQuery {
    fn state(&self, side: Side) -> &str {
        match (&self.state, side) {
            (Some(state), _) => state,
            (None, Side::Inbox) => JobState::Pending.as_str(),
            (None, Side::Own) => "",
        }
    }

    /// None where nobody can have the name that is asked for.
    pub(super) fn filter(
        &self,
        side: Side,
        reader: &Identity,
    ) -> Result<Option<JobFilter>, ServerError> {
        let state = chosen("state", self.state(side), &JobState::ALL, JobState::as_str)?;
        let username = match (side, self.submitter.trim()) {
            (Side::Own, _) => Some(reader.user.clone()),
            (Side::Inbox, "") => None,
            (Side::Inbox, name) => match name.parse::<UserName>() {
                Ok(name) => Some(name),
                Err(_) => return Ok(None),
            },
        };
        // An operator decides in anybody's place.
        let is_addressed = side == Side::Inbox && !reader.is_operator();
        Ok(Some(JobFilter {
            state,
            username,
            owner: is_addressed.then(|| reader.user.clone()),
            submitted: true,
            search: (!self.q.is_empty()).then(|| self.q.clone()),
            before: self.before,
            limit: PAGE_LEN,
            ..JobFilter::all(scope(reader))
        }))
    }

    fn next_page(&self, side: Side, before: i64) -> String {
        let state = percent_encoded(self.state(side));
        let mut url = format!("{}?before={before}&state={state}", side.path());
        for (name, value) in [("q", &self.q), ("submitter", &self.submitter)] {
            if !value.is_empty() {
                url.push_str(&format!("&{name}={}", percent_encoded(value)));
            }
        }
        url
    }
}

pub(super) fn body(side: Side, query: &JobsQuery, jobs: &JobList, reader: &Identity) -> Markup {
    let decides = side == Side::Inbox && jobs.jobs.iter().any(is_open);
    html! {
        div .head { h1 { (side.title()) } }
        (filters(side, query))
        @if jobs.jobs.is_empty() {
            div .panel.empty {
                p { "No jobs." }
                p .hint {
                    @match side {
                        Side::Inbox => "What others submit to you appears here. The filters are above.",
                        Side::Own => "What you submit to others appears here.",
                    }
                }
            }
        } @else {
            div .inbox[decides] {
                ul .cards aria-label={ (side.title()) ", newest first" } {
                    @for job in &jobs.jobs { (entry(side, job)) }
                }
                @if decides { (decision(reader, None)) }
            }
        }
        @if let Some(before) = jobs.next_before {
            p .more { a .button href=(query.next_page(side, before)) rel="next" { "Older jobs" } }
        }
    }
}

fn filters(side: Side, query: &JobsQuery) -> Markup {
    let states = JobState::ALL.map(JobState::as_str).into_iter();
    html! {
        form .filters.panel role="search" method="get" action=(side.path()) aria-label=(side.title()) {
            div .field.wide {
                label for="q" { "Search" }
                input #q name="q" type="search" value=(query.q)
                    placeholder="Name, tag, description, image or job";
            }
            (select("state", "State", query.state(side), states))
            @if side == Side::Inbox {
                div .field {
                    label for="submitter" { "Submitter" }
                    input #submitter name="submitter" value=(query.submitter) placeholder="Any"
                        autocapitalize="none" spellcheck="false";
                }
            }
            div .actions {
                button { "Filter" }
                a .quiet href=(side.path()) { "Clear" }
            }
        }
    }
}

fn is_open(job: &JobView) -> bool {
    job.state == JobState::Pending
}

fn entry(side: Side, job: &JobView) -> Markup {
    let Some(submission) = &job.submission else { return html! {} };
    let choosable = side == Side::Inbox && is_open(job);
    html! {
        li .entry data-entry=(job.id) {
            @if choosable {
                label .choose hidden {
                    input type="checkbox" name="job" value=(job.id) data-digest=(submission.digest);
                    span .visually-hidden { "Choose " (exact(&submission.name)) }
                }
            }
            div .what {
                div .head {
                    a .title href={ "/job/" (job.id) } { (exact(&submission.name)) }
                    (badge(job.state))
                    @if job.state == JobState::Pending && submission.packages == Some(Packages::Preparing) {
                        " " span .faint { "its packages are being installed" }
                    }
                }
                p .about {
                    (exact(job.username.as_ref())) " to " (exact(submission.owner.as_ref()))
                    " · " (exact(&job.image.to_string())) " · " (moment(&job.created_at))
                }
                (tags(submission))
                @if choosable { (findings(job, submission)) }
                @if let Some(decision) = &submission.decision { (decided(decision)) }
                (results(job))
                p .outcome role="status" {}
            }
        }
    }
}

/// How much the policy objects to, where that was counted; the review lists it.
fn findings(job: &JobView, submission: &SubmissionView) -> Markup {
    let told = match submission.findings {
        None => return html! {},
        Some(0) => return html! { p .about { "no findings" } },
        Some(1) => "1 finding".to_owned(),
        Some(count) => format!("{count} findings"),
    };
    html! { p .found { a href={ "/job/" (job.id) "#findings" } { (told) } } }
}

pub(super) fn tags(submission: &SubmissionView) -> Markup {
    html! {
        @if !submission.tags.is_empty() {
            ul .tags aria-label="Tags" {
                @for tag in &submission.tags { li { (exact(tag)) } }
            }
        }
    }
}

/// Who said yes or no, and why.
pub(super) fn decided(decision: &Decision) -> Markup {
    html! {
        p .reason {
            @if decision.approved { "Approved" } @else { "Rejected" }
            " by " (exact(&decision.by)) ", " (moment(&decision.at))
            @if !decision.reason.is_empty() { ": " (exact(&decision.reason)) }
        }
    }
}

/// Where to find what a run wrote.
pub(super) fn results(job: &JobView) -> Markup {
    let Some(run) = &job.run else { return html! {} };
    html! {
        p .links {
            a href={ "/run/" (run.id) } { "Output and logs" }
            @if run.output_files.is_some_and(|files| files > 0) {
                a href={ "/run/" (run.id) "/output.tar" } download { "Files in /output" }
            }
        }
    }
}

pub(super) fn badge(state: JobState) -> Markup {
    let class = match state {
        JobState::Pending | JobState::Approved => "waiting",
        JobState::Running => "running",
        JobState::Completed => "good",
        JobState::Failed | JobState::Rejected => "bad",
        JobState::Cancelled => "still",
    };
    html! { span .badge .(class) { (state.as_str()) } }
}

/// What says yes or no: to `job`, or to those that are chosen in the list. A script shows it.
pub(super) fn decision(reader: &Identity, job: Option<&JobView>) -> Markup {
    let digest = job.and_then(|job| job.submission.as_ref()).map(|it| &it.digest);
    html! {
        section #decision .panel hidden aria-labelledby="decision-title"
            data-job=[job.map(|job| &job.id)] data-digest=[digest] data-all[reader.is_operator()] {
            h2 #decision-title { "Decide" }
            @if job.is_none() {
                label .choice {
                    input #choose-all type="checkbox";
                    span { "All on this page" }
                    span #chosen .faint role="status" { "none chosen" }
                }
            }
            div .field {
                label for="reason" { "Reason" }
                textarea #reason rows="2" aria-describedby="reason-hint reason-error" {}
                p #reason-hint .hint { "The submitter sees it. Rejecting needs one." }
                p #reason-error .error {}
            }
            div .actions {
                button #approve .primary type="button" { "Approve" }
                button #reject .danger type="button" { "Reject" }
            }
            p #told role="status" {}
        }
        p .hint #no-decision { "Deciding needs JavaScript and a sign-in with this browser." }
    }
}
