//! `sway review`: everything that a decision on a job needs, on one page.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use clap::Args;
use owo_colors::OwoColorize as _;
use similar::{ChangeTag, TextDiff};
use sway_core::api::jobs::JobView;
use sway_core::api::submissions::{PreviousJob, Review};
use sway_core::job::{JobFile, JobSpec};
use sway_core::review::asks;
use sway_core::syntax::Syntaxes;

use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::foreign::{line, shown};
use crate::size::{show_size, show_time};
use crate::syntax::coloured;

/// Lines around a change.
const CONTEXT_LINES: usize = 3;

/// How long two files are compared before what was found so far has to do.
const DIFF_DEADLINE: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway review a1b2c3d4       who asks for what, what the policy finds, what changed since the
                             submitter's last approved job, and every file
  sway review a1b2 | less -R
  sway review a1b2 --json    for programs: job, spec (files as base64), findings, previous

What an author could hide from a reader is shown: control characters and invisible letters stand as
\\u{…}.")]
pub(crate) struct ReviewArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Id of a job (its first characters do)
    id: String,
}

/// Asks for it, and shows it.
pub(crate) async fn run(args: ReviewArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let review = context.worker_with(&args.id).await?.submissions().review(&args.id).await?;
    if args.json {
        context.output.json(&review)?;
        return Ok(ExitCode::Success);
    }
    let syntaxes = io::stdout().is_terminal().then(Syntaxes::load);
    context.output.line(page(&review, syntaxes.as_ref()).trim_end())?;
    Ok(ExitCode::Success)
}

/// All of it as text.
fn page(review: &Review, syntaxes: Option<&Syntaxes>) -> String {
    let job = &review.job;
    let mut page = format!("{}\n", format!("Job {}  {}", job.id, job.state.as_str()).bold());
    for text in about(job) {
        page.push_str(&format!("  {text}\n"));
    }
    let Some(spec) = &review.spec else {
        return page + "\nIts code was cleaned up.\n";
    };
    page.push_str(&title("Asks for"));
    for text in asked(job, spec) {
        page.push_str(&format!("  {text}\n"));
    }
    let more = if review.more_findings { " and more" } else { "" };
    page.push_str(&title(&format!("Findings ({}{more})", review.findings.len())));
    if review.findings.is_empty() {
        page.push_str("  none: no Python file or shell script does what the policy objects to\n");
    }
    for finding in &review.findings {
        let place = format!("{}:{}:{}", line(&finding.file, 200), finding.line, finding.column);
        page.push_str(&format!("  {}: {}\n", place.yellow(), line(&finding.reason, 500)));
    }
    page.push_str(&changes(job, spec, review.previous.as_ref()));
    let files = spec.program.files();
    page.push_str(&title(&format!("Files ({})", files.len())));
    for file in files {
        page.push_str(&whole(file, syntaxes));
    }
    page
}

fn title(text: &str) -> String {
    format!("\n{}\n", text.bold())
}

/// Who submitted it, and what for.
fn about(job: &JobView) -> Vec<String> {
    let row = |title: &str, text: String| format!("{title:<12} {text}");
    let mut rows = vec![row("by", line(job.username.as_ref(), 128))];
    let Some(submission) = &job.submission else { return rows };
    rows.push(row("to", format!("{} ({})", submission.owner, line(&submission.queue, 64))));
    rows.push(row("name", line(&submission.name, 200)));
    if !submission.tags.is_empty() {
        rows.push(row("tags", line(&submission.tags.join(", "), 500)));
    }
    rows.push(row("submitted", super::runs::moment(&job.created_at)));
    rows.push(row("digest", line(&submission.digest, 64)));
    if let Some(decision) = &submission.decision {
        let word = if decision.approved { "approved" } else { "rejected" };
        let at = super::runs::moment(&decision.at);
        rows.push(row(
            word,
            format!("by {} at {at}: {}", decision.by, line(&decision.reason, 500)),
        ));
    }
    let description = shown(&submission.description);
    rows.extend(
        description
            .lines()
            .enumerate()
            .map(|(at, text)| row(if at == 0 { "description" } else { "" }, text.to_owned())),
    );
    rows
}

