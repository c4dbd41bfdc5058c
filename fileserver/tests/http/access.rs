//! Who gets in, and what is said to those who don't.

use crate::server::{Server, TOKEN};

#[tokio::test]
async fn only_healthz_answers_without_a_token() {
    let server = Server::start().await;
    assert_eq!(server.send_bare("GET /healthz HTTP/1.1", b"").await.status, 200);
    for path in ["/v1/refs", "/metrics", "/v1/blobs/xyz", "/nothing", "/v1/refs/a"] {
        let answer = server.send_bare(&format!("GET {path} HTTP/1.1"), b"").await;
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
        assert_eq!(answer.error().0, "unauthorized");
    }
    let wrong = "GET /v1/refs HTTP/1.1\nauthorization: Bearer wrong";
    assert_eq!(server.send_bare(wrong, b"").await.status, 401);
    assert_eq!(server.send("GET /v1/refs HTTP/1.1", b"").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_page_in_a_browser_is_refused() {
    let server = Server::start().await;
    let get = "GET /v1/refs HTTP/1.1";
    for (headers, status) in [
        ("host: localhost:8443", 200),
        ("host: [::1]:8443", 200),
        ("host: evil.example:8443", 403),
        ("host: 127.0.0.1.evil.example", 403),
        ("host:", 403),
        ("host: localhost:8443\norigin: http://localhost:8443", 200),
        ("host: localhost:8443\norigin: http://evil.example", 403),
        ("host: localhost:8443\norigin: null", 403),
    ] {
        let answer = server.send(&format!("{get}\n{headers}"), b"").await;
        assert_eq!(answer.status, status, "{headers}");
    }
    let post = "POST /v1/blobs/missing HTTP/1.1";
    for (headers, status) in [
        ("content-type: application/json", 200),
        ("content-type: application/json; charset=utf-8", 200),
        ("content-type: text/plain", 415),
        ("content-type: application/x-www-form-urlencoded", 415),
        ("x-none: 1", 415),
    ] {
        let answer = server.send(&format!("{post}\n{headers}"), b"{\"digests\":[]}").await;
        assert_eq!(answer.status, status, "{headers}");
    }
    server.stop().await;
}

#[tokio::test]
async fn bad_requests_are_answered_in_one_shape_with_a_hint() {
    let server = Server::start().await;
    let post = "POST /v1/blobs/missing HTTP/1.1\ncontent-type: application/json";
    for body in ["{", "[]", "{}", "{\"digests\":[\"xyz\"]}", "{\"digests\":[],\"more\":1}"] {
        let answer = server.send(post, body.as_bytes()).await;
        let (code, hint) = answer.error();
        assert!((400..=422).contains(&answer.status), "{body}: {}", answer.status);
        assert_eq!(code, "malformed_json", "{body}");
        assert!(hint.is_some(), "{body}");
    }
    let digests = vec!["0".repeat(40); sway_core::api::blobs::DIGESTS_MAX + 1];
    let long = serde_json::json!({ "digests": digests }).to_string();
    assert_eq!(server.send(post, long.as_bytes()).await.status, 413);

    for (request, status, code) in [
        ("GET /v1/blobs/XYZ HTTP/1.1", 400, "malformed_path"),
        ("GET /v1/blobs/%00 HTTP/1.1", 400, "malformed_path"),
        ("GET /v1/refs/a%00b HTTP/1.1", 400, "malformed_ref"),
        ("GET /v1/refs/a/../b HTTP/1.1", 400, "malformed_ref"),
        ("GET /v1/refs/a%0Ab HTTP/1.1", 400, "malformed_ref"),
        ("GET /v1/refs/none HTTP/1.1", 404, "ref_not_found"),
        ("GET /nothing HTTP/1.1", 404, "no_such_route"),
        ("DELETE /v1/refs HTTP/1.1", 405, "method_not_allowed"),
    ] {
        let answer = server.send(request, b"").await;
        assert_eq!((answer.status, answer.error().0.as_str()), (status, code), "{request}");
    }
    server.stop().await;
}

#[tokio::test]
async fn metrics_count_requests_by_route() {
    let server = Server::start().await;
    server.send("GET /v1/refs HTTP/1.1", b"").await;
    let answer = server.send("GET /metrics HTTP/1.1", b"").await;
    let text = String::from_utf8(answer.body).unwrap();
    assert!(text.contains("route=\"/v1/refs\""), "{text}");
    assert!(!text.contains(TOKEN));
    server.stop().await;
}
