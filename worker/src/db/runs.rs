//! Table `runs`: the run log.

use rusqlite::{Connection, Row, named_params, params};
use sway_core::api::jobs::{RunList, RunView, TraceUse};
use sway_core::handler::Answer;
use sway_core::job::{Cause, JobState};

use super::jobs::{from_json, move_job, resolve, to_json};
use super::{Db, DbError, Scope, now};
use crate::account::CacheFigures;
use crate::job::Used;

/// Bytes of stdout, and as many of stderr, that a row holds; a longer output lies whole in the
/// run's output file.
pub const STORED_OUTPUT_LEN_MAX: u64 = 1 << 20;

/// What a run's message says when its output file made room for newer ones.
const DROPPED: &str = "its output beyond the first MiB is no longer kept";

/// And of the files of its `/output`.
const FILES_DROPPED: &str = "its files in /output are no longer kept";

/// A job takes its place: its run begins.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// Of which job.
    pub job_id: String,
    /// How long it waited for its place.
    pub queued_ms: i64,
    /// Whether it is made to record a trace.
    pub records_trace: bool,
}

/// How a run ended, as its row keeps it.
#[derive(Clone, Debug)]
pub struct RunEnd {
    /// Last state of its job.
    pub state: JobState,
    /// Why it ended.
    pub cause: Cause,
    /// The process's exit code.
    pub exit_code: Option<i32>,
    /// What to tell the user beside the cause.
    pub message: Option<String>,
    /// When the process started, RFC 3339; none where it never did.
    pub started_at: Option<String>,
    /// From the process's start to its end.
    pub duration_ms: Option<i64>,
    /// The first [`STORED_OUTPUT_LEN_MAX`] bytes of standard output.
    pub stdout: Vec<u8>,
    /// And of standard error.
    pub stderr: Vec<u8>,
    /// Whether stdout was cut at its limit.
    pub stdout_truncated: bool,
    /// Whether stderr was cut at its limit.
    pub stderr_truncated: bool,
    /// What the caches did for it.
    pub figures: CacheFigures,
    /// How its start used a trace.
    pub trace: TraceUse,
    /// Bytes of the trace that were brought for it.
    pub trace_pushed_bytes: u64,
    /// What it left in `/output` and is kept: files and their bytes.
    pub output_files: Option<(u64, u64)>,
    /// What it used.
    pub used: Used,
    /// What a handler answered.
    pub answer: Option<Answer>,
    /// Until the rootfs was there.
    pub mount_ms: i64,
    /// Until the process started.
    pub start_ms: i64,
    /// From the process's start to its first output.
    pub first_output_ms: Option<i64>,
    /// Whether its container was made before it came.
    pub pooled: bool,
}

impl RunEnd {
    /// Of a run that failed through no fault of its own, and of which no more is known.
    pub fn failed(message: String) -> Self {
        Self {
            state: JobState::Failed,
            cause: Cause::Infrastructure,
            exit_code: None,
            message: Some(message),
            started_at: None,
            duration_ms: None,
            stdout: Vec::new(),
            stderr: Vec::new(),
            stdout_truncated: false,
            stderr_truncated: false,
            figures: CacheFigures::default(),
            trace: TraceUse::None,
            trace_pushed_bytes: 0,
            output_files: None,
            used: Used::default(),
            answer: None,
            mount_ms: 0,
            start_ms: 0,
            first_output_ms: None,
            pooled: false,
        }
    }
}

/// A connection whose commits are on disk with the next one that is not of this kind.
pub(super) struct Unsynced<'a>(pub(super) &'a Connection);

impl<'a> Unsynced<'a> {
    pub(super) fn new(connection: &'a Connection) -> Result<Self, DbError> {
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        Ok(Self(connection))
    }
}

impl Drop for Unsynced<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.pragma_update(None, "synchronous", "FULL") {
            tracing::error!(%error, "commits may not be on disk");
        }
    }
}

