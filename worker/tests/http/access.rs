//! Who comes in, and what each one sees.

use serde_json::json;
use sway_client::ClientError;

use crate::support::{Request, TOKEN, Worker, json, spec};

#[tokio::test]
async fn every_route_but_health_asks_for_the_token() {
    let worker = Worker::start().await;
    for (method, path) in [
        ("GET", "/v1/jobs"),
        ("POST", "/v1/jobs"),
        ("GET", "/v1/jobs/a"),
        ("GET", "/v1/jobs/a/logs"),
        ("POST", "/v1/jobs/a/stdin"),
        ("POST", "/v1/jobs/a/cancel"),
        ("GET", "/v1/runs"),
        ("GET", "/v1/runs/1"),
        ("GET", "/v1/images"),
        ("POST", "/v1/submissions"),
        ("GET", "/v1/jobs/a/review"),
        ("POST", "/v1/jobs/a/approve"),
        ("POST", "/v1/jobs/a/reject"),
        ("GET", "/v1/queue"),
        ("PUT", "/v1/queue"),
        ("GET", "/v1/datasets"),
        ("GET", "/v1/audit"),
        ("GET", "/v1/audit/verify"),
        ("GET", "/stats"),
        ("GET", "/metrics"),
        ("GET", "/run/1"),
        ("GET", "/nowhere"),
    ] {
        let answer = Request::new(worker.addr, method, path).send().await;
        assert_eq!(answer.status, 401, "{path}: {}", answer.body);
        let wrong = Request::new(worker.addr, method, path).header("authorization", "Bearer x");
        assert_eq!(wrong.send().await.status, 401, "{path}");
    }
    assert_eq!(Request::new(worker.addr, "GET", "/healthz").send().await.status, 200);
    let health = Request::new(worker.addr, "GET", "/").header("accept", "*/*").send().await.json();
    assert_eq!((&health["service"], &health["status"]), (&json!("Sway"), &json!("healthy")));
    assert_eq!(health["capabilities"]["max_timeout"], 300);
}

#[tokio::test]
async fn pages_of_other_origins_are_refused() {
    let worker = Worker::start().await;
    let rebound = Request::new(worker.addr, "GET", "/v1/runs")
        .header("authorization", &format!("Bearer {TOKEN}"))
        .header("host", "evil.example");
    assert_eq!(rebound.send().await.status, 403);
    let foreign = worker.get("/v1/runs").header("origin", "https://evil.example");
    assert_eq!(foreign.send().await.status, 403);
    let form = Request::new(worker.addr, "POST", "/v1/jobs")
        .header("authorization", &format!("Bearer {TOKEN}"))
        .header("content-type", "text/plain")
        .body(json(&spec(&["say"])));
    assert_eq!(form.send().await.status, 415);
}

#[tokio::test]
async fn users_see_their_own_jobs_and_the_operator_everybodys() {
    let worker = Worker::start().await;
    let (ada, bob) = (worker.client("ada"), worker.client("bob"));
    let job = ada.jobs().submit(&spec(&["hang"])).await.unwrap();
    for refusal in [
        bob.jobs().job(&job.id).await.unwrap_err(),
        bob.jobs().cancel(&job.id).await.unwrap_err(),
        bob.jobs().run(&job.id).await.unwrap_err(),
    ] {
        assert!(matches!(refusal, ClientError::Refused { status: 404, .. }), "{refusal:?}");
    }
    let seen = async |user: &str, path: &str| {
        let request = worker.get(path).header("x-sway-user", user);
        request.send().await.json()["jobs"].as_array().unwrap().len()
    };
    assert_eq!(seen("bob", "/v1/jobs").await, 0);
    assert_eq!(seen("bob", "/v1/jobs?all=true").await, 1);
    assert_eq!(seen("bob", "/v1/jobs?all=true&state=completed").await, 0);
    // The operator that speaks for nobody else.
    assert_eq!(seen("operator", "/v1/jobs").await, 1);
    assert_eq!(worker.get(&format!("/v1/jobs/{}", job.id)).send().await.status, 200);
}

#[tokio::test]
async fn one_data_directory_has_one_worker() {
    let worker = Worker::start().await;
    assert_eq!(worker.get("/healthz").send().await.status, 200);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = "http://127.0.0.1:9".parse().unwrap();
    let config = sway_worker::config::Config::new(worker.data.path().to_owned(), url);
    let actor = std::sync::Arc::new(crate::support::Actor);
    let error = sway_worker::run_with(config, actor, listener, Default::default()).await;
    assert!(error.unwrap_err().to_string().contains("another worker uses"));
}
