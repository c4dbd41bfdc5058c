//! The authorisation matrix: every route x every caller x own objects and those of others.
//!
//! A route that is described and has no row here fails, and so does a row without a route.

use std::collections::BTreeSet;

use sway_client::{Client, ClientConfig};
use sway_core::access::{Role, Scope, Scopes};
use sway_core::api::submissions::Submission;
use sway_core::api::users::{NewToken, NewUser};
use sway_core::job::{JobSpec, OutputRequest};

use crate::support::{Answer, Request, TOKEN, Worker, job_when, json, spec};

/// Whom a route admits.
#[derive(Clone, Copy)]
enum Open {
    /// Anybody, without a token.
    Public,
    /// Whoever has a token.
    Known,
    /// Tokens with one of these scopes.
    For(&'static [Scope]),
}

use Open::{For, Known, Public};
use Scope::{Admin, Approve, Read, Run, Submit};

/// What is described in `/openapi.json`.
const ROUTES: &[(&str, &str, Open)] = &[
    ("GET", "/", Public),
    ("GET", "/healthz", Public),
    ("GET", "/metrics", For(&[Scope::Worker])),
    ("GET", "/openapi.json", Known),
    ("GET", "/stats", For(&[Read])),
    ("POST", "/run", For(&[Run])),
    ("POST", "/execute", For(&[Run])),
    ("PUT", "/batch-upload", For(&[Run])),
    ("GET", "/v1/audit", For(&[Read])),
    ("GET", "/v1/audit/verify", For(&[Admin])),
    ("GET", "/v1/datasets", For(&[Read])),
    ("GET", "/v1/images", For(&[Read])),
    ("GET", "/v1/jobs", For(&[Read])),
    ("POST", "/v1/jobs", For(&[Run])),
    ("POST", "/v1/jobs/batch", For(&[Run])),
    ("GET", "/v1/jobs/{id}", For(&[Read])),
    ("POST", "/v1/jobs/{id}/approve", For(&[Approve])),
    ("POST", "/v1/jobs/{id}/cancel", For(&[Run, Submit])),
    ("GET", "/v1/jobs/{id}/logs", For(&[Read])),
    ("GET", "/v1/jobs/{id}/outputs", For(&[Read])),
    ("GET", "/v1/jobs/{id}/outputs/{path}", For(&[Read])),
    ("POST", "/v1/jobs/{id}/reject", For(&[Approve])),
    ("GET", "/v1/jobs/{id}/review", For(&[Read])),
    ("POST", "/v1/jobs/{id}/stdin", For(&[Run])),
    ("GET", "/v1/me", Known),
    ("POST", "/v1/passes", Known),
    ("GET", "/v1/queue", For(&[Read])),
    ("PUT", "/v1/queue", For(&[Approve])),
    ("GET", "/v1/runs", For(&[Read])),
    ("GET", "/v1/runs/{id}", For(&[Read])),
    ("POST", "/v1/submissions", For(&[Submit])),
    ("GET", "/v1/tokens", For(&[Read, Admin])),
    ("POST", "/v1/tokens", For(&[Admin])),
    ("DELETE", "/v1/tokens/{id}", For(&[Read, Admin])),
    ("POST", "/v1/traces", For(&[Run])),
    ("GET", "/v1/users", For(&[Admin])),
    ("POST", "/v1/users", For(&[Admin])),
    ("DELETE", "/v1/users/{id}", For(&[Admin])),
];

/// The pages, which are for people and not described.
const PAGES: &[(&str, &str, Open)] = &[
    ("GET", "/new", For(&[Run])),
    ("GET", "/run/{id}", For(&[Read])),
    ("GET", "/run/{id}/events", For(&[Read])),
    ("GET", "/run/{id}/stdout", For(&[Read])),
    ("GET", "/run/{id}/stderr", For(&[Read])),
    ("GET", "/run/{id}/output.tar", For(&[Read])),
];

/// A route's path with the object of this id. The whole audit is the operator's, and of others the
/// one of a job.
fn path_to(path: &str, id: &str) -> String {
    match path {
        "/v1/audit" => format!("{path}?job={id}"),
        _ => path.replace("{id}", id).replace("{path}", "out.txt"),
    }
}

/// Who knocks.
struct Caller {
    name: String,
    secret: Option<String>,
    /// What the token is for; none where it opens nothing.
    scopes: Option<Scopes>,
}

fn client(worker: &Worker, secret: &str) -> Client {
    let mut config = ClientConfig::new(worker.url("/").parse().unwrap());
    config.token = Some(secret.to_owned());
    Client::new(&config).unwrap()
}

/// A user of this role and a token of it.
async fn user(worker: &Worker, name: &str, role: Role) -> String {
    let operator = client(worker, TOKEN);
    operator.users().add(&NewUser { name: name.parse().unwrap(), role }).await.unwrap();
    token(worker, name, None).await
}

async fn token(worker: &Worker, name: &str, scopes: Option<Scopes>) -> String {
    let new = NewToken { user: name.parse().unwrap(), label: None, scopes, expires_in_s: None };
    client(worker, TOKEN).users().add_token(&new).await.unwrap().secret
}

/// A request as the caller sends it. A body that no route takes changes nothing.
async fn knock(worker: &Worker, method: &str, target: &str, secret: Option<&str>) -> Answer {
    let mut request = Request::new(worker.addr, method, target);
    if let Some(secret) = secret {
        request = request.header("authorization", &format!("Bearer {secret}"));
    }
    let path = target.split('?').next().unwrap();
    let body = match path.split('/').next_back() {
        Some("cancel") => None,
        Some("approve" | "reject") => Some("{\"reason\": \"\"}"),
        _ => matches!(method, "POST" | "PUT").then_some("{\"?\":1}"),
    };
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body.into());
    }
    request.send().await
}

