//! One server: its address, the credentials for it, and how long to wait for it.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use sway_core::api::error::ErrorBody;
use sway_core::api::jobs::USER_HEADER;
use sway_core::name::UserName;
use url::{Host, Url};

use crate::blobs::Blobs;
use crate::error::ClientError;
use crate::jobs::Jobs;
use crate::passes::Passes;
use crate::pin;
use crate::refs::Refs;
use crate::retry::{Retries, retry};
use crate::submissions::Submissions;
use crate::users::Users;

/// The longest answer to a small call, in bytes.
const ANSWER_LEN_MAX: usize = 256 << 20;

/// How long a connection is kept that nobody uses. Shorter than the servers' own limit (60 s), so
/// that one is not taken from the pool just as the server closes it.
pub const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(45);

/// The longest error body that is read, in bytes.
const ERROR_LEN_MAX: usize = 64 << 10;

/// Which server, as whom, and how patiently.
#[derive(Clone)]
pub struct ClientConfig {
    /// Such as `http://127.0.0.1:8443`.
    pub base: Url,
    /// Bearer token.
    pub token: Option<String>,
    /// Where passes come from that are shown in place of a token; such a client has none.
    pub passes: Option<Arc<dyn Passes>>,
    /// Whom the operator's token speaks for; the server decides where this is absent.
    pub user: Option<UserName>,
    /// SHA-256 of the server's certificate (DER) in hex: exactly this one is accepted. Where it
    /// is absent, the system's roots decide.
    pub pin: Option<String>,
    /// For a connection to stand.
    pub connect_timeout: Duration,
    /// For a small call as a whole.
    pub call_timeout: Duration,
    /// For the next bytes of a stream, in either direction, and for the answer to an upload.
    pub idle_timeout: Duration,
    /// How often, and with what pauses, calls are repeated that may be.
    pub retries: Retries,
}

impl ClientConfig {
    /// A patient configuration without credentials.
    pub fn new(base: Url) -> Self {
        Self {
            base,
            token: None,
            passes: None,
            user: None,
            pin: None,
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            retries: Retries::default(),
        }
    }

    /// Whether nothing secret is sent.
    fn is_nobodys(&self) -> bool {
        self.token.is_none() && self.passes.is_none()
    }

    fn http_client(&self, http1_only: bool) -> Result<reqwest::Client, ClientError> {
        let bad = |message: String| ClientError::Config(message);
        let mut headers = HeaderMap::new();
        if let Some(token) = &self.token {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                .map_err(|_| bad("the token holds characters that no header can carry".into()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        if let Some(user) = &self.user {
            let value = HeaderValue::try_from(user.as_ref()).expect("user names are ASCII");
            headers.insert(USER_HEADER, value);
        }
        let mut builder = reqwest::Client::builder()
            .default_headers(headers)
            .connect_timeout(self.connect_timeout)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .tcp_keepalive(Duration::from_secs(20))
            .redirect(reqwest::redirect::Policy::none())
            .http2_adaptive_window(true);
        if self.base.scheme() == "http" {
            // A proxy of the environment would see the token, and could not reach loopback.
            builder = builder.no_proxy();
            // Reading the system's roots would take longer than the request.
            builder = builder.tls_backend_preconfigured(pin::trusts_nobody().map_err(bad)?);
        }
        if http1_only {
            builder = builder.http1_only();
        }
        if let Some(fingerprint) = &self.pin {
            let tls = pin::client_config(fingerprint, http1_only).map_err(bad)?;
            builder = builder.tls_backend_preconfigured(tls);
        }
        builder.build().map_err(|error| bad(format!("no HTTP client: {error:?}")))
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("base", &self.base.as_str())
            .field("user", &self.user)
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

/// A connection pool to one server. Clones share it.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    http: reqwest::Client,
    /// HTTP/1.1 alone: each request of several at a time has a connection of its own, whose
    /// window grows beside the others'. Made when it is needed first.
    stripes: OnceLock<reqwest::Client>,
    /// Without a trailing slash.
    base: String,
    config: ClientConfig,
}

impl Client {
    /// A client for the server of `config`; nothing is sent yet. Refuses to send a token over
    /// plain HTTP anywhere but to loopback.
    pub fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        let bad = |message: String| ClientError::Config(message);
        let base = &config.base;
        match base.scheme() {
            "https" => {}
            "http" if config.pin.is_some() => {
                return Err(bad(format!("{base} has no certificate to pin: use https")));
            }
            "http" if config.is_nobodys() || is_loopback(base) => {}
            "http" => {
                return Err(bad(format!("{base} would carry the token unencrypted: use https")));
            }
            _ => return Err(bad(format!("{base} is not an http or https URL"))),
        }
        pin::install_provider();
        Ok(Self(Arc::new(Inner {
            http: config.http_client(false)?,
            stripes: OnceLock::new(),
            base: base.as_str().trim_end_matches('/').to_owned(),
            config: config.clone(),
        })))
    }

    /// The fileserver's blobs.
    pub fn blobs(&self) -> Blobs<'_> {
        Blobs(self)
    }

    /// The fileserver's refs.
    pub fn refs(&self) -> Refs<'_> {
        Refs(self)
    }

    /// The worker's jobs, runs and images.
    pub fn jobs(&self) -> Jobs<'_> {
        Jobs(self)
    }

