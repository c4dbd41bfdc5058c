//! Table `audit`: who did what to which job, user or token, when, and from where.
//!
//! An entry is added in the transaction of the change that it tells of, by [`append`]. The table's
//! triggers refuse anything else; what goes around them breaks the chain (`sway_core::audit`).
//! Jobs that nobody decides on are not in it: the run log has those.

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde_json::Value;
use sway_core::api::submissions::{AuditPage, AuditVerdict};
use sway_core::audit::{AuditEntry, Head, NOTHING, Verifier, WORKER};
use sway_core::name::UserName;

use super::{Db, DbError, now};

/// Who does something, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user; the worker itself where there is none.
    pub user: Option<UserName>,
    /// Id of the token that was shown.
    pub token: Option<String>,
    /// Address that the request came from.
    pub peer: Option<String>,
}

impl Caller {
    /// The worker itself.
    pub const WORKER: Self = Self { user: None, token: None, peer: None };
}

/// What can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A job was submitted to an owner.
    Submitted,
    /// The packages that it asks for are in an image of its own.
    Prepared,
    /// Its owner said yes.
    Approved,
    /// Its owner said no.
    Rejected,
    /// Somebody asked for its end.
    Cancelled,
    /// Its program is about to start.
    Started,
    /// It is not what was approved, and was not started.
    Refused,
    /// It ended.
    Ended,
    /// Its code, outputs and logs were removed.
    Cleaned,
    /// An owner changed what the queue grants.
    QueueSet,
    /// There is one user more.
    UserAdded,
    /// A user and all of its tokens open nothing any more.
    UserRevoked,
    /// There is one token more.
    TokenAdded,
    /// A token opens nothing any more.
    TokenRevoked,
}

impl Action {
    /// The name in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Prepared => "prepared",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
            Self::Started => "started",
            Self::Refused => "refused",
            Self::Ended => "ended",
            Self::Cleaned => "cleaned",
            Self::QueueSet => "queue_set",
            Self::UserAdded => "user_added",
            Self::UserRevoked => "user_revoked",
            Self::TokenAdded => "token_added",
            Self::TokenRevoked => "token_revoked",
        }
    }
}

const COLUMNS: &str = "seq, at, actor, token, peer, action, job, detail, previous, hash";

/// Adds an entry. Call it within the transaction of the change.
pub(super) fn append(
    connection: &Connection,
    caller: &Caller,
    action: Action,
    job: Option<&str>,
    detail: &Value,
) -> Result<(), DbError> {
    let head = head(connection)?;
    let or_nothing = |text: Option<&str>| text.unwrap_or(NOTHING).to_owned();
    let mut entry = AuditEntry {
        seq: head.seq + 1,
        at: now(),
        actor: caller.user.as_ref().map_or(WORKER, AsRef::as_ref).to_owned(),
        token: or_nothing(caller.token.as_deref()),
        peer: or_nothing(caller.peer.as_deref()),
        action: action.as_str().to_owned(),
        job: or_nothing(job),
        detail: detail.to_string(),
        previous: head.hash,
        hash: String::new(),
    };
    entry.hash = entry.computed_hash();
    let mut statement = connection.prepare_cached(&format!(
        "INSERT INTO audit ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
    ))?;
    statement.execute(params![
        entry.seq,
        entry.at,
        entry.actor,
        entry.token,
        entry.peer,
        entry.action,
        entry.job,
        entry.detail,
        entry.previous,
        entry.hash,
    ])?;
    Ok(())
}

/// The last entry of this kind about a job, if its fields are those that were hashed.
pub(super) fn last_of_job(
    connection: &Connection,
    job: &str,
    action: Action,
) -> Result<Option<AuditEntry>, DbError> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM audit WHERE job = ?1 AND action = ?2 ORDER BY seq DESC LIMIT 1"
    ))?;
    let entry = statement.query_row([job, action.as_str()], entry_of_row).optional()?;
    Ok(entry.filter(|entry| entry.computed_hash() == entry.hash))
}

fn head(connection: &Connection) -> Result<Head, DbError> {
    let query = "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1";
    let mut statement = connection.prepare_cached(query)?;
    let head = statement.query_row([], |row| Ok(Head { seq: row.get(0)?, hash: row.get(1)? }));
    Ok(head.optional()?.unwrap_or_default())
}

fn entry_of_row(row: &Row<'_>) -> Result<AuditEntry, rusqlite::Error> {
    Ok(AuditEntry {
        seq: row.get(0)?,
        at: row.get(1)?,
        actor: row.get(2)?,
        token: row.get(3)?,
        peer: row.get(4)?,
        action: row.get(5)?,
        job: row.get(6)?,
        detail: row.get(7)?,
        previous: row.get(8)?,
        hash: row.get(9)?,
    })
}

/// Entries that are looked at while nobody else can use the database.
const STEP: u32 = 10_000;

impl Db {
    /// Entries after number `after`, oldest first; about one job where one is given.
    pub async fn audit(
        &self,
        job: Option<String>,
        after: i64,
        limit: u32,
    ) -> Result<AuditPage, DbError> {
        self.call(move |connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM audit WHERE seq > ?1 AND (?2 IS NULL OR job = ?2)
                 ORDER BY seq LIMIT ?3"
            ))?;
            let entries = statement.query_map(params![after, job, limit], entry_of_row)?;
            let entries: Vec<AuditEntry> = entries.collect::<Result<_, _>>()?;
            let full = u32::try_from(entries.len()).is_ok_and(|len| len == limit);
            let next_after = entries.last().filter(|_| full).map(|entry| entry.seq);
            Ok(AuditPage { entries, next_after })
        })
        .await
    }

    /// Follows the whole chain, and whether it goes through `noted`.
    pub async fn verify_audit(&self, noted: Option<Head>) -> Result<AuditVerdict, DbError> {
        let mut verifier = Verifier::new(noted);
        let mut after = i64::MIN;
        loop {
            let entries = self.audit(None, after, STEP).await?.entries;
            let Some(last) = entries.last() else { break };
            after = last.seq;
            let followed = tokio::task::spawn_blocking(move || {
                let fault = entries.iter().try_for_each(|entry| verifier.push(entry)).err();
                (verifier, fault)
            });
            let fault;
            (verifier, fault) = followed.await.map_err(|_| DbError::Closed)?;
            if fault.is_some() {
                return Ok(AuditVerdict { head: verifier.head().clone(), fault });
            }
        }
        let head = verifier.head().clone();
        Ok(AuditVerdict { head, fault: verifier.end().err() })
    }
}