/// Which runs to list: those that all of these hold for.
#[derive(Clone, Debug)]
pub struct RunFilter {
    /// Whose.
    pub scope: Scope,
    /// Older than this run.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: u32,
    /// Whose file name, user, image or job id contains this.
    pub search: Option<String>,
    /// Whose job stands there.
    pub state: Option<JobState>,
    /// That ended so.
    pub cause: Option<Cause>,
    /// Whose image, as asked for, contains this.
    pub image: Option<String>,
    /// Include this much of stdout and stderr; 0 leaves them out.
    pub output_len: u32,
}

/// Columns of a [`RunView`]; `:output_len` says how much of the outputs: answers are told with
/// [`STORED_OUTPUT_LEN_MAX`] of them alone. `substr` of an empty blob is null.
const COLUMNS: &str = "id, job_id, filename, username, image, manifest, limits, started_at,
    duration_ms, exit_code, cause, message, stdout_truncated, stderr_truncated,
    memory_cache_hits, disk_cache_hits, server_fetches, memory_cache_bytes, disk_cache_bytes,
    bytes_fetched, trace, trace_pushed_bytes, trace_used_bytes, trace_missed_bytes, records_trace,
    output_files, output_files_bytes, memory_peak_bytes, cpu_ms, cpus_peak_milli,
    queued_ms, mount_ms, start_ms, first_output_ms, pooled,
    CASE WHEN :output_len > 0 THEN coalesce(substr(stdout, 1, :output_len), x'') END AS stdout,
    CASE WHEN :output_len > 0 THEN coalesce(substr(stderr, 1, :output_len), x'') END AS stderr,
    CASE WHEN :output_len >= 1048576 THEN answer END AS answer";

impl RunFilter {
    /// The newest ones, without their outputs.
    pub fn newest(scope: Scope, limit: u32) -> Self {
        Self {
            scope,
            before: None,
            limit,
            search: None,
            state: None,
            cause: None,
            image: None,
            output_len: 0,
        }
    }
}

