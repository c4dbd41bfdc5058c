//! What a server tells about itself: log lines on stderr, and metrics to be scraped.

use std::io::IsTerminal as _;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::middleware::{self, Next};
use axum::response::Response;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// Seconds; from a cached read to a slow job.
const BUCKETS_SECONDS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("not a log format: {text:?} (text or json)")),
        }
    }
}

/// What is left out unless the filter names it: a job that is killed while it reads leaves a
/// request behind that the kernel wants no reply to any more, which fuser reports as an error.
const HUSHED: &str = "fuser::reply=off";

/// Starts logging to stderr. `filter` is the value of `SWAY_LOG` or `LOG_LEVEL`, such as `debug`
/// or `sway_worker=trace,info`; `info` where it is absent or malformed. Only the first call in a
/// process counts.
pub fn init_logging(filter: Option<&str>, format: LogFormat) {
    let parsed = filter.map(parse_filter);
    let malformed = matches!(parsed, Some(Err(_)));
    let env_filter =
        parsed.and_then(Result::ok).unwrap_or_else(|| EnvFilter::new(format!("{HUSHED},info")));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(env_filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if malformed {
        tracing::warn!(filter, "malformed log filter; logging at info");
    }
}

/// Later directives win: a filter that names what is hushed gets it.
fn parse_filter(filter: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(format!("{HUSHED},{}", filter.to_ascii_lowercase()))
}

/// The process's metrics, as `GET /metrics` answers them.
#[derive(Clone, Debug)]
pub struct Metrics(PrometheusHandle);

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// Requests between two upkeeps.
const UPKEEP_EVERY: u32 = 4096;

impl Metrics {
    /// Starts to record what the `metrics` macros report; further calls share the first one's
    /// recorder. Where another recorder was installed first, [`Metrics::render`] stays empty.
    pub fn install() -> Self {
        let handle = HANDLE.get_or_init(|| {
            let recorder = PrometheusBuilder::new()
                .set_buckets(&BUCKETS_SECONDS)
                .expect("the list of buckets is not empty")
                .build_recorder();
            let handle = recorder.handle();
            let _ = metrics::set_global_recorder(recorder);
            handle
        });
        Self(handle.clone())
    }

    /// Prometheus' text format.
    pub fn render(&self) -> String {
        self.0.run_upkeep();
        self.0.render()
    }
}

/// Counts and times the requests of every route of `router`, by route, method and status.
pub fn measured(router: Router) -> Router {
    router.layer(middleware::from_fn(measure))
}

async fn measure(request: Request, next: Next) -> Response {
    // The route, not the path: a label must not take any value that a caller makes up.
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let route = route.unwrap_or("none").to_owned();
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE") => known,
        _ => "other",
    };
    let method = method.to_owned();
    let started = Instant::now();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    let duration = started.elapsed();
    tracing::debug!(http.method = method, http.route = route, http.status = status, ?duration);
    let labels = [("route", route), ("method", method), ("status", status.to_string())];
    metrics::histogram!("sway_http_request_seconds", &labels).record(duration.as_secs_f64());
    keep_up();
    response
}

/// Histograms keep every sample until an upkeep: where nobody scrapes they would grow for ever.
fn keep_up() {
    static REQUESTS: AtomicU32 = AtomicU32::new(0);
    if REQUESTS.fetch_add(1, Ordering::Relaxed) % UPKEEP_EVERY == UPKEEP_EVERY - 1
        && let Some(handle) = HANDLE.get()
    {
        handle.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_that_nobody_waits_for_are_not_logged_unless_asked_for() {
        for (filter, logged) in
            [("info", false), ("debug", false), ("info,fuser::reply=error", true)]
        {
            let subscriber =
                tracing_subscriber::fmt().with_env_filter(parse_filter(filter).unwrap()).finish();
            tracing::subscriber::with_default(subscriber, || {
                assert_eq!(
                    tracing::enabled!(target: "fuser::reply", tracing::Level::ERROR),
                    logged
                );
                assert!(tracing::enabled!(target: "fuser::session", tracing::Level::ERROR));
                assert!(tracing::enabled!(target: "sway_worker", tracing::Level::INFO));
            });
        }
    }

    #[test]
    fn what_is_counted_is_rendered_also_after_a_second_install() {
        let first = Metrics::install();
        metrics::counter!("sway_test_total").increment(2);
        let second = Metrics::install();
        metrics::counter!("sway_test_total").increment(1);
        assert!(first.render().contains("sway_test_total 3"));
        assert!(second.render().contains("sway_test_total 3"));
    }
}
