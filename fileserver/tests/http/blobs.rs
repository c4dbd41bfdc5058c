//! Blobs and bundles over HTTP.

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt as _, TryStreamExt as _};
use sway_client::ClientError;
use sway_core::api::blobs::{FRAMES_MEDIA_TYPE, UploadSummary};
use sway_core::blob::{BLOB_LEN_MAX, Blob, FrameHeader};
use sway_core::bundle::Bundle;
use sway_core::digest::Digest;
use tokio::io::AsyncWriteExt as _;

use crate::server::{Server, TOKEN, body_of, frame};

fn upload_request() -> String {
    format!("POST /v1/blobs HTTP/1.1\ncontent-type: {FRAMES_MEDIA_TYPE}")
}

#[tokio::test]
async fn what_is_uploaded_is_fetched_in_the_order_asked() {
    let server = Server::start().await;
    let client = server.client();
    let raws: Vec<Vec<u8>> = (0..300usize).map(|i| vec![i.to_le_bytes()[0]; i * 97]).collect();
    let digests: Vec<_> = raws.iter().map(|raw| Digest::of(raw)).collect();
    assert_eq!(client.blobs().missing(&digests).await.unwrap(), digests);
    let frames: Vec<_> = raws.iter().map(|raw| frame(raw)).collect();
    let summary = client.blobs().upload(futures::stream::iter(frames.clone())).await.unwrap();
    assert_eq!(summary, UploadSummary { stored: 300, known: 0 });
    let summary = client.blobs().upload_batch(&frames).await.unwrap();
    assert_eq!(summary, UploadSummary { stored: 0, known: 300 });
    assert!(client.blobs().missing(&digests).await.unwrap().is_empty());

    let absent = Digest::of(b"absent");
    let mut asked: Vec<_> = digests.iter().rev().copied().collect();
    asked.insert(7, absent);
    let got: Vec<_> = client.blobs().fetch(&asked).try_collect().await.unwrap();
    assert_eq!(got.len(), asked.len());
    for ((header, encoded), asked) in got.iter().zip(&asked) {
        assert_eq!(header.digest, *asked);
        assert_eq!(header.is_missing(), *asked == absent);
        if !header.is_missing() {
            Blob::decode(*asked, encoded, header.raw_len as usize).unwrap();
        }
    }
    assert_eq!(client.blobs().get(digests[9]).await.unwrap().as_ref(), raws[9]);
    assert!(matches!(client.blobs().get(absent).await, Err(ClientError::Missing(_))));
    server.stop().await;
}

#[tokio::test]
async fn plain_http_puts_and_gets_a_blob() {
    let server = Server::start().await;
    let raw = b"text text text text text ".repeat(20_000);
    let digest = Digest::of(&raw);
    let put = format!("PUT /v1/blobs/{digest} HTTP/1.1");
    let get = format!("GET /v1/blobs/{digest} HTTP/1.1");
    let head = format!("HEAD /v1/blobs/{digest} HTTP/1.1");
    assert_eq!(server.send(&get, b"").await.status, 404);
    assert_eq!(server.send(&head, b"").await.status, 404);
    let compressed = zstd::bulk::compress(&raw, 3).unwrap();
    let zstd_put = format!("{put}\ncontent-encoding: zstd");
    assert_eq!(server.send(&zstd_put, &compressed).await.status, 201);
    assert_eq!(server.send(&put, &raw).await.status, 200);
    assert_eq!(server.send(&zstd_put, &compressed).await.status, 200);

    let answer = server.send(&get, b"").await;
    assert_eq!(answer.body, raw);
    assert!(answer.head.contains(&format!("content-length: {}", raw.len())));
    let answer = server.send(&format!("{get}\naccept-encoding: gzip, zstd;q=0.9"), b"").await;
    assert!(answer.head.contains("content-encoding: zstd"), "{}", answer.head);
    assert_eq!(zstd::bulk::decompress(&answer.body, raw.len()).unwrap(), raw);
    let answer = server.send(&head, b"").await;
    assert!(answer.head.contains(&format!("content-length: {}", raw.len())), "{}", answer.head);
    assert!(answer.body.is_empty());

    // zstd makes a byte longer; it is stored as it is.
    let small = Digest::of(b"a");
    let put = format!("PUT /v1/blobs/{small} HTTP/1.1\ncontent-encoding: zstd");
    assert_eq!(server.send(&put, &zstd::bulk::compress(b"a", 3).unwrap()).await.status, 201);
    assert_eq!(server.client().blobs().get(small).await.unwrap().as_ref(), b"a");
    let gzip = format!("PUT /v1/blobs/{small} HTTP/1.1\ncontent-encoding: gzip");
    assert_eq!(server.send(&gzip, b"x").await.status, 415);
    server.stop().await;
}

