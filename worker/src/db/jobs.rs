//! Table `jobs`.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, Row, named_params, params};
use sha2::{Digest as _, Sha256};
use sway_core::api::jobs::{DatasetView, JobList, JobView};
use sway_core::digest::Digest;
use sway_core::job::{JobSpec, JobState, Limits, Network};
use sway_core::name::{ImageName, UserName};

use super::audit::{Action, Caller};
use super::runs::Unsynced;
use super::submissions::{self, NewSubmission};
use super::{Db, DbError, Scope, now, runs};

/// Length of a job id: a letter, then letters and digits; 31^9 of them.
const ID_LEN: usize = 10;

/// Without `i`, `l`, `o`, `0` and `1`, which are easily taken for one another.
const ID_ALPHABET: &[u8; 31] = b"abcdefghjkmnpqrstuvwxyz23456789";

/// A job that was accepted.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Its id, of [`new_id`].
    pub id: String,
    /// Whose.
    pub username: UserName,
    /// The image as asked for, or the default.
    pub image: ImageName,
    /// The request.
    pub spec: JobSpec,
    /// The manifest that the image's name led to.
    pub manifest: Digest,
    /// What the names of its datasets led to.
    pub datasets: Vec<DatasetView>,
    /// What was granted.
    pub limits: Limits,
    /// First state: approved, or pending where an owner decides.
    pub state: JobState,
    /// What it is to its owner, where one decides.
    pub submission: Option<NewSubmission>,
    /// The caller's key against double submission.
    pub idempotency_key: Option<String>,
}

impl NewJob {
    /// Of the request, to tell it from others.
    fn sha256(&self) -> String {
        match &self.submission {
            None => sha256_of(&self.spec),
            Some(NewSubmission {
                owner,
                queue,
                name,
                description,
                tags,
                findings: _,
                packages: _,
                caller: _,
            }) => sha256_of(&(&self.spec, owner, queue, name, description, tags)),
        }
    }
}

/// What [`Db::insert_job`] and [`Db::insert_batch`] did, by ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted<T = String> {
    /// What is new.
    New(T),
    /// The same request came before, under the same key.
    Known(T),
}

/// A job's row without its spec.
#[derive(Clone, Debug)]
pub struct JobRow {
    /// Position in order of submission.
    pub seq: i64,
    /// What callers see of it; its run included.
    pub view: JobView,
}

/// Which jobs to list.
#[derive(Clone, Debug)]
pub struct JobFilter {
    /// Whose.
    pub scope: Scope,
    /// In this state.
    pub state: Option<JobState>,
    /// In the image that was asked for by this name.
    pub image: Option<ImageName>,
    /// With this label.
    pub label: Option<LabelFilter>,
    /// Whose file name, user, image or id, or submitted name, tags or description contains this.
    pub search: Option<String>,
    /// Of this user.
    pub username: Option<UserName>,
    /// That this owner decides on.
    pub owner: Option<UserName>,
    /// In the owners' queues of this name.
    pub queue: Option<String>,
    /// Only jobs that somebody decides on.
    pub submitted: bool,
    /// Submitted before this position.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: u32,
}

impl JobFilter {
    /// The newest 100 of these.
    pub fn all(scope: Scope) -> Self {
        Self {
            scope,
            state: None,
            image: None,
            label: None,
            search: None,
            username: None,
            owner: None,
            queue: None,
            submitted: false,
            before: None,
            limit: 100,
        }
    }
}

/// A label of the jobs to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelFilter {
    /// Its name.
    pub name: String,
    /// Its value; any where absent.
    pub value: Option<String>,
}

impl Db {
    /// Stores a job. With a key that the user has used, the job of that time is told instead,
    /// unless it was another request.
    pub async fn insert_job(&self, job: NewJob) -> Result<Accepted, DbError> {
        self.call(move |connection| {
            let sha256 = job.sha256();
            let transaction = connection.transaction()?;
            if let Some(key) = &job.idempotency_key
                && let Some(known) = jobs_of_key(&transaction, &job.username, key, &sha256)?
            {
                return Ok(Accepted::Known(known.into_iter().next().unwrap_or_default()));
            }
            insert(&transaction, &job, &sha256)?;
            transaction.commit()?;
            Ok(Accepted::New(job.id))
        })
        .await
    }

