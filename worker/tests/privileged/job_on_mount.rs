//! Jobs on a lazily mounted image whose fileserver does as it is told.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sway_core::digest::Digest;
use sway_core::job::Cause;
use sway_core::manifest::{ExtentSource, Manifest};
use tokio::sync::mpsc;

use crate::job::{Bench, Order, base, shows};
use crate::mount_fixture::{Fixture, Options, mounted_below};

/// Python and nothing else, and a file that no program reads by itself.
pub(crate) fn python_image() -> tempfile::TempDir {
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

/// With files of several owners, one of them beyond the range, and a setuid program.
fn owned_image() -> tempfile::TempDir {
    let tree = python_image();
    let owned = tree.path().join("owned");
    fs_err::create_dir(&owned).unwrap();
    for (name, uid, gid, mode) in [
        ("root", 0, 0, 0o600),
        ("user", 1000, 50, 0o640),
        ("job", 65_532, 65_532, 0o400),
        ("beyond", 123_456, 70_000, 0o644),
        ("last", 65_535, 65_535, 0o666),
    ] {
        let path = owned.join(name);
        fs_err::write(&path, name).unwrap();
        std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let setuid = owned.join("setuid-python");
    fs_err::copy(tree.path().join("usr/bin/python3.11"), &setuid).unwrap();
    fs_err::set_permissions(&setuid, std::fs::Permissions::from_mode(0o4755)).unwrap();
    std::os::unix::fs::chown(&owned, Some(1000), Some(123_456)).unwrap();
    tree
}

/// Tells who owns what and tries to change it.
const LOOK: &str = "import errno, os, subprocess
print(os.getuid(), os.getgid(), os.getgroups())
for path in ['/', '/usr', '/app.py', '/etc/hosts', '/tmp', '/owned'] + [
        '/owned/' + name for name in sorted(os.listdir('/owned'))]:
    stat = os.lstat(path)
    print(path, oct(stat.st_mode), stat.st_uid, stat.st_gid)
def attempt(what, *arguments):
    try:
        print(what.__name__, arguments, what(*arguments))
    except OSError as error:
        print(what.__name__, arguments, errno.errorcode[error.errno])
def read(path):
    return open(path).read()
def append(path):
    open(path, 'a')
for name in ['root', 'user', 'job', 'beyond', 'last']:
    attempt(read, '/owned/' + name)
for path in ['/owned/last', '/owned/job', '/usr/new', '/app.py']:
    attempt(append, path)
attempt(os.chmod, '/owned/job', 0o777)
attempt(os.chown, '/owned/beyond', 0, 0)
attempt(os.unlink, '/owned/last')
attempt(os.setuid, 0)
print(subprocess.run(['/owned/setuid-python', '-c', 'import os; print(os.geteuid())'],
                     capture_output=True, text=True).stdout)
ids = [[int(n) for n in line.split()] for line in open('/proc/self/uid_map')]
print([(inside, count) for inside, outside, count in ids])
print(all(outside > 1 << 20 for inside, outside, count in ids))
";

#[tokio::test(flavor = "multi_thread")]
async fn a_job_sees_the_same_whoever_maps_its_owners() {
    let tree = owned_image();
    let mut seen = Vec::new();
    for shift_ids in [false, true] {
        let fixture = Fixture::new(Options { shift_ids, ..Options::default() });
        let mount = fixture.mount(tree.path()).await;
        assert_eq!(mount.needs_shifted(), shift_ids, "this kernel can map them");
        let bench = Bench::with_accounts(fixture.accounts.clone());
        let ran = bench.run(Order { mount: mount.clone(), ..Order::python(LOOK) }).await;
        assert_eq!((ran.outcome.cause, ran.outcome.exit_code), (Cause::Exited, Some(0)), "{ran:?}");
        assert!(ran.outcome.figures.fetches > 0, "reads are attributed: {ran:?}");
        assert_eq!(bench.leftovers(), [""; 0]);
        let mounts = mounted_below(fixture.dir.path());
        assert_eq!(mounts.iter().any(|path| path.contains("/ids-")), shift_ids, "{mounts:?}");
        seen.push(ran.stdout);
        drop(mount);
        fixture.end().await;
    }
    assert_eq!(seen[0], seen[1]);
    for line in [
        "65532 65532 []",
        "/owned 0o40755 1000 123456",
        "/owned/beyond 0o100644 123456 70000",
        "/owned/job 0o100400 65532 65532",
        "/owned/last 0o100666 65535 65535",
        "/owned/root 0o100600 0 0",
        "/owned/user 0o100640 1000 50",
        "read ('/owned/root',) EACCES",
        "read ('/owned/job',) job",
        "append ('/owned/last',) EROFS",
        "chmod ('/owned/job', 511) EROFS",
        "[(0, 65536), (123456, 1)]",
        "True",
    ] {
        assert!(seen[1].lines().any(|seen| seen == line), "{line}: {}", seen[1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_at_one_time_have_shifted_mounts_of_their_own_and_later_ones_take_them_over() {
    let fixture = Fixture::new(Options { shift_ids: true, ..Options::default() });
    let tree = python_image();
    let mount = fixture.mount(tree.path()).await;
    let bench = Arc::new(Bench::with_accounts(fixture.accounts.clone()));
    let source = "import sys
print(open('/proc/self/uid_map').read().split()[1], 'is the base')
sys.stdin.read()
";
    let order = |run_id| {
        let (input, source_of_input) = mpsc::channel(1);
        let mut order = Order { run_id, mount: mount.clone(), ..Order::python(source) };
        (order.spec.stdin, order.stdin) = (true, Some(source_of_input));
        (order, input)
    };
    let ((first, first_input), (second, second_input)) = (order(1), order(2));
    let both_run = async {
        for run in [1, 2] {
            shows(&bench.data.path().join(format!("output-{run}")), b"is the base").await;
        }
        drop((first_input, second_input));
    };
    let (first, second, ()) = tokio::join!(bench.run(first), bench.run(second), both_run);
    assert_ne!(first.stdout, second.stdout);
    let (third, _) = order(3);
    let third = bench.run(third).await;
    assert!([&first.stdout, &second.stdout].contains(&&third.stdout), "{third:?}");
    let mounts = mounted_below(fixture.dir.path());
    let shifted = mounts.iter().filter(|path| path.contains("/ids-")).count();
    assert_eq!(shifted, 2, "{mounts:?}");
    assert_eq!(bench.leftovers(), [""; 0]);
    drop(mount);
    fixture.end().await;
}
