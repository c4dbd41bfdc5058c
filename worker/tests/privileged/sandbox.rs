//! Containers that are created without runc: as those that runc creates from the same bundle.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use sway_core::job::{Cause, JobFile, OutputLimits, Program};
use sway_core::manifest::RunConfig;
use sway_worker::job::Sandbox;
use tokio::sync::mpsc;

use crate::job::{Bench, Order, PlainRootfs, base, shows, sway};

/// What a container tells of itself, and what the host knows of its groups.
#[derive(Debug)]
struct Seen {
    inside: serde_json::Map<String, serde_json::Value>,
    groups: BTreeMap<String, String>,
}

/// Numbers and names that are a run's own, by what they mean: ids of its range, its directories,
/// devices that the kernel numbers as they come.
fn normal(text: &str, bench: &Bench) -> String {
    let text = text.replace(bench.data.path().to_str().unwrap(), "DATA");
    let text = text.replace(&bench.worker_id, "WORKER");
    let is_digit = |c: char| c.is_ascii_digit();
    let (mut normal, mut rest) = (String::new(), text.as_str());
    while let Some(at) = rest.find(is_digit) {
        let (before, from) = rest.split_at(at);
        let end = from.find(|c| !is_digit(c)).unwrap_or(from.len());
        let (number, after) = from.split_at(end);
        normal += before;
        match number.parse::<u64>() {
            Ok(id) if (1 << 28..1 << 31).contains(&id) => {
                normal += &format!("BASE+{}", id % (1 << 17));
            }
            _ => normal += number,
        }
        rest = after;
    }
    normal + rest
}

/// The same for all texts of a value.
fn normalise(value: &mut serde_json::Value, bench: &Bench) {
    match value {
        serde_json::Value::String(text) => *text = normal(text, bench),
        serde_json::Value::Array(values) => values.iter_mut().for_each(|it| normalise(it, bench)),
        serde_json::Value::Object(fields) => {
            fields.values_mut().for_each(|it| normalise(it, bench));
        }
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
    }
}

/// A line of mountinfo without the device's number and what names an overlay.
fn mount(line: &str) -> String {
    let mut fields: Vec<&str> = line.split(' ').filter(|field| !field.is_empty()).collect();
    if fields.first().is_some_and(|device| device.starts_with("0:")) {
        fields[0] = "0:N";
    }
    let options = fields.pop().unwrap_or_default();
    let is_place = |option: &&str| {
        ["lowerdir", "upperdir", "workdir"].iter().any(|name| option.starts_with(name))
    };
    let options: Vec<&str> = options.split(',').filter(|option| !is_place(option)).collect();
    format!("{} {}", fields.join(" "), options.join(","))
}

/// Notes where two values differ, as deep as they are alike.
fn differ(
    at: &str,
    ours: &serde_json::Value,
    theirs: &serde_json::Value,
    differences: &mut Vec<String>,
) {
    match (ours, theirs) {
        (serde_json::Value::Array(ours), serde_json::Value::Array(theirs))
            if ours.len() == theirs.len() =>
        {
            for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                differ(&format!("{at}/{index}"), ours, theirs, differences);
            }
        }
        (serde_json::Value::Object(ours), serde_json::Value::Object(theirs))
            if ours.keys().eq(theirs.keys()) =>
        {
            for (name, theirs) in theirs {
                differ(&format!("{at}/{name}"), &ours[name], theirs, differences);
            }
        }
        _ if ours == theirs => {}
        _ => differences.push(format!("{at}: {ours} instead of {theirs}")),
    }
}

