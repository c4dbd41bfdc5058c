//! One submitted job as its owner reads it: what it asks for, what the policy finds, what changed
//! since the submitter's last approved job, and every file.
//!
//! All of it is bounded, and what is left out is told beside the buttons that decide.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::iter::repeat;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use maud::{Markup, html};
use similar::{ChangeTag, TextDiff};
use sway_core::access::Scope::Approve;
use sway_core::api::jobs::JobView;
use sway_core::api::submissions::{Finding, Packages, PreviousJob, Review};
use sway_core::digest::Digest;
use sway_core::job::{JobFile, JobSpec, JobState};
use sway_core::review::asks;
use sway_core::syntax::{Part, Pieces, Syntaxes};
use sway_server::guard::Identity;

use super::figures::{size, time};
use super::moment;
use super::submissions::{badge, decided, decision, results, tags};
use super::text::{code, exact};

/// Lines around a change.
const CONTEXT_LINES: usize = 3;

/// How long files are compared before what was found so far has to do.
const DIFF_DEADLINE: Duration = Duration::from_secs(2);

/// Findings that are listed; all are marked in their files.
const FINDINGS_MAX: usize = 200;

/// How long code is looked at for its colours before the rest of it stays plain.
const COLOURS_DEADLINE: Duration = Duration::from_secs(1);

/// What is left of what a page can carry. A file takes a line for its name.
struct Room {
    lines: usize,
    bytes: usize,
    /// Whether something had no room.
    cut: bool,
}

impl Room {
    /// Of all files, and once more of all changes.
    const WHOLE: Self = Self { lines: 20_000, bytes: 1 << 20, cut: false };

    /// Whether there is room for a line. Once there was none nothing follows: a gap in the middle
    /// would not be seen.
    fn take(&mut self, line: &str) -> bool {
        self.cut |= self.lines == 0 || self.bytes < line.len();
        if !self.cut {
            (self.lines, self.bytes) = (self.lines - 1, self.bytes - line.len());
        }
        !self.cut
    }

    fn told(&self) -> Markup {
        html! { @if self.cut { p .notice { "Cut here: there is more than a page can carry." } } }
    }
}

/// The page; hashes and compares files, and so takes its time.
pub(super) fn body(review: &Review, reader: &Identity) -> Markup {
    let job = &review.job;
    let Some(submission) = &job.submission else { return html! {} };
    let is_preparing = submission.packages == Some(Packages::Preparing);
    let decides = job.state == JobState::Pending
        && !is_preparing
        && reader.may(Approve)
        && (reader.is_operator() || submission.owner == reader.user);
    let (mut for_files, mut for_changes) = (Room::WHOLE, Room::WHOLE);
    let (changes, files) = match &review.spec {
        Some(spec) => (
            changes(job, spec, review.previous.as_ref(), &mut for_changes),
            files(spec, &review.findings, &mut for_files),
        ),
        None => (html! {}, html! { p .hint { "Its code was cleaned up." } }),
    };
    let left_out = for_files.cut || for_changes.cut;
    html! {
        article #review {
            div #summary {
                div .head { h1 { (exact(&submission.name)) " " (badge(job.state)) } }
                p .about {
                    (exact(job.username.as_ref())) " to " (exact(submission.owner.as_ref())) " · "
                    (exact(&submission.queue)) " · " (moment(&job.created_at))
                }
                (tags(submission))
            }
            div .columns {
                div .main {
                    @if !submission.description.is_empty() {
                        section .panel {
                            h2 { "Description" }
                            div .description { @for line in submission.description.lines() { p { (exact(line)) } } }
                        }
                    }
                    (findings(review))
                    (changes)
                    (files)
                }
                aside .side aria-label="Decision" {
                    @if left_out {
                        p .notice { "This page does not show all of it: "
                            code { "sway review " (job.id) } " does." }
                    }
                    div #deciding {
                        @if let Some(done) = &submission.decision {
                            section .panel { h2 { "Decision" } (decided(done)) (results(job)) }
                        } @else if decides {
                            (decision(reader, Some(job)))
                        } @else {
                            section .panel { h2 { "Decision" } p .hint {
                                @if job.state == JobState::Pending && is_preparing {
                                    "Its packages are being installed: it can be decided on when they are."
                                } @else if job.state == JobState::Pending { "Waits for " (exact(submission.owner.as_ref())) "." }
                                @else if job.state == JobState::Failed { "Nobody decided: it failed before." }
                                @else { "Nobody decided: it was cancelled." }
                            } }
                        }
                    }
                    section .panel {
                        h2 { "Asks for" }
                        dl .asks {
                            @for (name, value) in asked(job, review.spec.as_ref()) {
                                dt { (name) } dd { (exact(&value)) }
                            }
                            dt { "job" } dd { code { (job.id) } }
                            dt { "digest" } dd { code .digest { (submission.digest) } }
                        }
                    }
                }
            }
        }
    }
}

