//! Sway's two HTTP APIs seen from the caller's side.
//!
//! A [`Client`] speaks to one server; [`Client::blobs`], [`Client::refs`] and [`Client::start`]
//! are the fileserver's API, [`Client::jobs`], [`Client::submissions`] and [`Client::users`] the
//! worker's. To a fileserver a user shows [`passes`] of the worker's. Everything that waits has a deadline: connecting, a
//! small call as a whole, each step of a stream. Calls that may be repeated are, a bounded number
//! of times ([`retry`]). The environment is not read here: callers pass values in.

#![forbid(unsafe_code)]

pub mod client;
pub mod blobs;
pub mod refs;
pub mod start;
pub mod jobs;
pub mod submissions;
pub mod users;
pub mod passes;
pub mod error;
pub mod retry;
mod frames;
mod pin;
mod sse;
mod stripes;

pub use client::{Client, ClientConfig};
pub use error::ClientError;
