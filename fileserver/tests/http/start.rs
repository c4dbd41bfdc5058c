//! Starts: the answer with manifest and trace, whole and in stripes.

use bytes::Bytes;
use futures::TryStreamExt as _;
use sway_client::refs::Expect;
use sway_client::start::{START_MOVED, StartAnswer, StartHead, StartQuery};
use sway_client::{Client, ClientError};
use sway_core::api::start::{START_PIECE_LEN, STRIPES_MAX, start_etag};
use sway_core::blob::FrameHeader;
use sway_core::bundle::Bundle;
use sway_core::digest::Digest;
use sway_core::name::{RefName, UserName};
use sway_core::trace::{TraceKey, trace_ref};

use crate::server::{Server, body_of, frame};

fn name(text: &str) -> RefName {
    text.parse().unwrap()
}

fn key(text: &str) -> TraceKey {
    text.parse().unwrap()
}

fn ada() -> UserName {
    "ada@example.org".parse().unwrap()
}

/// Bytes that no encoder makes smaller.
fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_le_bytes()[7]
    };
    (0..len).map(|_| next()).collect()
}

/// Asks for the image with the trace of `app.py`, else the default one.
fn query(image: &str) -> StartQuery {
    StartQuery {
        images: vec![name(image)],
        manifest: None,
        user: ada(),
        keys: vec![key("app.py"), TraceKey::any()],
        have: Vec::new(),
        etag: None,
        changes: false,
        stripes: 6,
    }
}

type Frames = Vec<(FrameHeader, Bytes)>;

/// Stores an image and a trace under `key`; returns all frames that its start has.
async fn store(client: &Client, image: &str, key: &TraceKey, seed: u32) -> Frames {
    let lens = [50_000, 9, 700, START_PIECE_LEN - 29, 262_144, 1, 100_000, 0, 262_144];
    let raws = (0..).zip(lens).map(|(at, len)| match at {
        // Among them one that is stored compressed.
        4 => vec![b'x'; len],
        at => noise(seed * 100 + at, len),
    });
    let frames: Frames = raws.map(|raw| frame(&raw)).collect();
    client.blobs().upload_batch(&frames).await.unwrap();
    let bundle = Bundle { members: frames[1..].iter().map(|(header, _)| header.digest).collect() };
    let bundle = client.blobs().put(&bundle.encode().unwrap()).await.unwrap();
    let manifest = frames[0].0.digest;
    client.refs().put(&name(image), manifest, Expect::Any).await.unwrap();
    let trace = trace_ref(&ada(), manifest, key);
    client.refs().put(&trace, bundle, Expect::Any).await.unwrap();
    frames
}

