//! Storing with a user's token: the worker makes passes of it, a real fileserver takes them.

use std::net::TcpListener;
use std::sync::Arc;

use serde_json::json;
use sway_core::access::Scopes;
use sway_core::api::users::{MadePass, NewPass};
use sway_fileserver::Config;
use sway_server::pass::PassKey;
use sway_server::token::Token;
use tokio_util::sync::CancellationToken;

use crate::fake_worker::{Answer, FakeWorker, Request, error};
use crate::sway::{Home, last_line, text};

const OPERATOR: &str = "the-operators";
const ADAS: &str = "sway_3f9a01b2c3d4_00112233445566778899aabbccddeeff";

/// A fileserver that knows a worker, in a runtime of its own.
struct Fileserver {
    url: String,
    key: Arc<PassKey>,
    id: String,
    shutdown: CancellationToken,
    _runtime: tokio::runtime::Runtime,
    _data: tempfile::TempDir,
}

impl Fileserver {
    fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let key = Arc::new(PassKey::load_or_create(&data.path().join("worker")).unwrap());
        let mut config =
            Config::new(data.path().join("fileserver"), Token::parse(OPERATOR).unwrap());
        config.workers = vec![key.public()];
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.spawn(sway_fileserver::run(config, listener, shutdown.clone()));
        let asking = async {
            let config = sway_client::ClientConfig::new(url.parse().unwrap());
            sway_client::Client::new(&config).unwrap().health().await.unwrap()
        };
        let id = runtime.block_on(asking)["id"].as_str().unwrap().to_owned();
        Self { url, key, id, shutdown, _runtime: runtime, _data: data }
    }

    /// A worker that makes passes of ada's token, for what `scopes` are.
    fn worker(&self, scopes: &str) -> FakeWorker {
        let (key, id, allowed) =
            (Arc::clone(&self.key), self.id.clone(), scopes.parse::<Scopes>().unwrap());
        FakeWorker::new(move |request: &Request| {
            if (request.method.as_str(), request.path.as_str()) != ("POST", "/v1/passes") {
                return Answer::Json(404, error("not_found", "no such path", None));
            }
            if !request.has_header(&format!("authorization: Bearer {ADAS}")) {
                return Answer::Json(401, error("unauthorized", "the bearer token is wrong", None));
            }
            let asked: NewPass = serde_json::from_slice(&request.body).unwrap();
            let scopes = asked.scopes.unwrap();
            if !scopes.is_subset(allowed) {
                let message = format!("this needs a token with the scope {scopes}");
                return Answer::Json(403, error("scope_missing", &message, None));
            }
            let user: sway_core::name::UserName = "ada".parse().unwrap();
            let pass = key.make(user.clone(), scopes, id.clone(), "3f9a01b2c3d4".to_owned());
            Answer::Json(201, json!(MadePass { pass, user, scopes, expires_in_s: 300 }))
        })
    }

    /// `sway` with ada's token; the login name is somebody else's.
    fn sway(&self, home: &Home, worker: &FakeWorker, args: &[&str]) -> std::process::Output {
        let mut sway = home.sway(&worker.url, args);
        sway.env("SWAY_TOKEN", ADAS).env("SWAY_USERNAME", "mallory");
        sway.env("FILESERVER_URL", &self.url).output().unwrap()
    }

    /// The names of all refs.
    fn refs(&self) -> Vec<String> {
        let mut config = sway_client::ClientConfig::new(self.url.parse().unwrap());
        config.token = Some(OPERATOR.to_owned());
        let client = sway_client::Client::new(&config).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let refs = runtime.block_on(async { client.refs().list("").await.unwrap() });
        refs.into_iter().map(|entry| entry.name.to_string()).collect()
    }
}

impl Drop for Fileserver {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[test]
fn a_user_stores_data_with_a_token_that_the_fileserver_never_sees() {
    let fileserver = Fileserver::start();
    let home = Home::new();
    home.write("table.csv", "a,b\n1,2\n");
    let worker = fileserver.worker("run,read,export");
    let added = fileserver.sway(&home, &worker, &["data", "add", "table", "table.csv"]);
    assert!(added.status.success(), "{}", text(&added.stderr));
    // The token says whose it is, not the login name.
    assert_eq!(fileserver.refs(), ["data/ada/table"]);
    assert_eq!(worker.request("POST", "/v1/passes").json(), json!({ "scopes": ["export"] }));
    // The same once more sends nothing new and works.
    let again = fileserver.sway(&home, &worker, &["data", "add", "table", "table.csv"]);
    assert!(again.status.success(), "{}", text(&again.stderr));

    // A fileserver that only listens hears a pass and no token.
    let listening = FakeWorker::new(|_| Answer::Json(403, error("forbidden", "no", None)));
    let mut sway = home.sway(&worker.url, &["data", "add", "table", "table.csv"]);
    let refused = sway.env("SWAY_TOKEN", ADAS).env("FILESERVER_URL", &listening.url);
    assert_eq!(refused.output().unwrap().status.code(), Some(1));
    let heard = listening.request("POST", "/v1/blobs/missing");
    let credentials: Vec<_> = heard.headers.iter().filter(|line| line.contains("Bearer")).collect();
    assert!(credentials.len() == 1 && credentials[0].contains("sway-pass-1."), "{credentials:?}");
    assert!(!format!("{heard:?}").contains(ADAS));
}

#[test]
fn who_may_not_export_is_told_before_anything_is_sent() {
    let fileserver = Fileserver::start();
    let home = Home::new();
    home.write("Dockerfile", "FROM scratch\n");
    let worker = fileserver.worker("submit,read");
    for args in [&["data", "add", "app", "app.py"][..], &["export", "--name", "x"]] {
        let refused = fileserver.sway(&home, &worker, args);
        assert_eq!(refused.status.code(), Some(1), "{args:?}");
        assert!(last_line(&refused.stderr).contains("scope export"), "{}", text(&refused.stderr));
    }
    // Nor into somebody else's names, where that takes an operator.
    let worker = fileserver.worker("run,read,export");
    let refused = fileserver.sway(&home, &worker, &["export", "--name", "library/x"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(last_line(&refused.stderr).contains("admin"), "{}", text(&refused.stderr));
    assert!(fileserver.refs().is_empty());
}

#[test]
fn a_fileserver_that_does_not_know_the_worker_says_what_it_needs() {
    let [one, other] = [(); 2].map(|()| Fileserver::start());
    let home = Home::new();
    let worker = one.worker("run,read,export");
    let refused = other.sway(&home, &worker, &["data", "add", "app", "app.py"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(last_line(&refused.stderr).contains("--worker-key"), "{}", text(&refused.stderr));
    let told = other.sway(&home, &worker, &["doctor", "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    let finding = |told: &serde_json::Value| {
        let findings = told["findings"].as_array().unwrap();
        findings.iter().find(|one| one["subject"] == "images and data").unwrap().clone()
    };
    assert_eq!(finding(&told)["state"], "limited");
    assert!(finding(&told)["advice"].as_str().unwrap().contains("--worker-key"));
    let told = one.sway(&home, &worker, &["doctor", "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(finding(&told)["state"], "good", "{told}");
    assert!(finding(&told)["found"].as_str().unwrap().contains("ada"));
}
