//! The real `sway` against a worker that says what each test wants it to say.

#![expect(clippy::unwrap_used, reason = "tests")]

mod fake_worker;
mod sway;
mod help;
mod errors;
mod run;
mod invoke;
mod record;
mod users;
mod owners;
#[cfg(target_os = "linux")]
mod passes;
