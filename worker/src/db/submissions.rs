//! Tables `submissions` and `queues`: jobs that an owner decides on, and what owners grant.
//!
//! What was submitted is pinned by [`seal`] over the very bytes of its row. They are hashed again
//! when the job is about to be made ready, and compared with what was submitted and with what the
//! audit says was approved; what is made ready is read from the bytes that were hashed.

use rusqlite::{Connection, OptionalExtension as _, named_params, params};
use serde_json::json;
use sway_core::api::jobs::{DatasetView, JobView};
use sway_core::api::submissions::{
    Decided, Decision, Packages, PreviousJob, QueueSettings, StateCounts, SubmissionView,
};
use sway_core::digest::Digest;
use sway_core::job::{JobSpec, JobState, Limits};
use sway_core::name::UserName;
use sway_core::seal::seal;

use super::audit::{self, Action, Caller};
use super::jobs::{from_json, job_of_id, resolve, set_state, state_of, to_json};
use super::{Db, DbError, Scope, now};

/// What a job is to its owner, when it is submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSubmission {
    /// Who decides.
    pub owner: UserName,
    /// Its queue.
    pub queue: String,
    /// What it is called.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// What the policy objects to in it, counted.
    pub findings: u32,
    /// What is to become of its `requirements.txt`; none where it has none.
    pub packages: Option<Packages>,
    /// Who submits it.
    pub caller: Caller,
}

/// What an approved job runs, from bytes that were checked.
#[derive(Clone, Debug)]
pub struct ApprovedJob {
    /// What to run.
    pub spec: JobSpec,
    /// What it may use.
    pub limits: Limits,
    /// The image.
    pub manifest: Digest,
    /// Its datasets.
    pub datasets: Vec<DatasetView>,
}

/// A job whose code, outputs and logs are old enough to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldJob {
    /// The job.
    pub id: String,
    /// Its runs.
    pub runs: Vec<i64>,
    /// Whether it may have an image of its own.
    pub has_packages: bool,
}

/// What a pinned column holds, as bytes; the order is that of the hash.
const PINNED: [&str; 16] = [
    "jobs.id",
    "jobs.username",
    "jobs.image",
    "jobs.manifest",
    "jobs.filename",
    "jobs.spec",
    "jobs.limits",
    "jobs.network",
    "jobs.datasets",
    "jobs.labels",
    "jobs.created_at",
    "submissions.owner",
    "submissions.queue",
    "submissions.name",
    "submissions.description",
    "submissions.tags",
];

/// One more, of jobs that have it: digests of older jobs stay what they were.
const PINNED_WHERE_SET: &str = "submissions.packages";

/// What a job's row holds of what was submitted.
pub(super) struct Pinned {
    /// In the order of [`PINNED`].
    values: Vec<Option<Vec<u8>>>,
    pub(super) digest: String,
}

impl Pinned {
    fn value(&self, column: &str) -> Option<&[u8]> {
        let at = PINNED.iter().position(|name| *name == column)?;
        self.values[at].as_deref()
    }
}

/// The pinned columns of a job's row; none where nobody decides on the job.
pub(super) fn pinned(connection: &Connection, id: &str) -> Result<Option<Pinned>, DbError> {
    let columns = PINNED.iter().chain([&PINNED_WHERE_SET]);
    let columns: Vec<_> = columns.map(|column| format!("CAST({column} AS BLOB)")).collect();
    let columns = columns.join(", ");
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {columns} FROM jobs JOIN submissions ON job_id = jobs.id WHERE jobs.id = ?1"
    ))?;
    let values = |row: &rusqlite::Row<'_>| (0..=PINNED.len()).map(|at| row.get(at)).collect();
    let values: Option<Vec<Option<Vec<u8>>>> = statement.query_row([id], values).optional()?;
    Ok(values.map(|mut values| {
        let where_set = values.pop().flatten();
        let fields = PINNED.into_iter().zip(values.iter().map(Option::as_deref));
        let more = where_set.as_deref().map(|value| (PINNED_WHERE_SET, Some(value)));
        let digest = seal("sway job 1", &fields.chain(more).collect::<Vec<_>>());
        Pinned { values, digest }
    }))
}

