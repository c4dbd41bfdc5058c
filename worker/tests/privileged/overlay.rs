//! Overlays that jobs use one after the other: what the later ones see, and what they cost.

use std::sync::Arc;

use sway_core::job::{Cause, JobFile, Program};
use sway_core::manifest::RunConfig;
use sway_worker::job::Rootfs;

use crate::job::{Bench, Order, PlainRootfs, base, image};
use crate::job_on_mount::python_image;
use crate::mount_fixture::{Fixture, Options, mounted_below};

/// Tells all directories with their times and what else jobs could have left, and on which
/// overlay it runs.
const LOOK: &str = "import hashlib, os
tree = hashlib.sha1()
for directory, _, names in os.walk('/'):
    if directory.startswith(('/proc', '/dev', '/tmp')):
        continue
    stat = os.lstat(directory)
    tree.update(repr((directory, sorted(names), stat.st_mode, stat.st_uid, stat.st_gid,
                      stat.st_mtime_ns, stat.st_atime_ns)).encode())
print(tree.hexdigest(), sorted(os.listdir('/')), sorted(os.listdir('/etc'))[:3],
      open('/etc/hostname').read().strip() == os.uname().nodename)
now = os.lstat('/look.py').st_ctime
print([path for path in ['/', '/etc', '/etc/hosts'] if abs(os.lstat(path).st_ctime - now) > 1])
for line in open('/proc/self/mountinfo'):
    if ' / / ' in line:
        print(line.split('upperdir=')[1].split(',')[0], line.split()[5])
";

fn on(mount: &Arc<PlainRootfs>, run_id: i64, order: Order) -> Order {
    Order { run_id, mount: Arc::clone(mount) as Arc<dyn Rootfs>, ..order }
}

fn script(name: &str, content: &str) -> Order {
    let file = JobFile { path: name.into(), content: content.into(), executable: false };
    Order::new(Program::Script { file })
}

fn look() -> Order {
    script("look.py", LOOK)
}

