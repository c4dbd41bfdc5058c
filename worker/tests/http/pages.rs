//! The pages for people.

use sway_core::access::{Role, Scope, Scopes};
use sway_core::api::submissions::{DecisionRequest, Submission};
use sway_core::api::users::{NewToken, NewUser};
use sway_core::job::{JobFile, JobSpec, JobState, Program};
use sway_core::name::UserName;

use crate::support::{Request, TOKEN, Worker, job_when, json, spec};

fn page(worker: &Worker, path: &str) -> Request {
    Request::new(worker.addr, "GET", path).header("accept", "text/html")
}

/// The cookie of a browser that signed in, and the key that its page's script keeps.
async fn with_key(worker: &Worker) -> (String, String) {
    let answer = Request::new(worker.addr, "POST", "/login")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("accept", "application/json")
        .body(format!("token={TOKEN}&next=%2Fnew").into_bytes())
        .send()
        .await;
    assert_eq!((answer.status, answer.json()["next"].as_str()), (200, Some("/new")));
    let key = answer.json()["key"].as_str().unwrap().to_owned();
    let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    assert!(!cookie.contains(&key) && key != TOKEN);
    (cookie, key)
}

async fn signed_in(worker: &Worker) -> String {
    let answer = Request::new(worker.addr, "POST", "/login")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("accept", "text/html")
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
    let form = page(&worker, "/new").header("cookie", &cookie).send().await;
    assert!(form.body.contains("library/scipy:latest"), "{}", form.body);
}

#[tokio::test]
async fn the_cookie_opens_pages_and_nothing_else() {
    let worker = Worker::start().await;
    let cookie = signed_in(&worker).await;
    let api = page(&worker, "/v1/runs").header("cookie", &cookie).send().await;
    assert_eq!(api.status, 401);
    let wrong = page(&worker, "/run/1").header("cookie", "sway_pages=x").send().await;
    assert_eq!((wrong.status, wrong.header("location")), (303, Some("/login?next=%2Frun%2F1")));
    let refused = Request::new(worker.addr, "POST", "/login")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(b"token=wrong".to_vec())
        .send()
        .await;
    assert_eq!((refused.status, refused.header("set-cookie")), (401, None));
}

#[tokio::test]
async fn a_page_acts_only_with_its_key_and_from_its_own_origin() {
    let worker = Worker::start().await;
    let (cookie, key) = with_key(&worker).await;
    let origin = format!("http://{}", worker.addr);
    let submit = |headers: &[(&str, &str)]| {
        let request = Request::new(worker.addr, "POST", "/v1/jobs")
            .header("content-type", "application/json")
            .body(json(&spec(&["hang"])));
        let headers =
            headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        async move { headers.send().await }
    };
    let (cookie_header, key_header) = (("cookie", &*cookie), ("x-sway-page", &*key));
    let own = ("origin", &*origin);
    assert_eq!(submit(&[own, cookie_header]).await.status, 401, "what any port of this host has");
    assert_eq!(submit(&[own, key_header]).await.status, 401);
    assert_eq!(submit(&[own, cookie_header, ("x-sway-page", &"0".repeat(64))]).await.status, 401);
    let foreign = ("origin", "http://127.0.0.1:1");
    assert_eq!(submit(&[foreign, cookie_header, key_header]).await.status, 403);
    let job = submit(&[own, cookie_header, key_header]).await;
    assert_eq!(job.status, 202, "{}", job.body);
    let id = job.json()["id"].as_str().unwrap().to_owned();
    let post = |path: String| {
        Request::new(worker.addr, "POST", &path)
            .header("origin", &origin)
            .header("cookie", &cookie)
            .header("x-sway-page", &key)
    };
    // Nothing else of the API.
    assert_eq!(post(format!("/v1/jobs/{id}/stdin")).send().await.status, 401);
    assert_eq!(post("/v1/traces".to_owned()).send().await.status, 401);
    let cancelled = post(format!("/v1/jobs/{id}/cancel")).send().await;
    assert_eq!(cancelled.json()["state"], "cancelled", "{}", cancelled.body);
    let logout = Request::new(worker.addr, "POST", "/logout");
    assert_eq!(logout.send().await.status, 403);
    let logout = post("/logout".to_owned()).send().await;
    assert!(logout.header("set-cookie").unwrap().contains("Max-Age=0"));
}

