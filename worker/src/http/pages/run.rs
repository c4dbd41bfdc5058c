//! One job and its run: how it stands, what it wrote, where its time and its bytes went.
//!
//! `assets/run.js` adds live output, replaces the parts with the ids `summary`, `answer`, `saves` and
//! `facts` by what this module makes of them later, and draws what the job uses while it runs.

use maud::{Markup, html};
use sway_core::api::jobs::{JobView, RunView, TraceUse};
use sway_core::handler::Answer;
use sway_core::job::{JobState, Limits, Network};
use sway_core::review::cpus;

use super::figures::{bar, caches, size, time, timeline};
use super::list::{badge, filename};
use super::moment;
use super::text::{name, output, plain};
use crate::queue::may_go_on;

/// Bytes of a handler's answer that are shown.
const ANSWER_LEN_MAX: usize = 64 << 10;

/// A job, and its run where it has one.
pub(super) fn body(job: Option<&JobView>, run: Option<&RunView>) -> Markup {
    let id = run.map_or_else(|| job.map(|job| &*job.id), |run| Some(&run.job_id));
    // Whether what it wrote is told from its beginning to its end.
    let whole = run.is_none_or(|run| {
        run.cause.is_none()
            || !(may_go_on(run.stdout.as_deref()) || may_go_on(run.stderr.as_deref()))
    });
    html! {
        article #job data-job=(id.unwrap_or_default()) data-open[is_open(job, run)] data-whole[whole] {
            (summary(job, run))
            p #live .visually-hidden role="status" {}
            div .columns {
                div .main {
                    div #answer {
                        @if let Some(answer) = run.and_then(|run| run.answer.as_ref()) { (result(answer)) }
                    }
                    (written(job, run))
                }
                (facts(job, run))
            }
        }
    }
}

fn is_open(job: Option<&JobView>, run: Option<&RunView>) -> bool {
    run.map_or_else(|| job.is_some_and(|job| !job.state.is_final()), |run| run.cause.is_none())
}

fn summary(job: Option<&JobView>, run: Option<&RunView>) -> Markup {
    html! {
        div #summary {
            div .head {
                @if let Some(run) = run {
                    h1 { (filename(&run.filename)) " " (badge(run)) }
                } @else if let Some(job) = job {
                    h1 {
                        (filename(&job.filename)) " "
                        span .badge.waiting {
                            @if job.state.is_final() { (job.state.as_str()) } @else { "waiting" }
                        }
                    }
                }
                @if is_open(job, run) { button #cancel .danger type="button" hidden { "Cancel" } }
            }
            @if let Some(run) = run {
                p .about {
                    (name(&run.username)) " · " (name(&run.image)) " · #" (run.id) " · "
                    (moment(&run.started_at))
                }
                @if let Some(message) = &run.message { p .notice { (plain(message)) } }
            } @else if let Some(job) = job {
                p .about {
                    (name(job.username.as_ref())) " · " (name(&job.image.to_string())) " · "
                    (moment(&job.created_at))
                }
            }
            @if let Some((job, submission)) = job.and_then(|job| Some((job, job.submission.as_ref()?))) {
                p .about { "Submitted as " a href={ "/job/" (job.id) } { (name(&submission.name)) } }
            }
            p #cancel-error .error role="alert" {}
        }
    }
}