    /// The worker's jobs that owners decide on, and its audit.
    pub fn submissions(&self) -> Submissions<'_> {
        Submissions(self)
    }

    /// The worker's users and tokens.
    pub fn users(&self) -> Users<'_> {
        Users(self)
    }

    /// What `GET /healthz` of either server answers.
    pub async fn health(&self) -> Result<serde_json::Value, ClientError> {
        self.call(|| self.request(Method::GET, "/healthz")).await
    }

    /// The server's address.
    pub fn base(&self) -> &str {
        &self.0.base
    }

    pub(crate) fn request(&self, method: Method, path_and_query: &str) -> RequestBuilder {
        self.0.http.request(method, format!("{}{path_and_query}", self.0.base))
    }

    /// A request that shares its connection with no other at the same time.
    pub(crate) fn stripe_request(
        &self,
        method: Method,
        path_and_query: &str,
    ) -> Result<RequestBuilder, ClientError> {
        let stripes = match self.0.stripes.get() {
            Some(stripes) => stripes,
            None => {
                let made = match self.0.config.base.scheme() {
                    // Without TLS nobody agrees on HTTP/2.
                    "http" => self.0.http.clone(),
                    _ => self.0.config.http_client(true)?,
                };
                self.0.stripes.get_or_init(|| made)
            }
        };
        Ok(stripes.request(method, format!("{}{path_and_query}", self.0.base)))
    }

    /// Waits for `step` of a stream for at most the idle timeout.
    pub(crate) async fn within_idle<T>(
        &self,
        step: impl Future<Output = T>,
    ) -> Result<T, ClientError> {
        let after = self.0.config.idle_timeout;
        tokio::time::timeout(after, step)
            .await
            .map_err(|_| ClientError::Timeout { url: self.0.base.clone(), after })
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        self.0.config.idle_timeout
    }

    /// Repeats `operation` as configured.
    pub(crate) async fn retry<T, F, Fut>(&self, operation: F) -> Result<T, ClientError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, ClientError>>,
    {
        retry(self.0.config.retries, operation).await
    }

    /// Sends a request, with a pass where passes are shown. The answer may be a refusal.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let Some(passes) = &self.0.config.passes else {
            return request.send().await.map_err(|error| self.failed(error));
        };
        let pass = passes.pass().await?;
        let sending = request.bearer_auth(&pass).send();
        let response = sending.await.map_err(|error| self.failed(error))?;
        if response.status() == StatusCode::UNAUTHORIZED {
            passes.forget(&pass);
        }
        Ok(response)
    }

    /// Starts a request whose answer is streamed: the head must come within the idle timeout.
    pub(crate) async fn streamed(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = self.within_idle(self.send(request)).await??;
        self.accepted(response).await
    }

    /// Makes a small call that may be repeated, and reads its JSON answer.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<T, ClientError> {
        self.retry(|| self.call_once(request())).await
    }

    /// Makes a small call once.
    pub(crate) async fn call_once<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
    ) -> Result<T, ClientError> {
        let bytes = self.answer_once(request).await?;
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Protocol {
            url: self.0.base.clone(),
            message: format!("unexpected JSON: {error}"),
        })
    }

    /// Makes a small call once, and reads its answer whatever it is.
    pub(crate) async fn answer_once(
        &self,
        request: RequestBuilder,
    ) -> Result<Vec<u8>, ClientError> {
        let after = self.0.config.call_timeout;
        let call = async {
            let response = self.send(request).await?;
            let response = self.accepted(response).await?;
            self.read_bounded(response, ANSWER_LEN_MAX).await
        };
        tokio::time::timeout(after, call)
            .await
            .map_err(|_| ClientError::Timeout { url: self.0.base.clone(), after })?
    }

    /// Turns an answer that is a refusal into the error that it is.
    pub(crate) async fn accepted(&self, response: Response) -> Result<Response, ClientError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let reading = self.within_idle(self.read_bounded(response, ERROR_LEN_MAX)).await;
        let bytes = reading.and_then(|read| read).unwrap_or_default();
        Err(match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(ErrorBody { error }) => ClientError::Refused {
                status: status.as_u16(),
                code: error.code,
                message: error.message,
                hint: error.hint,
            },
            Err(_) => ClientError::Refused {
                status: status.as_u16(),
                code: "unknown".to_owned(),
                message: status.canonical_reason().unwrap_or("no reason given").to_owned(),
                hint: Some(format!("is {} a Sway server?", self.0.base)),
            },
        })
    }

    async fn read_bounded(
        &self,
        mut response: Response,
        len_max: usize,
    ) -> Result<Vec<u8>, ClientError> {
        let mut bytes = Vec::new();
        while let Some(more) = response.chunk().await.map_err(|error| self.failed(error))? {
            if bytes.len() + more.len() > len_max {
                return Err(ClientError::Protocol {
                    url: self.0.base.clone(),
                    message: format!("an answer of more than {len_max} bytes"),
                });
            }
            bytes.extend_from_slice(&more);
        }
        Ok(bytes)
    }

    /// What a failure of the transport means to the caller.
    pub(crate) fn failed(&self, error: reqwest::Error) -> ClientError {
        let url = self.0.base.clone();
        if error.is_timeout() && !error.is_connect() {
            return ClientError::Timeout { url, after: self.0.config.call_timeout };
        }
        let untrusted = is_untrusted(&error);
        let source = error.without_url().into();
        if untrusted {
            ClientError::Untrusted { url, source }
        } else {
            ClientError::Unreachable { url, source }
        }
    }
}