    /// Stores all jobs of a batch, or none. `key` stands for the batch as a job's own does for it.
    pub async fn insert_batch(
        &self,
        mut jobs: Vec<NewJob>,
        key: Option<String>,
    ) -> Result<Accepted<Vec<String>>, DbError> {
        self.call(move |connection| {
            let specs: Vec<&JobSpec> = jobs.iter().map(|job| &job.spec).collect();
            let sha256 = sha256_of(&specs);
            let transaction = connection.transaction()?;
            if let (Some(key), Some(first)) = (&key, jobs.first())
                && let Some(known) = jobs_of_key(&transaction, &first.username, key, &sha256)?
            {
                return Ok(Accepted::Known(known));
            }
            for (at, job) in jobs.iter_mut().enumerate() {
                job.idempotency_key = key.as_ref().map(|key| key_in_batch(key, at));
                insert(&transaction, job, &sha256)?;
            }
            transaction.commit()?;
            Ok(Accepted::New(jobs.into_iter().map(|job| job.id).collect()))
        })
        .await
    }

    /// The job of an earlier submission of this very request under `key`.
    pub async fn job_of_key(
        &self,
        user: UserName,
        key: String,
        spec: &JobSpec,
    ) -> Result<Option<String>, DbError> {
        let sha256 = sha256_of(spec);
        let known = self.call(move |connection| jobs_of_key(connection, &user, &key, &sha256));
        Ok(known.await?.and_then(|known| known.into_iter().next()))
    }

    /// The jobs of an earlier submission of this very batch under `key`.
    pub async fn batch_of_key(
        &self,
        user: UserName,
        key: String,
        specs: &[JobSpec],
    ) -> Result<Option<Vec<String>>, DbError> {
        let sha256 = sha256_of(&specs);
        self.call(move |connection| jobs_of_key(connection, &user, &key, &sha256)).await
    }

    /// The job whose id begins with `prefix`, if the caller may see exactly one.
    pub async fn job(&self, prefix: &str, scope: &Scope) -> Result<JobRow, DbError> {
        let (prefix, scope) = (prefix.to_owned(), scope.clone());
        self.call(move |connection| {
            let id = resolve(connection, &prefix, &scope)?;
            job_of_id(connection, &id)
        })
        .await
    }

