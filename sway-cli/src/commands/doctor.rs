//! `sway doctor`: what is missing on this machine, and what it would give.
//!
//! Looks at the system here; what the facts mean is decided in [`machine`] and [`runc`], which
//! look at nothing.

mod machine;
mod runc;

use std::time::Duration;

use clap::Args;
use owo_colors::OwoColorize;
use serde::Serialize;
use sway_core::access::Scope;
use sway_core::name::UserName;
use tokio::process::Command;

use crate::config::Login;
use crate::context::{Context, Fileserver};
use crate::exit_code::ExitCode;
use crate::output::{Output, chain};

use machine::{Cgroups, Machine};

/// For a program to say its version, and for a daemon to answer.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway doctor                 as root, where the worker runs
  sway doctor --json          for programs: can_run; findings of subject, state, found, advice

Exits with 0 where jobs can run, with 1 where they can't.")]
pub(crate) struct DoctorArgs {
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// As it should be.
    Good,
    /// Jobs run, but something is worse than it could be.
    Limited,
    /// No jobs can run on this machine without it.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    /// What was looked at.
    subject: &'static str,
    /// How much it matters.
    state: State,
    /// What was found.
    found: String,
    /// What to do, and what that gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn new(subject: &'static str, state: State, found: impl Into<String>) -> Self {
        Self { subject, state, found: found.into(), advice: None }
    }

    fn advice(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether jobs can run: on this machine, or by a worker that can be reached.
    can_run: bool,
    /// In the order in which a job needs them.
    findings: Vec<Finding>,
}

/// Looks around and tells.
pub(crate) async fn run(args: DoctorArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let mut findings = look_at_machine().await.findings();
    let fit = findings.iter().all(|finding| finding.state != State::Missing);
    findings.extend(builders().await);
    let (servers, served) = servers(context).await?;
    findings.extend(servers);
    let report = Report { can_run: fit || served, findings };
    if args.json {
        context.output.json(&report)?;
    } else {
        print(&report, &context.output)?;
        context.output.line(match (fit, served) {
            (true, _) => "Jobs can run on this machine.",
            (false, true) => {
                "Jobs can run by the worker that was found, not by one of your own here."
            }
            (false, false) => "Jobs can't run on this machine yet.",
        })?;
    }
    Ok(if report.can_run { ExitCode::Success } else { ExitCode::Failed })
}

fn print(report: &Report, output: &Output) -> anyhow::Result<()> {
    for finding in &report.findings {
        let mark = match finding.state {
            State::Good => "✓".green().to_string(),
            State::Limited => "!".yellow().to_string(),
            State::Missing => "✗".red().to_string(),
        };
        output.line(format_args!("{mark} {:<16} {}", finding.subject, finding.found))?;
        if let Some(advice) = &finding.advice {
            output.line(format_args!("  {:<16} {} {advice}", "", "→".dimmed()))?;
        }
    }
    output.line("")?;
    Ok(())
}

async fn look_at_machine() -> Machine {
    let read = |path: &str| fs_err::read_to_string(path).ok();
    let filesystems = read("/proc/filesystems").unwrap_or_default();
    let has_filesystem =
        |name: &str| filesystems.lines().any(|line| line.split_whitespace().last() == Some(name));
    Machine {
        linux: cfg!(target_os = "linux"),
        root: Login::current().root,
        kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        fuse: fs_err::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .map(drop)
            .map_err(|error| error.to_string()),
        overlay: has_filesystem("overlay"),
        user_namespaces: read("/proc/sys/user/max_user_namespaces")
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0),
        cgroups: Cgroups::read(
            &read("/proc/mounts").unwrap_or_default(),
            &read("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default(),
        ),
        swap: read("/proc/swaps").is_some_and(|text| text.lines().count() > 1),
        swap_accounting: swap_is_accounted(),
        runc: answer("runc", &["--version"]).await,
        init: init(),
        slirp4netns: answer("slirp4netns", &["--version"]).await,
    }
}