async fn stream(client: &Client, query: StartQuery) -> (StartHead, Frames) {
    match client.start(query).await.unwrap() {
        StartAnswer::Stream(head, frames) => (head, frames.try_collect().await.unwrap()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_start_brings_manifest_and_trace_over_any_number_of_connections() {
    let server = Server::start().await;
    let client = server.client();
    let stored = store(&client, "images/ada/x:1", &key("app.py"), 1).await;
    for stripes in 1..=STRIPES_MAX {
        let query = StartQuery { stripes, ..query("images/ada/x:1") };
        let (head, frames) = stream(&client, query).await;
        assert_eq!(frames, stored, "{stripes} stripes");
        assert_eq!(head.image, Some(name("images/ada/x:1")));
        assert_eq!(head.manifest, stored[0].0.digest);
        assert!(head.bundle.is_some());
    }
    // The same by its manifest.
    let manifest = Some(stored[0].0.digest);
    let by_digest = StartQuery { images: Vec::new(), manifest, ..query("images/ada/x:1") };
    let (head, frames) = stream(&client, by_digest).await;
    assert_eq!((head.image, frames), (None, stored));
    server.stop().await;
}

#[tokio::test]
async fn any_blobs_come_over_any_number_of_connections() {
    let server = Server::start().await;
    let client = server.client();
    let stored = store(&client, "images/ada/x:1", &key("app.py"), 1).await;
    let absent = Digest::of(b"absent");
    let wanted: Vec<Digest> =
        stored.iter().map(|(header, _)| header.digest).chain([absent]).collect();
    for stripes in [1, 3, STRIPES_MAX] {
        let frames: Frames =
            client.blobs().fetch_striped(&wanted, stripes).try_collect().await.unwrap();
        assert_eq!(frames[..stored.len()], stored, "{stripes} stripes");
        assert!(frames[stored.len()].0.is_missing());
    }
    let post = "POST /v1/blobs/fetch?stripe=9&stripes=3 HTTP/1.1\ncontent-type: application/json";
    let refused = server.send(post, br#"{"digests": []}"#).await;
    assert!(String::from_utf8_lossy(&refused.body).contains("malformed_query"));
}

#[tokio::test]
async fn a_stripe_has_every_nth_piece_of_the_stream() {
    let server = Server::start().await;
    let stored = store(&server.client(), "images/ada/x:1", &TraceKey::any(), 1).await;
    let path = "GET /v1/start?image=images/ada/x:1&user=ada%2540example.org&key=_";
    let whole = server.send(&format!("{path} HTTP/1.0"), b"").await;
    assert_eq!(whole.body, body_of(&stored));
    let stripe = server.send(&format!("{path}&stripe=2&stripes=3 HTTP/1.0"), b"").await;
    let due: Vec<&[u8]> = whole.body.chunks(START_PIECE_LEN).skip(2).step_by(3).collect();
    assert_eq!(stripe.body, due.concat());
    for header in ["etag", "x-sway-image", "x-sway-manifest", "x-sway-bundle"] {
        let line = |answer: &str| answer.lines().find(|l| l.starts_with(header)).map(str::to_owned);
        assert!(line(&whole.head).is_some(), "{}", whole.head);
        assert_eq!(line(&whole.head), line(&stripe.head));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_state_that_is_known_is_not_sent_again() {
    let server = Server::start().await;
    let client = server.client();
    let image = "images/ada/x:1";
    store(&client, image, &key("app.py"), 1).await;
    let (head, _) = stream(&client, query(image)).await;
    let known = StartQuery { etag: Some(head.etag.clone()), ..query(image) };
    let StartAnswer::Unchanged(again) = client.start(known.clone()).await.unwrap() else {
        panic!("nothing has changed")
    };
    assert_eq!(again, head);

    // Another trace of the same image.
    let trace = trace_ref(&ada(), head.manifest, &key("app.py"));
    let empty = client.blobs().put(&Bundle::default().encode().unwrap()).await.unwrap();
    client.refs().put(&trace, empty, Expect::Any).await.unwrap();
    let (other, frames) = stream(&client, known.clone()).await;
    assert_eq!((other.manifest, other.bundle), (head.manifest, Some(empty)));
    assert_eq!(frames.len(), 1, "the manifest alone");

    // No trace, then another image.
    client.refs().delete(&trace, Expect::Any).await.unwrap();
    let (none, frames) = stream(&client, known.clone()).await;
    assert_eq!((none.bundle, frames.len()), (None, 1));
    assert_eq!(none.etag, format!("\"{}.none\"", head.manifest));
    let stored = store(&client, image, &key("app.py"), 2).await;
    let (moved, frames) = stream(&client, known).await;
    assert_eq!((moved.manifest, frames), (stored[0].0.digest, stored));
    server.stop().await;
}

#[tokio::test]
async fn of_a_trace_that_has_grown_only_what_is_new_is_sent_to_who_has_the_rest() {
    let server = Server::start().await;
    let client = server.client();
    let image = "images/ada/x:1";
    let stored = store(&client, image, &key("app.py"), 1).await;
    let (head, _) = stream(&client, query(image)).await;
    assert_eq!(head.base, None);
    let new = frame(&noise(7, 5000));
    client.blobs().upload_batch(std::slice::from_ref(&new)).await.unwrap();
    let members = [new.0.digest].into_iter().chain(stored[1..].iter().map(|(it, _)| it.digest));
    let bundle = Bundle { members: members.collect() };
    let bundle = client.blobs().put(&bundle.encode().unwrap()).await.unwrap();
    let trace = trace_ref(&ada(), head.manifest, &key("app.py"));
    client.refs().put(&trace, bundle, Expect::Any).await.unwrap();

    let etag = Some(head.etag.clone());
    let known = StartQuery { etag, changes: true, ..query(image) };
    let (later, frames) = stream(&client, known.clone()).await;
    assert_eq!((later.base, later.bundle), (head.bundle, Some(bundle)));
    assert_eq!(frames, std::slice::from_ref(&new));
    let (all, frames) = stream(&client, StartQuery { changes: false, ..known.clone() }).await;
    assert_eq!((all.base, frames.len()), (None, stored.len() + 1));

    // Who has nothing, something that is unknown, or another image, gets everything.
    let foreign = Digest::of(b"foreign");
    for etag in [
        None,
        Some(start_etag(head.manifest, None)),
        Some(start_etag(head.manifest, Some(foreign))),
        Some(start_etag(foreign, head.bundle)),
        Some("\"nonsense\"".to_owned()),
    ] {
        let (head, frames) = stream(&client, StartQuery { etag, ..known.clone() }).await;
        assert_eq!((head.base, frames.len()), (None, stored.len() + 1));
    }
    server.stop().await;
}

#[tokio::test]
async fn what_the_caller_has_is_left_out_and_what_the_server_lacks_is_said() {
    let server = Server::start().await;
    let client = server.client();
    let stored = store(&client, "images/ada/x:1", &key("app.py"), 1).await;
    let [manifest, lacking] = [0, 6].map(|at: usize| stored[at].0.digest);
    let hex = lacking.to_hex();
    std::fs::remove_file(server.data.path().join("blobs").join(&hex[..2]).join(&hex[2..])).unwrap();
    let have = vec![manifest, stored[4].0.digest, Digest::of(b"something else")];
    let (_, frames) = stream(&client, StartQuery { have, ..query("images/ada/x:1") }).await;
    let mut due = stored;
    due[6] = (FrameHeader::missing(lacking), Bytes::new());
    due.remove(4);
    due.remove(0);
    assert_eq!(frames, due);
    server.stop().await;
}

#[tokio::test]
async fn the_first_image_and_the_first_key_that_are_there_are_taken() {
    let server = Server::start().await;
    let client = server.client();
    let library = store(&client, "images/library/x:1", &TraceKey::any(), 1).await;
    let two = StartQuery {
        images: vec![name("images/ada/x:1"), name("images/library/x:1")],
        ..query("images/ada/x:1")
    };
    let (head, frames) = stream(&client, two.clone()).await;
    assert_eq!(head.image, Some(name("images/library/x:1")));
    assert_eq!(frames, library, "with the default trace, for want of one of its own");

    let own = store(&client, "images/ada/x:1", &key("app.py"), 2).await;
    let (head, frames) = stream(&client, two.clone()).await;
    assert_eq!(head.image, Some(name("images/ada/x:1")));
    assert_eq!(frames, own);

    // Another user's trace is none.
    let bob = StartQuery { user: "bob".parse().unwrap(), ..two };
    assert_eq!(stream(&client, bob).await.0.bundle, None);
    // A trace that is no bundle is none either.
    let no_bundle = own[0].0.digest;
    let trace = trace_ref(&ada(), no_bundle, &key("app.py"));
    client.refs().put(&trace, no_bundle, Expect::Any).await.unwrap();
    assert_eq!(stream(&client, query("images/ada/x:1")).await.0.bundle, None);
    server.stop().await;
}

#[tokio::test]
async fn an_image_that_is_not_there_is_told_from_a_bad_question() {
    let server = Server::start().await;
    let answer = server.client().start(query("images/ada/none:1")).await.unwrap();
    assert!(matches!(answer, StartAnswer::NoImage));
    let digest = Digest::of(b"");
    let many = "&key=a".repeat(17);
    for (query, status, code) in [
        ("image=images/ada/none:1".to_owned(), 404, "ref_not_found"),
        (String::new(), 400, "malformed_query"),
        ("key=_".to_owned(), 400, "malformed_query"),
        (format!("image=images/a/b:c&manifest={digest}"), 400, "malformed_query"),
        ("image=../x".to_owned(), 400, "malformed_query"),
        ("manifest=xyz".to_owned(), 400, "malformed_query"),
        (format!("manifest={digest}&key=../x"), 400, "malformed_query"),
        (format!("manifest={digest}&user=a/b"), 400, "malformed_query"),
        (format!("manifest={digest}&stripe=1"), 400, "malformed_query"),
        (format!("manifest={digest}&stripes=0"), 400, "malformed_query"),
        (format!("manifest={digest}&stripes=9"), 400, "malformed_query"),
        (format!("manifest={digest}&stripe=-1&stripes=2"), 400, "malformed_query"),
        (format!("manifest={digest}&color=red"), 400, "malformed_query"),
        (format!("manifest={digest}{many}"), 400, "malformed_query"),
    ] {
        let answer = server.send(&format!("GET /v1/start?{query} HTTP/1.1"), b"").await;
        assert_eq!((answer.status, answer.error().0.as_str()), (status, code), "{query}");
    }
    server.stop().await;
}

#[tokio::test]
async fn stripes_that_tell_of_different_states_are_a_passing_error() {
    // Two servers behind one address, as if the ref moved between the stripes' requests.
    let (one, two) = (Server::start().await, Server::start().await);
    store(&one.client(), "images/ada/x:1", &key("app.py"), 1).await;
    store(&two.client(), "images/ada/x:1", &key("app.py"), 2).await;
    let between = crate::server::Between::start(vec![one.addr, two.addr]).await;
    let client = crate::server::client(&format!("http://{}", between.addr));
    let error = client.start(query("images/ada/x:1")).await.unwrap_err();
    assert!(error.is_transient());
    assert!(matches!(error, ClientError::Refused { code, .. } if code == START_MOVED));
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn connections_that_were_opened_ahead_are_used_and_kept() {
    let server = Server::start().await;
    store(&server.client(), "images/ada/x:1", &key("app.py"), 1).await;
    let between = crate::server::Between::start(vec![server.addr]).await;
    let client = crate::server::client(&format!("http://{}", between.addr));
    client.warm(6).await.unwrap();
    assert_eq!(between.connections(), 6);
    for _ in 0..3 {
        stream(&client, query("images/ada/x:1")).await;
    }
    assert_eq!(between.connections(), 6);
    drop(client);
    server.stop().await;
}
