//! The only place that prints.
//!
//! Results go to stdout, everything about how they came to be to stderr, so that a script that
//! reads stdout gets the result alone. Progress is shown where a person looks on (stderr is a
//! terminal) or asked for it (`--verbose`); errors and a run's end always. Colours only on
//! terminals, and never with `NO_COLOR` (anstream sees to that).

use std::fmt::Display;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use comfy_table::{Cell, CellAlignment, Table, presets};
use owo_colors::OwoColorize;
use serde::Serialize;
use sway_client::ClientError;
use sway_core::api::jobs::OutputStream;
use sway_core::api::users::PASS_REFUSED;
use tokio::io::AsyncWriteExt;

use crate::failure::Failure;

/// How much to say, and how.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    status: bool,
    verbose: bool,
    quiet: bool,
}

impl Output {
    /// Looks at what stderr is.
    pub(crate) fn new(verbose: bool, quiet: bool) -> Self {
        Self { status: !quiet && (verbose || io::stderr().is_terminal()), verbose, quiet }
    }

    /// Whether progress is shown.
    pub(crate) fn shows_status(&self) -> bool {
        self.status
    }

    /// Whether every detail is wanted.
    pub(crate) fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// A line of the result.
    pub(crate) fn line(&self, text: impl Display) -> io::Result<()> {
        writeln!(anstream::stdout().lock(), "{text}")
    }

    /// The result as bytes.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.flush()
    }

    /// The result for programs: one JSON document.
    pub(crate) fn json(&self, value: &impl Serialize) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        serde_json::to_writer_pretty(&mut stdout, value)?;
        stdout.write_all(b"\n")?;
        stdout.flush()
    }

    /// The result as a table. Columns whose header ends in a space stand to the right.
    pub(crate) fn table(&self, header: &[&str], rows: Vec<Vec<String>>) -> io::Result<()> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(header.iter().map(|title| Cell::new(title.trim_end())));
        for (index, title) in header.iter().enumerate() {
            if let Some(column) = table.column_mut(index) {
                column.set_padding((0, 2));
                if title.ends_with(' ') {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        table.add_rows(rows);
        table.trim_fmt().lines().try_for_each(|line| self.line(line.trim_end()))
    }

    /// A step that is done.
    pub(crate) fn done(&self, text: impl Display) {
        if self.status {
            self.to_stderr(format_args!("{} {text}", "✓".green()));
        }
    }

    /// Details of the step before, as the leaves of a tree.
    pub(crate) fn leaves(&self, lines: &[String]) {
        for (index, line) in lines.iter().enumerate() {
            let branch = if index + 1 == lines.len() { "└─" } else { "├─" };
            if self.status {
                self.to_stderr(format_args!("  {} {line}", branch.dimmed()));
            }
        }
    }

    /// Something to know that is no step.
    pub(crate) fn note(&self, text: impl Display) {
        if self.status {
            self.to_stderr(format_args!("{text}"));
        }
    }

    /// Something that went wrong without stopping the command.
    pub(crate) fn warning(&self, text: impl Display) {
        self.to_stderr(format_args!("{} {text}", "warning:".yellow().bold()));
    }

    /// What a run was given: said unless only errors are wanted, and never where the result goes.
    pub(crate) fn setting(&self, text: impl Display) {
        if !self.quiet {
            self.to_stderr(text);
        }
    }

    /// How a run ended: always said, unless it ended well and only errors are wanted.
    pub(crate) fn verdict(&self, good: bool, text: impl Display) {
        match good {
            true if self.quiet => {}
            true => self.to_stderr(format_args!("{} {text}", "✓".green())),
            false => self.to_stderr(format_args!("{} {text}", "✗".red())),
        }
    }

    /// Why the command failed, and what to do: one line, so that the last line says it all.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        let text = chain(error).replace(['\n', '\r'], " ");
        match hint(error) {
            Some(hint) => self.to_stderr(format_args!("{} {text} — {hint}", "error:".red().bold())),
            None => self.to_stderr(format_args!("{} {text}", "error:".red().bold())),
        }
    }

    /// There is nobody to tell that stderr can't be written to.
    fn to_stderr(&self, text: impl Display) {
        let _ = writeln!(anstream::stderr().lock(), "{text}");
    }
}

