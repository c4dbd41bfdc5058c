//! Answers that hold a run's whole output, however long: sent as it is read, so that one answer
//! costs a few hundred KiB of memory and not six times the output.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use serde::Serialize;
use sway_core::api::jobs::{OutputStream, RunView};
use sway_server::error::Json;

use crate::job::output::OutputLog;
use crate::queue::FoundRun;

/// The JSON of what `shape` makes of the run: with its outputs, or with stdout alone.
pub(super) fn with_outputs<T: Serialize>(
    found: FoundRun,
    shape: impl FnOnce(RunView) -> T,
) -> Response {
    let FoundRun { mut run, whole } = found;
    let Some(output) = whole else { return Json(shape(run)).into_response() };
    // In the place of each output stands what no user can have written.
    let [stdout, stderr] = [(); 2].map(|()| uuid::Uuid::new_v4().to_string());
    (run.stdout, run.stderr) = (Some(stdout.clone()), Some(stderr.clone()));
    let json = serde_json::to_string(&shape(run)).expect("a run is plain data");
    let (head, rest) = json.split_once(&stdout).expect("a run tells its stdout");
    let head = head.to_owned();
    let streams = match rest.split_once(&stderr) {
        Some((middle, tail)) => {
            vec![(OutputStream::Stdout, middle.to_owned()), (OutputStream::Stderr, tail.to_owned())]
        }
        None => vec![(OutputStream::Stdout, rest.to_owned())],
    };
    let body = async_stream::try_stream! {
        yield Bytes::from(head);
        for (stream, after) in streams {
            let mut pieces = Box::pin(escaped(Arc::clone(&output), stream));
            while let Some(piece) = pieces.next().await {
                yield piece?;
            }
            yield Bytes::from(after);
        }
    };
    // An error breaks the connection off: a part is not taken for the whole.
    let body: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>> = Box::pin(body);
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response()
}

/// One stream of a log as the inside of a JSON string, invalid UTF-8 replaced.
fn escaped(
    output: Arc<OutputLog>,
    stream: OutputStream,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    async_stream::try_stream! {
        let mut pieces = Box::pin(output.bytes(stream));
        let mut text = Vec::new();
        while let Some(piece) = pieces.next().await {
            text.extend_from_slice(&piece?);
            let rest = text.split_off(whole_characters(&text));
            yield json_text(&text);
            text = rest;
        }
        yield json_text(&text);
    }
}

fn json_text(bytes: &[u8]) -> Bytes {
    let json = serde_json::to_string(&String::from_utf8_lossy(bytes)).expect("text is plain data");
    let quoted = Bytes::from(json);
    quoted.slice(1..quoted.len() - 1)
}

/// Length of `text` without a character at its end of which more may follow.
fn whole_characters(text: &[u8]) -> usize {
    let is_continuation = |byte: &u8| byte & 0xc0 == 0x80;
    let tail = text.iter().rev().take(3).take_while(|byte| is_continuation(byte)).count();
    let Some(start) = text.len().checked_sub(tail + 1) else { return text.len() };
    let len = match text[start] {
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0..0xf8 => 4,
        _ => 1,
    };
    if len > tail + 1 { start } else { text.len() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sway_core::job::Limits;

    use super::*;

    fn run() -> RunView {
        serde_json::from_value(json!({
            "id": 1, "job_id": "j", "filename": "stdout", "username": "ada", "image": "scipy",
            "manifest": "", "started_at": "", "duration_ms": 1, "exit_code": 0,
            "cause": "exited", "memory_cache_hits": 0, "disk_cache_hits": 0, "server_fetches": 0,
            "memory_cache_bytes": 0, "disk_cache_bytes": 0, "bytes_fetched": 0,
            "limits": Limits::DIRECT, "queued_ms": 0, "mount_ms": 0, "start_ms": 0,
            "first_output_ms": 1, "stdout_truncated": false, "stderr_truncated": true,
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn an_output_of_any_length_is_answered_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let log = OutputLog::create(&dir.path().join("output"), 4 << 20).unwrap();
        let (stdout, stderr) = ("\u{1}".repeat(4 << 20), "é".repeat(1 << 20));
        log.append(OutputStream::Stdout, stdout.as_bytes()).unwrap();
        log.append(OutputStream::Stderr, stderr.as_bytes()).unwrap();
        let found = FoundRun { run: run(), whole: Some(Arc::new(log)) };
        let answer = with_outputs(found, |run| (run, "j"));
        let mut pieces = answer.into_body().into_data_stream();
        let mut all = Vec::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece.unwrap();
            assert!(piece.len() < 1 << 20, "{}", piece.len());
            all.extend_from_slice(&piece);
        }
        let told: serde_json::Value = serde_json::from_slice(&all).unwrap();
        let expected = RunView { stdout: Some(stdout), stderr: Some(stderr), ..run() };
        assert!(told == json!([expected, "j"]));
    }

    #[tokio::test]
    async fn an_output_that_can_not_be_read_breaks_the_answer_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output");
        fs_err::write(&path, [b'\xff'; 4096]).unwrap();
        let log = OutputLog::open(&path).unwrap();
        let found = FoundRun { run: run(), whole: Some(Arc::new(log)) };
        let answer = with_outputs(found, |run| run);
        assert!(axum::body::to_bytes(answer.into_body(), 1 << 20).await.is_err());
    }

    #[test]
    fn pieces_of_text_are_replaced_and_escaped_as_the_whole_is() {
        let mixed = "a\"\\\n\u{1}é€😀\0z".as_bytes();
        let broken = b"\xff\xe2\x82\xf0\x9f\x98x\xe2\x82\xe2\x82\xac\x80\x80\x80\x80\xf0\x9f\x98";
        let bytes = [mixed, broken, mixed, b"\xe2\x82"].concat();
        for len in 1..=bytes.len() {
            let (mut json, mut text) = (String::from("\""), Vec::new());
            for piece in bytes.chunks(len) {
                text.extend_from_slice(piece);
                let rest = text.split_off(whole_characters(&text));
                json.push_str(std::str::from_utf8(&json_text(&text)).unwrap());
                text = rest;
                assert!(text.len() < 4);
            }
            json.push_str(std::str::from_utf8(&json_text(&text)).unwrap());
            json.push('"');
            let told: String = serde_json::from_str(&json).unwrap();
            assert_eq!(told, String::from_utf8_lossy(&bytes), "pieces of {len}");
        }
    }
}
