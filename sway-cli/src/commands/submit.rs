//! `sway submit`: a job for an owner to decide on.

use std::path::PathBuf;

use clap::Args;
use sway_client::Client;
use sway_core::api::submissions::{Packages, QUEUE, Submission};
use sway_core::job::{Dataset, DatasetKind, JobFile, JobSpec, LimitsRequest, Program};
use sway_core::name::{DatasetName, ImageName, UserName};

use super::run::refused;
use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::job_options::{NetworkArg, env_setting};
use crate::program;
use crate::size::{parse_cpus_milli, parse_size, parse_time_ms};

/// What starts a submitted folder.
const ENTRY: &str = "run.sh";

/// Where a job's Python packages are named.
const REQUIREMENTS: &str = "requirements.txt";

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway submit ./my_analysis --to alice@example.org --name 'Statistical Analysis'
                             the folder, started by its run.sh, once alice has approved it
  sway submit ./my_analysis --to alice --name Sums --description 'Sums by year' --tags a,b
  sway submit --script sums.py --to alice --name Sums
                             one file
  sway submit --script sums.py --requirements 'numpy>=2,pandas' --to alice --name Sums
                             with packages that its image lacks
  sway submit ./my_analysis --to alice --name Sums --data weather
                             alice's dataset weather is below /data
  sway submit ./my_analysis --to alice --name Sums --json
                             for programs: the job as JSON

The job's id is printed: `sway status ID` says where it stands, `sway wait ID` waits for its end,
`sway output ID` and `sway logs ID` are what it made. It gets what alice's queue grants: 600 s,
1 GiB, 1 CPU and 128 processes unless it asks for others. The packages that the folder's
requirements.txt names are installed into its image before alice decides: wheels, of the worker's
index or of alice's. What it writes to the directory that
OUTPUT_DIR names is kept for a day.")]
pub(crate) struct SubmitArgs {
    /// Folder on this machine, with a run.sh
    #[arg(value_name = "FOLDER", required_unless_present = "script", conflicts_with = "script")]
    folder: Option<PathBuf>,
    /// One script in place of a folder
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// The owner who decides
    #[arg(long, value_name = "OWNER")]
    to: UserName,
    /// What the job is called
    #[arg(long)]
    name: String,
    /// What it is for
    #[arg(long, default_value = "", value_name = "TEXT")]
    description: String,
    /// Words to find it by, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "TAG,…")]
    tags: Vec<String>,
    /// Python packages of the script, separated by commas, or a file that names them; they go
    /// along as requirements.txt, and are installed before the owner decides
    #[arg(long, value_name = "NAME,…|FILE", requires = "script")]
    requirements: Option<String>,
    /// A dataset of the owner's, at /data/NAME; a folder that comes alone at /data
    #[arg(long, value_name = "[NAME=]DATASET")]
    data: Vec<String>,
    /// Image to run in [default: the worker's]
    #[arg(long, value_name = "NAME[:TAG]")]
    image: Option<ImageName>,
    /// The file of the folder to start
    #[arg(long, value_name = "FILE", default_value = ENTRY, conflicts_with = "script")]
    entry: String,
    /// A label that keeps queues of one worker apart [default: the owner's, as `sway owner` has it, else code-queue]
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// Time that the job may take, in seconds or with a unit [default: the queue's, mostly 600]
    #[arg(long, value_name = "S", value_parser = parse_time_ms, allow_negative_numbers = true)]
    timeout: Option<u64>,
    /// Memory including swap, such as 512M or 2G [default: 1G]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, allow_negative_numbers = true)]
    memory: Option<u64>,
    /// CPUs, such as 2 or 0.5 [default: 1]
    #[arg(long, value_name = "N", value_parser = parse_cpus_milli, allow_negative_numbers = true)]
    cpus: Option<u32>,
    /// Processes and threads [default: 128]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pids: Option<u32>,
    /// What the job can reach; the owner must grant it
    #[arg(long, value_enum, default_value_t = NetworkArg::None)]
    network: NetworkArg,
    /// Set a variable of the job's environment; without =VALUE it gets the value that it has here
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Print the job as JSON
    #[arg(long)]
    json: bool,
    /// Arguments of the script
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
}