    /// Jobs, newest first.
    pub async fn jobs(&self, filter: JobFilter) -> Result<JobList, DbError> {
        self.call(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT seq, id, username, image, manifest, filename, state, limits, network,
                     datasets, labels, created_at
                 FROM jobs
                 WHERE (:user IS NULL OR username = :user OR EXISTS (
                        SELECT 1 FROM submissions WHERE job_id = jobs.id AND owner = :user))
                   AND (:username IS NULL OR username = :username)
                   AND ((:owner IS NULL AND :queue IS NULL AND NOT :submitted) OR EXISTS (
                        SELECT 1 FROM submissions
                        WHERE job_id = jobs.id AND (:owner IS NULL OR owner = :owner)
                          AND (:queue IS NULL OR queue = :queue)))
                   AND (:state IS NULL OR state = :state)
                   AND (:before IS NULL OR seq < :before)
                   AND (:image IS NULL OR image = :image)
                   AND (:label IS NULL OR EXISTS (
                        SELECT 1 FROM json_each(labels) AS label
                        WHERE label.key = :label AND (:value IS NULL OR label.value = :value)))
                   AND (:search IS NULL OR instr(lower(filename || char(10) || username ||
                        char(10) || image || char(10) || id), lower(:search)) > 0 OR EXISTS (
                        SELECT 1 FROM submissions
                        WHERE job_id = jobs.id AND instr(lower(name || char(10) || tags ||
                            char(10) || description), lower(:search)) > 0))
                 ORDER BY seq DESC LIMIT :limit",
            )?;
            let rows = statement.query_and_then(
                named_params! {
                    ":user": filter.scope.user(),
                    ":username": filter.username.as_ref().map(AsRef::<str>::as_ref),
                    ":owner": filter.owner.as_ref().map(AsRef::<str>::as_ref),
                    ":queue": filter.queue,
                    ":submitted": filter.submitted,
                    ":state": filter.state.map(JobState::as_str),
                    ":before": filter.before,
                    ":image": filter.image.as_ref().map(ToString::to_string),
                    ":label": filter.label.as_ref().map(|label| &label.name),
                    ":value": filter.label.as_ref().and_then(|label| label.value.as_ref()),
                    ":search": filter.search,
                    ":limit": filter.limit,
                },
                job_of_row,
            )?;
            let mut rows = rows.collect::<Result<Vec<_>, DbError>>()?;
            for row in &mut rows {
                row.view.run = runs::latest_of_job(connection, &row.view.id)?;
                row.view.submission = submissions::of_job(connection, &row.view.id)?;
            }
            let full = u32::try_from(rows.len()).is_ok_and(|len| len == filter.limit);
            let next_before = rows.last().filter(|_| full).map(|row| row.seq);
            Ok(JobList { jobs: rows.into_iter().map(|row| row.view).collect(), next_before })
        })
        .await
    }

    /// What the job asked for; `None` once it has ended, or, where an owner decided on it, once it
    /// was cleaned up.
    pub async fn job_spec(&self, id: &str) -> Result<Option<JobSpec>, DbError> {
        let id = id.to_owned();
        let json: Option<Vec<u8>> = self
            .call(move |connection| {
                let query = "SELECT spec FROM jobs WHERE id = ?1";
                let mut statement = connection.prepare_cached(query)?;
                Ok(statement.query_row([&id], |row| row.get(0)).optional()?.flatten())
            })
            .await?;
        json.map(|json| {
            serde_json::from_slice(&json)
                .map_err(|error| DbError::Row { column: "spec", value: error.to_string() })
        })
        .transpose()
    }

    /// Notes that a job's program is about to start: from now on it counts as one that ran, and is
    /// not run again. Waits for no disk, so a power cut may undo it; the end of the worker does not.
    pub async fn start_job(&self, id: &str) -> Result<(), DbError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let connection = Unsynced::new(connection)?;
            set_state(connection.0, &id, JobState::Running)
        })
        .await
    }

    /// The same for a job that an owner approved. On disk when it returns, with the audit's entry.
    pub async fn start_approved_job(&self, id: &str, run_id: i64) -> Result<(), DbError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            set_state(&transaction, &id, JobState::Running)?;
            let detail = serde_json::json!({ "run": run_id });
            submissions::note(&transaction, &Caller::WORKER, Action::Started, &id, &detail)?;
            transaction.commit()?;
            Ok(())
        })
        .await
    }

    /// Moves a job to `next`, if its state allows that.
    pub async fn move_job(&self, id: &str, next: JobState) -> Result<(), DbError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            move_job(&transaction, &id, next, &serde_json::json!({}))?;
            transaction.commit()?;
            Ok(())
        })
        .await
    }

    /// Ids of the jobs that wait, to be decided on or to run, oldest first.
    pub async fn waiting_jobs(&self) -> Result<Vec<String>, DbError> {
        self.call(|connection| {
            let query = "SELECT id FROM jobs WHERE state IN ('pending', 'approved') ORDER BY seq";
            let mut statement = connection.prepare(query)?;
            let ids = statement.query_map([], |row| row.get(0))?;
            Ok(ids.collect::<Result<_, _>>()?)
        })
        .await
    }
}

/// Moves a job within a transaction; of an end that an owner may ask about, the audit tells with
/// `detail` and the state.
pub(super) fn move_job(
    connection: &Connection,
    id: &str,
    next: JobState,
    detail: &serde_json::Value,
) -> Result<(), DbError> {
    set_state(connection, id, next)?;
    if next.is_final() {
        let mut detail = detail.clone();
        detail["state"] = next.as_str().into();
        submissions::note(connection, &Caller::WORKER, Action::Ended, id, &detail)?;
    }
    Ok(())
}

