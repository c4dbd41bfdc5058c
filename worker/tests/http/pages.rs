//! The pages for people.

use crate::support::{Request, TOKEN, Worker, json, spec};

fn page(worker: &Worker, path: &str) -> Request {
    Request::new(worker.addr, "GET", path).header("accept", "text/html")
}

async fn signed_in(worker: &Worker) -> String {
    let answer = Request::new(worker.addr, "POST", "/login")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!("token={TOKEN}").into_bytes())
        .send()
        .await;
    assert_eq!(answer.status, 303, "{}", answer.body);
    let cookie = answer.header("set-cookie").unwrap().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    assert!(!cookie.contains(TOKEN));
    cookie.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_person_signs_in_and_sees_the_runs() {
    let worker = Worker::start().await;
    worker.post("/v1/jobs?wait=true", json(&spec(&["say", "hello"]))).send().await;
    let form = page(&worker, "/").send().await;
    assert!(form.body.contains("<form") && !form.body.contains("class=\"card\""));
    let cookie = signed_in(&worker).await;
    let list = page(&worker, "/").header("cookie", &cookie).send().await;
    assert!(list.body.contains("href=\"/run/1\""), "{}", list.body);
    let run = page(&worker, "/run/1").header("cookie", &cookie).send().await;
    assert!(run.body.contains("hello"), "{}", run.body);
    let none = page(&worker, "/?q=nothing").header("cookie", &cookie).send().await;
    assert!(none.body.contains("No runs."));
    assert_eq!(page(&worker, "/run/99").header("cookie", &cookie).send().await.status, 404);
    assert_eq!(page(&worker, "/style.css").send().await.status, 200);
}

#[tokio::test]
async fn the_cookie_opens_pages_and_nothing_else() {
    let worker = Worker::start().await;
    let cookie = signed_in(&worker).await;
    let api = page(&worker, "/v1/runs").header("cookie", &cookie).send().await;
    assert_eq!(api.status, 401);
    let wrong = page(&worker, "/run/1").header("cookie", "sway_pages=x").send().await;
    assert_eq!((wrong.status, wrong.header("location")), (303, Some("/")));
    let refused = Request::new(worker.addr, "POST", "/login")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(b"token=wrong".to_vec())
        .send()
        .await;
    assert_eq!((refused.status, refused.header("set-cookie")), (401, None));
}

#[tokio::test]
async fn what_a_job_chose_can_not_become_markup() {
    let worker = Worker::start().await;
    let hostile = "<script>alert(1)</script>";
    let mut asked = spec(&["say", hostile]);
    if let sway_core::job::Program::Command { argv } = &mut asked.program {
        argv.push("</pre><img src=x onerror=alert(1)>".to_owned());
    }
    worker.post("/v1/jobs?wait=true", json(&asked)).send().await;
    for path in ["/run/1", "/", "/?q=%22%3E%3Cscript%3E"] {
        let answer = worker.get(path).header("accept", "text/html").send().await;
        assert_eq!(answer.status, 200);
        assert!(!answer.body.contains("<script") && !answer.body.contains("<img"), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
    }
}

#[tokio::test]
async fn an_open_worker_shows_its_list_without_a_token() {
    let worker = Worker::start_with(|config| config.open = true).await;
    worker.post("/v1/jobs?wait=true", json(&spec(&["say", "x"]))).send().await;
    let list = page(&worker, "/").send().await;
    assert_eq!(list.status, 200);
    // Whoever has no token sees no one's runs but those of nobody.
    assert!(list.body.contains("No runs."), "{}", list.body);
    // Nor by saying that it is somebody.
    for user in ["operator", "ada"] {
        let list = page(&worker, "/").header("x-sway-user", user).send().await;
        assert!(list.body.contains("No runs."), "{}", list.body);
    }
    assert_eq!(page(&worker, "/v1/runs").send().await.status, 401);
}

#[tokio::test]
async fn a_form_of_a_stranger_is_bounded() {
    let worker = Worker::start().await;
    let long = Request::new(worker.addr, "POST", "/login")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!("token={}", "x".repeat(10_000)).into_bytes())
        .send()
        .await;
    assert_eq!((long.status, long.error().0.as_str()), (413, "malformed_form"));
    let none = Request::new(worker.addr, "POST", "/login").body(b"{}".to_vec()).send().await;
    assert_eq!((none.status, none.error().0.as_str()), (415, "malformed_form"));
}