/// Sends the job, and prints its id.
pub(crate) async fn run(args: SubmitArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let json = args.json;
    let (worker, queue) = context.worker_of(&args.to)?;
    let job = submit(args, &worker, queue).await.map_err(refused)?;
    let output = &context.output;
    if json {
        output.json(&job)?;
        return Ok(ExitCode::Success);
    }
    output.line(&job.id)?;
    let submission = job.submission.as_ref();
    let owner = submission.map(|submission| submission.owner.to_string()).unwrap_or_default();
    let packages = match submission.and_then(|submission| submission.packages.as_ref()) {
        Some(Packages::Preparing) => {
            format!(", and the packages of {REQUIREMENTS} are being installed")
        }
        Some(Packages::LeftToImage) => {
            format!("; its image has to have the packages of {REQUIREMENTS}: it is your own")
        }
        Some(_) | None => String::new(),
    };
    output.done(format_args!(
        "Submitted to {owner} as {}; it is {}{packages}",
        job.username,
        job.state.as_str()
    ));
    Ok(ExitCode::Success)
}

async fn submit(
    args: SubmitArgs,
    worker: &Client,
    queue: Option<String>,
) -> anyhow::Result<sway_core::api::jobs::JobView> {
    let program = program_of(&args)?;
    let datasets = datasets(&args.data, &args.to, worker).await?;
    let job = JobSpec {
        args: args.args,
        env: args.env.iter().map(|setting| env_setting(setting)).collect::<anyhow::Result<_>>()?,
        limits: LimitsRequest {
            timeout_ms: args.timeout,
            memory_bytes: args.memory,
            cpus_milli: args.cpus,
            pids: args.pids,
            ..LimitsRequest::default()
        },
        network: args.network.into(),
        datasets,
        ..JobSpec::new(args.image, program)
    };
    let submission = Submission {
        owner: args.to,
        queue: args.queue.or(queue).unwrap_or_else(|| QUEUE.to_owned()),
        name: args.name,
        description: args.description,
        tags: args.tags,
        job,
    };
    submission.check()?;
    Ok(worker.submissions().submit(&submission).await?)
}

fn program_of(args: &SubmitArgs) -> anyhow::Result<Program> {
    let Some(script) = &args.script else {
        let folder = args.folder.clone().unwrap_or_default();
        if folder.is_dir() && args.entry == ENTRY && !folder.join(ENTRY).is_file() {
            let message = format!("the folder {} has no {ENTRY}", folder.display());
            let hint = format!("{ENTRY} starts a submitted folder; --entry names another file");
            return Err(Failure::refused(message).hint(hint).into());
        }
        return Ok(program::read(&folder, Some(&args.entry))?);
    };
    let program = program::read(script, None)?;
    match (program, &args.requirements) {
        (Program::Script { file }, Some(requirements)) => {
            let entry = file.path.clone();
            let content = match fs_err::read(requirements) {
                Ok(content) => content,
                Err(_) => requirements
                    .split(',')
                    .map(|it| format!("{}\n", it.trim()))
                    .collect::<String>()
                    .into(),
            };
            let path = REQUIREMENTS.to_owned();
            let requirements = JobFile { path, content, executable: false };
            Ok(Program::Folder { files: vec![file, requirements], entry })
        }
        (Program::Script { file }, None) => Ok(Program::Script { file }),
        (_, _) => {
            let message = format!("--script is for a file, and {} is a folder", script.display());
            Err(Failure::refused(message).hint("sway submit FOLDER takes folders").into())
        }
    }
}

/// The owner's datasets as the job will read them: only the owner's worker knows what they are.
async fn datasets(
    asked: &[String],
    owner: &UserName,
    worker: &Client,
) -> anyhow::Result<Vec<Dataset>> {
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let known = worker.submissions().datasets(owner).await?;
    let names: Vec<&str> = known.iter().map(|dataset| dataset.name.as_str()).collect();
    let find = |text: &String| {
        let (target, name) = match text.split_once('=') {
            Some((target, name)) => (Some(target.to_owned()), name),
            None => (None, text.as_str()),
        };
        let name = name.strip_prefix(&format!("{owner}/")).unwrap_or(name);
        let found = known.iter().find(|dataset| dataset.name == name).ok_or_else(|| {
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            Failure::refused(format!("{owner} offers no dataset {name:?}"))
                .hint(format!("there are: {there}"))
        })?;
        let target = match (target, found.kind) {
            (Some(target), _) => Some(target),
            (None, DatasetKind::File) => Some(found.file.clone().unwrap_or(found.name.clone())),
            (None, DatasetKind::Folder) if asked.len() == 1 => None,
            (None, DatasetKind::Folder) => Some(found.name.clone()),
        };
        let dataset = DatasetName { user: Some(owner.clone()), name: found.name.clone() };
        Ok(Dataset { name: target, kind: found.kind, dataset })
    };
    asked.iter().map(find).collect()
}
