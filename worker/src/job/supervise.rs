//! Watches a container from its start to its end: moves its bytes, measures it, and ends it when
//! its time, its output or its owner says so.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::fs::{Gid, Uid};
use sway_core::api::jobs::{OutputStream, Usage};
use sway_core::handler::Answer;
use sway_core::job::{Cause, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Report;
use super::container::{Container, ContainerStdio, Ended};
use super::creator::{CreateError, Creator};
use super::handler::ANSWER_LEN_MAX;
use super::make::Run;
use super::output::{Appended, FRAME_LEN_MAX, OutputLog};
use super::usage::Meter;
use crate::job::bundle::RUNC_TASKS;

/// Between two samples of memory: at first, so that a run of a few milliseconds has some, and at
/// most.
const SAMPLE_EVERY_FIRST: Duration = Duration::from_millis(2);
const SAMPLE_EVERY: Duration = Duration::from_millis(50);

/// Bytes that are read of a pipe at first: most jobs write no more, and never many buffers are filled
/// in vain.
const BUFFER_LEN_FIRST: usize = 4 << 10;

/// How long a killed process may take to end. Its reads of the image are answered at once; what
/// remains is the kernel's own work, such as freeing memory.
const KILL_DEADLINE: Duration = Duration::from_secs(20);

/// How long output may still come after the end: the pipes' last bytes.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// The worker's ends of a container's pipes.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) stdin: Option<pipe::Sender>,
    pub(crate) stdout: pipe::Receiver,
    pub(crate) stderr: pipe::Receiver,
}

impl Pipes {
    /// Makes them. The container's ends belong to its user, so that it can open `/dev/stdout`.
    pub(crate) fn open(has_stdin: bool, owner: u32) -> io::Result<(ContainerStdio, Self)> {
        let pair = || -> io::Result<(OwnedFd, OwnedFd)> {
            let (reader, writer) = io::pipe()?;
            rustix::fs::fchown(&reader, Some(Uid::from_raw(owner)), None::<Gid>)?;
            Ok((reader.into(), writer.into()))
        };
        let (stdout, container_stdout) = pair()?;
        let (stderr, container_stderr) = pair()?;
        let (container_stdin, stdin) = if has_stdin {
            let (container_stdin, stdin) = pair()?;
            (Some(container_stdin), Some(pipe::Sender::from_owned_fd(stdin)?))
        } else {
            (None, None)
        };
        let stdio = ContainerStdio {
            stdin: container_stdin,
            stdout: container_stdout,
            stderr: container_stderr,
        };
        let stdout = pipe::Receiver::from_owned_fd(stdout)?;
        let stderr = pipe::Receiver::from_owned_fd(stderr)?;
        Ok((stdio, Self { stdin, stdout, stderr }))
    }
}

/// How a container's program begins.
#[derive(Debug)]
pub(crate) enum Start {
    /// It has to be started.
    Program,
    /// It waits for this on its standard input; the job's own comes after it.
    Message(Vec<u8>),
}

/// What is watched, and by which rules.
pub(crate) struct Watch<'a> {
    pub(crate) creator: &'a Creator,
    pub(crate) run: &'a Run,
    pub(crate) container: &'a Container,
    pub(crate) limits: &'a Limits,
    pub(crate) cancel: &'a CancellationToken,
    pub(crate) fail_on_limit: bool,
    /// Its standard error carries an answer.
    pub(crate) is_handler: bool,
    pub(crate) output: Arc<OutputLog>,
    /// Where to tell what it uses.
    pub(crate) usage: watch::Sender<Option<Usage>>,
}