/// What it saw, and on which overlay.
fn seen(stdout: &str) -> (Vec<&str>, &str) {
    let mut lines: Vec<&str> = stdout.lines().collect();
    let overlay = lines.pop().unwrap_or_default();
    (lines, overlay)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_job_sees_nothing_of_an_earlier_one() {
    let bench = Bench::new();
    let fresh = bench.run(on(&image(), 1, look())).await;
    let mount = image();
    let first = bench.run(on(&mount, 2, look())).await;
    let file = |path: &str| JobFile {
        path: path.into(),
        content: b"print('folder')".to_vec(),
        executable: false,
    };
    let files = vec![file("main.py"), file("deep/secret/name.txt")];
    let folder = Order::new(Program::Folder { files, entry: "main.py".into() });
    let starved = script(
        "starved.py",
        "held = bytearray(400 << 20)\nfor at in range(0, 400 << 20, 4096):\n    held[at] = 1",
    );
    let busy = "import os, signal, time\nos.fork()\nopen('/tmp/left', 'w').write('x')\n";
    for (number, order, cause) in [
        (
            3,
            script("secret.py", "import os; print(os.listdir('/')); open('/etc/hosts').read()"),
            Cause::Exited,
        ),
        (4, folder, Cause::Exited),
        (
            5,
            script("killed.py", &format!("{busy}os.kill(os.getpid(), signal.SIGKILL)")),
            Cause::Exited,
        ),
        (6, starved.limits(|limits| limits.memory_bytes = 64 << 20), Cause::MemoryExceeded),
        (
            7,
            script("late.py", &format!("{busy}time.sleep(60)"))
                .limits(|limits| limits.timeout_ms = 700),
            Cause::Timeout,
        ),
        (8, Order::shell("ls -lR /etc /code; true"), Cause::Exited),
    ] {
        let ran = bench.run(on(&mount, number, order)).await;
        assert_eq!(ran.outcome.cause, cause, "{number}: {ran:?}");
        // Beyond the second within which times count as the job's own.
        let again = bench.run(on(&mount, number + 100, look())).await;
        assert_eq!(seen(&again.stdout), seen(&first.stdout), "after {number}: {again:?}");
    }
    assert_eq!(seen(&first.stdout).0, seen(&fresh.stdout).0, "{first:?}");
    assert_eq!(seen(&fresh.stdout).0[1], "[]", "{fresh:?}");
    assert!(seen(&first.stdout).1.contains("ro,nosuid,nodev"), "{first:?}");
    assert_ne!(seen(&first.stdout).1, seen(&fresh.stdout).1);
    drop((mount, first));
    assert_eq!(
        mounted_below(std::path::Path::new(&format!("/run/sway/{}", bench.worker_id))),
        [""; 0]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_stands_over_a_file_of_the_image_for_its_own_time_only() {
    let bench = Bench::new();
    let config = RunConfig { working_dir: "/etc".into(), ..RunConfig::default() };
    let mount = PlainRootfs::new(base(), config);
    let of_image = fs_err::read_to_string(base().join("etc/profile")).unwrap();
    let show = || Order::shell("cat /etc/profile");
    for round in [1, 2] {
        let own =
            script("profile", "#!/bin/sh\ncat /etc/profile; echo >> /etc/profile || echo kept");
        let ran = bench.run(on(&mount, 10 * round, own)).await;
        assert!(ran.stdout.starts_with("#!/bin/sh\ncat"), "{ran:?}");
        assert!(ran.stdout.ends_with("kept\n"), "{ran:?}");
        let ran = bench.run(on(&mount, 10 * round + 1, show())).await;
        assert_eq!(ran.stdout, of_image, "{ran:?}");
    }
    assert_eq!(bench.leftovers(), [""; 0]);
}

/// A program as usual: looks for modules, opens, maps, lists, asks for terminals.
const USUAL: &str = "import os, json, ssl, sqlite3, sys
sys.stdout.isatty()
print(len(os.listdir('/usr/lib/python3.11')), len(open('/read', 'rb').read()), os.statvfs('/').f_namemax)
try:
    os.getxattr('/read', 'user.none')
except OSError:
    pass
";

async fn a_hot_run_sends_no_message(options: Options) {
    let fixture = Fixture::new(options);
    let tree = python_image();
    let mount = fixture.mount(tree.path()).await;
    let bench = Bench::with_accounts(fixture.accounts.clone());
    let mut totals = Vec::new();
    // A machine that wants memory back drops pages between two runs, so one silent run will do.
    while !matches!(totals[..], [_, .., before, last] if before == last) {
        let mut order = script("app.py", USUAL);
        order.run_id = 1 + i64::try_from(totals.len()).unwrap();
        assert!(order.run_id < 10, "no run is silent: {totals:?}, {}", mount.requests());
        order.mount = mount.clone();
        let ran = bench.run(order).await;
        assert_eq!(ran.outcome.exit_code, Some(0), "{ran:?}");
        totals.push(mount.requests().total());
    }
    drop(mount);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_run_sends_no_message_to_the_filesystem() {
    a_hot_run_sends_no_message(Options::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_run_on_a_shifted_mount_sends_no_message_either() {
    a_hot_run_sends_no_message(Options { shift_ids: true, ..Options::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_nobody_uses_takes_its_overlays_along() {
    let fixture = Fixture::new(Options { mounts_max: 1, ..Options::default() });
    let tree = python_image();
    let mount = fixture.mount(tree.path()).await;
    let bench = Bench::with_accounts(fixture.accounts.clone());
    let mut order = script("app.py", "print('ran')");
    order.mount = mount.clone();
    assert_eq!(bench.run(order).await.stdout, "ran\n");
    let overlays = std::path::PathBuf::from(format!("/run/sway/{}", bench.worker_id));
    assert!(!mounted_below(&overlays).is_empty(), "one waits for the next job");
    drop(mount);
    let other = tempfile::tempdir().unwrap();
    fixture.mount(other.path()).await;
    assert_eq!(mounted_below(&overlays), [""; 0]);
    assert_eq!(fixture.mounts.len(), 1);
    fixture.end().await;
}
