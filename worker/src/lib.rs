//! The worker: mounts images lazily and runs isolated jobs in them.
//!
//! Modules are listed in the order in which data flows: blobs are fetched and cached, a rootfs is
//! read through FUSE, a job runs on it, its output and its figures are kept and served.

pub mod account;
pub mod fetch;
pub mod cache;
pub mod rootfs;
pub mod fuse;
pub mod mount;
pub mod job;
pub mod db;
pub mod http;