#[tokio::test]
async fn a_page_watches_a_job_without_becoming_what_it_lives_for() {
    let worker = Worker::start().await;
    let job = worker.post("/v1/jobs", json(&spec(&["hang"]))).send().await.json();
    let id = job["id"].as_str().unwrap();
    let cookie = signed_in(&worker).await;
    let watching = page(&worker, &format!("/run/{id}/events")).header("cookie", &cookie).send();
    // Longer than a job outlives its last follower here.
    let seconds = std::time::Duration::from_secs(1);
    assert!(tokio::time::timeout(seconds, watching).await.is_err(), "the job goes on");
    tokio::time::sleep(seconds).await;
    let state = worker.get(&format!("/v1/jobs/{id}")).send().await.json();
    assert_eq!(state["state"], "running");
    worker.post(&format!("/v1/jobs/{id}/cancel"), b"".to_vec()).send().await;
    let told = page(&worker, &format!("/run/{id}/events")).header("cookie", &cookie).send().await;
    assert!(
        told.body.contains("event: output") && told.body.contains("event: end"),
        "{}",
        told.body
    );
    let saved = page(&worker, &format!("/run/{id}/stdout")).header("cookie", &cookie).send().await;
    assert!(saved.body.contains("hanging"), "{}", saved.body);
    assert_eq!(saved.header("content-disposition"), Some("attachment"));
    assert_eq!(saved.header("x-content-type-options"), Some("nosniff"));
}

#[tokio::test]
async fn runs_are_filtered_by_state_cause_image_and_text() {
    let worker = Worker::start().await;
    for words in [&["say", "x"][..], &["exit", "3"], &["too", "timeout"]] {
        worker.post("/v1/jobs?wait=true", json(&spec(words))).send().await;
    }
    let cookie = signed_in(&worker).await;
    for (query, expected) in [
        ("", &[3, 2, 1][..]),
        ("state=completed", &[1]),
        ("state=failed", &[3, 2]),
        ("cause=timeout", &[3]),
        ("state=failed&cause=exited", &[2]),
        ("image=SCI", &[3, 2, 1]),
        ("image=node", &[]),
        ("q=exit", &[2]),
        ("q=exit&cause=timeout", &[]),
        ("before=3&state=failed", &[2]),
        ("q=&state=&cause=&image=", &[3, 2, 1]),
    ] {
        let list = page(&worker, &format!("/?{query}")).header("cookie", &cookie).send().await;
        let shown: Vec<i64> =
            (1..=3).rev().filter(|id| list.body.contains(&format!("href=\"/run/{id}\""))).collect();
        assert_eq!(shown, expected, "{query}");
        // The same of the API, which takes no empty names.
        if !query.contains("state=&") {
            let runs = worker.get(&format!("/v1/runs?{query}")).send().await.json();
            let runs = runs["runs"].as_array().unwrap();
            let told: Vec<i64> = runs.iter().map(|run| run["id"].as_i64().unwrap()).collect();
            assert_eq!(told, expected, "{query}");
        }
    }
    let none = page(&worker, "/?state=nonesuch").header("cookie", &cookie).send().await;
    assert_eq!((none.status, none.error().0.as_str()), (400, "malformed_query"));
}