/// Adds what a job that was just inserted is to its owner.
pub(super) fn insert(
    connection: &Connection,
    job_id: &str,
    submission: &NewSubmission,
) -> Result<(), DbError> {
    connection.execute(
        "INSERT INTO submissions
             (job_id, owner, queue, name, description, tags, findings, packages, digest)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, '')",
        params![
            job_id,
            submission.owner.as_ref(),
            submission.queue,
            submission.name,
            submission.description,
            to_json(&submission.tags),
            submission.findings,
            submission.packages.as_ref().map(to_json),
        ],
    )?;
    // Of what the table holds now, not of what it was given.
    let Pinned { digest, .. } = pinned(connection, job_id)?.ok_or_else(|| no_job(job_id))?;
    let set = "UPDATE submissions SET digest = ?2 WHERE job_id = ?1";
    connection.execute(set, [job_id, &digest])?;
    let detail = json!({ "owner": submission.owner, "name": submission.name, "digest": digest });
    audit::append(connection, &submission.caller, Action::Submitted, Some(job_id), &detail)
}

pub(super) fn no_job(id: &str) -> DbError {
    DbError::NoJob(id.to_owned())
}

/// What a job is to its owner; none where nobody decides on it.
pub(super) fn of_job(
    connection: &Connection,
    id: &str,
) -> Result<Option<Box<SubmissionView>>, DbError> {
    let mut statement = connection.prepare_cached(
        "SELECT owner, queue, name, description, tags, digest, approved, decided_by, decided_at,
             reason, cleaned_at, findings, packages
         FROM submissions WHERE job_id = ?1",
    )?;
    let mut rows = statement.query([id])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let owner: String = row.get(0)?;
    let approved: Option<bool> = row.get(6)?;
    let decision = match approved {
        Some(approved) => {
            Some(Decision { approved, by: row.get(7)?, at: row.get(8)?, reason: row.get(9)? })
        }
        None => None,
    };
    Ok(Some(Box::new(SubmissionView {
        owner: owner.parse().map_err(|_| DbError::Row { column: "owner", value: owner })?,
        queue: row.get(1)?,
        name: row.get(2)?,
        description: row.get(3)?,
        tags: from_json("tags", row.get(4)?)?,
        digest: row.get(5)?,
        findings: row.get(11)?,
        decision,
        cleaned_at: row.get(10)?,
        packages: match row.get(12)? {
            Some(json) => Some(from_json("packages", json)?),
            None => None,
        },
    })))
}

/// Adds an entry to the audit where somebody decides on the job.
pub(super) fn note(
    connection: &Connection,
    caller: &Caller,
    action: Action,
    id: &str,
    detail: &serde_json::Value,
) -> Result<(), DbError> {
    let query = "SELECT EXISTS (SELECT 1 FROM submissions WHERE job_id = ?1)";
    let is_submitted = connection.prepare_cached(query)?.query_row([id], |row| row.get(0))?;
    match is_submitted {
        true => audit::append(connection, caller, action, Some(id), detail),
        false => Ok(()),
    }
}

/// Whether the job is what was submitted, and what was approved.
fn checked(connection: &Connection, id: &str) -> Result<Result<ApprovedJob, String>, DbError> {
    let row = pinned(connection, id)?.ok_or_else(|| no_job(id))?;
    let query = "SELECT digest FROM submissions WHERE job_id = ?1";
    let submitted: String = connection.query_row(query, [id], |row| row.get(0))?;
    if row.digest != submitted {
        return Ok(Err("it is not what was submitted".to_owned()));
    }
    let approval = audit::last_of_job(connection, id, Action::Approved)?;
    let of_detail = |detail: &str| {
        let detail: serde_json::Value = serde_json::from_str(detail).ok()?;
        Some(detail.get("digest")?.as_str()?.to_owned())
    };
    let approved = approval.and_then(|entry| of_detail(&entry.detail));
    if approved.as_ref() != Some(&row.digest) {
        return Ok(Err("the audit has no approval of it".to_owned()));
    }
    let value = |column| row.value(column);
    let spec = value("jobs.spec").and_then(|json| serde_json::from_slice(json).ok());
    let limits = value("jobs.limits").and_then(|json| serde_json::from_slice(json).ok());
    let manifest =
        value("jobs.manifest").and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    let datasets = match value("jobs.datasets") {
        Some(json) => serde_json::from_slice(json).ok(),
        None => Some(Vec::new()),
    };
    Ok(match (spec, limits, manifest, datasets) {
        (Some(spec), Some(limits), Some(manifest), Some(datasets)) => {
            Ok(ApprovedJob { spec, limits, manifest, datasets })
        }
        _ => Err("its row can't be read".to_owned()),
    })
}

impl Db {
    /// What an approved job runs, or why it must not.
    pub async fn approved_job(&self, id: &str) -> Result<Result<ApprovedJob, String>, DbError> {
        let id = id.to_owned();
        self.call(move |connection| checked(connection, &id)).await
    }