/// What it asks for, one line each; nothing of it is cut.
fn asked(job: &JobView, spec: &JobSpec) -> Vec<String> {
    let rows = asks(job, Some(spec), show_time, show_size).into_iter();
    rows.map(|(title, text)| format!("{title:<12} {}", line(&text, usize::MAX))).collect()
}

/// What is new since the submitter's last approved job.
fn changes(job: &JobView, spec: &JobSpec, previous: Option<&PreviousJob>) -> String {
    let Some(previous) = previous else {
        return title("Changes")
            + "  this is the submitter's first job that you decide on, or none was approved\n";
    };
    let head = title(&format!("Changes since {}, which was approved", previous.job.id));
    let Some(old) = &previous.spec else {
        return head + "  its code was cleaned up: there is nothing to compare with\n";
    };
    let mut all = difference(
        "what it asks for",
        &asked(&previous.job, old).join("\n"),
        &asked(job, spec).join("\n"),
    );
    let (old, new) = (old.program.files(), spec.program.files());
    let find = |files: &[JobFile], path: &str| {
        files.iter().find(|file| file.path == path).map(|file| (text(file), file.executable))
    };
    let paths: BTreeSet<&str> = old.iter().chain(new).map(|file| file.path.as_str()).collect();
    for path in paths {
        let (was, is) = (find(old, path), find(new, path));
        if was == is {
            continue;
        }
        let name = match (&was, &is) {
            (None, _) => format!("{} (new)", line(path, 200)),
            (_, None) => format!("{} (gone)", line(path, 200)),
            (Some((_, false)), Some((_, true))) => format!("{} (executable now)", line(path, 200)),
            (Some((_, true)), Some((_, false))) => {
                format!("{} (not executable now)", line(path, 200))
            }
            _ => line(path, 200),
        };
        let content =
            |side: Option<(String, bool)>| side.map_or_else(String::new, |(text, _)| text);
        let (was, is) = (content(was), content(is));
        match was == is {
            true => all.push_str(&format!("  {}\n", name.bold())),
            false => all.push_str(&difference(&name, &was, &is)),
        }
    }
    head + if all.is_empty() { "  none\n" } else { &all }
}

/// What a file holds as safe text; of one that is no text, what tells it from others.
fn text(file: &JobFile) -> String {
    match std::str::from_utf8(&file.content) {
        Ok(text) => shown(text),
        Err(_) => {
            let digest = sway_core::digest::Digest::of(&file.content);
            format!("(no text: {}, SHA-1 {digest})\n", show_size(file.content.len() as u64))
        }
    }
}

/// Both are safe to show.
fn difference(name: &str, old: &str, new: &str) -> String {
    if old == new {
        return String::new();
    }
    let diff = TextDiff::configure().timeout(DIFF_DEADLINE).diff_lines(old, new);
    let mut text = format!("  {}\n", name.bold());
    for group in diff.grouped_ops(CONTEXT_LINES) {
        if let Some(first) = group.first() {
            let at = format!("@@ line {}", first.new_range().start + 1);
            text.push_str(&format!("  {}\n", at.cyan()));
        }
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            let code = change.value().trim_end_matches('\n');
            let shown = match change.tag() {
                ChangeTag::Delete => format!("-{code}").red().to_string(),
                ChangeTag::Insert => format!("+{code}").green().to_string(),
                ChangeTag::Equal => format!(" {code}"),
            };
            text.push_str(&format!("  {shown}\n"));
        }
    }
    text
}

/// One file with numbers before its lines.
fn whole(file: &JobFile, syntaxes: Option<&Syntaxes>) -> String {
    let size = show_size(file.content.len() as u64);
    let executable = if file.executable { ", executable" } else { "" };
    let mut page =
        format!("── {} ({size}{executable})\n", line(&file.path, 200)).bold().to_string();
    let text = text(file);
    let text = match syntaxes {
        Some(syntaxes) => coloured(syntaxes, &file.path, &text),
        None => text,
    };
    for (number, code) in text.lines().enumerate() {
        page.push_str(&format!("{} {code}\n", format!("{:>5} │", number + 1).dimmed()));
    }
    page
}

