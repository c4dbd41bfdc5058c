//! Fetching with deadlines and retries, against a source that can be told to fail.

use std::time::Duration;

use sway_client::{Client, ClientConfig};
use sway_core::blob::BLOB_LEN_MAX;
use sway_server::tasks::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::script::{Act, Script, Scripted};
use super::*;

/// Nothing waits long for a server that is not there.
fn quick() -> FetchConfig {
    FetchConfig {
        deadline: Duration::from_secs(20),
        stall: Duration::from_millis(50),
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(5),
        ..FetchConfig::default()
    }
}

async fn fetch_with(
    script: &Arc<Script>,
    config: FetchConfig,
    digests: &[Digest],
) -> Vec<(Digest, Result<Fetched, FetchError>)> {
    let fetcher = Fetcher::new(Arc::new(Scripted(Arc::clone(script))), config);
    let wanted = |digest: &Digest| Wanted { digest: *digest, raw_len_max: 1 << 20 };
    fetcher.fetch(digests.iter().map(wanted).collect(), Urgency::Now).collect().await
}

async fn fetch(
    script: &Arc<Script>,
    digests: &[Digest],
) -> Vec<(Digest, Result<Fetched, FetchError>)> {
    fetch_with(script, quick(), digests).await
}

#[tokio::test]
async fn a_list_is_one_request_and_arrives_verified() {
    let script = Script::of([]);
    let digests = [script.put(b"one"), script.put(b"two"), script.put(&[3; 5000])];
    let arrivals = fetch(&script, &digests).await;
    assert_eq!(arrivals.iter().map(|(digest, _)| *digest).collect::<Vec<_>>(), digests);
    assert!(arrivals.iter().all(|(digest, outcome)| {
        outcome.as_ref().is_ok_and(|fetched| fetched.blob.digest() == *digest)
    }));
    // Five thousand equal bytes shrink on the wire.
    assert!(arrivals[2].1.as_ref().unwrap().bytes_on_wire < 100);
    assert_eq!(script.requests().len(), 1);
}

#[tokio::test]
async fn only_what_is_still_missing_is_asked_for_again() {
    let script = Script::of([Act::BreakAfter(1), Act::Unreachable, Act::Stall]);
    let digests = [script.put(b"one"), script.put(b"two")];
    let arrivals = fetch(&script, &digests).await;
    assert!(arrivals.iter().all(|(_, outcome)| outcome.is_ok()));
    let asked: Vec<_> = script.requests().into_iter().map(|request| request.digests).collect();
    assert_eq!(asked, [&digests[..], &digests[1..], &digests[1..], &digests[1..]]);
}

#[tokio::test]
async fn a_corrupt_blob_is_refused_and_reported_and_asked_for_again() {
    let script = Script::of([Act::Corrupt]);
    let digest = script.put(&b"bytes ".repeat(1000));
    let arrivals = fetch(&script, &[digest]).await;
    assert!(arrivals[0].1.is_ok());
    let suspects: Vec<_> = script.requests().into_iter().map(|request| request.suspects).collect();
    assert_eq!(suspects, [vec![], vec![digest]]);
}

#[tokio::test]
async fn a_blob_that_stays_corrupt_fails_before_the_deadline() {
    let script = Script::of([]);
    script.always(Act::Corrupt);
    let digest = script.put(b"bytes");
    let arrivals = fetch(&script, &[digest]).await;
    assert!(matches!(arrivals[..], [(_, Err(FetchError::Corrupt { .. }))]), "{arrivals:?}");
    assert_eq!(script.requests().len(), CORRUPT_TRIES_MAX as usize);
}

#[tokio::test]
async fn what_the_server_lacks_or_refuses_fails_at_once() {
    let script = Script::of([Act::Answer, Act::Refuse]);
    let (there, missing) = (script.put(b"there"), Digest::of(b"missing"));
    let arrivals = fetch(&script, &[missing, there]).await;
    assert!(matches!(arrivals[0].1, Err(FetchError::Missing { digest }) if digest == missing));
    assert!(arrivals[1].1.is_ok());
    let arrivals = fetch(&script, &[there]).await;
    assert!(
        matches!(&arrivals[0].1, Err(FetchError::Refused { reason, .. }) if reason == "no such token")
    );
    assert_eq!(script.requests().len(), 2);
}