#[tokio::test]
async fn bytes_that_are_not_the_blob_are_refused_and_leave_nothing() {
    let server = Server::start().await;
    let good = frame(&b"good ".repeat(1000));
    let other = (FrameHeader { digest: Digest::of(b"other"), ..good.0 }, good.1.clone());
    let collision = frame(include_bytes!("../data/shattered-1.bin"));
    let long = [&Digest::of(b"long").as_bytes()[..], &[0xff; 8]].concat();
    let missing = FrameHeader::missing(Digest::of(b"missing")).to_bytes();
    let whole = body_of(std::slice::from_ref(&good));
    for (body, status, code) in [
        (body_of(&[good.clone(), other.clone()]), 400, "digest_mismatch"),
        (body_of(&[collision]), 400, "sha1_collision"),
        (long, 413, "too_large"),
        (missing.to_vec(), 400, "malformed_blob"),
        (whole[..whole.len() - 1].to_vec(), 400, "upload_broken"),
        (whole[..20].to_vec(), 400, "upload_broken"),
    ] {
        let answer = server.send(&upload_request(), &body).await;
        assert_eq!((answer.status, answer.error().0.as_str()), (status, code));
    }
    let put = format!("PUT /v1/blobs/{} HTTP/1.1", Digest::of(b"x"));
    let answer = server.send(&put, b"y").await;
    assert_eq!((answer.status, answer.error().0.as_str()), (400, "digest_mismatch"));
    let huge = format!("{put}\ncontent-length: {}", BLOB_LEN_MAX + 1);
    assert_eq!(server.send(&huge, b"").await.status, 413);

    let error = server.client().blobs().upload_batch(&[other]).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { status: 400, .. }), "{error:?}");
    assert_eq!((server.files("blobs"), server.files("tmp")), (0, 0));
    server.stop().await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let server = Server::start().await;
    let body = body_of(&[frame(b"first"), frame(&b"second ".repeat(10_000))]);
    for cut in [10, 40, body.len() - 1] {
        let mut stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
        let head = format!(
            "{}\nhost: {}\nauthorization: Bearer {TOKEN}\ncontent-length: {}\n\n",
            upload_request(),
            server.addr,
            body.len()
        );
        stream.write_all(head.replace('\n', "\r\n").as_bytes()).await.unwrap();
        stream.write_all(&body[..cut]).await.unwrap();
        stream.flush().await.unwrap();
        drop(stream);
    }
    // A whole upload after them: by then the server has seen the others end, or will.
    server.client().blobs().put(b"third").await.unwrap();
    let settled = async {
        while server.files("tmp") > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), settled).await.unwrap();
    assert_eq!(server.files("blobs"), 1);
    server.stop().await;
}

#[tokio::test]
async fn eight_uploads_of_one_blob_at_once_are_harmless() {
    let server = Server::start().await;
    let raw: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let one = frame(&raw);
    let uploads = (0..8).map(|_| {
        let (client, frames) = (server.client(), [one.clone()]);
        async move { client.blobs().upload_batch(&frames).await.unwrap() }
    });
    join_all(uploads).await;
    assert_eq!((server.files("blobs"), server.files("tmp")), (1, 0));
    assert_eq!(server.client().blobs().get(one.0.digest).await.unwrap().as_ref(), raw);
    server.stop().await;
}