#[cfg(test)]
mod tests {
    use sway_core::api::submissions::{Package, Packages};
    use sway_core::job::Program;

    use super::*;

    fn review(code: &str) -> Review {
        let file = |path: &str, content: &str| JobFile {
            path: path.to_owned(),
            content: content.into(),
            executable: path == "run.sh",
        };
        let program = Program::Folder {
            files: vec![file("run.sh", "#!/bin/sh\npython app.py\n"), file("app.py", code)],
            entry: "run.sh".to_owned(),
        };
        let job = serde_json::from_value(serde_json::json!({
            "id": "abcdefghjk", "username": "bob", "image": "science",
            "manifest": "2c26b46b68ffc68ff99b453c1d30413413422d70", "filename": "run.sh",
            "state": "pending", "network": "none", "created_at": "2026-11-21T20:00:00.000Z",
            "limits": {"timeout_ms": 600_000, "memory_bytes": 1_073_741_824, "cpus_milli": 1000,
                "pids": 128, "output_bytes": 1024, "tmp_bytes": 1024},
            "submission": {"owner": "alice", "queue": "code-queue", "name": "Sums",
                "description": "two\n\u{1b}[2Jlines", "tags": ["a"], "digest": "0".repeat(64)},
        }));
        let (job, spec) = (job.unwrap(), Some(JobSpec::new(None, program)));
        Review { job, spec, findings: Vec::new(), more_findings: false, previous: None }
    }

    fn plain(page: &str) -> String {
        anstream::adapter::strip_str(page).to_string()
    }

    #[test]
    fn every_file_is_there_and_nothing_in_it_is_done() {
        let hostile = "print(1)\n\u{1b}]0;gone\u{7}# \u{202e}safe\nx = 2\n";
        let page = page(&review(hostile), Some(&Syntaxes::load()));
        let page = plain(&page);
        assert!(page.contains("    2 │ \\u{1b}]0;gone\\u{7}# \\u{202e}safe\n"), "{page}");
        assert!(page.contains("    3 │ x = 2\n") && page.contains("    2 │ python app.py\n"));
        assert!(page.contains("\\u{1b}[2Jlines"));
        assert!(page.contains("science@2c26b46b68ffc68ff99b453c1d30413413422d70"));
        assert!(page.contains("  time         10 min 0 s\n  memory       1 GiB\n"), "{page}");
    }

    #[test]
    fn every_package_that_was_installed_is_there() {
        let mut review = review("import six\n");
        let package = |name: &str| Package {
            name: name.to_owned(),
            version: "1.0".to_owned(),
            sha256: "0".repeat(64),
        };
        let image = review.job.manifest;
        let installed = vec![package("idna"), package("six\u{1b}[2J")];
        let mut submission = review.job.submission.take().unwrap();
        submission.packages = Some(Packages::Ready { image, installed });
        review.job.submission = Some(submission);
        let page = plain(&page(&review, None));
        for told in
            ["packages     idna==1.0", "packages     six\\u{1b}[2J==1.0", "installed into 2c26"]
        {
            assert!(page.contains(told), "{page}");
        }
    }

    #[test]
    fn what_changed_since_the_last_approved_job_is_a_diff() {
        let mut new = review("a = 1\nb = 2\nprint(a)\n");
        let old = review("a = 1\nprint(a)\n");
        new.previous = Some(PreviousJob { job: old.job.clone(), spec: old.spec });
        let page = plain(&page(&new, None));
        assert!(
            page.contains("\n  app.py\n  @@ line 1\n   a = 1\n  +b = 2\n   print(a)\n"),
            "{page}"
        );
        assert!(!page.contains("  run.sh\n  @@"), "it is the same");
        let mut same = review("a = 1\n");
        let old = review("a = 1\n");
        same.previous = Some(PreviousJob { job: old.job.clone(), spec: old.spec });
        same.job.limits.pids = 500;
        let page = plain(&super::page(&same, None));
        assert!(page.contains("-processes    128") && page.contains("+processes    500"), "{page}");
        same.previous = Some(PreviousJob { job: old.job, spec: None });
        assert!(super::page(&same, None).contains("nothing to compare with"));
    }
}