#[tokio::test]
async fn a_job_that_waits_has_a_page_and_stands_in_the_list() {
    let worker = Worker::start_with(|config| config.running_max = 1).await;
    worker.post("/v1/jobs", json(&spec(&["hang"]))).send().await;
    let waiting = worker.post("/v1/jobs", json(&spec(&["say", "x"]))).send().await.json();
    let id = waiting["id"].as_str().unwrap();
    let cookie = signed_in(&worker).await;
    let shown = page(&worker, &format!("/run/{id}")).header("cookie", &cookie).send().await;
    assert!(shown.status == 200 && shown.body.contains("waits for a place"), "{}", shown.body);
    let list = page(&worker, "/").header("cookie", &cookie).send().await;
    assert!(list.body.contains(&format!("href=\"/run/{id}\"")), "{}", list.body);
}

#[tokio::test]
async fn files_of_the_pages_are_kept_by_browsers_for_ever() {
    let worker = Worker::start().await;
    let form = page(&worker, "/").send().await;
    let paths: Vec<&str> =
        form.body.split('"').filter(|part| part.starts_with("/assets/")).collect();
    assert!(paths.len() >= 4, "{paths:?}");
    for path in paths {
        let file = page(&worker, path).send().await;
        assert_eq!(file.status, 200, "{path}");
        assert!(file.header("cache-control").unwrap().contains("immutable"));
        assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
        let etag = file.header("etag").unwrap();
        let again = page(&worker, path).header("if-none-match", etag).send().await;
        assert_eq!((again.status, again.body.as_str()), (304, ""));
    }
    assert_eq!(page(&worker, "/assets/0/style.css").send().await.status, 401);
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
    for path in ["/run/1", "/", "/?q=%22%3E%3Cscript%3E", "/?image=%22%3E%3Cscript%3E"] {
        let answer = worker.get(path).header("accept", "text/html").send().await;
        assert_eq!(answer.status, 200);
        assert!(!answer.body.contains("<script>") && !answer.body.contains("<img src=x"), "{path}");
        // Its own scripts are files.
        assert!(answer.body.matches("<script").count() == 2, "{path}");
        assert!(!answer.body.contains(" style=") && !answer.body.contains("<style"), "{path}");
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

#[tokio::test]
async fn a_user_signs_in_as_itself_until_the_token_is_revoked() {
    let worker = Worker::start().await;
    let operator = worker.client("operator");
    let made = async |name: &str, role: Role, scopes: Option<Scopes>| {
        let user: UserName = name.parse().unwrap();
        operator.users().add(&NewUser { name: user.clone(), role }).await.unwrap();
        let new = NewToken { user, label: None, scopes, expires_in_s: None };
        operator.users().add_token(&new).await.unwrap()
    };
    let sign_in = async |secret: &str| {
        let request = Request::new(worker.addr, "POST", "/login")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(format!("token={secret}").into_bytes());
        request.send().await
    };
    for user in ["ada", "bob"] {
        let job = worker.client(user).jobs().submit(&spec(&["say", user])).await.unwrap();
        job_when(&worker.client(user), &job.id, |job| job.state.is_final()).await;
    }
    worker.client("bob").submissions().submit(&submission("To alice", &[])).await.unwrap();
    let ada = made("ada", Role::Owner, None).await;
    let answer = sign_in(&ada.secret).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let key = answer.json()["key"].as_str().unwrap().to_owned();
    let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let (_, random) = ada.secret.rsplit_once('_').unwrap();
    assert!(!cookie.contains(random) && !cookie.contains(&key));

    let list = page(&worker, "/").header("cookie", &cookie).send().await.body;
    assert!(list.contains("ada") && !list.contains("bob"), "{list}");
    assert!(list.contains("href=\"/new\""), "{list}");
    let submit = async |cookie: &str| {
        let request = Request::new(worker.addr, "POST", "/v1/jobs")
            .header("content-type", "application/json")
            .header("cookie", cookie)
            .header("x-sway-page", &key)
            // The token says who one is, in a browser too.
            .header("x-sway-user", "bob");
        request.body(json(&spec(&["say", "x"]))).send().await
    };
    let job = submit(&cookie).await;
    assert_eq!((job.status, &job.json()["username"]), (202, &"ada".into()), "{}", job.body);

    // The key of one user with the cookie of another is no key.
    let sue = made("sue", Role::Submitter, None).await;
    let answer = sign_in(&sue.secret).await;
    let sues = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    assert_eq!(submit(&sues).await.status, 401);
    let list = page(&worker, "/").header("cookie", &sues).send().await.body;
    assert!(list.contains("sue") && !list.contains("href=\"/new\""), "{list}");
    assert!(list.contains("href=\"/submissions\"") && !list.contains("href=\"/inbox\""), "{list}");
    assert_eq!(page(&worker, "/inbox").header("cookie", &sues).send().await.status, 403);
    let inbox = page(&worker, "/inbox?state=").header("cookie", &cookie).send().await;
    assert!(inbox.status == 200 && inbox.body.contains("No jobs."), "bob's are not ada's");
    // Nor does a cookie of one's own with the id of another token open anything.
    let forged = sues.replace(&sue.token.id, &ada.token.id);
    assert_eq!(page(&worker, "/run/1").header("cookie", &forged).send().await.status, 303);

    let blind = made("max", Role::Owner, Some(Scopes::of(&[Scope::Run]))).await;
    assert_eq!(sign_in(&blind.secret).await.status, 403);

    assert_eq!(page(&worker, "/run/1").header("cookie", &cookie).send().await.status, 200);
    operator.users().revoke_token(&ada.token.id).await.unwrap();
    assert_eq!(page(&worker, "/run/1").header("cookie", &cookie).send().await.status, 303);
    assert_eq!(submit(&cookie).await.status, 401);
    assert_eq!(sign_in(&ada.secret).await.status, 401);
}

fn submission(name: &str, files: &[(&str, &str)]) -> Submission {
    let file = |&(path, content): &(&str, &str)| JobFile {
        path: path.to_owned(),
        content: content.into(),
        executable: false,
    };
    let files: Vec<_> = [("run.sh", "say done\n")].iter().chain(files).map(file).collect();
    let entry = files[0].path.clone();
    let image = Some("scipy".parse().unwrap());
    Submission {
        owner: "alice".parse().unwrap(),
        queue: "code-queue".to_owned(),
        name: name.to_owned(),
        description: "Sums of rain".to_owned(),
        tags: vec!["weather".to_owned()],
        job: JobSpec::new(image, Program::Folder { files, entry }),
    }
}

#[tokio::test]
async fn an_inbox_shows_what_is_pending_and_finds_it_by_text_state_and_submitter() {
    let worker = Worker::start().await;
    let cookie = signed_in(&worker).await;
    let mut ids = Vec::new();
    for (user, name, file) in
        [("bob", "First", "a.py"), ("carol", "Second", "b.py"), ("bob", "Third", "c.py")]
    {
        let client = worker.client(user);
        let asked = submission(name, &[(file, "print(1)\n")]);
        ids.push(client.submissions().submit(&asked).await.unwrap().id);
    }
    let no = DecisionRequest { reason: "Too broad".to_owned(), digest: None };
    worker.client("alice").submissions().reject(&ids[2], &no).await.unwrap();
    let shown = async |path: &str| {
        let list = page(&worker, path).header("cookie", &cookie).send().await;
        assert_eq!(list.status, 200, "{path}: {}", list.body);
        let is_shown = |id: &&String| list.body.contains(&format!("href=\"/job/{id}\""));
        let shown: Vec<usize> =
            (1..).zip(&ids).filter(|(_, id)| is_shown(id)).map(|it| it.0).collect();
        (shown, list.body)
    };
    for (path, expected) in [
        ("/inbox", &[1, 2][..]),
        ("/inbox?state=", &[1, 2, 3]),
        ("/inbox?state=rejected", &[3]),
        ("/inbox?submitter=bob", &[1]),
        ("/inbox?state=&submitter=bob", &[1, 3]),
        ("/inbox?q=second", &[2]),
        ("/inbox?q=WEATHER", &[1, 2]),
        ("/inbox?q=of+rain&state=", &[1, 2, 3]),
        ("/inbox?q=nothing", &[]),
        ("/inbox?submitter=no%20name", &[]),
        // What the reader, the operator, submitted: nothing.
        ("/submissions", &[]),
    ] {
        assert_eq!(shown(path).await.0, expected, "{path}");
    }
    let asked = submission("Fourth", &[("d.py", "import subprocess, socket\nopen('x')\n")]);
    let found = worker.client("bob").submissions().submit(&asked).await.unwrap();
    assert_eq!(found.submission.unwrap().findings, Some(3));
    let (_, pending) = shown("/inbox").await;
    let told = format!("href=\"/job/{}#findings\">3 findings<", found.id);
    assert!(pending.contains(&told) && pending.contains("no findings"), "{pending}");
    let (_, rejected) = shown("/inbox?state=rejected").await;
    assert!(rejected.contains("Too broad") && !rejected.contains("name=\"job\""), "{rejected}");
    let none = page(&worker, "/inbox?state=nonesuch").header("cookie", &cookie).send().await;
    assert_eq!((none.status, none.error().0.as_str()), (400, "malformed_query"));
    // Its submitter sees it by another list, with the reason.
    let own = worker.get("/submissions").header("accept", "text/html").header("x-sway-user", "bob");
    let own = own.send().await;
    assert!(own.body.contains("Too broad") && own.body.contains("First"), "{}", own.body);
    assert!(!own.body.contains("Second") && !own.body.contains("name=\"job\""));
}

#[tokio::test]
async fn a_page_decides_with_its_key_on_the_job_that_it_showed() {
    let worker = Worker::start().await;
    let (cookie, key) = with_key(&worker).await;
    let bob = worker.client("bob");
    let asked = submission("Sums", &[("a.py", "print(1)\n")]);
    let job = bob.submissions().submit(&asked).await.unwrap();
    let digest = job.submission.unwrap().digest;
    let shown = page(&worker, &format!("/job/{}", job.id)).header("cookie", &cookie).send().await;
    assert!(shown.body.contains(&format!("data-digest=\"{digest}\"")), "{}", shown.body);
    let decide = |verb: &str, digest: &str, headers: &[(&str, &str)]| {
        let request = Request::new(worker.addr, "POST", &format!("/v1/jobs/{}/{verb}", job.id))
            .header("content-type", "application/json")
            .header("cookie", &cookie)
            .body(format!("{{\"reason\": \"ok\", \"digest\": \"{digest}\"}}").into_bytes());
        let request =
            headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        async move { request.send().await }
    };
    assert_eq!(decide("approve", &digest, &[]).await.status, 401, "the cookie alone");
    let key = [("x-sway-page", &*key)];
    let other = decide("approve", &"0".repeat(64), &key).await;
    assert_eq!(other.error().0, "not_reviewed");
    let foreign = [key[0], ("origin", "http://127.0.0.1:1")];
    assert_eq!(decide("reject", &digest, &foreign).await.status, 403);
    let approved = decide("approve", &digest, &key).await;
    assert_eq!(approved.status, 200, "{}", approved.body);
    job_when(&bob, &job.id, |job| job.state.is_final()).await;
    let shown = page(&worker, &format!("/job/{}", job.id)).header("cookie", &cookie).send().await;
    assert!(shown.body.contains("href=\"/run/1\"") && !shown.body.contains("id=\"approve\""));
}

#[tokio::test]
async fn a_review_shows_every_file_what_the_policy_finds_and_what_changed() {
    let worker = Worker::start().await;
    let cookie = signed_in(&worker).await;
    let [alice, bob] = ["alice", "bob"].map(|user| worker.client(user));
    let old = submission("Sums", &[("a.py", "a = 1\nprint(a)\n"), ("gone.txt", "x\n")]);
    let old = bob.submissions().submit(&old).await.unwrap().id;
    let yes = DecisionRequest { reason: "fine".to_owned(), digest: None };
    alice.submissions().approve(&old, &yes).await.unwrap();
    let code = "a = 1\nimport subprocess\nprint(a)\n";
    let mut new = submission("Sums", &[("a.py", code), ("empty.py", ""), ("b.bin", "\0")]);
    if let Program::Folder { files, .. } = &mut new.job.program {
        files[3].content = vec![0xff, 0xfe];
    }
    new.job.args = vec!["--fast".to_owned()];
    let new = bob.submissions().submit(&new).await.unwrap().id;
    let shown = page(&worker, &format!("/job/{new}")).header("cookie", &cookie).send().await;
    assert_eq!(shown.status, 200);
    for part in [
        "data-number=\"2\"><span class=\"code-keyword\">import</span> subprocess\n",
        "id=\"f1-l2\"",
        "href=\"#f1-l2\"",
        "<ins class=\"line\">+import subprocess\n</ins>",
        "<span class=\"line\"> a = 1\n</span>",
        "<del class=\"line\">-x\n</del>",
        "<ins class=\"line\">+arguments: &quot;--fast&quot;\n</ins>",
        "No text: 2 B, SHA-1 ",
        "Empty.",
        &format!("href=\"/job/{old}\""),
    ] {
        assert!(shown.body.contains(part), "{part} is not in {}", shown.body);
    }
    // Jobs on which nobody decides have no such page.
    let direct = bob.jobs().submit(&spec(&["hang"])).await.unwrap().id;
    let direct = page(&worker, &format!("/job/{direct}")).header("cookie", &cookie).send().await;
    assert_eq!(direct.status, 303);
    let none = page(&worker, "/job/zzzz").header("cookie", &cookie).send().await;
    assert_eq!(none.status, 404);
}

#[tokio::test]
async fn what_a_submitter_wrote_can_not_become_markup() {
    let worker = Worker::start().await;
    let bob = worker.client("bob");
    let hostile = "</span><script>alert(1)</script><img src=x onerror=alert(1)>\"'";
    let mut asked = submission(hostile, &[(&format!("{}.py", hostile.replace('/', "")), hostile)]);
    asked.description = format!("{hostile}\n\u{202e}{hostile}");
    asked.tags = vec!["<script>".to_owned()];
    asked.job.args = vec![hostile.to_owned()];
    asked.job.env = [("A".to_owned(), hostile.to_owned())].into();
    let first = bob.submissions().submit(&asked).await.unwrap().id;
    let yes = DecisionRequest { reason: hostile.to_owned(), digest: None };
    worker.client("alice").submissions().approve(&first, &yes).await.unwrap();
    job_when(&bob, &first, |job| job.state != JobState::Pending).await;
    asked.job.args = vec![format!("{hostile}2")];
    asked.job.program = submission("x", &[("<script>.py", hostile)]).job.program;
    let second = bob.submissions().submit(&asked).await.unwrap().id;
    for path in ["/inbox?state=", "/inbox?q=%22%3E%3Cscript%3E", "/submissions"]
        .map(str::to_owned)
        .into_iter()
        .chain([&first, &second].map(|id| format!("/job/{id}")))
    {
        let answer = worker.get(&path).header("accept", "text/html").header("x-sway-user", "bob");
        let answer = answer.send().await;
        assert_eq!(answer.status, 200);
        assert!(!answer.body.contains("<script>") && !answer.body.contains("<img src=x"), "{path}");
        assert!(answer.body.matches("<script").count() <= 2, "{path}");
        assert!(!answer.body.contains('\u{202e}'), "{path}");
        assert!(!answer.body.contains(" style=") && !answer.body.contains("<style"), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
    }
}