#[tokio::test]
async fn a_blob_longer_than_its_chunk_is_refused() {
    let script = Script::of([]);
    let digest = script.put(&[7; 100_000]);
    let fetcher = Fetcher::new(Arc::new(Scripted(Arc::clone(&script))), quick());
    let wanted = Wanted { digest, raw_len_max: 1000 };
    let arrivals: Vec<_> = fetcher.fetch(vec![wanted], Urgency::Now).collect().await;
    assert!(matches!(arrivals[0].1, Err(FetchError::Corrupt { .. })));
}

/// Were its bytes waited for, the deadline would end this, as none ever come.
#[tokio::test]
async fn a_frame_longer_than_was_asked_for_is_refused_before_its_bytes() {
    let digest = Digest::of(b"chunk");
    let announced = FrameHeader::new(digest, BLOB_LEN_MAX, BLOB_LEN_MAX).to_bytes();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/vnd.sway.frames\r\n\
                transfer-encoding: chunked\r\n\r\n1c\r\n";
    let answer = [head.as_bytes(), &announced, b"\r\n"].concat();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let tasks = Tasks::new();
    tasks.spawn("server", async move {
        let mut open = Vec::new();
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            assert_ne!(connection.read(&mut request).await.unwrap(), 0);
            connection.write_all(&answer).await.unwrap();
            open.push(connection);
        }
    });
    let client = Client::new(&ClientConfig::new(base.parse().unwrap())).unwrap();
    let config = FetchConfig { stall: Duration::from_secs(20), ..quick() };
    let fetcher = Fetcher::new(Arc::new(client), config);
    let wanted = Wanted { digest, raw_len_max: 1000 };
    let arrivals: Vec<_> = fetcher.fetch(vec![wanted], Urgency::Now).collect().await;
    let [(_, Err(FetchError::Corrupt { reason, .. }))] = &arrivals[..] else {
        panic!("{arrivals:?}")
    };
    assert!(reason.ends_with("is longer than 1000 bytes"), "{reason}");
    tasks.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn the_deadline_ends_the_tries_and_tells_the_reason() {
    let script = Script::of([]);
    let digest = script.put(b"bytes");
    for (act, reason) in [(Act::Unreachable, "connection refused"), (Act::Stall, "does not answer")]
    {
        script.always(act);
        let config = FetchConfig { deadline: Duration::from_millis(200), ..quick() };
        let arrivals = fetch_with(&script, config, &[digest]).await;
        let Err(error @ FetchError::Deadline { .. }) = &arrivals[0].1 else {
            panic!("{arrivals:?}")
        };
        assert!(error.to_string().contains(reason), "{error}");
    }
    assert!(script.requests().len() > 3);
}

#[tokio::test]
async fn reading_ahead_leaves_room_for_readers() {
    let script = Script::of([]);
    let config = FetchConfig { prefetches_max: 1, ..quick() };
    let (ahead, now) = (script.put(b"ahead"), script.put(b"now"));
    let fetcher = Fetcher::new(Arc::new(Scripted(Arc::clone(&script))), config);
    let wanted = |digest| vec![Wanted { digest, raw_len_max: 100 }];
    script.hold(true);
    let mut held = std::pin::pin!(fetcher.fetch(wanted(ahead), Urgency::Ahead));
    assert!(futures::poll!(held.next()).is_pending());
    assert!(!fetcher.may_prefetch());
    script.hold(false);
    let mut arrivals = std::pin::pin!(fetcher.fetch(wanted(now), Urgency::Now));
    assert!(arrivals.next().await.unwrap().1.is_ok());
    assert!(held.next().await.unwrap().1.is_ok());
}

#[tokio::test]
async fn blobs_that_are_given_up_are_counted_by_kind() {
    let metrics = sway_server::telemetry::Metrics::install();
    let arrivals = fetch(&Script::of([Act::Unreachable]), &[Digest::of(b"nowhere")]).await;
    assert!(matches!(arrivals[0].1, Err(FetchError::Missing { .. })));
    let text = metrics.render();
    for line in [
        "sway_fetch_errors_total{kind=\"missing\"}",
        "sway_fetch_retries_total{kind=\"unreachable\"}",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}
