//! Containers that are made before their jobs come: they serve jobs as containers of their own do.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sway_core::handler::{Handler, Runtime};
use sway_core::job::{Cause, JobFile, JobSpec, Limits, Program};
use sway_core::manifest::RunConfig;
use sway_worker::job::{PoolBounds, PoolUse, Rootfs};
use tokio::sync::mpsc;

use crate::job::{Bench, Order, PlainRootfs, Ran, base, image};

/// Longer than a container takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const BOUNDS: PoolBounds = PoolBounds { containers: 2, memory_bytes: 1 << 30 };

static RUN: AtomicI64 = AtomicI64::new(100);

/// One image whose jobs may have containers that wait.
pub(crate) struct Warm {
    pub(crate) bench: Bench,
    mount: Arc<dyn Rootfs>,
}

impl Warm {
    pub(crate) fn new(mount: Arc<dyn Rootfs>) -> Self {
        Self { bench: Bench::with_pool(BOUNDS), mount }
    }

    /// One run, in whatever container there is.
    async fn once(&self, order: Order) -> Ran {
        let used = PoolUse { image: "base".to_owned(), stays: true };
        let (mount, run_id) = (Arc::clone(&self.mount), RUN.fetch_add(1, Ordering::Relaxed));
        self.bench.run(Order { mount, run_id, pool: Some(used), ..order }).await
    }

