//! The worker's HTTP interface over real sockets, with the real queue and database.
//!
//! Nothing here needs privileges: in place of containers, [`support::Actor`] plays the jobs.
//! What real containers do is tested in `tests/privileged`.
#![expect(clippy::unwrap_used, reason = "tests")]

mod access;
mod approval;
mod batch;
mod compat;
mod jobs;
mod logs;
mod matrix;
mod openapi;
mod outputs;
mod packages;
mod pages;
mod passes;
mod restart;
mod runs;
mod submissions;
mod support;
