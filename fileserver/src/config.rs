//! What the fileserver is told: arguments and environment, checked once.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use anyhow::anyhow;
use sway_server::listen::Listen;
use sway_server::pass::PublicKey;
use sway_server::telemetry::LogFormat;
use sway_server::tls::Tls;
use sway_server::token::Token;

/// Requests that a user may send for each second, unless told otherwise.
const REQUESTS_PER_SECOND: u32 = 200;

/// Arguments of `sway-fileserver`.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "sway-fileserver", version, about = "Serves Sway's blobs and refs over HTTP")]
pub struct Args {
    /// Directory for everything that the server keeps; made if need be
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Address and port; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443")]
    pub listen: SocketAddr,
    /// PEM file with the certificate chain
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's key
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Make a certificate and keep it; clients pin its fingerprint (DATA/tls/fingerprint)
    #[arg(long)]
    pub tls_self_signed: bool,
    /// A further name by which clients address this server (can be repeated)
    #[arg(long = "name", value_name = "HOST")]
    pub names: Vec<String>,
    /// Public key of a worker whose users may come in, or the file that has it (DATA/pass-key.pub of
    /// the worker); can be repeated
    #[arg(long = "worker-key", value_name = "FILE|KEY")]
    pub worker_keys: Vec<String>,
    /// Requests that a user may send for each second, ten seconds' worth at once; 0 for any number.
    /// The operator and workers are not counted
    #[arg(long, value_name = "N", default_value_t = REQUESTS_PER_SECOND)]
    pub max_user_requests: u32,
    /// text or json
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Log filter, such as debug
    #[arg(long, value_name = "FILTER", env = "SWAY_LOG")]
    pub log: Option<String>,
}

/// What [`crate::run`] needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory for everything that the server keeps.
    pub data: PathBuf,
    /// What callers must know.
    pub token: Token,
    /// Encryption.
    pub tls: Tls,
    /// Names by which clients address this server, beside its address and `localhost`.
    pub names: Vec<String>,
    /// Workers whose users may come in.
    pub workers: Vec<PublicKey>,
    /// Requests that a user may send for each second; any number where it is absent.
    pub requests_per_second: Option<NonZeroU32>,
}

impl Config {
    /// A server on loopback.
    pub fn new(data: PathBuf, token: Token) -> Self {
        Self {
            data,
            token,
            tls: Tls::Off,
            names: Vec::new(),
            workers: Vec::new(),
            requests_per_second: NonZeroU32::new(REQUESTS_PER_SECOND),
        }
    }
}

impl Args {
    /// Checks the arguments; makes the data directory's token if need be.
    pub fn check(self) -> anyhow::Result<(Config, Listen)> {
        let tls = Tls::from_flags(self.tls_cert, self.tls_key, self.tls_self_signed, &self.data)
            .map_err(|message| anyhow!(message))?;
        let listen = Listen { addr: self.listen, tls: tls.clone() };
        listen.check()?;
        let token = Token::load_or_create(&self.data, sway_token())?;
        let workers = self.worker_keys.iter().map(|key| PublicKey::of_text_or_file(key));
        let config = Config {
            tls,
            names: self.names,
            workers: workers.collect::<Result<_, _>>()?,
            requests_per_second: NonZeroU32::new(self.max_user_requests),
            ..Config::new(self.data, token)
        };
        Ok((config, listen))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the one reader; no flag, which ps would show"
)]
fn sway_token() -> Option<String> {
    std::env::var("SWAY_TOKEN").ok()
}
