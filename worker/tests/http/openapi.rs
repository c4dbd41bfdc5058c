//! `/openapi.json` tells what the worker answers, no more and no less.

use serde_json::Value;

use crate::support::{Request, TOKEN, Worker};

const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

async fn document(worker: &Worker) -> Value {
    let answer = worker.get("/openapi.json").send().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

#[tokio::test]
async fn the_description_and_the_routes_agree() {
    let worker = Worker::start().await;
    let document = document(&worker).await;
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    for path in ["/v1/jobs", "/v1/jobs/{id}/logs", "/run", "/execute", "/batch-upload", "/"] {
        assert!(paths.contains_key(path), "{path}");
    }
    for (path, operations) in paths {
        // No job has this id, and no run this number.
        let target = path.replace("{id}", "0").replace("{path}", "a/b");
        for method in METHODS {
            let request = Request::new(worker.addr, &method.to_uppercase(), &target)
                .header("authorization", &format!("Bearer {TOKEN}"));
            let answer = request.send().await;
            assert!(!answer.body.contains("no_such_route"), "{method} {path}");
            let described = operations.get(method).is_some();
            assert_eq!(described, answer.status != 405, "{method} {path}: {}", answer.status);
            if described {
                let responses = &operations[method]["responses"];
                let status = answer.status.to_string();
                assert!(responses.get(&status).is_some(), "{method} {path} answers {status}");
            }
        }
    }
}

#[test]
fn every_route_is_described_where_it_is_handled() {
    let routes = include_str!("../../src/http/mod.rs");
    // What `routes!` takes is described; pages may have parts that are not.
    let others = routes.lines().filter(|line| line.contains(".route("));
    for line in others {
        assert!(line.contains("pages::"), "{line}");
    }
}

#[tokio::test]
async fn the_description_needs_what_other_routes_need() {
    let worker = Worker::start_with(|config| config.open = true).await;
    let refused = Request::new(worker.addr, "GET", "/openapi.json").send().await;
    assert_eq!(refused.status, 401);
    let document = document(&worker).await;
    let needs = |path: &str, method: &str| {
        let operation = &document["paths"][path][method];
        let security = operation.get("security").unwrap_or(&document["security"]);
        !security.as_array().unwrap().iter().any(|one| one.as_object().unwrap().is_empty())
    };
    // What this worker leaves open, and what it does not.
    for (path, method, expected) in [
        ("/run", "post", false),
        ("/execute", "post", false),
        ("/batch-upload", "put", false),
        ("/healthz", "get", false),
        ("/", "get", false),
        ("/v1/jobs", "post", true),
        ("/v1/runs", "get", true),
        ("/metrics", "get", true),
    ] {
        assert_eq!(needs(path, method), expected, "{method} {path}");
        let mut request = Request::new(worker.addr, &method.to_uppercase(), path);
        if method != "get" {
            request = request.header("content-type", "application/json").body(b"{}".to_vec());
        }
        assert_eq!(request.send().await.status == 401, expected, "{method} {path}");
    }
}

#[tokio::test]
async fn all_that_the_description_refers_to_is_in_it() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let worker = Worker::start().await;
    let document = document(&worker).await;
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50, "{}", found.len());
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[tokio::test]
async fn what_is_put_together_of_parts_can_be_whole() {
    fn closed_parts(document: &Value, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                let parts = fields.get("allOf").and_then(Value::as_array).into_iter().flatten();
                for reference in parts.filter_map(|part| part.get("$ref")?.as_str()) {
                    let part = document.pointer(&reference[1..]).unwrap();
                    if part.get("additionalProperties") == Some(&Value::Bool(false)) {
                        found.push(reference.to_owned());
                    }
                }
                fields.values().for_each(|value| closed_parts(document, value, found));
            }
            Value::Array(values) => {
                values.iter().for_each(|value| closed_parts(document, value, found));
            }
            _ => {}
        }
    }
    let worker = Worker::start().await;
    let document = document(&worker).await;
    let mut found = Vec::new();
    closed_parts(&document, &document, &mut found);
    assert_eq!(found, Vec::<String>::new(), "nothing can be this and have one field more");
}