/// What it asks for.
fn asked(job: &JobView, spec: Option<&JobSpec>) -> Vec<(&'static str, String)> {
    let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let span = |span: Duration| time(i64::try_from(span.as_millis()).unwrap_or(i64::MAX));
    asks(job, spec, span, |bytes| size(whole(bytes)))
}

fn findings(review: &Review) -> Markup {
    let files = review.spec.as_ref().map_or(&[][..], |spec| spec.program.files());
    let place = |finding: &Finding| {
        let at = files.iter().position(|file| file.path == finding.file);
        at.map(|at| format!("#{}", line_id(at, finding.line)))
    };
    let left_out = review.findings.len().saturating_sub(FINDINGS_MAX);
    html! {
        section .panel #findings {
            h2 {
                "Findings "
                span .faint { (review.findings.len()) @if review.more_findings { " and more" } }
            }
            @if review.findings.is_empty() {
                p .hint { "No Python file or shell script does what the policy objects to." }
            } @else {
                ul .findings {
                    @for finding in review.findings.iter().take(FINDINGS_MAX) {
                        li {
                            a href=[place(finding)] { (exact(&finding.file)) ":" (finding.line) }
                            " " (exact(&finding.reason))
                        }
                    }
                }
                @if left_out > 0 { p .hint { (left_out) " more are marked in the files." } }
            }
        }
    }
}

fn line_id(file: usize, line: usize) -> String {
    format!("f{file}-l{line}")
}

/// What a file holds; of one that is no text, what tells it from others.
fn text(file: &JobFile) -> Cow<'_, str> {
    match std::str::from_utf8(&file.content) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => {
            let digest = Digest::of(&file.content);
            Cow::Owned(format!("No text: {}, SHA-1 {digest}.", len(&file.content)))
        }
    }
}

fn len(content: &[u8]) -> String {
    size(i64::try_from(content.len()).unwrap_or(i64::MAX))
}

/// Read when the first review needs it.
static SYNTAXES: LazyLock<Syntaxes> = LazyLock::new(Syntaxes::load);

fn files(spec: &JobSpec, findings: &[Finding], room: &mut Room) -> Markup {
    let files = spec.program.files();
    let deadline = Instant::now() + COLOURS_DEADLINE;
    html! {
        section #files {
            h2 { "Files " span .faint { (files.len()) } }
            @for (at, file) in files.iter().enumerate() {
                @if room.take(&file.path) { (whole(at, file, findings, deadline, room)) }
            }
            (room.told())
        }
    }
}

