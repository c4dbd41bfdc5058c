//! What is fetched that nobody asked for, seen from a real mount.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use sway_core::digest::Digest;
use sway_core::job::JobSpec;
use sway_worker::predict::{Background, PredictConfig};
use sway_worker::start::Traced;

use crate::mount_fixture::{Fixture, Options, blocking, listing};

/// Longer than any of this takes.
const LONG: Duration = Duration::from_secs(30);

fn predicting(background: Background) -> Fixture {
    let predict = Some(PredictConfig { background });
    Fixture::new(Options { predict, ..Options::default() })
}

fn job() -> JobSpec {
    let program = serde_json::json!({ "kind": "command", "argv": ["none"] });
    serde_json::from_value(serde_json::json!({ "image": "x", "program": program })).unwrap()
}

/// A directory of files that differ.
fn image(files: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..files {
        let parent = dir.path().join(format!("d{}", number % 10));
        fs::create_dir_all(&parent).unwrap();
        fs::write(parent.join(format!("f{number}")), format!("{number} ").repeat(500)).unwrap();
    }
    dir
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LONG, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn each_once(asked: &[Digest]) -> bool {
    asked.iter().collect::<HashSet<_>>().len() == asked.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missed_file_brings_its_small_neighbours() {
    let image = image(40);
    let fixture = predicting(Background::Off);
    let mount = fixture.mount(image.path()).await;
    let ahead = mount.ahead_of(&job(), Traced::Not);
    let file = mount.path().join("d3/f3");
    let bytes = blocking(move || fs::read(file).unwrap()).await;
    assert!(bytes.starts_with(b"3 "));
    for neighbour in [13, 23, 33] {
        let digest = Digest::of(format!("{neighbour} ").repeat(500).as_bytes());
        until("a neighbour is fetched", || fixture.store.asked().contains(&digest)).await;
    }
    let stranger = Digest::of("4 ".repeat(500).as_bytes());
    assert!(!fixture.store.asked().contains(&stranger));
    drop((mount, ahead));
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_background_makes_an_image_independent_of_its_server() {
    let image = image(400);
    let fixture = predicting(Background::Full);
    let mount = fixture.mount(image.path()).await;
    drop(mount.ahead_of(&job(), Traced::Not));
    let all = fixture.store.all().len();
    until("all is fetched", || fixture.store.asked().len() == all).await;
    let disk = fixture.chunks.disk().unwrap().clone();
    let manifest = std::sync::Arc::clone(mount.manifest());
    until("all is kept", || manifest.blobs().all(|blob| disk.path_of(blob).exists())).await;
    fixture.store.set_down(true);
    let (path, plain) = (mount.path().to_owned(), image.path().to_owned());
    blocking(move || {
        assert_eq!(listing(&path), listing(&plain));
        for number in 0..400 {
            let name = format!("d{}/f{number}", number % 10);
            assert_eq!(fs::read(path.join(&name)).unwrap(), fs::read(plain.join(&name)).unwrap());
        }
    })
    .await;
    assert!(each_once(&fixture.store.asked()), "no chunk twice");
    drop(mount);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_job_or_misses_nothing_is_fetched() {
    let image = image(100);
    let fixture = predicting(Background::Idle);
    let mount = fixture.mount(image.path()).await;
    let before = fixture.store.asked().len();
    let ahead = mount.ahead_of(&job(), Traced::Not);
    let path = mount.path().to_owned();
    blocking(move || listing(&path)).await;
    drop(ahead);
    assert_eq!(fixture.store.asked().len(), before);
    drop(mount);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_background_goes_as_far_as_guesses_fail_and_ends_with_its_job() {
    let image = tempfile::tempdir().unwrap();
    for number in 0..400 {
        let parent = image.path().join(format!("d{number}"));
        fs::create_dir_all(&parent).unwrap();
        fs::write(parent.join("f"), format!("{number:08} ").repeat(10_000)).unwrap();
    }
    let fixture = predicting(Background::Idle);
    let mount = fixture.mount(image.path()).await;
    let ahead = mount.ahead_of(&job(), Traced::Not);
    for number in 0..6 {
        let file = mount.path().join(format!("d{number}/f"));
        blocking(move || fs::read(file).unwrap()).await;
    }
    until("more comes than was read", || fixture.store.asked().len() > 8).await;
    drop(ahead);
    let disk = fixture.chunks.disk().unwrap().clone();
    until("what was asked for is kept", || {
        fixture.store.asked().iter().all(|blob| disk.path_of(*blob).exists())
    })
    .await;
    // 36 times 32 KiB, a batch beyond, and what was read: nothing of the other 30 MB.
    let asked = fixture.store.asked().len();
    assert!(asked < 60, "{asked}");
    drop(mount);
    fixture.end().await;
}