fn facts(job: Option<&JobView>, run: Option<&RunView>) -> Markup {
    let limits = run.map(|run| &run.limits).or_else(|| job.map(|job| &job.limits));
    html! {
        aside .side aria-label="Figures" {
            section #usage .panel hidden aria-labelledby="usage-title"
                data-memory=[limits.map(|limits| limits.memory_bytes)]
                data-cpus-milli=[limits.map(|limits| limits.cpus_milli)] {
                h2 #usage-title { "Memory and CPU" }
                div .scale { span { "Memory" } span #usage-memory .value {} }
                svg #memory-chart .chart viewBox="0 0 600 100" preserveAspectRatio="none" role="img"
                    aria-label="Memory over time" {}
                div .scale { span { "CPU" } span #usage-cpu .value {} }
                svg #cpu-chart .chart.cpu viewBox="0 0 600 100" preserveAspectRatio="none" role="img"
                    aria-label="CPU over time" {}
            }
            div #facts {
                @if let Some(run) = run {
                    @if run.cause.is_some() {
                        (panel("Time", &timeline(run)))
                        (panel("Limits and use", &use_of(run)))
                        (panel("Where the image came from", &html! { (caches(run)) p .hint { (trace(run)) } }))
                    } @else {
                        (panel("Limits", &limit_rows(&run.limits)))
                    }
                    (panel("Record", &record(run, job)))
                } @else if let Some(job) = job {
                    (panel("Limits", &limit_rows(&job.limits)))
                }
            }
        }
    }
}

fn panel(title: &str, content: &Markup) -> Markup {
    html! { section .panel { h2 { (title) } (content) } }
}

fn use_of(run: &RunView) -> Markup {
    let limit = i64::try_from(run.limits.memory_bytes).unwrap_or(i64::MAX);
    html! {
        @if let Some(peak) = run.memory_peak_bytes {
            div .scale {
                span { "Memory at its peak" }
                span .value { (size(peak)) " of " (size(limit)) }
            }
            (bar(&[("memory", peak)], limit))
        }
        @if let Some(peak) = run.cpus_peak_milli {
            div .scale {
                span { "CPUs at their peak" }
                span .value {
                    (cpus(u32::try_from(peak).unwrap_or(u32::MAX))) " of " (cpus(run.limits.cpus_milli))
                }
            }
            (bar(&[("start", peak)], run.limits.cpus_milli.into()))
        }
        dl {
            @if let Some(ms) = run.cpu_ms { dt { "CPU time" } dd { (time(ms)) } }
        }
        (limit_rows(&run.limits))
    }
}

fn limit_rows(limits: &Limits) -> Markup {
    let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    html! {
        dl {
            dt { "Memory" } dd { (size(whole(limits.memory_bytes))) }
            dt { "CPUs" } dd { (cpus(limits.cpus_milli)) }
            dt { "Processes" } dd { (limits.pids) }
            dt { "Time" } dd { (time(whole(limits.timeout_ms))) }
            dt { "Output" } dd { (size(whole(limits.output_bytes))) " a stream" }
        }
    }
}

/// What a run's trace brought, what of that was used where it is known, and what it missed.
fn trace(run: &RunView) -> String {
    let brought = match run.trace {
        TraceUse::None => "No start trace".to_owned(),
        used => {
            format!("Start trace {}, {} brought", used.as_str(), size(run.trace_pushed_bytes))
        }
    };
    let used = run.trace_used_bytes.map_or(String::new(), |used| format!(", {} used", size(used)));
    let recorded = if run.records_trace { "; the run was made to record one" } else { "" };
    format!("{brought}{used}, {} missed{recorded}.", size(run.trace_missed_bytes))
}

fn record(run: &RunView, job: Option<&JobView>) -> Markup {
    html! {
        dl {
            dt { "Job" } dd { code { (run.job_id) } }
            @if let Some(cause) = run.cause {
                dt { "Ended by" } dd { (cause.as_str().replace('_', " ")) }
            }
            @if let Some(code) = run.exit_code { dt { "Exit code" } dd { (code) } }
            @if let Some(ms) = run.duration_ms { dt { "Duration" } dd { (time(ms)) } }
            @if let Some(job) = job {
                dt { "Network" }
                dd { @match job.network { Network::None => "none", Network::Isolated => "isolated" } }
                @for dataset in &job.datasets {
                    dt { "Data" }
                    dd { (name(dataset.name.as_deref().unwrap_or("/data"))) " = " (name(&dataset.dataset.to_string())) }
                }
            }
            @if let (Some(files), Some(bytes)) = (run.output_files, run.output_files_bytes) {
                dt { "Files in /output" }
                dd {
                    (files) ", " (size(bytes)) " · "
                    a href={ "/run/" (run.id) "/output.tar" } download { "Download" }
                }
            }
            dt { "Manifest" } dd { code .digest { (run.manifest) } }
        }
    }
}

/// What a handler answered.
fn result(answer: &Answer) -> Markup {
    let (title, text) = match (&answer.result, &answer.error) {
        (Some(result), _) => ("Result", indented(result)),
        (None, Some(error)) => ("Error", error.clone()),
        (None, None) => return html! {},
    };
    let shown = beginning(&text, ANSWER_LEN_MAX);
    html! {
        section aria-labelledby="answer-title" {
            h2 #answer-title { (title) " " span .faint { (time(i64::try_from(answer.duration_ms).unwrap_or(i64::MAX))) } }
            pre .paper.answer tabindex="0" { (output(shown)) }
            @if shown.len() < text.len() { p .hint { "This is its first " (size(65_536)) "." } }
        }
    }
}

/// JSON for people; what can't be read stays as it is, as do numbers and the order of names.
fn indented(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let mut chars = json.chars().peekable();
    let line = |text: &mut String, depth: usize| {
        text.push('\n');
        text.extend(std::iter::repeat_n("  ", depth.min(32)));
    };
    while let Some(c) = chars.next() {
        if in_string {
            text.push(c);
            in_string = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            continue;
        }
        match c {
            '{' | '[' if matches!(chars.peek(), Some('}' | ']')) => text.push(c),
            '{' | '[' => {
                depth += 1;
                text.push(c);
                line(&mut text, depth);
            }
            '}' | ']' if matches!(text.chars().last(), Some('{' | '[')) => text.push(c),
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut text, depth);
                text.push(c);
            }
            ',' => {
                text.push(c);
                line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => {
                in_string = c == '"';
                text.push(c);
            }
        }
    }
    text
}

