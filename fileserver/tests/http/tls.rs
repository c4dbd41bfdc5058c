//! Encryption: where it is needed, and whom a client that pins believes.

use std::net::TcpListener;
use std::time::Duration;

use futures::TryStreamExt as _;
use sway_client::retry::Retries;
use sway_client::start::{StartAnswer, StartQuery};
use sway_client::{Client, ClientConfig, ClientError};
use sway_core::blob::Blob;
use sway_fileserver::Config;
use sway_server::listen::{Listen, ListenError};
use sway_server::tls::Tls;
use sway_server::token::Token;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::server::{Between, TOKEN};

#[tokio::test]
async fn a_pinned_certificate_is_believed_and_no_other() {
    let data = tempfile::tempdir().unwrap();
    let tls = Tls::SelfSigned { dir: data.path().join("tls") };
    let fingerprint = tls.fingerprint().unwrap().unwrap();
    let mut config = Config::new(data.path().to_owned(), Token::parse(TOKEN).unwrap());
    config.tls = tls;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let mut base = format!("https://{addr}");
    let shutdown = CancellationToken::new();
    let mut running = JoinSet::new();
    running.spawn(sway_fileserver::run(config, listener, shutdown.clone()));

    let client = |base: &str, pin: Option<&str>| {
        let mut config = ClientConfig::new(base.parse().unwrap());
        config.token = Some(TOKEN.to_owned());
        config.pin = pin.map(str::to_owned);
        config.retries = Retries::NONE;
        Client::new(&config).unwrap()
    };
    let pinned = client(&base, Some(&fingerprint));
    pinned.health().await.unwrap();
    let raw = b"over TLS ".repeat(100_000);
    let digest = pinned.blobs().put(&raw).await.unwrap();
    assert_eq!(pinned.blobs().get(digest).await.unwrap().as_ref(), raw);

    // Each stripe of a start has a connection of its own, whatever TLS agrees on.
    let between = Between::start(vec![addr]).await;
    base = format!("https://{}", between.addr);
    let pinned = client(&base, Some(&fingerprint));
    let query = StartQuery {
        images: Vec::new(),
        manifest: Some(digest),
        user: "ada".parse().unwrap(),
        keys: Vec::new(),
        have: Vec::new(),
        etag: None,
        changes: false,
        stripes: 4,
    };
    let StartAnswer::Stream(_, frames) = pinned.start(query).await.unwrap() else {
        panic!("the manifest is there")
    };
    let frames: Vec<_> = frames.try_collect().await.unwrap();
    assert_eq!(Blob::decode(digest, &frames[0].1, raw.len()).unwrap().as_ref(), raw);
    assert_eq!(between.connections(), 4);

    let wrong = "00".repeat(32);
    for pin in [Some(&wrong[..]), None] {
        let error = client(&base, pin).health().await.unwrap_err();
        assert!(matches!(error, ClientError::Untrusted { .. }), "{pin:?}: {error:?}");
    }
    shutdown.cancel();
    running.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn plain_http_is_refused_where_others_can_reach_it() {
    let addr = "0.0.0.0:0".parse().unwrap();
    assert!(matches!(Listen { addr, tls: Tls::Off }.bind(), Err(ListenError::NeedsTls(_))));
    // Also with a socket that was bound by someone else.
    let data = tempfile::tempdir().unwrap();
    let config = Config::new(data.path().to_owned(), Token::parse(TOKEN).unwrap());
    let listener = TcpListener::bind(addr).unwrap();
    let running = sway_fileserver::run(config, listener, CancellationToken::new());
    let error = tokio::time::timeout(Duration::from_secs(20), running).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("--tls-self-signed"), "{error}");
}