async fn seen(sandbox: Sandbox) -> Seen {
    let bench = Bench::with_sandbox(sandbox);
    let content = include_bytes!("sandbox_probe.py").to_vec();
    let file = JobFile { path: "probe.py".into(), content, executable: false };
    let mut order = Order::new(Program::Script { file })
        .limits(|limits| limits.output = Some(OutputLimits::MAXIMA));
    let (input, source) = mpsc::channel(1);
    order.spec.stdin = true;
    order.stdin = Some(source);
    let log = bench.data.path().join("output-1");
    let looking = async {
        shows(&log, b"all told").await;
        let groups = groups(&bench);
        drop(input);
        groups
    };
    let (ran, groups) = tokio::join!(bench.run(order), looking);
    assert_eq!((ran.outcome.cause, ran.outcome.exit_code), (Cause::Exited, Some(0)), "{ran:?}");
    let told = ran.stdout.strip_suffix("all told\n").unwrap();
    let mut inside: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(told).unwrap();
    inside.values_mut().for_each(|value| normalise(value, &bench));
    let mounts = inside["mountinfo"].as_array().unwrap();
    let mut mounts: Vec<String> = mounts.iter().map(|line| mount(line.as_str().unwrap())).collect();
    // They are listed as they were made, which is before they are attached or at once.
    mounts.sort_unstable();
    inside["mountinfo"] = mounts.into();
    assert_eq!(bench.leftovers(), [""; 0]);
    Seen { inside, groups }
}

/// The run's groups: which hierarchies it is in, and their limits.
fn groups(bench: &Bench) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let hierarchies = fs_err::read_dir("/sys/fs/cgroup").unwrap();
    for hierarchy in hierarchies.map(|entry| entry.unwrap()) {
        let parent = hierarchy.path().join("sway").join(&bench.worker_id);
        let runs = fs_err::read_dir(&parent).into_iter().flatten().flatten();
        let run: Option<PathBuf> = runs
            .map(|entry| entry.path())
            .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("run-"));
        let Some(run) = run else { continue };
        let name = hierarchy.file_name().into_string().unwrap();
        let members = fs_err::read_to_string(run.join("cgroup.procs")).unwrap();
        found.insert(format!("{name} members"), members.lines().count().to_string());
        for file in [
            "devices.list",
            "memory.limit_in_bytes",
            "memory.memsw.limit_in_bytes",
            "memory.swappiness",
            "memory.use_hierarchy",
            "cpu.cfs_quota_us",
            "cpu.cfs_period_us",
            "cpu.shares",
            "pids.max",
            "cpuset.cpus",
            "cpuset.mems",
            "freezer.state",
            "blkio.weight",
            "notify_on_release",
        ] {
            if let Ok(text) = fs_err::read_to_string(run.join(file)) {
                // runc 1.1 lets containers open /dev/net/tun, of which there is none.
                let text = text.replace("c 10:200 rwm\n", "");
                found.insert(format!("{name} {file}"), text);
            }
        }
    }
    found
}

#[tokio::test]
async fn a_container_of_ours_is_as_one_of_runcs_field_by_field() {
    let (theirs, ours) = (seen(Sandbox::Runc).await, seen(sway()).await);
    assert!(theirs.inside.len() > 20 && !theirs.groups.is_empty());
    let mut differences = Vec::new();
    for (field, theirs) in &theirs.inside {
        differ(field, &ours.inside[field], theirs, &mut differences);
    }
    assert_eq!(differences, [""; 0]);
    assert_eq!(ours.inside.len(), theirs.inside.len());
    // It joins no hierarchy that limits and counts nothing of a job, whichever there are here.
    let joined = ["memory", "cpu", "cpuacct", "pids", "devices", "unified"];
    let is_joined = |name: &str| {
        let of = name.split([' ', ',']).next().unwrap_or_default();
        joined.contains(&of)
    };
    let theirs = theirs.groups.into_iter().filter(|(name, _)| is_joined(name));
    assert_eq!(ours.groups, theirs.collect::<BTreeMap<_, _>>());
}

#[tokio::test]
async fn what_a_bundle_asks_for_and_can_not_be_done_is_said_and_leaves_nothing() {
    // A program that forks nothing: it ends at once.
    let bench = Bench::with_sandbox(Sandbox::Sway { program: "/bin/true".into() });
    let ran = bench.run(Order::shell("true")).await;
    assert_eq!(ran.outcome.cause, Cause::Infrastructure, "{ran:?}");
    let message = ran.outcome.message.unwrap_or_default();
    assert!(message.contains("fork the container's first process"), "{message}");
    assert!(ran.outcome.started_at.is_none());
    assert_eq!(bench.leftovers(), [""; 0]);
}