/// Sets a job's state, if it may become that. Forgets the spec of one that has ended, unless an
/// owner may want to compare the next one with it.
pub(super) fn set_state(connection: &Connection, id: &str, next: JobState) -> Result<(), DbError> {
    let query = "SELECT state FROM jobs WHERE id = ?1";
    let mut statement = connection.prepare_cached(query)?;
    let state: Option<String> = statement.query_row([id], |row| row.get(0)).optional()?;
    let state = state_of(state.ok_or_else(|| DbError::NoJob(id.to_owned()))?)?;
    if !state.may_become(next) {
        return Err(DbError::IllegalMove {
            id: id.to_owned(),
            from: state.as_str(),
            to: next.as_str(),
        });
    }
    if next.is_final() {
        let end = "UPDATE jobs SET state = ?2, ended_at = ?3, spec = CASE WHEN EXISTS (
                SELECT 1 FROM submissions WHERE job_id = jobs.id) THEN spec END
            WHERE id = ?1";
        connection.prepare_cached(end)?.execute(params![id, next.as_str(), now()])?;
    } else {
        let set = "UPDATE jobs SET state = ?2 WHERE id = ?1";
        connection.prepare_cached(set)?.execute(params![id, next.as_str()])?;
    }
    Ok(())
}

fn sha256_of<T: serde::Serialize + ?Sized>(request: &T) -> String {
    hex::encode(Sha256::digest(serde_json::to_vec(request).expect("a request is plain data")))
}

fn insert(connection: &Connection, job: &NewJob, sha256: &str) -> Result<(), DbError> {
    let datasets = (!job.datasets.is_empty()).then(|| to_json(&job.datasets));
    let labels = (!job.spec.labels.is_empty()).then(|| to_json(&job.spec.labels));
    let mut statement = connection.prepare_cached(
        "INSERT INTO jobs (id, username, image, manifest, filename, state, spec, limits,
             network, datasets, labels, idempotency_key, spec_sha256, created_at)
         VALUES (:id, :username, :image, :manifest, :filename, :state, :spec, :limits,
             :network, :datasets, :labels, :key, :sha256, :created_at)",
    )?;
    statement.execute(named_params! {
        ":id": job.id,
        ":username": job.username.as_ref(),
        ":image": job.image.to_string(),
        ":manifest": job.manifest.to_string(),
        ":filename": job.spec.program.filename(),
        ":state": job.state.as_str(),
        ":spec": to_json(&job.spec).into_bytes(),
        ":limits": to_json(&job.limits),
        ":network": network_name(job.spec.network),
        ":datasets": datasets,
        ":labels": labels,
        ":key": job.idempotency_key,
        ":sha256": sha256,
        ":created_at": now(),
    })?;
    match &job.submission {
        Some(submission) => submissions::insert(connection, &job.id, submission),
        None => Ok(()),
    }
}

/// The key under which a job of a batch is stored: no caller's own has a line's end in it.
fn key_in_batch(key: &str, at: usize) -> String {
    format!("{key}\n{at}")
}

/// The jobs of the request under `key`: one, or those of a batch.
fn jobs_of_key(
    connection: &Connection,
    user: &UserName,
    key: &str,
    sha256: &str,
) -> Result<Option<Vec<String>>, DbError> {
    // All that `key_in_batch` makes of the key sorts between these two.
    let mut statement = connection.prepare_cached(
        "SELECT id, spec_sha256 FROM jobs WHERE username = ?1 AND (idempotency_key = ?2
             OR (idempotency_key > ?2 || char(10) AND idempotency_key < ?2 || char(11)))
         ORDER BY seq",
    )?;
    let known = statement.query_map([user.as_ref(), key], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let known: Vec<(String, String)> = known.collect::<Result<_, _>>()?;
    if known.iter().any(|(_, of_then)| of_then != sha256) {
        return Err(DbError::KeyReused);
    }
    let ids: Vec<String> = known.into_iter().map(|(id, _)| id).collect();
    Ok(if ids.is_empty() { None } else { Some(ids) })
}

