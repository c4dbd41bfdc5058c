//! What a job's source may name: advice on top of isolation, and never in its place.
//!
//! A policy looks at Python and shell scripts before a job is queued: the syntax tree of Python is
//! walked, a script's commands are looked at word by word, nothing is run.
//! What is put together while the program runs can't be seen, so a policy keeps honest code within
//! a set of libraries; containers keep all code within its limits.

mod depth;
mod python;
mod shell;

use std::fmt;

use sway_core::job::JobSpec;

/// A set of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Policy {
    /// Python for science: mathematics, data, no files, no network, no code from text.
    Science,
}

/// What a policy objects to, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, as the job has it.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// What is wrong there.
    pub reason: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, reason } = self;
        write!(f, "{file}:{line}:{column}: {reason}")
    }
}

impl Policy {
    /// The name in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Science => "science",
        }
    }

    /// What this policy objects to in a job's own Python files and shell scripts, in their order: the
    /// first `max`. Commands of an image and files of other languages are not looked at.
    pub fn findings(self, spec: &JobSpec, max: usize) -> Vec<Finding> {
        let files = spec.program.files();
        let Self::Science = self;
        let own = python::modules(files);
        let findings = files.iter().flat_map(|file| match file {
            file if python::is_python(file) => python::findings(file, &own),
            file if shell::is_shell(file) => shell::findings(file, max),
            _ => Vec::new(),
        });
        findings.take(max).collect()
    }
}