#[tokio::test]
async fn each_route_admits_those_with_its_scope_and_nobody_else() {
    let worker = Worker::start().await;
    let document = worker.get("/openapi.json").send().await.json();
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(move |method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    let rows = ROUTES.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()));
    assert_eq!(described, rows.collect(), "each route has a row");

    let mut callers = vec![
        Caller { name: "nobody".into(), secret: None, scopes: None },
        Caller { name: "a wrong token".into(), secret: Some("wrong".into()), scopes: None },
        Caller {
            name: "the data directory's".into(),
            secret: Some(TOKEN.into()),
            scopes: Some(Scopes::ALL),
        },
    ];
    for role in Role::ALL {
        let secret = user(&worker, &format!("a-{role}"), role).await;
        let scopes = Some(role.scopes());
        callers.push(Caller { name: role.to_string(), secret: Some(secret), scopes });
    }
    for scope in Scope::ALL {
        let scopes = Some(Scopes::of(&[scope]));
        let secret = Some(token(&worker, "a-operator", scopes).await);
        callers.push(Caller { name: format!("the scope {scope} alone"), secret, scopes });
    }
    for caller in &callers {
        knock_everywhere(&worker, caller).await;
    }

    // Wrong tokens of one address are counted: another worker has counted none.
    let worker = Worker::start().await;
    let revoked = user(&worker, "gone", Role::Operator).await;
    client(&worker, TOKEN).users().revoke(&"gone".parse().unwrap()).await.unwrap();
    let caller = Caller { name: "a revoked token".into(), secret: Some(revoked), scopes: None };
    knock_everywhere(&worker, &caller).await;
}

/// Sends one request to every route, and checks who is let in.
async fn knock_everywhere(worker: &Worker, caller: &Caller) {
    for &(method, path, open) in ROUTES.iter().chain(PAGES) {
        let target = path_to(path, "nothing");
        let answer = knock(worker, method, &target, caller.secret.as_deref()).await;
        let told = format!("{} {method} {path}: {} {}", caller.name, answer.status, answer.body);
        let admitted = match (open, caller.scopes) {
            (Public, _) | (Known, Some(_)) => true,
            (For(needed), Some(scopes)) => needed.iter().any(|&one| scopes.contains(one)),
            (Known | For(_), None) => false,
        };
        match (admitted, caller.scopes) {
            (true, _) => assert!(![401, 403].contains(&answer.status), "{told}"),
            (false, Some(_)) => {
                assert_eq!((answer.status, answer.error().0.as_str()), (403, "scope_missing"));
            }
            (false, None) => assert_eq!(answer.status, 401, "{told}"),
        }
        assert!(answer.status < 500, "{told}");
    }
}

/// A job of a user, which has ended and left `out.txt`, and the number of its run.
async fn ended_job(worker: &Worker, name: &str) -> (String, String) {
    let owner = worker.client(name);
    let leaving = spec(&["leave", "out.txt", "secret"]);
    let leaving = JobSpec { output: Some(OutputRequest::default()), ..leaving };
    let job = owner.jobs().submit(&leaving).await.unwrap();
    let job = job_when(&owner, &job.id, |job| job.state.is_final()).await;
    (job.id, job.run.unwrap().id.to_string())
}

