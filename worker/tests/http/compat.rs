//! Requests as users of other systems send them: `/run` in both forms, `/execute`.

use serde_json::{Value, json};

use crate::support::{Answer, Request, Worker};

/// A worker that asks nobody for a token.
async fn open_worker() -> Worker {
    Worker::start_with(|config| config.open = true).await
}

async fn post(worker: &Worker, path: &str, body: &Value) -> Answer {
    send(worker, "POST", path, body.to_string()).await
}

async fn send(worker: &Worker, method: &str, path: &str, body: String) -> Answer {
    let request = Request::new(worker.addr, method, path)
        .header("content-type", "application/json")
        .body(body.into_bytes());
    request.send().await
}

#[tokio::test]
async fn code_is_answered_in_pyrunners_shape() {
    let worker = open_worker().await;
    let answer = post(&worker, "/run", &json!({ "code": "say hello" })).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(
        answer.json(),
        json!({
            "status": "success", "stdout": "hello", "stderr": "", "execution_time": 0.005,
            "memory_used": 0.0, "error": null
        })
    );
    let number = answer.header("x-sway-run").unwrap();
    let run = worker.get(&format!("/v1/runs/{number}")).send().await.json();
    assert_eq!((&run["image"], &run["username"]), (&json!("science"), &json!("anonymous")));
    assert_eq!(run["filename"], "main.py");
    let limits = &run["limits"];
    assert_eq!(limits["timeout_ms"], 30_000);
    assert_eq!(limits["memory_bytes"], 512 << 20);
    assert_eq!((&limits["cpus_milli"], &limits["pids"]), (&json!(1000), &json!(64)));
}

#[tokio::test]
async fn code_that_fails_is_200_with_its_status() {
    let worker = open_worker().await;
    for (code, status, error) in [
        ("exit 3", "error", "exit status 3"),
        ("exit 137", "error", "killed by signal 9"),
        ("fail main.py:1:\\nno", "error", "exit status 1"),
        ("too timeout", "timeout", "timeout: it did not end within 7 s"),
        ("too memory_exceeded", "memory_exceeded", "memory_exceeded: it wanted more than 64 MB"),
        ("too policy", "error", "policy"),
        ("broken", "error", "infrastructure: no runc"),
    ] {
        let body = json!({ "code": code, "timeout": 7, "memory_limit": 64 });
        let answer = post(&worker, "/run", &body).await;
        assert_eq!(answer.status, 200, "{code}: {}", answer.body);
        let answer = answer.json();
        assert_eq!(
            (answer["status"].as_str(), answer["error"].as_str()),
            (Some(status), Some(error))
        );
    }
}

#[tokio::test]
async fn wrong_fields_of_code_are_named() {
    let worker = open_worker().await;
    let long = "x".repeat((1 << 20) + 1);
    for (body, field) in [
        (json!({ "code": "" }), "code"),
        (json!({ "code": 1 }), "code"),
        (json!({ "code": null }), "code"),
        (json!({ "code": long }), "code"),
        (json!({ "code": "say", "timeout": 0 }), "timeout"),
        (json!({ "code": "say", "timeout": 301 }), "timeout"),
        (json!({ "code": "say", "timeout": "soon" }), "timeout"),
        (json!({ "code": "say", "memory_limit": 63 }), "memory_limit"),
        (json!({ "code": "say", "memory_limit": 2049 }), "memory_limit"),
        (json!({ "code": "say", "image": "../x" }), "image"),
        (json!({ "code": "say", "timout": 3 }), "timout"),
    ] {
        let answer = post(&worker, "/run", &body).await;
        assert_eq!(answer.status, 422, "{field}: {}", answer.body);
        let (code, message) = answer.error();
        assert_eq!(code, "invalid_fields");
        assert!(message.starts_with(&format!("{field}: ")), "{message}");
        assert_eq!(answer.json()["detail"][0]["loc"], json!(["body", field]));
    }
}

#[tokio::test]
async fn a_body_of_no_form_is_refused_and_of_both() {
    let worker = open_worker().await;
    for body in [json!({}), json!({ "timeout": 3 }), json!({ "code": "say", "FileName": "a.py" })] {
        let answer = post(&worker, "/run", &body).await;
        assert_eq!((answer.status, answer.error().0.as_str()), (400, "bad_form"));
        assert!(
            answer.body.contains("code") && answer.body.contains("FileName"),
            "{}",
            answer.body
        );
    }
    for body in ["", "{", "[]", "1", "null", "\"code\"", "{\"code\": \"\\ud800\"}"] {
        let answer = send(&worker, "POST", "/run", body.to_owned()).await;
        assert!(
            [400, 415, 422].contains(&answer.status),
            "{body}: {} {}",
            answer.status,
            answer.body
        );
    }
    let unknown = post(&worker, "/run", &json!({ "code": "say", "image": "nonesuch" })).await;
    assert_eq!((unknown.status, unknown.error().0.as_str()), (404, "image_not_found"));
}