#[tokio::test]
async fn a_flipped_byte_in_the_store_is_noticed_and_healed() {
    let server = Server::start().await;
    let client = server.client();
    let raw: Vec<u8> = (0..50_000u32).flat_map(u32::to_le_bytes).collect();
    let digest = client.blobs().put(&raw).await.unwrap();
    let path =
        server.data.path().join("blobs").join(&digest.to_hex()[..2]).join(&digest.to_hex()[2..]);
    let flip = || {
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    };
    flip();
    assert!(matches!(client.blobs().get(digest).await, Err(ClientError::Corrupt(_))));
    // Exporting again asks, finds it there, and would not send it; a check puts it aside.
    assert!(client.blobs().missing(&[digest]).await.unwrap().is_empty());
    assert!(!client.blobs().verify(digest).await.unwrap());
    assert_eq!(client.blobs().missing(&[digest]).await.unwrap(), [digest]);
    assert_eq!(server.files("corrupt"), 1);
    client.blobs().put(&raw).await.unwrap();
    assert!(client.blobs().verify(digest).await.unwrap());
    // An upload heals a bad copy also where nobody noticed.
    flip();
    client.blobs().put(&raw).await.unwrap();
    assert_eq!(client.blobs().get(digest).await.unwrap().as_ref(), raw);
    server.stop().await;
}

#[tokio::test]
async fn a_bundle_streams_itself_and_its_members() {
    let server = Server::start().await;
    let client = server.client();
    let one = client.blobs().put(b"one").await.unwrap();
    let two = client.blobs().put(b"two").await.unwrap();
    let absent = Digest::of(b"absent");
    let bundle = Bundle { members: vec![two, absent, one, two] };
    let digest = client.blobs().put(&bundle.encode().unwrap()).await.unwrap();
    let name = "traces/x/y".parse().unwrap();
    client.refs().put(&name, digest, sway_client::refs::Expect::Any).await.unwrap();
    for asked in [digest.to_string(), name.to_string()] {
        let frames: Vec<(FrameHeader, Bytes)> =
            client.blobs().bundle(&asked).try_collect().await.unwrap();
        let order: Vec<_> = frames.iter().map(|(header, _)| header.digest).collect();
        assert_eq!(order, [digest, two, absent, one, two]);
        let own = Blob::decode(digest, &frames[0].1, 1000).unwrap();
        assert_eq!(Bundle::decode(own.as_ref()).unwrap(), bundle);
        assert!(frames[2].0.is_missing());
    }
    for (asked, expected) in [(one.to_string(), 400), (absent.to_string(), 404), ("x".into(), 404)]
    {
        let error = client.blobs().bundle(&asked).next().await.unwrap().unwrap_err();
        let ClientError::Refused { status, .. } = error else { panic!("{error:?}") };
        assert_eq!(status, expected, "{asked}");
    }
    server.stop().await;
}

#[tokio::test]
async fn frames_survive_any_cutting_of_the_body_on_the_way() {
    let server = Server::start().await;
    let client = server.client();
    let frames: Vec<_> = (0..20u8).map(|i| frame(&vec![i; usize::from(i) * 50])).collect();
    let body = body_of(&frames);
    // As chunked transfer with pieces of odd sizes, each sent by itself.
    for len in [1, 13, 28, 97] {
        let mut chunked = Vec::new();
        for piece in body.chunks(len) {
            chunked.extend(format!("{:x}\r\n", piece.len()).into_bytes());
            chunked.extend(piece);
            chunked.extend(b"\r\n");
        }
        chunked.extend(b"0\r\n\r\n");
        let request = format!("{}\ntransfer-encoding: chunked", upload_request());
        let answer = server.send(&request, &chunked).await;
        assert_eq!(answer.status, 200, "{len}");
    }
    let digests: Vec<_> = frames.iter().map(|(header, _)| header.digest).collect();
    assert!(client.blobs().missing(&digests).await.unwrap().is_empty());
    for digest in digests {
        assert!(client.blobs().verify(digest).await.unwrap());
    }
    server.stop().await;
}
