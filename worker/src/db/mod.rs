//! The worker's record: jobs and runs in one SQLite file.
//!
//! All SQL of the worker is here. One connection behind a mutex serves every caller on blocking
//! threads; statements are short, so that a queue in front of it costs less than a pool. The file
//! is in WAL mode with `synchronous = FULL`: an accepted job survives a power cut. Migrations are
//! numbered files; `PRAGMA user_version` says how many have been applied.

mod jobs;
mod submissions;
mod packages;
mod runs;
mod audit;
mod traces;
mod users;

use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use sway_core::name::UserName;

pub use self::audit::{Action, Caller};
pub use self::jobs::{Accepted, JobFilter, JobRow, LabelFilter, NewJob, new_id};
pub use self::packages::PackageBuild;
pub use self::runs::{NewRun, RunEnd, RunFilter, STORED_OUTPUT_LEN_MAX};
pub use self::submissions::{ApprovedJob, NewSubmission, OldJob};
pub use self::traces::KnownTrace;
pub use self::users::TokenRow;

/// Schema versions in order; never edited once released, only appended to.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_jobs_and_runs.sql"),
    include_str!("migrations/0002_traces.sql"),
    include_str!("migrations/0003_answers.sql"),
    include_str!("migrations/0004_datasets_and_outputs.sql"),
    include_str!("migrations/0005_cpu.sql"),
    include_str!("migrations/0006_labels.sql"),
    include_str!("migrations/0007_pool.sql"),
    include_str!("migrations/0008_submissions_and_audit.sql"),
    include_str!("migrations/0009_users_and_tokens.sql"),
    include_str!("migrations/0010_findings.sql"),
    include_str!("migrations/0011_packages.sql"),
];

/// How long to wait for another process that looks into the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Prepared statements that are kept: more than there are of those that jobs use again and again.
const STATEMENTS_KEPT: usize = 128;

/// What can go wrong with the record.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The file can't be made, or others can't be kept from reading it.
    #[error("can't make {path} a file of its owner alone")]
    Private {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file can't be opened or migrated.
    #[error("open database {path}")]
    Open {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// Written by a newer worker.
    #[error(
        "database {path} has version {found}, this worker knows up to {known}: \
         start the newer worker again, or give another --data directory"
    )]
    Newer {
        /// Where it is.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest one known here.
        known: i64,
    },
    /// A statement failed.
    #[error("database")]
    Sql(#[from] rusqlite::Error),
    /// A row holds what this worker can't have written.
    #[error("database: column {column} holds {value:?}")]
    Row {
        /// Which column.
        column: &'static str,
        /// What it holds.
        value: String,
    },
    /// A job does not exist, or not for this caller.
    #[error("no job {0:?}")]
    NoJob(String),
    /// A prefix fits several jobs.
    #[error("{0:?} is the beginning of several job ids")]
    AmbiguousJob(String),
    /// A run does not exist, or not for this caller.
    #[error("no run {0:?}")]
    NoRun(String),
    /// The key was used for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The job's state does not allow it.
    #[error("job {id} is {from}, it can't become {to}")]
    IllegalMove {
        /// The job.
        id: String,
        /// Its state.
        from: &'static str,
        /// What was asked for.
        to: &'static str,
    },
    /// Nobody decides on the job.
    #[error("job {0} was submitted to no owner: nobody decides on it")]
    NotSubmitted(String),
    /// Somebody else decides on the job.
    #[error("{owner} decides on job {id}")]
    NotOwner {
        /// The job.
        id: String,
        /// Who decides.
        owner: UserName,
    },
    /// It was decided otherwise.
    #[error("job {id} was {was} by {by} at {at}: it can't be {asked}")]
    Decided {
        /// The job.
        id: String,
        /// How it was decided.
        was: &'static str,
        /// By whom.
        by: String,
        /// When.
        at: String,
        /// How it was to be decided.
        asked: &'static str,
    },
    /// It can't be approved before its packages are installed.
    #[error("the packages of job {0} are not installed yet: it can't be approved before")]
    Preparing(String),
    /// The digest that was reviewed is not the job's.
    #[error("job {0} is not what was reviewed")]
    NotReviewed(String),
    /// The blocking thread is gone: the process is stopping.
    #[error("the database is closed")]
    Closed,
}

/// Whose rows a caller may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One user's.
    User(UserName),
    /// Everybody's: the operator.
    All,
}

impl Scope {
    /// For `?1 IS NULL OR username = ?1`.
    fn user(&self) -> Option<&str> {
        match self {
            Self::User(user) => Some(user.as_ref()),
            Self::All => None,
        }
    }
}

/// The open database. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Db {
    connection: Arc<Mutex<Connection>>,
}

impl Db {
    /// Opens or creates the file and brings it to the newest version.
    pub fn open(path: &Path) -> Result<Self, DbError> {
        let open_error = |source| DbError::Open { path: path.to_owned(), source };
        make_private(path)?;
        let mut connection = Connection::open(path).map_err(open_error)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(open_error)?;
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
            .map_err(open_error)?;
        migrate(&mut connection, path)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    /// Runs `work` with the connection on a blocking thread. `work` runs to its end even when the
    /// caller goes away.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, DbError> + Send + 'static,
    ) -> Result<T, DbError> {
        let connection = Arc::clone(&self.connection);
        let job = move || {
            // A panic in `work` leaves at most an open transaction, which rolls back on drop.
            work(&mut connection.lock().unwrap_or_else(PoisonError::into_inner))
        };
        tokio::task::spawn_blocking(job).await.map_err(|_| DbError::Closed)?
    }
}

/// Scripts and outputs of all users are its owner's alone, whatever the directory's mode. SQLite
/// gives its journals the same mode.
fn make_private(path: &Path) -> Result<(), DbError> {
    let private = std::fs::Permissions::from_mode(0o600);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    options
        .open(path)
        .and_then(|file| file.set_permissions(private))
        .map_err(|source| DbError::Private { path: path.to_owned(), source })
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), DbError> {
    let open_error = |source| DbError::Open { path: path.to_owned(), source };
    let known = i64::try_from(MIGRATIONS.len()).expect("a handful of migrations");
    let found: i64 =
        connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(open_error)?;
    let Some(missing) = usize::try_from(found).ok().and_then(|found| MIGRATIONS.get(found..))
    else {
        return Err(DbError::Newer { path: path.to_owned(), found, known });
    };
    for (version, migration) in (found + 1..).zip(missing) {
        let transaction = connection.transaction().map_err(open_error)?;
        transaction.execute_batch(migration).map_err(open_error)?;
        transaction.pragma_update(None, "user_version", version).map_err(open_error)?;
        transaction.commit().map_err(open_error)?;
    }
    Ok(())
}

/// Now, as the tables keep it: RFC 3339 in UTC, to the millisecond.
pub fn now() -> String {
    rfc3339(std::time::SystemTime::now())
}

/// A time, as the tables keep it.
pub fn rfc3339(time: std::time::SystemTime) -> String {
    let timestamp = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{timestamp:.3}")
}

#[cfg(test)]
mod tests;