#[tokio::test]
async fn a_worker_with_lower_maxima_grants_those() {
    let worker = Worker::start_with(|config| {
        config.open = true;
        config.maxima.timeout_ms = 20_000;
        config.maxima.memory_bytes = 128 << 20;
    })
    .await;
    let answer = post(&worker, "/run", &json!({ "code": "say" })).await;
    let number = answer.header("x-sway-run").unwrap();
    let run = worker.get(&format!("/v1/runs/{number}")).send().await.json();
    assert_eq!(run["limits"]["timeout_ms"], 20_000);
    assert_eq!(run["limits"]["memory_bytes"], 128 << 20);
    let answer = post(&worker, "/run", &json!({ "code": "say", "timeout": 21 })).await;
    assert_eq!(answer.error().1, "timeout: 21 is more than 20");
}

#[tokio::test]
async fn a_long_output_is_answered_whole() {
    let worker = open_worker().await;
    let input = json!({ "version": "v1", "event": 1 });
    for (path, body) in [
        ("/run", json!({ "code": "big 3000000" })),
        ("/execute", json!({ "handler": "a.b", "code": "big 3000000", "input": input })),
    ] {
        // It comes in chunks, whose lengths stand between.
        let answer = post(&worker, path, &body).await;
        let written = answer.body.matches('x').count();
        assert!((3_000_000..3_000_010).contains(&written), "{path}: {written}");
    }
}