    /// A run in a container that waited.
    pub(crate) async fn run(&self, order: impl Fn() -> Order) -> Ran {
        let begun = Instant::now();
        loop {
            let ran = self.once(order()).await;
            if ran.outcome.pooled {
                return ran;
            }
            assert!(begun.elapsed() < PATIENCE, "no container waits: {ran:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    pub(crate) async fn end(self) {
        self.bench.runner.drain().await;
        assert_eq!(self.bench.leftovers(), [""; 0]);
    }
}

/// All that a user is told of a run, and that must not depend on where it ran.
fn told(ran: &Ran) -> String {
    let outcome = &ran.outcome;
    let own = |text: &str| {
        // The host name of a test's job.
        let mut words = text.split("job-");
        let first = words.next().unwrap_or_default().to_owned();
        words.fold(first, |text, rest| {
            text + "job-N" + rest.trim_start_matches(|c: char| c.is_ascii_digit())
        })
    };
    let answer = outcome.answer.as_ref().map(|answer| (&answer.result, &answer.error));
    format!(
        "{:?} {:?} {:?} {:?} cut: {} {}\n--- stdout\n{}\n--- stderr\n{}",
        outcome.cause,
        outcome.exit_code,
        outcome.message,
        answer,
        outcome.stdout_truncated,
        outcome.stderr_truncated,
        own(&ran.stdout),
        own(&ran.stderr),
    )
}

async fn runs_alike(warm: &Warm, order: impl Fn() -> Order) -> (Ran, Ran) {
    let plain = Bench::new();
    let without = plain.run(Order { mount: Arc::clone(&warm.mount), ..order() }).await;
    let with = warm.run(&order).await;
    assert_eq!(told(&with), told(&without));
    (with, without)
}

const SCRIPTS: &[&str] = &[
    "print('hi')",
    "",
    "1/0",
    "def f():\n    return missing\nf()\n",
    "import json\njson.loads('{')\n",
    "x = (\n",
    "  x = 1\n",
    "import sys; sys.exit(3)",
    "import sys; sys.exit('bye')",
    "raise KeyboardInterrupt",
    "try:\n    1/0\nexcept Exception as error:\n    raise ValueError('again') from error\n",
    "import os; os.kill(os.getpid(), 9)",
    "import os; os._exit(7)",
    "import os; os.abort()",
    "import atexit; atexit.register(print, 'bye'); 1/0",
    "import threading, time\nthreading.Thread(target=lambda: (time.sleep(.2), print('late'))).start()",
    "import sys\nsys.excepthook = lambda *it: print('hook', it[0], it[2].tb_lineno)\n1/0\n",
    "import warnings; warnings.warn('careful')",
    "import sys; print('out'); print('err', file=sys.stderr); sys.stdout.write('no end of line')",
    "import sys, os; print(sys.argv, sys.orig_argv, sys.path, sys.flags, sys.executable, os.getcwd())",
    "import sys; print(sorted(sys.modules))",
    "import sys; print(repr(sys.stdin.read()), sys.stdin, sys.stdin.seekable(), sys.stdin.isatty())",
    "print(__name__, __file__, __builtins__, __spec__, __loader__.path, __annotations__, sorted(globals()))",
    "import __main__; x = 1; print(__main__.x, __main__)",
    "import pickle\nclass Point: pass\nprint(type(pickle.loads(pickle.dumps(Point()))))",
    "import inspect, sys; print(inspect.getsource(sys.modules['__main__']))",
    "from __future__ import annotations\nprint(__annotations__)",
    "import multiprocessing as m\nif __name__ == '__main__':\n    c = m.get_context('spawn')\n    p = c.Process(target=print, args=('child',)); p.start(); p.join(); print(p.exitcode)",
    "import subprocess, sys; print(subprocess.run([sys.executable, '-c', 'print(1)'], capture_output=True))",
    "import os; print(sorted(os.environ.items()), os.getuid(), os.getgid(), os.getgroups())",
    "import os, socket; print(socket.gethostname(), open('/etc/hostname').read(), open('/etc/hosts').read())",
    "import os; print(sorted(os.listdir('/proc/self/fd')), oct(os.umask(0)))",
    "import os; print({os.getpriority(os.PRIO_PROCESS, int(pid)) for pid in os.listdir('/proc') if pid.isdigit()})",
    "print([line for line in open('/proc/self/status') if line.startswith(('Cap', 'NoNew', 'Seccomp:', 'Groups', 'Uid', 'Gid', 'Sig', 'Shd'))])",
    "print(open('/proc/self/limits').read(), open('/proc/self/oom_score_adj').read())",
    // Each has ids of its own.
    "import re; print(re.sub(r'\\d{9,}', 'N', str([line.split(' ', 4)[4] for line in open('/proc/self/mountinfo') if ' / / ' not in line])))",
    "import os\nfor at in '/', '/etc', '/tmp', '/dev', '/dev/shm': print(at, sorted(os.listdir(at)), os.stat(at).st_mode)",
    "import os; print([(at, os.path.exists(at)) for at in ('/code', '/data', '/output')])",
    // Which number a program gets depends on the threads of the runc that made its container.
    "import os; print([pid for pid in os.listdir('/proc') if pid.isdigit() and int(pid) not in (1, os.getpid())])",
    "import os, signal; print([signal.getsignal(it) for it in (2, 13, 15)], signal.pthread_sigmask(0, []))",
    "open('app.py', 'w')",
    "print('x' * 100)\nimport time; time.sleep(60)",
    "held = []\nwhile True: held.append(bytearray(1 << 20))",
    "import resource; print(resource.getrlimit(resource.RLIMIT_FSIZE))\nopen('/tmp/x', 'wb').write(bytes(80 << 20))",
    "# é\nprint('é', len('é'))",
    "import os, time\nif os.fork() == 0:\n    time.sleep(30)\nprint('parent')",
];

#[tokio::test]
async fn programs_end_alike_with_the_pool_and_without() {
    let warm = Warm::new(image());
    for source in SCRIPTS {
        let order = || Order::python(source).limits(|limits| limits.timeout_ms = 4000);
        runs_alike(&warm, order).await;
    }
    warm.end().await;
}

#[tokio::test]
async fn arguments_input_folders_and_handlers_are_put_in_place() {
    let warm = Warm::new(image());
    let order = || {
        let mut order = Order::python("import sys; print(sys.argv, sys.stdin.read(), sys.stdin)");
        order.spec.args = ["a b", "", "é", "--x"].map(str::to_owned).to_vec();
        order.spec.stdin = true;
        let (sender, stdin) = mpsc::channel(2);
        sender.try_send(Bytes::from_static(b"one\ntwo")).unwrap();
        Order { stdin: Some(stdin), ..order }
    };
    runs_alike(&warm, order).await;

    let file = |path: &str, content: &str| JobFile {
        path: path.into(),
        content: content.into(),
        executable: false,
    };
    let folder = || {
        let main = "import sys, os, pkg.part\nprint(sys.path[0], os.getcwd(), sys.argv, __file__)\n\
                    print(sorted(os.walk('.')), pkg.part.VALUE, open('data.txt').read())\n1/0\n";
        let files = vec![
            file("src/main.py", main),
            file("src/pkg/__init__.py", ""),
            file("src/pkg/part.py", "VALUE = 7\n"),
            file("data.txt", "text"),
        ];
        Order::new(Program::Folder { files, entry: "src/main.py".to_owned() })
    };
    runs_alike(&warm, folder).await;

    for (source, event) in [
        (
            "import sys\ndef handler(event, context):\n    print('log', sys.argv, sys.path[0])\n    return {'is': event}\n",
            "[1]",
        ),
        (
            "def handler(event, context):\n    return event['a'] / event['b']\n",
            r#"{"a": 1, "b": 0}"#,
        ),
        (
            "import logging\ndef handler(event, context):\n    logging.info('noted')\n    return {1, 2}\n",
            "0",
        ),
        ("import nothing\n", "0"),
    ] {
        let input = format!(r#"{{"version": "v1", "context": {{}}, "event": {event}}}"#);
        let order = || {
            let (name, source) = ("main.handler".to_owned(), source.to_owned());
            let handler = Handler::of_source(Runtime::Python, name, source, input.clone());
            Order::new(Program::Handler(handler))
        };
        runs_alike(&warm, order).await;
    }
    warm.end().await;
}

#[tokio::test]
async fn limits_that_a_cgroup_has_are_written_and_hold() {
    let warm = Warm::new(image());
    // The container is made for other limits than it is used with.
    let usual = || Order::python("print('hi')");
    warm.run(usual).await;
    let bomb = || {
        let source = "held = []\nwhile True: held.append(bytearray(1 << 20))\n";
        Order::python(source).limits(|limits| limits.memory_bytes = 80 << 20)
    };
    let (with, _) = runs_alike(&warm, bomb).await;
    assert_eq!(with.outcome.cause, Cause::MemoryExceeded);
    assert_eq!(with.outcome.used.memory_peak_bytes, Some(80 << 20));
    let fork = || {
        let source = "import os\ncount = 0\ntry:\n    while True:\n        if os.fork() == 0:\n            \
                      import time; time.sleep(9)\n        count += 1\nexcept OSError: print(count)\n\
                      os._exit(0)\n";
        Order::python(source).limits(|limits| limits.pids = 9)
    };
    runs_alike(&warm, fork).await;
    let busy = || {
        let source = "import time\nbegun = time.monotonic()\nwhile time.process_time() < .2: pass\n\
                      print(time.monotonic() - begun > .7)\n";
        Order::python(source).limits(|limits| limits.cpus_milli = 100)
    };
    // Another number of threads: containers of its own.
    runs_alike(&warm, busy).await;
    warm.end().await;
}

#[tokio::test]
async fn a_container_serves_one_job_and_its_memory_is_the_jobs() {
    let warm = Warm::new(image());
    let marked = || {
        Order::python(
            "import os\nprint(os.path.exists('/tmp/mark'), os.path.exists('/dev/shm/mark'))\n\
             open('/tmp/mark', 'w'), open('/dev/shm/mark', 'w')\nheld = bytearray(40 << 20)\n\
             import time; time.sleep(.3)\n",
        )
    };
    for _ in 0..4 {
        let (with, without) = runs_alike(&warm, marked).await;
        let [with, without] =
            [with, without].map(|ran| ran.outcome.used.memory_peak_bytes.unwrap());
        assert!(with.abs_diff(without) < 4 << 20, "{with} {without}");
    }
    warm.end().await;
}

/// What part of busy processors the containers of the pool get, by a bench's groups.
fn shares(bench: &Bench) -> Vec<String> {
    let hierarchies = fs_err::read_dir("/sys/fs/cgroup").unwrap();
    let roots = hierarchies.map(|entry| entry.unwrap().path()).chain(["/sys/fs/cgroup".into()]);
    let groups =
        roots.filter_map(|root| fs_err::read_dir(root.join("sway").join(&bench.worker_id)).ok());
    let files = groups.flatten().flat_map(|group| {
        let group = group.unwrap().path();
        ["cpu.shares", "cpu.weight"].map(|name| group.join(name))
    });
    let mut shares: Vec<String> = files
        .filter(|file| file.to_str().unwrap().contains("/wait-"))
        .filter_map(|file| Some(fs_err::read_to_string(file).ok()?.trim().to_owned()))
        .collect();
    shares.sort();
    shares
}

#[tokio::test]
async fn what_waits_gives_way_to_jobs_and_gets_the_usual_share_with_its_own() {
    let warm = Warm::new(image());
    warm.run(|| Order::python("print('hi')")).await;
    let is_usual = |share: &String| share == "1024" || share == "100";
    let seen = async |wanted: fn(usize, usize) -> bool| {
        let begun = Instant::now();
        loop {
            let shares = shares(&warm.bench);
            let usual = shares.iter().filter(|it| is_usual(it)).count();
            if wanted(usual, shares.len()) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{shares:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // The first one is gone, the next one waits.
    seen(|usual, all| usual == 0 && all > 0).await;
    let slow = || Order::python("import time; time.sleep(2)");
    tokio::join!(warm.run(slow), seen(|usual, _| usual == 1));
    warm.end().await;
}

#[tokio::test]
async fn what_the_image_names_is_imported_ahead_and_what_it_lacks_is_no_error() {
    let env = vec!["SWAY_PRELOAD=decimal, nonesuch json".to_owned()];
    let config = RunConfig { env, ..RunConfig::default() };
    let warm = Warm::new(PlainRootfs::new(base(), config));
    let begun = Instant::now();
    let look = || Order::python("import sys; print('_decimal' in sys.modules)");
    while warm.run(look).await.stdout != "True\n" {
        assert!(begun.elapsed() < PATIENCE, "nothing is imported");
        // Containers import when no job has come for a while.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // A module of the job's own comes before one of that name which is loaded.
    let own = |run: &str| {
        let file = |path: &str, content: &str| JobFile {
            path: path.into(),
            content: content.into(),
            executable: false,
        };
        let files = vec![file("main.py", run), file("decimal.py", "OWN = 1")];
        Order::new(Program::Folder { files, entry: "main.py".to_owned() })
    };
    for _ in 0..3 {
        let ran = warm.once(own("import decimal; print(decimal.OWN)")).await;
        assert_eq!(ran.stdout, "1\n", "{ran:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // What was imported ahead is not the job's memory.
    let small = || {
        Order::python("import decimal; print(1)").limits(|limits| limits.memory_bytes = 16 << 20)
    };
    assert_eq!(warm.once(small()).await.stdout, "1\n");
    warm.end().await;
}

#[tokio::test]
async fn jobs_that_do_not_fit_have_containers_of_their_own() {
    let warm = Warm::new(image());
    warm.run(|| Order::python("print('hi')")).await;
    let spec = |change: &dyn Fn(&mut JobSpec)| {
        let mut order = Order::python("print('hi')");
        change(&mut order.spec);
        order
    };
    let shell = Order::shell("echo hi");
    let named = {
        let file = JobFile { path: "a.sh".into(), content: "echo hi".into(), executable: false };
        Order::new(Program::Script { file })
    };
    let hides = {
        // A directory of the image's stands in the place of the job's file.
        let file = JobFile {
            path: "hostname".into(),
            content: "#!/bin/sh\necho hi".into(),
            executable: true,
        };
        Order::new(Program::Script { file })
    };
    let env = spec(&|spec| {
        spec.env.insert("A".to_owned(), "b".to_owned());
    });
    let tmp = Order::python("print('hi')").limits(|limits: &mut Limits| limits.tmp_bytes = 1 << 20);
    for order in [shell, named, hides, env, tmp] {
        let ran = warm.once(order).await;
        assert_eq!((ran.stdout.as_str(), ran.outcome.pooled), ("hi\n", false), "{ran:?}");
    }
    warm.end().await;
}

#[tokio::test]
async fn containers_of_an_image_go_when_its_name_leads_elsewhere() {
    let old: Arc<dyn Rootfs> = image();
    let hi = || Order::python("print('hi')");
    let mut warm = Warm::new(Arc::clone(&old));
    warm.run(hi).await;
    // Each that waits keeps its image mounted.
    let until = async |holders: std::ops::RangeInclusive<usize>| {
        let begun = Instant::now();
        while !holders.contains(&Arc::strong_count(&old)) {
            assert!(begun.elapsed() < PATIENCE, "{} holders", Arc::strong_count(&old));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    until(3..=4).await;
    warm.mount = image();
    assert!(!warm.once(hi()).await.outcome.pooled);
    until(1..=1).await;
    assert!(warm.run(hi).await.outcome.pooled);
    warm.end().await;
}

#[tokio::test]
async fn a_pool_that_is_killed_with_its_worker_leaves_nothing_to_the_next() {
    let warm = Warm::new(image());
    warm.run(|| Order::python("print('hi')")).await;
    let begun = Instant::now();
    while warm.bench.leftovers().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "nothing waits");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // As the next worker finds it. This one's pool is alive, and may be at work on the next one.
    let begun = Instant::now();
    while let Err(error) = warm.bench.runner.recover().await {
        assert!(begun.elapsed() < PATIENCE, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    warm.end().await;
}