#[tokio::test]
async fn many_containers_are_created_at_once_and_none_stays() {
    let bench = Arc::new(Bench::with_sandbox(sway()));
    let runs = (1..=16).map(|run_id| {
        let order = Order { run_id, ..Order::shell(&format!("echo {run_id}")) };
        bench.run(order)
    });
    for (ran, number) in futures::future::join_all(runs).await.iter().zip(1..) {
        assert_eq!(ran.stdout, format!("{number}\n"), "{ran:?}");
    }
    assert_eq!(bench.leftovers(), [""; 0]);
    // Nobody is left to be waited for: neither killed nor ended.
    let own = std::process::id().to_string();
    let stat = |entry: fs_err::DirEntry| fs_err::read_to_string(entry.path().join("stat")).ok();
    let zombies: Vec<String> = fs_err::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| stat(entry.unwrap()))
        .filter(|stat| {
            let fields = stat.rsplit(") ").next().unwrap_or_default();
            fields.starts_with("Z ")
                && fields.split(' ').nth(1) == Some(&own)
                && stat.contains("(sway-")
        })
        .collect();
    assert_eq!(zombies, [""; 0]);
}

#[tokio::test]
async fn an_images_links_lead_no_mount_elsewhere() {
    let tree = tempfile::tempdir_in(base().parent().unwrap()).unwrap();
    let root = tree.path().join("root");
    let copied = Command::new("cp").arg("-al").arg(base()).arg(&root).status().unwrap();
    assert!(copied.success());
    let bench = Bench::with_sandbox(sway());
    let mounts = async |run_id| {
        let mount = PlainRootfs::new(&root, RunConfig::default());
        let order =
            Order::shell("while read -r _ _ _ _ at _; do echo $at; done < /proc/1/mountinfo");
        bench.run(Order { run_id, mount, ..order }).await.stdout
    };
    let usual = mounts(1).await;
    for target in ["/", "/proc", "/dev", "/dev/pts", "/tmp", "/dev/null", "/proc/keys"] {
        assert!(usual.lines().any(|line| line == target), "{usual}");
    }
    for (name, target) in [("dev", "proc"), ("tmp", "proc/1/root"), ("proc", "etc")] {
        let at = root.join(name);
        fs_err::remove_dir_all(&at).unwrap();
        fs_err::os::unix::fs::symlink(target, &at).unwrap();
    }
    assert_eq!(mounts(2).await, usual);
    assert_eq!(bench.leftovers(), [""; 0]);
}

#[tokio::test]
async fn whoever_kills_what_forks_ends_no_container_and_the_next_one_is_made() {
    // A copy, to tell its processes from those of other tests.
    let copy = tempfile::tempdir().unwrap();
    let program = copy.path().join("sway-worker");
    fs_err::copy(env!("CARGO_BIN_EXE_sway-worker"), &program).unwrap();
    let bench = Bench::with_sandbox(Sandbox::Sway { program: program.clone() });
    let log = bench.data.path().join("output-1");
    let mut first = Order::shell("echo begun; read -r line; echo $line");
    let (input, source) = mpsc::channel(1);
    first.spec.stdin = true;
    first.stdin = Some(source);
    let meanwhile = async {
        shows(&log, b"begun").await;
        let running = fs_err::read_dir("/proc").unwrap().map(|entry| entry.unwrap());
        let forking: Vec<i32> = running
            .filter(|entry| {
                fs_err::read_link(entry.path().join("exe")).is_ok_and(|exe| exe == program)
            })
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        let &[forking] = forking.as_slice() else { panic!("{forking:?}") };
        let forking = rustix::process::Pid::from_raw(forking).unwrap();
        rustix::process::kill_process(forking, rustix::process::Signal::KILL).unwrap();
        let exe = format!("/proc/{}/exe", forking.as_raw_nonzero());
        while fs_err::read_link(&exe).is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let second = bench.run(Order { run_id: 2, ..Order::shell("echo second") }).await;
        input.send("first".into()).await.unwrap();
        drop(input);
        second
    };
    let (first, second) = tokio::join!(bench.run(first), meanwhile);
    assert_eq!(first.stdout, "begun\nfirst\n", "{first:?}");
    assert_eq!(second.stdout, "second\n", "{second:?}");
    assert_eq!(bench.leftovers(), [""; 0]);
}