/// v1 has the file in the controller's root, v2 in every group but the root's.
fn swap_is_accounted() -> bool {
    let is_there = |path: &str| fs_err::metadata(path).is_ok();
    let in_a_group = || {
        let groups = fs_err::read_dir("/sys/fs/cgroup").ok()?;
        groups.flatten().find(|group| group.path().join("memory.swap.max").exists())
    };
    is_there("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes") || in_a_group().is_some()
}

#[cfg(target_os = "linux")]
fn init() -> Option<String> {
    sway_worker::job::find_init().map(|path| path.display().to_string())
}

#[cfg(not(target_os = "linux"))]
fn init() -> Option<String> {
    None
}

/// What a program says, if it is there and succeeds in time.
async fn answer(program: &str, args: &[&str]) -> Option<String> {
    let running = Command::new(program)
        .args(args)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PROBE_DEADLINE, running).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Any one of them does for `sway export`; images that are there already need none.
async fn builders() -> Option<Finding> {
    let server = ["version", "--format", "{{.Server.Version}}"];
    let (docker, podman, buildah) = tokio::join!(
        answer("docker", &server),
        answer("podman", &["--version"]),
        answer("buildah", &["--version"]),
    );
    let first_line = |text: String| text.lines().next().unwrap_or_default().to_owned();
    let found: Vec<String> = [docker.map(|version| format!("docker {version}")), podman, buildah]
        .into_iter()
        .flatten()
        .map(first_line)
        .collect();
    Some(if found.is_empty() {
        Finding::new("image builder", State::Limited, "no docker daemon, podman or buildah")
            .advice("install buildah to build Dockerfiles; `sway export --from` takes built images")
    } else {
        Finding::new("image builder", State::Good, found.join("; "))
    })
}

/// As whom the fileserver takes us, and how many images of ours it has.
async fn own_images(context: &Context) -> anyhow::Result<(UserName, usize)> {
    let Fileserver { client, user } = context.fileserver(&[Scope::Read]).await?;
    let own = format!("images/{}/", user.to_ref_part());
    let images = client.refs().list(&own).await?;
    Ok((user, images.len()))
}

/// The servers that the settings point to, and whether the worker takes jobs from us.
async fn servers(context: &Context) -> anyhow::Result<(Vec<Finding>, bool)> {
    let mut findings = Vec::new();
    let settings = &context.settings;
    let token = settings.token()?;
    findings.push(match (&token, settings.token_given()) {
        (Some(_), Some(_)) => {
            Finding::new("token", State::Good, "given by SWAY_TOKEN or the config file")
        }
        (Some(_), None) => {
            Finding::new("token", State::Good, format!("in {}", settings.token_path().display()))
        }
        (None, _) => Finding::new(
            "token",
            State::Limited,
            format!("none given, none to be read in {}", settings.token_path().display()),
        )
        .advice("`sway up` makes one; for a server of another user or machine set SWAY_TOKEN"),
    });
    let fileserver = context.plain_fileserver()?;
    findings.push(match fileserver.health().await {
        Ok(_) => {
            Finding::new("fileserver", State::Good, format!("answers at {}", fileserver.base()))
        }
        Err(error) => Finding::new("fileserver", State::Limited, chain(&error.into()))
            .advice("`sway up` starts one; FILESERVER_URL says where another is"),
    });
    if token.is_some() {
        findings.push(match own_images(context).await {
            Ok((user, images)) => Finding::new(
                "images and data",
                State::Good,
                format!("the fileserver knows us as {user}, who has {images} images there"),
            ),
            Err(error) => Finding::new("images and data", State::Limited, chain(&error)).advice(
                "a user's token opens the fileserver that knows the worker: start it with \
                 --worker-key and the worker's DATA/pass-key.pub",
            ),
        });
    }
    let worker = context.worker()?;
    let served = worker.jobs().images().await;
    let taken = served.is_ok();
    findings.push(match served {
        Ok(images) => Finding::new(
            "worker",
            State::Good,
            format!("answers at {}; {} images to run", worker.base(), images.len()),
        ),
        Err(error) => Finding::new("worker", State::Limited, chain(&error.into()))
            .advice("`sway up` starts one; WORKER_URL says where another is"),
    });
    Ok((findings, taken))
}