impl Watch<'_> {
    /// Starts the container's program and returns when it has ended and its output is stored:
    /// who ended it, if not itself, and how it ended, if it did.
    pub(crate) async fn to_the_end(
        &self,
        start: Start,
        mut pipes: Pipes,
        stdin: Option<mpsc::Receiver<Bytes>>,
        started: oneshot::Sender<()>,
        report: &mut Report,
    ) -> (Option<Cause>, Option<Ended>) {
        let begun = Instant::now();
        report.started_at = Some(SystemTime::now());
        let meter = Meter::start(self.run, begun, &self.usage);
        let first_output = OnceLock::new();
        let too_much = CancellationToken::new();
        let pump = |pipe, stream| self.pump(pipe, stream, begun, &first_output, &too_much);
        let mut pumping = std::pin::pin!(async {
            let stderr = async {
                match self.is_handler {
                    true => self.answer(pipes.stderr).await,
                    false => pump(pipes.stderr, OutputStream::Stderr).await.map(|()| None),
                }
            };
            tokio::join!(pump(pipes.stdout, OutputStream::Stdout), stderr)
        });
        let (has_begun, begins) = oneshot::channel();
        let starting = async {
            match &start {
                Start::Program => {
                    let Run { container, stage, .. } = self.run;
                    self.creator.start(self.container, container, &stage.home).await
                }
                // Where it is never told, the container has ended.
                Start::Message(_) => match begins.await {
                    Ok(()) => Ok(()),
                    Err(_) => std::future::pending().await,
                },
            }
        };
        let mut feeding = std::pin::pin!(async {
            if let (Start::Message(message), Some(pipe)) = (&start, &mut pipes.stdin)
                && pipe.write_all(message).await.is_ok()
            {
                let _ = has_begun.send(());
            }
            feed(pipes.stdin.zip(stdin)).await;
        });
        let (mut pumped, mut fed) = (None, false);
        let end = {
            let living = self.live(begun, meter, starting, started, &too_much, report);
            let mut living = std::pin::pin!(living);
            loop {
                tokio::select! {
                    end = &mut living => break end,
                    results = &mut pumping, if pumped.is_none() => pumped = Some(results),
                    () = &mut feeding, if !fed => fed = true,
                }
            }
        };
        if pumped.is_none() {
            pumped = tokio::time::timeout(DRAIN_DEADLINE, pumping).await.ok();
        }
        report.first_output = first_output.get().copied();
        let (stdout, stderr) = pumped.unwrap_or((Ok(()), Ok(None)));
        let (answer, stderr) = match stderr {
            Ok(answer) => (answer, None),
            Err(error) => (None, Some(error)),
        };
        report.answer = answer;
        for error in [stdout.err(), stderr].into_iter().flatten() {
            report.notes.push(format!("output could not be stored: {error}"));
        }
        end
    }

    /// From the start of the program to the end of the process.
    async fn live(
        &self,
        begun: Instant,
        mut meter: Meter<'_>,
        starting: impl Future<Output = Result<(), CreateError>>,
        started: oneshot::Sender<()>,
        too_much: &CancellationToken,
        report: &mut Report,
    ) -> (Option<Cause>, Option<Ended>) {
        let timeout = begun + Duration::from_millis(self.limits.timeout_ms);
        let mut started = Some(started);
        let mut starting = std::pin::pin!(starting);
        let mut killed: Option<(Cause, Instant)> = None;
        let (mut next_sample, mut pause) = (begun + SAMPLE_EVERY_FIRST, SAMPLE_EVERY_FIRST);
        let ended = loop {
            let alive = killed.is_none();
            let given_up = killed.map_or(timeout, |(_, since)| since + KILL_DEADLINE);
            let cause = tokio::select! {
                biased;
                ended = self.container.wait() => match ended {
                    Ok(ended) => break Some(ended),
                    Err(error) => {
                        report.notes.push(format!("the job's process is lost: {error}"));
                        self.kill();
                        break None;
                    }
                },
                result = &mut starting, if started.is_some() => {
                    let told = started.take().map(|started| started.send(()));
                    match result {
                        Ok(()) => {
                            // Nobody need be interested.
                            let _ = told;
                            self.limit_tasks(report);
                            continue;
                        }
                        Err(error) => {
                            report.notes.push(error.to_string());
                            Cause::Infrastructure
                        }
                    }
                }
                () = tokio::time::sleep_until(given_up) => {
                    if !alive {
                        report.notes.push("the job's process survives SIGKILL".to_owned());
                        break None;
                    }
                    Cause::Timeout
                }
                () = self.cancel.cancelled(), if alive => Cause::Cancelled,
                () = too_much.cancelled(), if alive => Cause::OutputLimit,
                () = tokio::time::sleep_until(next_sample), if alive => {
                    meter.sample();
                    next_sample = Instant::now() + pause;
                    pause = (pause * 2).min(SAMPLE_EVERY);
                    continue;
                }
            };
            self.kill();
            killed = killed.or(Some((cause, Instant::now())));
        };
        report.duration = begun.elapsed();
        report.used = meter.end();
        if let Some(started) = started {
            // It ended before it was known to have started.
            let _ = started.send(());
        }
        (killed.map(|(cause, _)| cause), ended)
    }

    /// Kills the container. Its parked reads are answered first: a process in a page fault
    /// survives SIGKILL until then.
    fn kill(&self) {
        self.run.account.doom();
        self.container.kill();
    }

    /// A limit lower than runc itself needs holds from here on.
    fn limit_tasks(&self, report: &mut Report) {
        if self.limits.pids < RUNC_TASKS
            && let Err(error) = self.run.cgroup.limit_tasks(self.limits.pids)
        {
            report.notes.push(format!("the limit of processes could not be set: {error}"));
        }
    }

    /// Moves what the job writes into the log as it comes, until the pipe ends. Goes on reading
    /// when nothing is stored any more, so that the job does not block.
    async fn pump(
        &self,
        mut pipe: pipe::Receiver,
        stream: OutputStream,
        begun: Instant,
        first_output: &OnceLock<Duration>,
        too_much: &CancellationToken,
    ) -> io::Result<()> {
        let mut stored = Ok(Appended::Whole);
        let mut buffer = vec![0; BUFFER_LEN_FIRST];
        loop {
            let len = pipe.read(&mut buffer).await?;
            if len == 0 {
                return stored.map(|_| ());
            }
            first_output.get_or_init(|| begun.elapsed());
            if !matches!(stored, Ok(Appended::Whole)) {
                continue;
            }
            let (output, bytes) = (Arc::clone(&self.output), buffer[..len].to_vec());
            if len == buffer.len() {
                buffer.resize(FRAME_LEN_MAX, 0);
            }
            let storing = tokio::task::spawn_blocking(move || output.append(stream, &bytes));
            stored = storing.await.map_err(io::Error::other).and_then(|stored| stored);
            if matches!(stored, Ok(Appended::Cut)) && self.fail_on_limit {
                too_much.cancel();
            }
        }
    }

    /// What a handler answers. Anything else that comes, such as an interpreter's complaint, is
    /// its standard error.
    async fn answer(&self, mut pipe: pipe::Receiver) -> io::Result<Option<Answer>> {
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; BUFFER_LEN_FIRST]);
        loop {
            let len = pipe.read(&mut buffer).await?;
            if len == 0 {
                break;
            }
            let room = ANSWER_LEN_MAX - bytes.len();
            bytes.extend_from_slice(&buffer[..len.min(room)]);
            if len == buffer.len() {
                buffer.resize(FRAME_LEN_MAX, 0);
            }
        }
        let output = Arc::clone(&self.output);
        let reading = tokio::task::spawn_blocking(move || {
            let (answer, rest) = Answer::read(&bytes);
            output.append(OutputStream::Stderr, rest).map(|_| answer)
        });
        reading.await.map_err(io::Error::other)?
    }
}

/// Moves standard input to the job until either side has enough.
async fn feed(stdin: Option<(pipe::Sender, mpsc::Receiver<Bytes>)>) {
    let Some((mut pipe, mut source)) = stdin else { return };
    while let Some(bytes) = source.recv().await {
        // A job that closes its standard input wants no more of it.
        if pipe.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
