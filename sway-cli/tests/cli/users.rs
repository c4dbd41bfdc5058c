//! `sway user`, `sway token`, `sway whoami`.

use serde_json::{Value, json};

use crate::fake_worker::{Answer, FakeWorker, Request, error};
use crate::sway::{Home, text};

fn token(id: &str) -> Value {
    json!({
        "id": id, "user": "ada", "label": "ci", "scopes": ["run", "read"],
        "created_at": "2026-01-02T03:04:05Z", "last_used_at": "2026-01-03T00:00:00Z"
    })
}

fn answer(request: &Request) -> Answer {
    let user = json!({ "name": "ada", "role": "owner", "created_at": "2026-01-02T03:04:05Z" });
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/v1/me") => Answer::Json(
            200,
            json!({ "user": "ada", "role": "owner", "scopes": ["run", "read"], "token": "0a1b" }),
        ),
        ("GET", "/v1/users") => Answer::Json(200, json!({ "users": [user] })),
        ("POST", "/v1/users") => Answer::Json(201, user),
        ("GET", "/v1/tokens") => {
            let mut revoked = token("2c3d");
            revoked["revoked_at"] = json!("2026-01-04T00:00:00Z");
            revoked["user"] = json!("bob");
            Answer::Json(200, json!({ "tokens": [token("0a1b"), revoked] }))
        }
        ("POST", "/v1/tokens") => {
            Answer::Json(201, json!({ "secret": "sway_0a1b_secret", "token": token("0a1b") }))
        }
        ("DELETE", "/v1/tokens/0a1b") => Answer::Json(200, token("0a1b")),
        ("DELETE", "/v1/users/ada@example.org") => Answer::Json(200, user),
        _ => Answer::Json(403, error("scope_missing", "this needs the scope admin", None)),
    }
}

fn stdout(worker: &FakeWorker, args: &[&str]) -> String {
    let home = Home::new();
    let output =
        home.sway(&worker.url, args).env("TZ", "UTC").assert().success().get_output().clone();
    text(&output.stdout)
}

#[test]
fn users_and_tokens_are_listed() {
    let worker = FakeWorker::new(answer);
    insta::assert_snapshot!(stdout(&worker, &["user", "list"]), @r#"
    USER  ROLE   SINCE
    ada   owner  2026-01-02 03:04:05
    "#);
    insta::assert_snapshot!(stdout(&worker, &["token", "list"]), @r#"
    ID    USER  SCOPES    LABEL  LAST USED
    0a1b  ada   run,read  ci     2026-01-03 00:00:00
    2c3d  bob   run,read  ci     2026-01-03 00:00:00  revoked 2026-01-04 00:00:00
    "#);
    assert_eq!(stdout(&worker, &["token", "list", "bob"]).lines().count(), 2);
    insta::assert_snapshot!(stdout(&worker, &["whoami"]), @r#"
    User    ada
    Role    owner
    Scopes  run,read
    Token   0a1b
    "#);
}

#[test]
fn a_secret_alone_goes_to_standard_output() {
    let worker = FakeWorker::new(answer);
    let args = ["token", "add", "ada", "--label", "ci", "--scopes", "run,read", "--expires", "1h"];
    assert_eq!(stdout(&worker, &args), "sway_0a1b_secret\n");
    assert_eq!(
        worker.request("POST", "/v1/tokens").json(),
        json!({ "user": "ada", "label": "ci", "scopes": ["run", "read"], "expires_in_s": 3600 })
    );
    let made: Value =
        serde_json::from_str(&stdout(&worker, &["token", "add", "ada", "--json"])).unwrap();
    assert_eq!(
        (&made["secret"], &made["token"]["id"]),
        (&json!("sway_0a1b_secret"), &json!("0a1b"))
    );
    assert_eq!(worker.request("POST", "/v1/tokens").json(), json!({ "user": "ada" }));
}

#[test]
fn a_new_user_may_little_unless_it_is_said() {
    let worker = FakeWorker::new(answer);
    stdout(&worker, &["user", "add", "ada"]);
    assert_eq!(
        worker.request("POST", "/v1/users").json(),
        json!({ "name": "ada", "role": "submitter" })
    );
    stdout(&worker, &["user", "add", "ada", "--role", "owner"]);
    assert_eq!(
        worker.request("POST", "/v1/users").json(),
        json!({ "name": "ada", "role": "owner" })
    );
}

#[test]
fn ends_are_asked_for_by_name_and_id() {
    let worker = FakeWorker::new(answer);
    assert_eq!(stdout(&worker, &["token", "revoke", "0a1b"]), "");
    assert_eq!(stdout(&worker, &["user", "revoke", "ada@example.org"]), "");
    let home = Home::new();
    let refused = home.sway(&worker.url, &["user", "revoke", "bob"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("scope admin"), "{}", text(&refused.stderr));
}

#[test]
fn wrong_scopes_and_roles_are_told_with_the_right_ones() {
    let worker = FakeWorker::new(answer);
    for (args, told) in [
        (&["user", "add", "ada", "--role", "king"][..], "submitter, owner and operator"),
        (&["token", "add", "ada", "--scopes", "fly"], "run,submit,read"),
        (&["user", "add", "a/b"], "not a user name"),
    ] {
        let home = Home::new();
        let refused = home.sway(&worker.url, args).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{args:?}");
        let stderr = text(&refused.stderr);
        assert!(stderr.contains(told), "{stderr}");
    }
}