    /// Notes that a job is not what was approved, and does not run.
    pub async fn note_refusal(&self, id: &str, reason: &str) -> Result<(), DbError> {
        let (id, detail) = (id.to_owned(), json!({ "reason": reason }));
        self.call(move |connection| {
            note(connection, &Caller::WORKER, Action::Refused, &id, &detail)
        })
        .await
    }

    /// Notes that somebody asks for a job's end.
    pub async fn note_cancel(&self, id: &str, caller: Caller) -> Result<(), DbError> {
        let id = id.to_owned();
        self.call(move |connection| note(connection, &caller, Action::Cancelled, &id, &json!({})))
            .await
    }

    /// An owner decides on a pending job, of which only the digest that was reviewed counts where
    /// one is given. The same decision once more changes nothing.
    pub async fn decide(
        &self,
        prefix: &str,
        scope: &Scope,
        approved: bool,
        reason: String,
        reviewed: Option<String>,
        caller: Caller,
    ) -> Result<Decided, DbError> {
        let (prefix, scope) = (prefix.to_owned(), scope.clone());
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let id = resolve(&transaction, &prefix, &scope)?;
            let job = job_of_id(&transaction, &id)?.view;
            let Some(submission) = &job.submission else {
                return Err(DbError::NotSubmitted(id));
            };
            if let Scope::User(user) = &scope
                && submission.owner != *user
            {
                return Err(DbError::NotOwner { id, owner: submission.owner.clone() });
            }
            let word = if approved { "approved" } else { "rejected" };
            match &submission.decision {
                Some(decision) if decision.approved == approved => {
                    return Ok(Decided { job, already: true });
                }
                Some(decision) => {
                    let was = if decision.approved { "approved" } else { "rejected" };
                    let (by, at) = (decision.by.clone(), decision.at.clone());
                    return Err(DbError::Decided { id, was, by, at, asked: word });
                }
                None => {}
            }
            let is_ready = match &submission.packages {
                None | Some(Packages::Ready { .. } | Packages::LeftToImage) => true,
                Some(Packages::Preparing | Packages::Failed { .. }) => false,
            };
            if approved && job.state == JobState::Pending && !is_ready {
                return Err(DbError::Preparing(id));
            }
            if reviewed.is_some_and(|reviewed| reviewed != submission.digest) {
                return Err(DbError::NotReviewed(id));
            }
            let next = if approved { JobState::Approved } else { JobState::Rejected };
            set_state(&transaction, &id, next)?;
            transaction.execute(
                "UPDATE submissions SET approved = ?2, decided_by = ?3, decided_at = ?4,
                     reason = ?5
                 WHERE job_id = ?1",
                params![id, approved, caller.user.as_ref().map(AsRef::as_ref), now(), reason],
            )?;
            let action = if approved { Action::Approved } else { Action::Rejected };
            let detail = json!({ "digest": submission.digest, "reason": reason });
            audit::append(&transaction, &caller, action, Some(&id), &detail)?;
            let job = job_of_id(&transaction, &id)?.view;
            transaction.commit()?;
            Ok(Decided { job, already: false })
        })
        .await
    }

    /// The submitter's last approved job to the same owner before this one, and what it ran.
    pub async fn previous_job(&self, job: &JobView) -> Result<Option<PreviousJob>, DbError> {
        let Some(submission) = &job.submission else { return Ok(None) };
        let (id, user, owner) = (job.id.clone(), job.username.clone(), submission.owner.clone());
        let previous = self.call(move |connection| {
            let query = "SELECT jobs.id FROM jobs JOIN submissions ON job_id = jobs.id
                 WHERE username = ?1 AND owner = ?2 AND approved = 1
                   AND seq < (SELECT seq FROM jobs WHERE id = ?3)
                 ORDER BY seq DESC LIMIT 1";
            let id: Option<String> = connection
                .query_row(query, [user.as_ref(), owner.as_ref(), &id], |row| row.get(0))
                .optional()?;
            id.map(|id| Ok(job_of_id(connection, &id)?.view)).transpose()
        });
        let Some(job) = previous.await? else { return Ok(None) };
        let spec = self.job_spec(&job.id).await?;
        Ok(Some(PreviousJob { job, spec }))
    }

    /// What an owner grants.
    pub async fn queue_settings(&self, owner: &UserName) -> Result<QueueSettings, DbError> {
        let owner = owner.clone();
        self.call(move |connection| {
            let query = "SELECT settings FROM queues WHERE owner = ?1";
            let settings: Option<String> =
                connection.query_row(query, [owner.as_ref()], |row| row.get(0)).optional()?;
            settings.map_or_else(|| Ok(QueueSettings::default()), |it| from_json("settings", it))
        })
        .await
    }

    /// Changes what an owner grants from now on.
    pub async fn set_queue(
        &self,
        owner: &UserName,
        settings: QueueSettings,
        caller: Caller,
    ) -> Result<(), DbError> {
        let owner = owner.clone();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            transaction.execute(
                "INSERT INTO queues (owner, settings) VALUES (?1, ?2)
                 ON CONFLICT (owner) DO UPDATE SET settings = excluded.settings",
                params![owner.as_ref(), to_json(&settings)],
            )?;
            let detail = json!({ "owner": owner, "settings": settings });
            audit::append(&transaction, &caller, Action::QueueSet, None, &detail)?;
            transaction.commit()?;
            Ok(())
        })
        .await
    }

    /// How many jobs a user has to decide on or decided on, and how many the user submitted.
    pub async fn queue_counts(
        &self,
        user: &UserName,
    ) -> Result<(StateCounts, StateCounts), DbError> {
        let user = user.clone();
        self.call(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT state, sum(owner = ?1), sum(username = ?1)
                 FROM submissions JOIN jobs ON jobs.id = job_id
                 WHERE owner = ?1 OR username = ?1 GROUP BY state",
            )?;
            let (mut for_user, mut by_user) = (StateCounts::default(), StateCounts::default());
            let mut rows = statement.query([user.as_ref()])?;
            while let Some(row) = rows.next()? {
                let state = state_of(row.get(0)?)?;
                let count = |at| row.get(at).map(i64::unsigned_abs);
                (*for_user.of(state), *by_user.of(state)) = (count(1)?, count(2)?);
            }
            Ok((for_user, by_user))
        })
        .await
    }

    /// How many jobs wait for a decision, and how many of those a user submitted.
    pub async fn pending_counts(&self, user: &UserName) -> Result<(usize, usize), DbError> {
        let user = user.clone();
        self.call(move |connection| {
            let query = "SELECT count(*), coalesce(sum(username = ?1), 0) FROM jobs
                 WHERE state = 'pending'";
            let counts = connection.query_row(query, [user.as_ref()], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
            })?;
            let count = |count: i64| usize::try_from(count).unwrap_or_default();
            Ok((count(counts.0), count(counts.1)))
        })
        .await
    }

    /// Submitted jobs that ended longer ago than their owners keep them, oldest first.
    pub async fn old_jobs(&self, limit: u32) -> Result<Vec<OldJob>, DbError> {
        self.call(move |connection| {
            let default = QueueSettings::default().cleanup_completed_after_s;
            let mut statement = connection.prepare_cached(
                "SELECT jobs.id, packages IS NOT NULL
                 FROM submissions JOIN jobs ON jobs.id = job_id
                     LEFT JOIN queues ON queues.owner = submissions.owner
                 WHERE cleaned_at IS NULL AND ended_at IS NOT NULL
                   AND ended_at <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-' || coalesce(
                        json_extract(settings, '$.cleanup_completed_after_s'), :default)
                        || ' seconds')
                 ORDER BY seq LIMIT :limit",
            )?;
            let default = i64::try_from(default).unwrap_or(i64::MAX);
            let old = statement
                .query_map(named_params! { ":default": default, ":limit": limit }, |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?;
            let old: Vec<(String, bool)> = old.collect::<Result<_, _>>()?;
            let mut statement =
                connection.prepare_cached("SELECT id FROM runs WHERE job_id = ?1")?;
            let with_runs = |(id, has_packages): (String, bool)| {
                let runs = statement.query_map([&id], |row| row.get(0))?;
                let runs = runs.collect::<Result<_, _>>()?;
                Ok(OldJob { id, runs, has_packages })
            };
            old.into_iter().map(with_runs).collect()
        })
        .await
    }

    /// Forgets a job's code, outputs and logs; what it was and how it ended stays.
    pub async fn clean_job(&self, id: &str) -> Result<(), DbError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            transaction.execute("UPDATE jobs SET spec = NULL WHERE id = ?1", [&id])?;
            transaction.execute(
                "UPDATE runs SET stdout = x'', stderr = x'', answer = NULL, output_files = NULL,
                     output_files_bytes = NULL
                 WHERE job_id = ?1",
                [&id],
            )?;
            let set = "UPDATE submissions SET cleaned_at = ?2 WHERE job_id = ?1";
            transaction.execute(set, [&id, &now()])?;
            audit::append(&transaction, &Caller::WORKER, Action::Cleaned, Some(&id), &json!({}))?;
            transaction.commit()?;
            Ok(())
        })
        .await
    }
}