#[tokio::test]
async fn what_is_somebody_elses_is_answered_like_what_is_not_there() {
    let worker = Worker::start().await;
    let ada = user(&worker, "ada", Role::Owner).await;
    let sue = user(&worker, "sue", Role::Submitter).await;
    let bob = user(&worker, "bob", Role::Owner).await;
    let id_of = |secret: &str| secret.split('_').nth(1).unwrap().to_owned();
    let (job, run) = ended_job(&worker, "bob").await;
    let begun = worker.client("bob").jobs().submit(&spec(&["hang"])).await.unwrap().id;
    let submission = Submission {
        owner: "alice".parse().unwrap(),
        queue: "code-queue".to_owned(),
        name: "Statistics".to_owned(),
        description: String::new(),
        tags: Vec::new(),
        job: spec(&["say"]),
    };
    let pending = worker.client("bob").submissions().submit(&submission).await.unwrap().id;
    let (no_job, no_run, no_token) = ("zzzzzzzzzz", "999999", "0123456789ab");

    for (name, secret, scopes) in
        [("ada", &ada, Role::Owner.scopes()), ("sue", &sue, Role::Submitter.scopes())]
    {
        let (own_job, own_run) = ended_job(&worker, name).await;
        for &(method, path, open) in ROUTES.iter().chain(PAGES) {
            let For(needed) = open else { continue };
            let admitted = needed.iter().any(|&scope| scopes.contains(scope));
            if path == path_to(path, "") || !admitted {
                continue;
            }
            let bobs_token = id_of(&bob);
            // The foreign one, one that is not there, and the caller's own.
            let objects: &[(&str, &str, Option<&str>)] = match path {
                "/v1/tokens/{id}" => &[(&bobs_token, no_token, None)],
                "/v1/jobs/{id}/approve"
                | "/v1/jobs/{id}/reject"
                | "/v1/jobs/{id}/review"
                | "/v1/audit" => &[(&pending, no_job, None), (&job, no_job, None)],
                _ if path.starts_with("/v1/jobs/") => &[
                    (&pending, no_job, None),
                    (&job, no_job, Some(&own_job)),
                    (&begun, no_job, Some(&own_job)),
                    (&job[..4], no_job, None),
                ],
                "/run/{id}/events" => &[(&job, no_job, Some(&own_job))],
                _ => &[(&run, no_run, Some(&own_run)), (&job, no_job, Some(&own_job))],
            };
            for (foreign, missing, own) in objects {
                let asking = async |id: &str, query: &str| {
                    let target = format!("{}{query}", path_to(path, id));
                    let answer = knock(&worker, method, &target, Some(secret)).await;
                    (answer.status, answer.body)
                };
                let alike = async |query: &str, status: u16| {
                    let (of_foreign, told) = asking(foreign, query).await;
                    let (of_missing, told_of_missing) = asking(missing, query).await;
                    assert_eq!((of_foreign, of_missing), (status, status), "{method} {path}");
                    assert_eq!(told, told_of_missing.replace(missing, foreign), "{method} {path}");
                };
                alike("", 404).await;
                if path.starts_with("/v1/jobs/") || path.starts_with("/v1/runs/") {
                    alike("?all=true", 403).await;
                }
                if let Some(own) = own {
                    let (status, body) = asking(own, "").await;
                    // One that has ended can't be cancelled or written to.
                    let expected = if method == "POST" { 409 } else { 200 };
                    assert_eq!(status, expected, "{name} {method} {path}: {body}");
                }
            }
        }
        // Lists have nothing of others.
        for path in ["/v1/jobs", "/v1/runs", "/stats", "/v1/tokens"] {
            let answer = knock(&worker, "GET", path, Some(secret)).await;
            assert_eq!(answer.status, 200, "{path}");
            assert!(!answer.body.contains("bob"), "{name} {path}: {}", answer.body);
            assert!(answer.body.contains(name), "{name} {path}: {}", answer.body);
        }
        let page = Request::new(worker.addr, "GET", "/")
            .header("accept", "text/html")
            .header("authorization", &format!("Bearer {secret}"));
        let page = page.send().await.body;
        assert!(page.contains(name) && !page.contains("bob"), "{page}");
    }

    // What bob has is there all along, for bob and for the operator.
    for secret in [bob.as_str(), TOKEN] {
        for path in [format!("/v1/jobs/{job}"), format!("/v1/runs/{run}"), format!("/run/{run}")] {
            assert_eq!(knock(&worker, "GET", &path, Some(secret)).await.status, 200, "{path}");
        }
    }
}