/// The whole id that `prefix` stands for.
pub(super) fn resolve(
    connection: &Connection,
    prefix: &str,
    scope: &Scope,
) -> Result<String, DbError> {
    let no_job = || DbError::NoJob(prefix.chars().take(40).collect());
    if prefix.is_empty() || prefix.len() > ID_LEN || !prefix.bytes().all(is_id_byte) {
        return Err(no_job());
    }
    // `~` sorts after every byte of an id.
    let mut statement = connection.prepare_cached(
        "SELECT id FROM jobs WHERE id >= ?1 AND id < ?1 || '~'
           AND (?2 IS NULL OR username = ?2 OR EXISTS (
                SELECT 1 FROM submissions WHERE job_id = jobs.id AND owner = ?2)) LIMIT 2",
    )?;
    let ids = statement.query_map(params![prefix, scope.user()], |row| row.get(0))?;
    let mut ids = ids.collect::<Result<Vec<String>, _>>()?;
    match (ids.pop(), ids.pop()) {
        (None, _) => Err(no_job()),
        (Some(id), None) => Ok(id),
        (Some(_), Some(_)) => Err(DbError::AmbiguousJob(prefix.to_owned())),
    }
}

pub(super) fn job_of_id(connection: &Connection, id: &str) -> Result<JobRow, DbError> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, id, username, image, manifest, filename, state, limits, network, datasets,
             labels, created_at
         FROM jobs WHERE id = ?1",
    )?;
    let mut rows = statement.query_and_then([id], job_of_row)?;
    let mut row = rows.next().ok_or_else(|| DbError::NoJob(id.to_owned()))??;
    row.view.run = runs::latest_of_job(connection, id)?;
    row.view.submission = submissions::of_job(connection, id)?;
    Ok(row)
}

fn job_of_row(row: &Row<'_>) -> Result<JobRow, DbError> {
    let view = JobView {
        id: row.get("id")?,
        username: parsed("username", row.get("username")?)?,
        image: parsed::<ImageName>("image", row.get("image")?)?,
        manifest: parsed("manifest", row.get("manifest")?)?,
        filename: row.get("filename")?,
        state: state_of(row.get("state")?)?,
        limits: from_json("limits", row.get("limits")?)?,
        network: network_of(row.get("network")?)?,
        datasets: match row.get("datasets")? {
            Some(datasets) => from_json("datasets", datasets)?,
            None => Vec::new(),
        },
        labels: match row.get("labels")? {
            Some(labels) => from_json("labels", labels)?,
            None => BTreeMap::new(),
        },
        submission: None,
        created_at: row.get("created_at")?,
        run: None,
    };
    Ok(JobRow { seq: row.get("seq")?, view })
}

fn parsed<T: std::str::FromStr>(column: &'static str, value: String) -> Result<T, DbError> {
    value.parse().map_err(|_| DbError::Row { column, value })
}

pub(super) fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("plain data")
}

pub(super) fn from_json<T: serde::de::DeserializeOwned>(
    column: &'static str,
    value: String,
) -> Result<T, DbError> {
    serde_json::from_str(&value).map_err(|_| DbError::Row { column, value })
}

pub(super) fn state_of(value: String) -> Result<JobState, DbError> {
    JobState::from_name(&value).ok_or(DbError::Row { column: "state", value })
}

fn network_name(network: Network) -> &'static str {
    match network {
        Network::None => "none",
        Network::Isolated => "isolated",
    }
}

fn network_of(value: String) -> Result<Network, DbError> {
    match value.as_str() {
        "none" => Ok(Network::None),
        "isolated" => Ok(Network::Isolated),
        _ => Err(DbError::Row { column: "network", value }),
    }
}

fn is_id_byte(byte: u8) -> bool {
    ID_ALPHABET.contains(&byte)
}

/// A new id: begins with a letter, so that it is never taken for a run's number.
pub fn new_id() -> String {
    const LETTERS: usize = 23;
    // Bytes 6 and 8 of a v4 uuid hold its version and variant; the others are random.
    const RANDOM: [usize; ID_LEN] = [0, 1, 2, 3, 4, 5, 7, 9, 10, 11];
    let random = uuid::Uuid::new_v4();
    let bytes = RANDOM.map(|at| usize::from(random.as_bytes()[at]));
    let letter = |(at, byte): (usize, usize)| {
        ID_ALPHABET[byte % if at == 0 { LETTERS } else { ID_ALPHABET.len() }]
    };
    bytes.into_iter().enumerate().map(letter).map(char::from).collect()
}