/// A job's output on its way to ours: the same bytes, at once.
#[derive(Debug)]
pub(crate) struct Relay {
    stdout: tokio::io::Stdout,
    stderr: tokio::io::Stderr,
    /// Whether it goes there, and not to the logs alone.
    is_shown: bool,
    /// Files that get stdout and stderr too.
    logs: Option<[File; 2]>,
    /// Whether what was written last to where stderr goes was not a whole line.
    line_is_open: bool,
    /// Whether stdout goes to the same terminal, file or pipe.
    is_one: bool,
}

impl Relay {
    /// Of this process's streams.
    pub(crate) fn new() -> Self {
        Self {
            stdout: tokio::io::stdout(),
            stderr: tokio::io::stderr(),
            is_shown: true,
            logs: None,
            line_is_open: false,
            is_one: identity(&io::stdout()).is_some_and(|it| Some(it) == identity(&io::stderr())),
        }
    }

    /// Into these files too, stdout and stderr; where it is not shown, into them alone.
    pub(crate) fn into_logs(self, logs: Option<[File; 2]>, is_shown: bool) -> Self {
        Self { logs, is_shown, ..self }
    }

    /// Writes all of `data`, unbuffered.
    pub(crate) async fn write(&mut self, stream: OutputStream, data: &[u8]) -> io::Result<()> {
        if let Some([stdout, stderr]) = &mut self.logs {
            match stream {
                OutputStream::Stdout => stdout.write_all(data)?,
                OutputStream::Stderr => stderr.write_all(data)?,
            }
        }
        if !self.is_shown {
            return Ok(());
        }
        match stream {
            OutputStream::Stdout => {
                self.stdout.write_all(data).await?;
                self.stdout.flush().await?;
            }
            OutputStream::Stderr => {
                self.stderr.write_all(data).await?;
                self.stderr.flush().await?;
            }
        }
        if (stream == OutputStream::Stderr || self.is_one)
            && let Some(last) = data.last()
        {
            self.line_is_open = *last != b'\n';
        }
        Ok(())
    }

    /// Ends a line that the job left open, so that what we say stands on lines of its own.
    pub(crate) async fn end_line(&mut self) {
        if std::mem::take(&mut self.line_is_open) {
            // There is nobody to tell that stderr can't be written to.
            let _ = self.stderr.write_all(b"\n").await;
            let _ = self.stderr.flush().await;
        }
    }
}

/// What a stream is, whatever leads to it.
fn identity(stream: &impl AsFd) -> Option<(u64, u64)> {
    let file = File::from(stream.as_fd().try_clone_to_owned().ok()?);
    let metadata = file.metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// The error and its sources, outermost first, on one line.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut add = |part: String| {
        // Libraries that print their source as well as having it would say it twice.
        if !parts.last().is_some_and(|last| last.ends_with(&part)) {
            parts.push(part);
        }
    };
    for source in error.chain() {
        add(source.to_string());
        // Of the layers of an HTTP client only the lowest says something: connection refused.
        if let Some(ClientError::Unreachable { .. } | ClientError::Untrusted { .. }) =
            source.downcast_ref()
        {
            add(error.root_cause().to_string());
            break;
        }
    }
    parts.join(": ")
}

/// What to do: the first in the chain that knows.
fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|source| {
        if let Some(failure) = source.downcast_ref::<Failure>() {
            return failure.what_to_do().map(str::to_owned);
        }
        let error = source.downcast_ref::<ClientError>()?;
        if error.is_unreachable() && error.hint().is_none() {
            return Some(
                "is it running? `sway up` starts both servers; FILESERVER_URL and WORKER_URL say \
                 where others are"
                    .to_owned(),
            );
        }
        if let ClientError::Refused { status: 401, code, .. } = error
            && code != PASS_REFUSED
        {
            return Some(
                "the token is in the file `token` of the server's data directory: set SWAY_DATA to \
                 that directory, or SWAY_TOKEN to the token"
                    .to_owned(),
            );
        }
        error.hint().map(str::to_owned)
    })
}
