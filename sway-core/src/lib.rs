//! The meaning of Sway's data: bytes and values in, values out.
//!
//! Nothing here opens a file, a socket, a clock or a thread (`tests/tidy.rs` checks it), so every
//! rule can be tested without a kernel or a network. Modules are listed in the order in which
//! data flows: content is named, cut and encoded, gathered into a manifest, read back by plan,
//! and run as jobs, whose traces make the next start fast.

#![forbid(unsafe_code)]

pub mod digest;
pub mod blob;
pub mod bundle;
pub mod chunk;
pub mod page_tree;
pub mod manifest;
pub mod image;
pub mod read_plan;
pub mod name;
pub mod access;
pub mod link;
pub mod job;
pub mod handler;
pub mod requirements;
pub mod seal;
pub mod audit;
pub mod foreign;
pub mod review;
#[cfg(feature = "syntax")]
pub mod syntax;
pub mod trace;
pub mod api;