/// One file with numbers before its lines, and findings below theirs. After `deadline` lines have no
/// colours.
fn whole(
    at: usize,
    file: &JobFile,
    findings: &[Finding],
    deadline: Instant,
    room: &mut Room,
) -> Markup {
    let here: Vec<_> = findings.iter().filter(|finding| finding.file == file.path).collect();
    let in_colours = |text| {
        let in_time = || Instant::now() < deadline;
        SYNTAXES.lines(&file.path, text, in_time).into_iter().map(Some).chain(repeat(None))
    };
    html! {
        details .file open {
            summary {
                (exact(&file.path)) " "
                span .faint { (len(&file.content)) @if file.executable { ", executable" } }
            }
            @match text(file) {
                Cow::Owned(told) => p .hint { (told) },
                Cow::Borrowed("") => p .hint { "Empty." },
                Cow::Borrowed(text) => div .code {
                    @for ((number, line), pieces) in (1..).zip(lines(text)).zip(in_colours(text)) {
                        @if room.take(line) {
                            span .line id=(line_id(at, number)) data-number=(number) {
                                @match pieces {
                                    Some(pieces) => (coloured(&pieces)),
                                    None => (code(line)),
                                }
                                "\n"
                            }
                            @for finding in here.iter().filter(|finding| finding.line == number) {
                                span .found { (exact(&finding.reason)) "\n" }
                            }
                        }
                    }
                },
            }
        }
    }
}

/// A line whose parts are known, by classes: the style sheet has the colours.
fn coloured(pieces: &Pieces<'_>) -> Markup {
    let class = |part: &Part| match part {
        Part::Comment => "code-comment",
        Part::Text => "code-text",
        Part::Constant => "code-constant",
        Part::Keyword => "code-keyword",
        Part::Support => "code-support",
        Part::Name => "code-name",
    };
    html! {
        @for (part, piece) in pieces {
            @match part {
                Some(part) => span .(class(part)) { (code(piece)) },
                None => (code(piece)),
            }
        }
    }
}

/// With the carriage returns that they may end with: a reader is shown them.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').map(|line| line.strip_suffix('\n').unwrap_or(line))
}

