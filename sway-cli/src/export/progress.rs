//! What a person sees while an export is under way: bars on a terminal, finished steps anywhere
//! but with `--quiet`.

use std::fmt::Display;
use std::io::Read;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Output;

/// The way to show it.
#[derive(Clone, Debug)]
pub(crate) struct Progress(Output);

impl Progress {
    /// On standard error.
    pub(crate) fn new(output: Output) -> Self {
        Self(output)
    }

    /// A step that is done.
    pub(crate) fn done(&self, text: impl Display) {
        self.0.verdict(true, text);
    }

    /// A bar over bytes, with their rate.
    pub(crate) fn bytes(&self, what: &'static str, total: u64) -> Bar {
        const TEMPLATE: &str =
            "{prefix:>9} {bar:30} {bytes}/{total_bytes} at {bytes_per_sec}, {eta} left";
        let bar = ProgressBar::with_draw_target(Some(total), self.target());
        bar.set_style(style(TEMPLATE));
        bar.set_prefix(what);
        Bar(Arc::new(Moving(bar)))
    }

    /// Something that tells what it is at, but not how far.
    pub(crate) fn spinner(&self, what: &'static str) -> Spinner {
        let bar = ProgressBar::with_draw_target(None, self.target());
        bar.set_style(style("{prefix:>9} {spinner} {elapsed} {wide_msg}"));
        bar.set_prefix(what);
        Spinner(bar)
    }

    /// indicatif itself draws nothing where standard error is no terminal.
    fn target(&self) -> ProgressDrawTarget {
        match self.0.shows_status() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is sound")
}

/// A bar, shared by those who move it; the last of them takes it from the screen.
#[derive(Clone, Debug)]
pub(crate) struct Bar(Arc<Moving>);

#[derive(Debug)]
struct Moving(ProgressBar);

impl Drop for Moving {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

impl Bar {
    /// Counts what is read through the wrapped reader.
    pub(crate) fn watch(&self) -> impl Fn(Box<dyn Read + Send>) -> Box<dyn Read + Send> + Sync {
        let bar = self.0.0.clone();
        move |reader| Box::new(bar.wrap_read(reader))
    }

    /// Counts bytes.
    pub(crate) fn add(&self, bytes: u64) {
        self.0.0.inc(bytes);
    }
}

/// See [`Progress::spinner`].
#[derive(Debug)]
pub(crate) struct Spinner(ProgressBar);

impl Spinner {
    /// What it is at.
    pub(crate) fn at(&self, text: &str) {
        self.0.set_message(text.to_owned());
        self.0.tick();
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
