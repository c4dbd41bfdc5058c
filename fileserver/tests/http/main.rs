//! The fileserver as its callers see it: a real server, the real client, raw requests where the
//! client would not send them.

#![expect(clippy::unwrap_used, reason = "tests")]

mod access;
mod blobs;
mod crash;
mod matrix;
mod refs;
mod server;
mod start;
mod tls;