impl Db {
    /// Adds the row of a run that begins, and tells its number.
    ///
    /// Waits for no disk: a run whose process had not started before a power cut begins again in
    /// any case, and when it has started is stored before anything else of it is.
    pub async fn begin_run(&self, run: NewRun) -> Result<i64, DbError> {
        self.call(move |connection| {
            let connection = Unsynced::new(connection)?;
            let mut statement = connection.0.prepare_cached(
                "INSERT INTO runs (job_id, filename, username, image, manifest, network, limits,
                     started_at, queued_ms, records_trace)
                 SELECT id, filename, username, image, manifest, network, limits, ?2, ?3, ?4
                 FROM jobs WHERE id = ?1",
            )?;
            let added =
                statement.execute(params![run.job_id, now(), run.queued_ms, run.records_trace])?;
            match added {
                0 => Err(DbError::NoJob(run.job_id)),
                _ => Ok(connection.0.last_insert_rowid()),
            }
        })
        .await
    }

    /// Notes when a run's process started: now. With this, that it has is on disk.
    pub async fn note_start(&self, run_id: i64) -> Result<(), DbError> {
        self.call(move |connection| {
            let query = "UPDATE runs SET started_at = ?2 WHERE id = ?1";
            connection.prepare_cached(query)?.execute(params![run_id, now()])?;
            Ok(())
        })
        .await
    }

    /// Completes a run's row and moves its job, in one transaction; then the run, as told to
    /// users, without its outputs.
    pub async fn end_run(&self, run_id: i64, end: RunEnd) -> Result<RunView, DbError> {
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let query = "SELECT job_id FROM runs WHERE id = ?1";
            let job: String =
                transaction.prepare_cached(query)?.query_row([run_id], |row| row.get(0))?;
            let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
            let end_of_row = "UPDATE runs SET cause = :cause, exit_code = :exit_code, message = :message,
                     started_at = coalesce(:started_at, started_at), duration_ms = :duration_ms,
                     stdout = :stdout, stderr = :stderr,
                     stdout_truncated = :stdout_truncated, stderr_truncated = :stderr_truncated,
                     memory_cache_hits = :memory_hits, memory_cache_bytes = :memory_bytes,
                     disk_cache_hits = :disk_hits, disk_cache_bytes = :disk_bytes,
                     server_fetches = :fetches, bytes_fetched = :fetched_bytes,
                     trace = :trace, trace_pushed_bytes = :pushed_bytes,
                     trace_missed_bytes = :missed_bytes,
                     output_files = :output_files, output_files_bytes = :output_files_bytes,
                     memory_peak_bytes = :memory_peak, cpu_ms = :cpu_ms,
                     cpus_peak_milli = :cpus_peak, answer = :answer, mount_ms = :mount_ms,
                     start_ms = :start_ms, first_output_ms = :first_output_ms, pooled = :pooled
                 WHERE id = :id";
            transaction.prepare_cached(end_of_row)?.execute(
                named_params! {
                    ":id": run_id,
                    ":cause": end.cause.as_str(),
                    ":exit_code": end.exit_code,
                    ":message": end.message,
                    ":started_at": end.started_at,
                    ":duration_ms": end.duration_ms,
                    ":stdout": end.stdout,
                    ":stderr": end.stderr,
                    ":stdout_truncated": end.stdout_truncated,
                    ":stderr_truncated": end.stderr_truncated,
                    ":memory_hits": count(end.figures.memory_hits),
                    ":memory_bytes": count(end.figures.memory_bytes),
                    ":disk_hits": count(end.figures.disk_hits),
                    ":disk_bytes": count(end.figures.disk_bytes),
                    ":fetches": count(end.figures.fetches),
                    ":fetched_bytes": count(end.figures.fetched_bytes),
                    ":trace": end.trace.as_str(),
                    ":pushed_bytes": count(end.trace_pushed_bytes),
                    ":missed_bytes": count(end.figures.missed_bytes),
                    ":output_files": end.output_files.map(|(files, _)| count(files)),
                    ":output_files_bytes": end.output_files.map(|(_, bytes)| count(bytes)),
                    ":memory_peak": end.used.memory_peak_bytes.map(count),
                    ":cpu_ms": end.used.cpu.map(|cpu| i64::try_from(cpu.as_millis()).unwrap_or(i64::MAX)),
                    ":cpus_peak": end.used.cpus_peak_milli.map(count),
                    ":answer": end.answer.as_ref().map(to_json),
                    ":mount_ms": end.mount_ms,
                    ":start_ms": end.start_ms,
                    ":first_output_ms": end.first_output_ms,
                    ":pooled": end.pooled,
                },
            )?;
            let detail = serde_json::json!({
                "run": run_id,
                "cause": end.cause.as_str(),
                "exit_code": end.exit_code,
            });
            move_job(&transaction, &job, end.state, &detail)?;
            let view = run_of_id(&transaction, run_id, 0)?;
            transaction.commit()?;
            view.ok_or_else(|| DbError::NoRun(run_id.to_string()))
        })
        .await
    }

    /// The run with this number, or the latest one of the job whose id begins so, with at most
    /// `output_len` bytes of each output.
    pub async fn run(
        &self,
        name: &str,
        scope: &Scope,
        output_len: u32,
    ) -> Result<RunView, DbError> {
        let (name, scope) = (name.to_owned(), scope.clone());
        self.call(move |connection| {
            let no_run = || DbError::NoRun(name.chars().take(40).collect());
            let visible = |run: &RunView| match &scope {
                Scope::User(user) => {
                    run.username == user.as_ref()
                        || resolve(connection, &run.job_id, &scope).is_ok()
                }
                Scope::All => true,
            };
            if let Ok(id) = name.parse::<i64>() {
                let run = run_of_id(connection, id, output_len)?;
                return run.filter(visible).ok_or_else(no_run);
            }
            let job = match resolve(connection, &name, &scope) {
                Err(DbError::NoJob(_)) => return Err(no_run()),
                other => other?,
            };
            let id = latest_id(connection, &job)?;
            let run = id.map(|id| run_of_id(connection, id, output_len)).transpose()?.flatten();
            run.ok_or_else(no_run)
        })
        .await
    }

    /// Runs, newest first.
    pub async fn runs(&self, filter: RunFilter) -> Result<RunList, DbError> {
        self.call(move |connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM runs
                 WHERE (:user IS NULL OR username = :user OR EXISTS (
                        SELECT 1 FROM submissions
                        WHERE submissions.job_id = runs.job_id AND owner = :user))
                   AND (:before IS NULL OR id < :before)
                   AND (:search IS NULL OR instr(lower(filename || char(10) || username ||
                        char(10) || image || char(10) || job_id), lower(:search)) > 0)
                   AND (:cause IS NULL OR cause = :cause)
                   AND (:image IS NULL OR instr(lower(image), lower(:image)) > 0)
                   AND (:state IS NULL OR EXISTS (
                        SELECT 1 FROM jobs WHERE jobs.id = runs.job_id AND jobs.state = :state))
                 ORDER BY id DESC LIMIT :limit",
            ))?;
            let rows = statement.query_and_then(
                named_params! {
                    ":user": filter.scope.user(),
                    ":before": filter.before,
                    ":search": filter.search,
                    ":cause": filter.cause.map(Cause::as_str),
                    ":image": filter.image,
                    ":state": filter.state.map(JobState::as_str),
                    ":limit": filter.limit,
                    ":output_len": filter.output_len,
                },
                run_of_row,
            )?;
            let runs = rows.collect::<Result<Vec<_>, DbError>>()?;
            let full = u32::try_from(runs.len()).is_ok_and(|len| len == filter.limit);
            let next_before = runs.last().filter(|_| full).map(|run| run.id);
            Ok(RunList { runs, next_before })
        })
        .await
    }

    /// Runs that an earlier worker process left open, with the state of their jobs.
    pub async fn open_runs(&self) -> Result<Vec<(i64, JobState)>, DbError> {
        self.call(|connection| {
            let mut statement = connection.prepare(
                "SELECT runs.id, coalesce(jobs.state = 'running', 0)
                 FROM runs LEFT JOIN jobs ON jobs.id = runs.job_id WHERE cause IS NULL",
            )?;
            let rows = statement.query_map([], |row| {
                let running: bool = row.get(1)?;
                let state = if running { JobState::Running } else { JobState::Approved };
                Ok((row.get(0)?, state))
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Forgets a run whose process never started: its job will run again.
    pub async fn forget_run(&self, run_id: i64) -> Result<(), DbError> {
        self.call(move |connection| {
            connection.execute("DELETE FROM runs WHERE id = ?1", [run_id])?;
            Ok(())
        })
        .await
    }

    /// Notes that the whole outputs of these runs are no longer kept: those that the row does not
    /// hold to their end are marked as cut, and the message says so.
    pub async fn drop_outputs(&self, runs: Vec<i64>) -> Result<(), DbError> {
        let stored = i64::try_from(STORED_OUTPUT_LEN_MAX).expect("1 MiB");
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            {
                let mut statement = transaction.prepare_cached(
                    "UPDATE runs SET
                         stdout_truncated = stdout_truncated OR length(stdout) >= :stored,
                         stderr_truncated = stderr_truncated OR length(stderr) >= :stored,
                         message = coalesce(message || '; ', '') || :note
                     WHERE id = :id AND instr(coalesce(message, ''), :note) = 0
                       AND (length(stdout) >= :stored OR length(stderr) >= :stored)",
                )?;
                let mut of_files = transaction.prepare_cached(
                    "UPDATE runs SET output_files = NULL, output_files_bytes = NULL,
                         message = coalesce(message || '; ', '') || :note
                     WHERE id = :id AND output_files > 0",
                )?;
                for id in runs {
                    statement.execute(named_params! {
                        ":id": id, ":stored": stored, ":note": DROPPED,
                    })?;
                    of_files.execute(named_params! { ":id": id, ":note": FILES_DROPPED })?;
                }
            }
            transaction.commit()?;
            Ok(())
        })
        .await
    }

    /// Keeps the newest `keep` runs that have ended and the jobs that belong to them; tells the
    /// numbers of the runs that went.
    pub async fn prune(&self, keep: u32) -> Result<Vec<i64>, DbError> {
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let gone: Vec<i64> = {
                let mut statement = transaction.prepare_cached(
                    "DELETE FROM runs WHERE cause IS NOT NULL AND id <= (
                         SELECT id FROM runs WHERE cause IS NOT NULL
                         ORDER BY id DESC LIMIT 1 OFFSET ?1)
                     RETURNING id",
                )?;
                let ids = statement.query_map([keep], |row| row.get(0))?;
                ids.collect::<Result<_, _>>()?
            };
            // Jobs that ended without a run are bounded by their own number.
            transaction.execute(
                "DELETE FROM jobs WHERE ended_at IS NOT NULL
                   AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.job_id = jobs.id)
                   AND seq <= (SELECT seq FROM jobs ORDER BY seq DESC LIMIT 1 OFFSET ?1)",
                [keep],
            )?;
            transaction.execute(
                "DELETE FROM submissions
                 WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = job_id)",
                [],
            )?;
            transaction.commit()?;
            Ok(gone)
        })
        .await
    }
}