#[tokio::test]
async fn a_job_goes_to_nobody_who_can_not_decide_and_the_refusal_tells_no_more() {
    let worker = Worker::start().await;
    let bob = user(&worker, "bob", Role::Submitter).await;
    for (name, role) in [("ada", Role::Owner), ("gone", Role::Owner), ("sue", Role::Submitter)] {
        user(&worker, name, role).await;
    }
    client(&worker, TOKEN).users().revoke(&"gone".parse().unwrap()).await.unwrap();
    let asking = async |secret: &str, owner: &str| {
        let submission =
            serde_json::json!({ "owner": owner, "name": "Sums", "job": spec(&["say"]) });
        let request = Request::new(worker.addr, "POST", "/v1/submissions")
            .header("authorization", &format!("Bearer {secret}"))
            .header("content-type", "application/json")
            .body(submission.to_string().into_bytes());
        let answer = request.send().await;
        (answer.status, answer.body.replace(owner, "_"))
    };
    for owner in ["ada", "operator"] {
        assert_eq!(asking(&bob, owner).await.0, 202, "{owner}");
    }
    let nobody = asking(&bob, "nobody").await;
    assert_eq!(nobody.0, 403, "{}", nobody.1);
    assert!(nobody.1.contains("not_an_owner"), "{}", nobody.1);
    for owner in ["sue", "gone", "bob"] {
        assert_eq!(asking(&bob, owner).await, nobody, "{owner}");
    }
    // Who speaks for any name can decide in it.
    assert_eq!(asking(TOKEN, "nobody").await.0, 202);
}

#[tokio::test]
async fn an_image_of_somebody_else_is_refused_like_one_that_is_not_there() {
    let worker = Worker::start().await;
    let ada = user(&worker, "ada", Role::Owner).await;
    let asking = async |path: &str, image: &str| {
        let mut job: serde_json::Value = serde_json::from_slice(&json(&spec(&["say"]))).unwrap();
        job["image"] = image.into();
        let body = match path {
            "/v1/traces" => serde_json::json!({ "image": image }),
            "/v1/jobs/batch" => serde_json::json!({ "jobs": [job] }),
            _ => job,
        };
        let request = Request::new(worker.addr, "POST", path)
            .header("authorization", &format!("Bearer {ada}"))
            .header("content-type", "application/json")
            .body(body.to_string().into_bytes());
        let answer = request.send().await;
        (answer.status, answer.body.replace(image, "_"))
    };
    for path in ["/v1/jobs", "/v1/jobs/batch", "/v1/traces"] {
        let foreign = asking(path, "bob/secret").await;
        assert_eq!(foreign, asking(path, "bob/nothing").await, "{path}");
        assert_eq!(foreign.0, 404, "{path}: {}", foreign.1);
        assert!(!foreign.1.contains("secret"), "{}", foreign.1);
    }
}

#[tokio::test]
async fn the_token_decides_who_one_is_and_the_operators_alone_speaks_for_others() {
    let worker = Worker::start().await;
    let ada = user(&worker, "ada", Role::Owner).await;
    let root = user(&worker, "root", Role::Operator).await;
    for (secret, header, user, role) in [
        (ada.as_str(), None, "ada", "owner"),
        (ada.as_str(), Some("bob"), "ada", "owner"),
        (root.as_str(), None, "root", "operator"),
        (root.as_str(), Some("bob"), "bob", "operator"),
        (TOKEN, None, "operator", "operator"),
        (TOKEN, Some("bob"), "bob", "operator"),
    ] {
        let mut request = Request::new(worker.addr, "GET", "/v1/me")
            .header("authorization", &format!("Bearer {secret}"));
        if let Some(header) = header {
            request = request.header("x-sway-user", header);
        }
        let me = request.send().await.json();
        assert_eq!((&me["user"], &me["role"]), (&user.into(), &role.into()), "{header:?}");
    }
}

#[tokio::test]
async fn a_revoked_token_opens_nothing_from_then_on() {
    let worker = Worker::start().await;
    let secret = user(&worker, "ada", Role::Owner).await;
    let ada = client(&worker, &secret);
    let me = ada.users().me().await.unwrap();
    let own = ada.users().tokens().await.unwrap();
    assert_eq!(own.iter().map(|token| &token.id).collect::<Vec<_>>(), [&me.token.unwrap()]);
    ada.users().revoke_token(&own[0].id).await.unwrap();
    let refused = knock(&worker, "GET", "/v1/me", Some(&secret)).await;
    assert_eq!(refused.status, 401);
    assert!(refused.error().1.contains("revoked"), "{}", refused.body);
    // After a restart too.
    let data = worker.stop().await;
    let worker = Worker::start_on(data, |_| {}).await;
    assert_eq!(knock(&worker, "GET", "/v1/me", Some(&secret)).await.status, 401);
}
