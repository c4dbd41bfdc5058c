//! What `docs/security.md` claims, each claim tried from within: the scripts of
//! `testapps/isolation` try to break it, and must be told what is recorded beside them.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use sway_core::job::{Cause, JobFile, Network, Program};
use sway_core::manifest::RunConfig;

use crate::job::{Bench, Order, PlainRootfs, Ran, base};
use crate::pool::Warm;

fn app() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testapps/isolation")
}

/// The whole folder, started at one of its scripts.
fn order(entry: &str) -> Order {
    let files = fs_err::read_dir(app())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "py"))
        .map(|path| JobFile {
            path: path.file_name().unwrap().to_str().unwrap().to_owned(),
            content: fs_err::read(&path).unwrap(),
            executable: false,
        })
        .collect();
    Order::new(Program::Folder { files, entry: format!("{entry}.py") })
}

fn check(entry: &str, ran: &Ran) {
    let expected = app().join("expected").join(entry);
    #[expect(clippy::disallowed_methods, reason = "how the record is made anew")]
    if std::env::var_os("SWAY_RECORD").is_some() {
        fs_err::write(&expected, &ran.stdout).unwrap();
    }
    let expected = fs_err::read_to_string(expected).unwrap();
    for (line, expected) in ran.stdout.lines().zip(expected.lines()) {
        assert_eq!(line, expected, "{entry}");
    }
    assert_eq!(ran.stdout, expected, "{ran:?}");
    assert_eq!((ran.outcome.cause, ran.outcome.exit_code), (Cause::Exited, Some(0)), "{ran:?}");
}

/// In a container of its own, and in one that waited for it.
async fn check_both(entry: &str, order: impl Fn() -> Order) {
    check(entry, &Bench::new().run(order()).await);
    let warm = Warm::new(order().mount);
    check(entry, &warm.run(order).await);
    warm.end().await;
}

#[tokio::test]
async fn no_namespace_or_mount_can_be_made_joined_or_changed() {
    check_both("namespaces", || order("namespaces")).await;
}

#[tokio::test]
async fn kernel_interfaces_and_foreign_abis_are_refused() {
    check_both("kernel", || order("kernel")).await;
}

#[tokio::test]
async fn files_of_the_kernel_and_of_a_hostile_image_are_out_of_reach() {
    let tree = tempfile::tempdir_in(base().parent().unwrap()).unwrap();
    let root = tree.path().join("root");
    let run = |program: &str, arguments: &[&str]| {
        let done = Command::new(program).args(arguments).status().unwrap();
        assert!(done.success(), "{program} {arguments:?}");
    };
    // Hard links: as good as a copy, and quick.
    run("cp", &["-al", base().to_str().unwrap(), root.to_str().unwrap()]);
    let hostile = root.join("opt/hostile");
    fs_err::create_dir_all(&hostile).unwrap();
    let at = |name: &str| hostile.join(name).to_str().unwrap().to_owned();
    // The disk that this test itself runs from.
    let disk = {
        use std::os::unix::fs::MetadataExt as _;
        fs_err::metadata(&root).unwrap().dev()
    };
    let (major, minor) = (rustix::fs::major(disk), rustix::fs::minor(disk));
    run("mknod", &["-m", "666", &at("disk"), "b", &major.to_string(), &minor.to_string()]);
    run("mknod", &["-m", "666", &at("mem"), "c", "1", "1"]);
    fs_err::copy(root.join("usr/bin/python3.11"), at("setuid-python")).unwrap();
    run("chmod", &["4755", &at("setuid-python")]);
    let image = PlainRootfs::new(&root, RunConfig::default());
    check_both("files", || Order { mount: image.clone(), ..order("files") }).await;
}

#[tokio::test]
async fn what_jobs_share_can_not_be_used_up() {
    check_both("filling", || order("filling")).await;
}

#[tokio::test]
async fn neither_host_nor_network_nor_other_jobs_can_be_reached() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("sway-test-{}", uuid::Uuid::new_v4().simple());
    let _abstract =
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let mut victim = Command::new("sleep").arg("60").spawn().unwrap();
    let port = tcp.local_addr().unwrap().port();
    let args = [victim.id().to_string(), port.to_string(), name];
    check_both("reach", || {
        let mut order = order("reach");
        order.spec.args = args.to_vec();
        order
    })
    .await;
    let alive = victim.try_wait().unwrap().is_none();
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(alive);
}