/// The latest run of a job, without its outputs.
pub(super) fn latest_of_job(
    connection: &Connection,
    job_id: &str,
) -> Result<Option<RunView>, DbError> {
    let id = latest_id(connection, job_id)?;
    id.map(|id| run_of_id(connection, id, 0)).transpose().map(Option::flatten)
}

fn latest_id(connection: &Connection, job_id: &str) -> Result<Option<i64>, DbError> {
    let query = "SELECT max(id) FROM runs WHERE job_id = ?1";
    Ok(connection.prepare_cached(query)?.query_row([job_id], |row| row.get(0))?)
}

fn run_of_id(
    connection: &Connection,
    id: i64,
    output_len: u32,
) -> Result<Option<RunView>, DbError> {
    let query = format!("SELECT {COLUMNS} FROM runs WHERE id = :id");
    let mut statement = connection.prepare_cached(&query)?;
    let parameters = named_params! { ":id": id, ":output_len": output_len };
    let mut rows = statement.query_and_then(parameters, run_of_row)?;
    rows.next().transpose()
}

fn run_of_row(row: &Row<'_>) -> Result<RunView, DbError> {
    let text = |column| -> Result<Option<String>, rusqlite::Error> {
        let bytes: Option<Vec<u8>> = row.get(column)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    let cause: Option<String> = row.get("cause")?;
    let cause = cause
        .map(|value| Cause::from_name(&value).ok_or(DbError::Row { column: "cause", value }))
        .transpose()?;
    let answer: Option<String> = row.get("answer")?;
    let trace: String = row.get("trace")?;
    let trace =
        TraceUse::from_name(&trace).ok_or(DbError::Row { column: "trace", value: trace })?;
    Ok(RunView {
        id: row.get("id")?,
        job_id: row.get("job_id")?,
        filename: row.get("filename")?,
        username: row.get("username")?,
        image: row.get("image")?,
        manifest: row.get("manifest")?,
        started_at: row.get("started_at")?,
        duration_ms: row.get("duration_ms")?,
        exit_code: row.get("exit_code")?,
        cause,
        message: row.get("message")?,
        memory_cache_hits: row.get("memory_cache_hits")?,
        disk_cache_hits: row.get("disk_cache_hits")?,
        server_fetches: row.get("server_fetches")?,
        memory_cache_bytes: row.get("memory_cache_bytes")?,
        disk_cache_bytes: row.get("disk_cache_bytes")?,
        bytes_fetched: row.get("bytes_fetched")?,
        trace,
        trace_pushed_bytes: row.get("trace_pushed_bytes")?,
        trace_used_bytes: row.get("trace_used_bytes")?,
        trace_missed_bytes: row.get("trace_missed_bytes")?,
        records_trace: row.get("records_trace")?,
        output_files: row.get("output_files")?,
        output_files_bytes: row.get("output_files_bytes")?,
        memory_peak_bytes: row.get("memory_peak_bytes")?,
        cpu_ms: row.get("cpu_ms")?,
        cpus_peak_milli: row.get("cpus_peak_milli")?,
        limits: from_json("limits", row.get("limits")?)?,
        answer: answer.map(|answer| from_json("answer", answer)).transpose()?,
        queued_ms: row.get("queued_ms")?,
        mount_ms: row.get("mount_ms")?,
        start_ms: row.get("start_ms")?,
        first_output_ms: row.get("first_output_ms")?,
        pooled: row.get("pooled")?,
        stdout: text("stdout")?,
        stderr: text("stderr")?,
        stdout_truncated: row.get("stdout_truncated")?,
        stderr_truncated: row.get("stderr_truncated")?,
    })
}