fn beginning(text: &str, len: usize) -> &str {
    &text[..text.floor_char_boundary(len)]
}

fn written(job: Option<&JobView>, run: Option<&RunView>) -> Markup {
    let numbered = run.map(|run| run.id);
    html! {
        section #output aria-labelledby="output-title" {
            div .head {
                h2 #output-title { "Output" }
                p #saves .links {
                    @if let Some(id) = numbered {
                        a href={ "/run/" (id) "/stdout" } download={ "run-" (id) "-stdout.txt" } { "Save stdout" }
                        a href={ "/run/" (id) "/stderr" } download={ "run-" (id) "-stderr.txt" } { "Save stderr" }
                    }
                }
            }
            p #connection .notice hidden {}
            div #log .paper.log role="log" aria-live="off" aria-labelledby="output-title" tabindex="0" hidden {}
            button #newest type="button" hidden { "Newest output ↓" }
            div #panes {
                @if let Some(run) = run {
                    (pane("stdout", run.stdout.as_deref(), run.stdout_truncated))
                    (pane("stderr", run.stderr.as_deref(), run.stderr_truncated))
                } @else if job.is_some_and(|job| job.state == JobState::Pending) {
                    p .hint { "Nothing yet: the job waits for its owner." }
                } @else if job.is_some_and(|job| job.state.is_final()) {
                    p .hint { "Nothing: it did not run." }
                } @else {
                    p .hint { "Nothing yet: the job waits for a place." }
                }
            }
        }
    }
}

fn pane(stream: &str, text: Option<&str>, truncated: bool) -> Markup {
    let text = text.unwrap_or_default();
    html! {
        h3 { (stream) @if truncated { " " span .faint { "cut at its limit" } } }
        @if may_go_on(Some(text)) { p .hint { "This is its first MiB." } }
        @if text.is_empty() {
            p .hint { "Empty." }
        } @else {
            // A line break right after <pre> is dropped: one of the output's own must survive.
            pre .paper .(stream) tabindex="0" aria-label=(stream) { "\n" (output(text)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_no_markup() {
        let shown = pane("stdout", Some("</pre><script>\u{1b}[2J"), false).into_string();
        assert!(!shown.contains("<script>") && !shown.contains('\u{1b}'), "{shown}");
    }

    #[test]
    fn a_result_is_indented_and_otherwise_unchanged() {
        let json = r#"{"b":[1,{"a, \"x\"":{}}],"n":12345678901234567890.10,"e":[]}"#;
        let told = indented(json);
        assert_eq!(
            told,
            "{\n  \"b\": [\n    1,\n    {\n      \"a, \\\"x\\\"\": {}\n    }\n  ],\n  \
             \"n\": 12345678901234567890.10,\n  \"e\": []\n}"
        );
        assert_eq!(indented("]]}"), "\n]\n]\n}".to_owned());
    }
}