/// Needs slirp4netns, as the worker does.
#[tokio::test]
async fn an_isolated_job_reaches_neither_private_addresses_nor_the_host() {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // What a packet to the outside would be sent from; nothing is sent.
    let outward = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let host = outward.connect("192.0.2.1:9").and_then(|()| outward.local_addr());
    let mut addresses = vec!["169.254.169.254".to_owned(), "10.1.2.3".into(), "192.168.0.1".into()];
    addresses.extend(host.ok().map(|host| host.ip().to_string()));
    let source = format!(
        "import socket, sys\n\
         print([name for _, name in socket.if_nameindex()])\n\
         for address in [*sys.argv[1:], '127.0.0.1', '10.0.2.2']:\n\
        \x20   try:\n\
        \x20       socket.create_connection((address, {port}), timeout=5)\n\
        \x20       print(address, 'REACHED')\n\
        \x20   except OSError:\n\
        \x20       print(address, 'refused')\n"
    );
    let bench = Bench::new();
    let mut order = Order::python(&source);
    order.spec.network = Network::Isolated;
    order.spec.args = addresses.clone();
    let ran = bench.run(order).await;
    let mut expected = "['lo', 'tap0']\n".to_owned();
    for address in addresses.iter().map(String::as_str).chain(["127.0.0.1", "10.0.2.2"]) {
        expected += &format!("{address} refused\n");
    }
    assert_eq!(ran.stdout, expected, "{ran:?}");
    assert_eq!(bench.leftovers(), [""; 0]);
}

#[tokio::test]
async fn jobs_at_one_time_have_ids_of_their_own_and_see_nothing_of_each_other() {
    let bench = Bench::new();
    let source = "import os, time, sys\n\
        open('/tmp/secret', 'w').write('x')\n\
        open('/dev/shm/secret', 'w').write('x')\n\
        print(open('/proc/self/uid_map').read().split()[1])\n\
        time.sleep(1)\n\
        print(sorted(os.listdir('/tmp')), [p for p in os.listdir('/proc') if p.isdigit() and p not in ('1', str(os.getpid()))])\n\
        print(any(name.startswith('app-') and name != sys.argv[0] for name in os.listdir('/')))\n";
    let named = |run_id: i64| {
        let file =
            JobFile { path: format!("app-{run_id}.py"), content: source.into(), executable: false };
        Order { run_id, ..Order::new(Program::Script { file }) }
    };
    let runs = futures::future::join_all((1..=4).map(|run_id| bench.run(named(run_id)))).await;
    let mut bases = Vec::new();
    for ran in &runs {
        let (base, rest) = ran.stdout.split_once('\n').unwrap();
        bases.push(base.parse::<u32>().unwrap());
        assert_eq!(rest, "['secret'] []\nFalse\n", "{ran:?}");
    }
    bases.sort_unstable();
    bases.dedup();
    assert_eq!(bases.len(), 4, "every job has a range of host ids of its own");
    assert!(bases.iter().all(|&base| base > 1 << 20), "host root is not among them");
    assert_eq!(bench.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_memory_bomb_ends_with_its_cause_and_the_worker_lives() {
    let bench = Bench::new();
    let bomb = Order::python("held = []\nwhile True: held.append(bytearray(1 << 20))\n");
    let ran = bench.run(bomb).await;
    assert_eq!(ran.outcome.cause, Cause::MemoryExceeded, "{ran:?}");
    assert_eq!(ran.outcome.exit_code, Some(137));
    assert_eq!(bench.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_fork_bomb_stays_within_its_limit_and_ends_with_its_time() {
    let bench = Bench::new();
    let bomb =
        Order::python("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n")
            .limits(|limits| limits.timeout_ms = 1500);
    let ran = bench.run(bomb).await;
    assert_eq!(ran.outcome.cause, Cause::Timeout, "{ran:?}");
    assert_eq!(bench.leftovers(), [""; 0]);
}

#[tokio::test]
async fn the_hosts_cgroups_environment_and_descriptors_do_not_show() {
    let bench = Bench::new();
    let ran = bench
        .run(Order::python(
            "import os\n\
             print([line.split(':', 2)[2].strip() for line in open('/proc/self/cgroup')\n\
                    if 'memory' in line or line.startswith('0::') and False])\n\
             print(sorted(name for name in os.environ if name.startswith(('SWAY', 'CARGO'))))\n\
             print(sorted(os.listdir('/proc/self/fd')))\n",
        ))
        .await;
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(!lines[0].contains("sway"), "{ran:?}");
    assert_eq!(lines[1], "[]");
    // Three, and the one that lists the directory.
    assert_eq!(lines[2], "['0', '1', '2', '3']");
}
