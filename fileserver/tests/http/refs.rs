//! Refs over HTTP.

use futures::future::join_all;
use sway_client::ClientError;
use sway_client::refs::Expect;
use sway_core::digest::Digest;
use sway_core::name::RefName;

use crate::server::Server;

fn name(text: &str) -> RefName {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_ref_moves_only_from_where_it_is_expected() {
    let server = Server::start().await;
    let client = server.client();
    let one = client.blobs().put(b"one").await.unwrap();
    let two = client.blobs().put(b"two").await.unwrap();
    // Percent signs and at signs of user names are part of the ref's name.
    let name = name("images/ada%2Bx%40example.org/scipy:1");
    let refs = client.refs();
    assert_eq!(refs.get(&name).await.unwrap(), None);
    refs.put(&name, one, Expect::Absent).await.unwrap();
    assert_eq!(refs.get(&name).await.unwrap(), Some(one));
    let conflict = refs.put(&name, two, Expect::Absent).await.unwrap_err();
    let ClientError::Refused { status, code, .. } = conflict else { panic!("{conflict:?}") };
    assert_eq!((status, code.as_str()), (412, sway_client::refs::REF_CONFLICT));
    refs.put(&name, two, Expect::Is(one)).await.unwrap();
    assert_eq!(refs.get(&name).await.unwrap(), Some(two));
    let list = refs.list("images/ada").await.unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!((&list[0].name, list[0].digest), (&name, two));
    assert!(refs.list("images/b").await.unwrap().is_empty());
    assert!(refs.delete(&name, Expect::Is(one)).await.is_err());
    refs.delete(&name, Expect::Is(two)).await.unwrap();
    assert_eq!(refs.get(&name).await.unwrap(), None);
    refs.delete(&name, Expect::Any).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_ref_to_a_blob_that_is_not_there_is_refused() {
    let server = Server::start().await;
    let client = server.client();
    let error = client.refs().put(&name("r"), Digest::of(b"no"), Expect::Any).await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused { status: 404, .. }), "{error:?}");
    assert!(error.hint().is_some());
    assert_eq!(client.refs().get(&name("r")).await.unwrap(), None);
    server.stop().await;
}

#[tokio::test]
async fn of_racing_moves_exactly_one_wins() {
    let server = Server::start().await;
    let client = server.client();
    let mut digests = Vec::new();
    for i in 0..8u8 {
        digests.push(client.blobs().put(&[i]).await.unwrap());
    }
    let name = name("race");
    let puts = digests.iter().map(|digest| {
        let (client, name) = (client.clone(), name.clone());
        async move { client.refs().put(&name, *digest, Expect::Absent).await.is_ok() }
    });
    let won: Vec<_> = join_all(puts).await;
    assert_eq!(won.iter().filter(|won| **won).count(), 1);
    let winner = won.iter().position(|won| *won).unwrap();
    assert_eq!(client.refs().get(&name).await.unwrap(), Some(digests[winner]));
    server.stop().await;
}

#[tokio::test]
async fn preconditions_are_etags() {
    let server = Server::start().await;
    let digest = server.client().blobs().put(b"x").await.unwrap();
    let body = format!("{{\"digest\":\"{digest}\"}}");
    let put = "PUT /v1/refs/images/ada/x:1 HTTP/1.1\ncontent-type: application/json";
    for (header, status) in [
        ("if-match: *", 412),
        ("if-match: nonsense", 400),
        ("if-none-match: \"nonsense\"", 400),
        ("if-none-match: *", 201),
        ("if-none-match: *", 412),
        ("if-match: *", 200),
    ] {
        let answer = server.send(&format!("{put}\n{header}"), body.as_bytes()).await;
        assert_eq!(answer.status, status, "{header}");
    }
    let answer = server.send("GET /v1/refs/images/ada/x:1 HTTP/1.1", b"").await;
    assert!(answer.head.contains(&format!("etag: \"{digest}\"")), "{}", answer.head);
    server.stop().await;
}
