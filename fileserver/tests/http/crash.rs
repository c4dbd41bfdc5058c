//! What is left after a server died.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::StreamExt as _;
use sway_client::refs::Expect;
use sway_core::digest::Digest;

use crate::server::{TOKEN, client, count_files, frame};

/// The real binary; killed when it is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(data: &Path) -> (Process, SocketAddr) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sway-fileserver"))
        .args(["--listen", "127.0.0.1:0", "--log-format", "json", "--data"])
        .arg(data)
        .env("SWAY_TOKEN", TOKEN)
        .env("SWAY_LOG", "info")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let process = Process(child);
    let addr = lines
        .find_map(|line| {
            let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            line.get("listen.addr")?.as_str()?.parse().ok()
        })
        .unwrap();
    // Someone must read on, or the server would block on its own log.
    std::thread::spawn(move || lines.for_each(drop));
    (process, addr)
}

fn len_of_files(dir: &Path) -> u64 {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test]
async fn a_kill_during_an_upload_leaves_whole_blobs_and_old_refs() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    let (mut process, addr) = start(data);
    let before = client(&format!("http://{addr}"));
    let old = before.blobs().put(b"old").await.unwrap();
    let name = "images/ada/x:latest".parse().unwrap();
    before.refs().put(&name, old, Expect::Absent).await.unwrap();

    // Noise, so that it is long also when it is encoded.
    let noise = |i: u8| {
        (0..1000u16).flat_map(move |at| {
            let [low, high] = at.to_le_bytes();
            *Digest::of(&[i, low, high]).as_bytes()
        })
    };
    let frames: Vec<_> = (0..200).map(|i| frame(&noise(i).collect::<Vec<_>>())).collect();
    let digests: Vec<Digest> = frames.iter().map(|(header, _)| header.digest).collect();
    // The last frame never comes.
    let endless = futures::stream::iter(frames[..150].to_vec()).chain(futures::stream::pending());
    let blobs = before.blobs();
    let mut upload = std::pin::pin!(blobs.upload(endless));
    let killed = async {
        // The first ones are files of their own, the others a pack.
        while len_of_files(&data.join("tmp")) < 2_000_000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        process.0.kill().unwrap();
        process.0.wait().unwrap();
        std::future::pending::<()>().await
    };
    tokio::select! {
        result = &mut upload => assert!(result.is_err(), "{result:?}"),
        () = killed => {}
        () = tokio::time::sleep(Duration::from_secs(60)) => panic!("neither killed nor failed"),
    }
    assert!(count_files(&data.join("tmp")) > 0, "the kill came in the middle");
    drop(process);

    let (_process, addr) = start(data);
    let after = client(&format!("http://{addr}"));
    assert_eq!(count_files(&data.join("tmp")), 0, "what was unfinished is swept");
    assert_eq!(after.refs().get(&name).await.unwrap(), Some(old));
    assert_eq!(after.blobs().get(old).await.unwrap().as_ref(), b"old");
    assert_eq!(after.blobs().missing(&digests).await.unwrap(), digests, "none was promised");
    let summary = after.blobs().upload_batch(&frames).await.unwrap();
    assert_eq!(summary.stored, 200);
    for digest in digests {
        assert!(after.blobs().verify(digest).await.unwrap());
    }
}

#[test]
fn a_server_that_can_t_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_sway-fileserver"))
            .arg("--data")
            .arg(dir.path())
            .args(args)
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let said = run(&["--listen", "0.0.0.0:0"]);
    assert!(said.contains("without TLS"), "{said}");
    let said = run(&["--listen", "127.0.0.1:0", "--tls-cert", "x.pem"]);
    assert!(said.contains("--tls-key"), "{said}");
}