#[tokio::test]
async fn only_an_open_worker_answers_without_a_token() {
    let worker = Worker::start().await;
    for (method, path) in [("POST", "/run"), ("POST", "/execute"), ("PUT", "/batch-upload")] {
        let answer = send(&worker, method, path, "{}".to_owned()).await;
        assert_eq!(answer.status, 401, "{path}");
        let without = Request::new(worker.addr, "GET", path).send().await;
        assert_eq!(without.status, 401, "{path}");
    }
    let answer = worker.post("/run", r#"{"code": "say hi"}"#).send().await;
    assert_eq!((answer.status, &answer.json()["stdout"]), (200, &json!("hi")));
    let open = open_worker().await;
    assert_eq!(Request::new(open.addr, "GET", "/v1/jobs").send().await.status, 401);
}

#[tokio::test]
async fn a_handler_is_answered_in_sraas_shape() {
    let worker = open_worker().await;
    let call = async |code: &str, more: Value| {
        let mut body = json!({
            "handler": "main.handler", "code": code,
            "input": { "version": "v1", "context": {}, "event": { "a": 4, "b": 1 } }
        });
        let more = more.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(more);
        post(&worker, "/execute", &body).await
    };
    let answer = call("answer {\"quotient\":4.0}", json!({})).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(
        answer.json(),
        json!({ "result": { "quotient": 4.0 }, "logs": "", "error": null, "duration_ms": 7 })
    );
    let number = answer.header("x-sway-run").unwrap();
    let run = worker.get(&format!("/v1/runs/{number}")).send().await.json();
    assert_eq!((&run["filename"], &run["image"]), (&json!("main.handler"), &json!("science")));
    assert_eq!((&run["limits"]["cpus_milli"], &run["limits"]["pids"]), (&json!(500), &json!(64)));
    assert_eq!(run["answer"]["result"], "{\"quotient\":4.0}");

    // No number is rounded on the way.
    let exact = call("answer 123456789012345678901234567890", json!({})).await;
    assert!(exact.body.contains("123456789012345678901234567890"), "{}", exact.body);
    let failed = call("answer error", json!({})).await.json();
    assert_eq!((&failed["result"], &failed["error"]), (&Value::Null, &json!("it failed")));
    let silent = call("exit 3", json!({})).await.json();
    assert_eq!(silent["error"], "the handler ended with exit code 3 and gave no answer");
    let limits = json!({ "limits": { "timeout_ms": 1500 }, "image": "scipy" });
    let late = call("too timeout", limits).await.json();
    assert_eq!(late["error"], "timeout: it did not end within 1.5 s");
    let node = call("answer 1", json!({ "runtime": "nodejs" })).await;
    let number = node.header("x-sway-run").unwrap();
    assert_eq!(worker.get(&format!("/v1/runs/{number}")).send().await.json()["image"], "node");
}

#[tokio::test]
async fn wrong_calls_of_handlers_are_refused_with_the_field() {
    let worker = open_worker().await;
    let input = json!({ "version": "v1", "context": {}, "event": {} });
    let long = json!({ "version": "v1", "event": "x".repeat(1 << 20) });
    let file = json!({ "path": "../main.py", "content": "" });
    for (body, status, told) in [
        (json!({ "handler": "handler", "code": "say", "input": input }), 400, "handler: "),
        (json!({ "handler": "../a.b", "code": "say", "input": input }), 400, "handler: "),
        (json!({ "handler": "a.b", "input": input }), 400, "code"),
        (json!({ "handler": "a.b", "files": [file], "input": input }), 400, "files: "),
        (
            json!({ "handler": "a.b", "code": "say", "input": { "version": "v2", "event": 1 } }),
            400,
            "\"v2\"",
        ),
        (json!({ "handler": "a.b", "code": "say", "input": { "event": 1 } }), 400, "version"),
        (json!({ "handler": "a.b", "code": "say", "input": 3 }), 400, "input: "),
        (json!({ "handler": "a.b", "code": "say", "input": long }), 400, "1048576"),
        (json!({ "handler": "a.b", "code": "say", "inptu": 3, "input": input }), 422, "inptu"),
        (json!({ "handler": "a.b", "code": "say" }), 422, "input"),
        (json!({ "handler": "a.b", "code": "say", "input": input, "runtime": "go" }), 422, "go"),
        (
            json!({ "handler": "a.b", "code": "say", "input": input, "limits": { "pids": 0 } }),
            400,
            "pids",
        ),
    ] {
        let answer = post(&worker, "/execute", &body).await;
        let (_, message) = answer.error();
        assert_eq!(answer.status, status, "{told}: {}", answer.body);
        assert!(message.contains(told), "{told}: {message}");
    }
}

#[tokio::test]
async fn an_uploaded_script_runs_by_its_name_for_its_user_alone() {
    let worker = open_worker().await;
    let upload = json!([{
        "key": "app/ada_app.py", "value": "c2F5IGhlbGxv", "name": "ada_app.py", "parent": "app",
        "is_dir": false, "size": 9, "mode": 420, "mod_time": 1, "uid": 0, "gid": 0, "hash_value": ""
    }]);
    let stored = send(&worker, "PUT", "/batch-upload", upload.to_string()).await;
    assert_eq!((stored.status, stored.body.contains("Stored 1 files")), (200, true));
    let body = json!({ "FileName": "ada_app.py", "Username": "ada" });
    let answer = post(&worker, "/run", &body).await;
    let run_id: i64 = answer.header("x-sway-run").unwrap().parse().unwrap();
    assert_eq!(
        answer.json(),
        json!({ "stdout": "hello", "stderr": "", "exit_code": 0, "run_id": run_id })
    );
    let run = worker.get(&format!("/v1/runs/{run_id}")).send().await.json();
    assert_eq!((&run["username"], &run["filename"]), (&json!("ada"), &json!("ada_app.py")));
    assert_eq!(run["limits"]["timeout_ms"], 1_800_000);

    let by_bob = Request::new(worker.addr, "POST", "/run")
        .header("content-type", "application/json")
        .header("x-sway-user", "bob");
    let refused = by_bob.body(json!({ "FileName": "ada_app.py" }).to_string().into()).send().await;
    assert_eq!((refused.status, refused.error().0.as_str()), (404, "script_not_found"));
    let as_ada = Request::new(worker.addr, "POST", "/run")
        .header("content-type", "application/json")
        .header("x-sway-user", "bob");
    let body = json!([{ "key": "app/x.py", "value": "" }]).to_string();
    let bobs = Request::new(worker.addr, "PUT", "/batch-upload").header("x-sway-user", "bob");
    assert_eq!(bobs.body(body.into()).send().await.status, 200);
    let body = json!({ "FileName": "x.py", "Username": "ada" }).to_string();
    assert_eq!(as_ada.body(body.into()).send().await.status, 403);

    for key in ["app.py", "app/", "app/../x", "app/a/b", "etc/passwd", "app/a b"] {
        let upload = json!([{ "key": key, "value": "" }]).to_string();
        assert_eq!(send(&worker, "PUT", "/batch-upload", upload).await.status, 400, "{key}");
    }
    for body in ["", "{}", "[1]", r#"[{"key": "app/a", "value": "?"}]"#] {
        assert_eq!(
            send(&worker, "PUT", "/batch-upload", body.to_owned()).await.status,
            422,
            "{body}"
        );
    }
}

#[tokio::test]
async fn what_the_policy_objects_to_is_not_queued() {
    let worker = Worker::start_with(|config| {
        config.open = true;
        config.policy = Some(sway_worker::policy::Policy::Science);
    })
    .await;
    let told = "policy science: main.py:1:8: import of os is not allowed";
    let answer = post(&worker, "/run", &json!({ "code": "import os" })).await;
    assert_eq!((answer.status, answer.header("x-sway-run")), (200, None));
    let answer = answer.json();
    assert_eq!((&answer["status"], &answer["error"]), (&json!("error"), &json!(told)));
    let body = json!({
        "handler": "main.handler", "code": "import os", "input": { "version": "v1", "event": 1 }
    });
    assert_eq!(post(&worker, "/execute", &body).await.json()["error"], told);
    let file = json!({ "path": "main.py", "content": "aW1wb3J0IG9z" });
    let job = json!({ "image": "scipy", "program": { "kind": "script", "file": file } });
    let native = worker.post("/v1/jobs", job.to_string()).send().await;
    assert_eq!((native.status, native.error()), (400, ("policy".to_owned(), told.to_owned())));
    assert_eq!(worker.get("/v1/jobs").send().await.json()["jobs"], json!([]));
    assert_eq!(worker.get("/v1/runs").send().await.json()["runs"], json!([]));
}
