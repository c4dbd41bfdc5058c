//! Tests that need root and a kernel: real FUSE mounts, real containers.
//!
//! One binary, so that it is linked once; run it with
//! `cargo test -p sway-worker --features privileged --test privileged`.
#![expect(clippy::unwrap_used, reason = "tests")]

mod job;
mod handler;
mod job_data;
mod job_isolation;
mod job_on_mount;
mod many;
mod overlay;
mod pool;
mod mount;
mod mount_fixture;
mod mount_random;
mod packages;
mod predict;
mod sandbox;
mod start;
mod start_fixture;
mod start_worker;
mod traces;
mod worker;