/// What is new since the submitter's last approved job.
fn changes(
    job: &JobView,
    spec: &JobSpec,
    previous: Option<&PreviousJob>,
    room: &mut Room,
) -> Markup {
    let section = |content: Markup| html! { section #changes { h2 { "Changes" } (content) } };
    let Some(previous) = previous else {
        return section(html! {
            p .hint { "None of the submitter’s jobs to this owner was approved before this one." }
        });
    };
    let id = &previous.job.id;
    let since = html! { "Since " a href={ "/job/" (id) } { (id) } ", which was approved. " };
    let Some(old) = &previous.spec else {
        return section(html! {
            p .hint { (since) "Its code was cleaned up: there is nothing to compare with." }
        });
    };
    let deadline = Instant::now() + DIFF_DEADLINE;
    let lines = |job, spec| {
        let rows = asked(job, Some(spec)).into_iter();
        rows.map(|(name, value)| format!("{name}: {value}\n")).collect::<String>()
    };
    let (was, is) = (lines(&previous.job, old), lines(job, spec));
    let mut all = Vec::new();
    if was != is {
        all.push(difference("What it asks for", "", &was, &is, deadline, room));
    }
    let (old, new) = (old.program.files(), spec.program.files());
    let paths: BTreeSet<&str> = old.iter().chain(new).map(|file| file.path.as_str()).collect();
    for path in paths {
        let was = old.iter().find(|file| file.path == path);
        let is = new.iter().find(|file| file.path == path);
        if was == is || !room.take(path) {
            continue;
        }
        let note = match (was.map(|file| file.executable), is.map(|file| file.executable)) {
            (None, _) => "new",
            (_, None) => "gone",
            (Some(false), Some(true)) => "executable now",
            (Some(true), Some(false)) => "not executable now",
            _ => "",
        };
        let (was, is) = (was.map_or("".into(), text), is.map_or("".into(), text));
        all.push(difference(path, note, &was, &is, deadline, room));
    }
    section(html! {
        p .hint { (since) @if all.is_empty() { "Nothing changed." } }
        @for change in all { (change) }
        (room.told())
    })
}

fn difference(
    name: &str,
    note: &str,
    old: &str,
    new: &str,
    deadline: Instant,
    room: &mut Room,
) -> Markup {
    let too_long = old.len().max(new.len()) > Room::WHOLE.bytes;
    room.cut |= too_long;
    let diff = || TextDiff::configure().deadline(deadline).diff_lines(old, new);
    html! {
        details .file open {
            summary { (exact(name)) " " span .faint { (note) } }
            @if too_long {
                p .hint { "Too long to be compared here." }
            } @else if old != new {
                div .code.diff { (hunks(&diff(), room)) }
            }
        }
    }
}

fn hunks(diff: &TextDiff<'_, '_, '_, str>, room: &mut Room) -> Markup {
    html! {
        @for group in diff.grouped_ops(CONTEXT_LINES) {
            @if let Some(first) = group.first() {
                span .hunk { "line " (first.new_range().start + 1) "\n" }
            }
            @for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
                @let line = change.value().strip_suffix('\n').unwrap_or(change.value());
                @if room.take(line) {
                    @match change.tag() {
                        ChangeTag::Delete => del .line { "-" (code(line)) "\n" },
                        ChangeTag::Insert => ins .line { "+" (code(line)) "\n" },
                        ChangeTag::Equal => span .line { " " (code(line)) "\n" },
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sway_core::job::Program;

    use super::*;

    fn folder(content: &[u8]) -> JobSpec {
        let file = |path: &str, content: &[u8]| JobFile {
            path: path.to_owned(),
            content: content.to_vec(),
            executable: false,
        };
        let files = vec![file("a.py", content), file("b.py", b"last\n")];
        JobSpec::new(None, Program::Folder { files, entry: "a.py".to_owned() })
    }

    #[test]
    fn what_a_page_can_not_carry_is_cut_once_and_told() {
        let mut room = Room { lines: 5, bytes: 100, cut: false };
        let shown = files(&folder(b"1\n2\n3\n"), &[], &mut room).into_string();
        assert!(shown.contains("data-number=\"3\"") && shown.contains("Cut here"), "{shown}");
        assert!(!shown.contains("last") && room.cut);
        let mut room = Room { lines: 6, bytes: 100, cut: false };
        let shown = files(&folder(b"1\n2\n3"), &[], &mut room).into_string();
        assert!(shown.contains("last") && !shown.contains("Cut here") && !room.cut, "{shown}");
        let mut room = Room { lines: 6, bytes: 10, cut: false };
        let shown = files(&folder(b"12345678901234567890\nx\n"), &[], &mut room).into_string();
        assert!(!shown.contains("data-number") && room.cut, "nothing after a gap: {shown}");
    }

    #[test]
    fn colours_are_classes_and_change_no_letter() {
        let hostile = b"# </span><script>\nx = '<b>\x1b[2J\xe2\x80\xae' + 1\r\n";
        let shown = files(&folder(hostile), &[], &mut Room { ..Room::WHOLE }).into_string();
        let comment = "<span class=\"code-comment\"># &lt;/span&gt;&lt;script&gt;</span>\n";
        assert!(shown.contains(comment), "{shown}");
        let text = "<span class=\"code-text\">'&lt;b&gt;\\u{1b}[2J\\u{202e}'</span>";
        assert!(shown.contains(text), "{shown}");
        assert!(shown.contains("<span class=\"code-constant\">1</span>\\u{d}\n"), "{shown}");
        assert!(!shown.contains("style="), "{shown}");
    }

    #[test]
    fn a_difference_stands_between_the_lines_around_it() {
        let (old, new) = ("a\nb\nc\n", "a\n<b>\nc\n");
        let mut room = Room::WHOLE;
        let deadline = Instant::now() + DIFF_DEADLINE;
        let shown = difference("x", "", old, new, deadline, &mut room).into_string();
        let del = shown.find("<del class=\"line\">-b\n</del>").unwrap();
        let ins = shown.find("<ins class=\"line\">+&lt;b&gt;\n</ins>").unwrap();
        assert!(shown.find("> a\n<").unwrap() < del && del < ins, "{shown}");
        let long = "x".repeat(Room::WHOLE.bytes + 1);
        let shown = difference("x", "", "", &long, deadline, &mut room).into_string();
        assert!(shown.contains("Too long") && room.cut, "{shown}");
    }
}
