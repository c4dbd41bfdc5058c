//! Jobs on a lazily mounted image whose fileserver does as it is told.

use std::collections::HashSet;
use std::process::Command;
use std::time::{Duration, Instant};

use sway_core::digest::Digest;
use sway_core::job::Cause;
use sway_core::manifest::{ExtentSource, Manifest};
use tokio::sync::mpsc;

use crate::job::{Bench, Order, base, shows};
use crate::mount_fixture::{Fixture, Options};

/// Python and nothing else, and a file that no program reads by itself.
fn python_image() -> tempfile::TempDir {
    let tree = tempfile::tempdir_in(base().parent().unwrap()).unwrap();
    let script = "cd \"$1\" && mkdir -p \"$2/usr/bin\" \"$2/usr/lib\" && \
        cp -a lib lib64 \"$2\" && cp -a usr/bin/python3* \"$2/usr/bin\" && \
        cp -a usr/lib/python3.11 usr/lib/x86_64-linux-gnu \"$2/usr/lib\" && \
        cp -a usr/lib64 \"$2/usr\" && chmod 755 \"$2\" && \
        head -c 2000000 /dev/urandom > \"$2/read\" && \
        head -c 2000000 /dev/urandom > \"$2/unread\"";
    let done = Command::new("sh")
        .args(["-c", script, "sh", base().to_str().unwrap(), tree.path().to_str().unwrap()])
        .status()
        .unwrap();
    assert!(done.success());
    tree
}

fn chunks_of(manifest: &Manifest, path: &[u8]) -> HashSet<Digest> {
    let extents = manifest.extents(manifest.resolve(path).unwrap()).iter();
    let chunks = extents.flat_map(|extent| match extent.source {
        ExtentSource::Chunks(first) => {
            &manifest.chunks()[first as usize..][..extent.count as usize]
        }
        ExtentSource::Hole => &[],
    });
    chunks.map(|chunk| chunk.digest).collect()
}

/// A job that is stuck in `access` ends when it is cancelled, however long the server is silent.
async fn a_kill_waits_for_no_server(access: &str) {
    let fixture = Fixture::new(Options::default());
    let tree = python_image();
    let mount = fixture.mount(tree.path()).await;
    let unread = chunks_of(mount.manifest(), b"/unread");
    let bench = Bench::with_accounts(fixture.accounts.clone());
    let mut order = Order::python(&format!(
        "import mmap, sys\n\
         def access(path):\n    sys.stdin.readline()\n    file = open(path, 'rb')\n    {access}\n\
         access('/read')\nprint('ready')\naccess('/unread')\nprint('done')\n"
    ));
    order.limits.timeout_ms = 120_000;
    order.mount = mount.clone();
    let (input, source) = mpsc::channel(2);
    // Everything but the file itself is in memory after the first round.
    input.send("go\n".into()).await.unwrap();
    (order.spec.stdin, order.stdin) = (true, Some(source));
    let cancel = order.cancel.clone();
    let output = bench.data.path().join("output-1");
    let interfere = async {
        shows(&output, b"ready").await;
        fixture.store.set_closed(true);
        input.send("go\n".into()).await.unwrap();
        while !fixture.store.asked().iter().any(|digest| unread.contains(digest)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        cancel.cancel();
        Instant::now()
    };
    let (ran, cancelled) = tokio::join!(bench.run(order), interfere);
    assert!(cancelled.elapsed() < Duration::from_secs(15), "the read's own deadline is 30 s");
    assert_eq!(ran.outcome.cause, Cause::Cancelled, "{ran:?}");
    assert!(ran.stdout.starts_with("ready") && !ran.stdout.contains("done"));
    assert!(ran.outcome.figures.fetches > 0, "reads are attributed: {ran:?}");
    assert_eq!(bench.leftovers(), [""; 0]);
    fixture.store.set_closed(false);
    drop((mount, ran));
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_in_a_read_can_be_killed() {
    a_kill_waits_for_no_server("file.read(4096)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_in_a_page_fault_can_be_killed() {
    let fault = "mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)[1_000_000]";
    a_kill_waits_for_no_server(fault).await;
}
