//! What both of Sway's servers share.
//!
//! A server is a router that is [`guard`]ed by a [`token`] or [`mod@pass`], [`listen`]s with [`tls`] wherever it is
//! not on loopback, answers every failure in one [`error`] shape, owns its background [`tasks`]
//! and tells what it does ([`telemetry`]). What is served is left to the servers.

#![forbid(unsafe_code)]

pub mod listen;
pub mod tls;
pub mod token;
pub mod pass;
pub mod throttle;
pub mod guard;
pub mod error;
pub mod tasks;
pub mod telemetry;