/// Whether the handshake failed over the server's certificate.
fn is_untrusted(error: &reqwest::Error) -> bool {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |&error| next_cause(error))
        .any(|error| matches!(error.downcast_ref(), Some(rustls::Error::InvalidCertificate(_))))
}

/// What caused an error. An I/O error does not show what it wraps as its source.
fn next_cause<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a (dyn std::error::Error + 'static)> {
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::from(ip).to_canonical().is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(base: &str, token: Option<&str>, pin: Option<&str>) -> Result<Client, ClientError> {
        let mut config = ClientConfig::new(base.parse().unwrap());
        config.token = token.map(str::to_owned);
        config.pin = pin.map(str::to_owned);
        Client::new(&config)
    }

    #[test]
    fn a_token_does_not_travel_unencrypted() {
        for base in ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"] {
            assert!(client(base, Some("t"), None).is_ok(), "{base}");
        }
        for base in ["http://192.0.2.1:1", "http://example.org", "ftp://127.0.0.1"] {
            assert!(client(base, Some("t"), None).is_err(), "{base}");
        }
    }

    #[test]
    fn a_pin_is_a_sha256_of_a_certificate() {
        let good = "00".repeat(32);
        assert!(client("https://192.0.2.1", Some("t"), Some(&good)).is_ok());
        assert!(client("https://192.0.2.1", Some("t"), Some(&good[2..])).is_err());
        assert!(client("http://127.0.0.1", Some("t"), Some(&good)).is_err());
    }

    #[tokio::test]
    async fn nobody_there_is_unreachable() {
        // A port that was free a moment ago.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let mut config = ClientConfig::new(base.parse().unwrap());
        config.retries = Retries::NONE;
        let error = Client::new(&config).unwrap().health().await.unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().contains(&base), "{error}");
    }
}
