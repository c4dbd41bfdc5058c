//! Traces that the worker knows, by user, image and key.

use rusqlite::{OptionalExtension as _, params};
use sway_core::digest::Digest;
use sway_core::name::UserName;
use sway_core::trace::TraceKey;

use super::{Db, DbError, now};

/// Traces that are kept; the ones updated longest ago go first.
const ROWS_MAX: u32 = 512;

/// Bytes of traces that are kept.
const BYTES_MAX: i64 = 64 << 20;

/// A trace that the worker knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownTrace {
    /// Of which image.
    pub manifest: Digest,
    /// Of which entry.
    pub key: TraceKey,
    /// The encoded trace.
    pub trace: Vec<u8>,
}

impl Db {
    /// Remembers a trace in place of the one that was known before.
    pub async fn put_trace(&self, user: &UserName, known: KnownTrace) -> Result<(), DbError> {
        let user = user.clone();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            transaction.execute(
                "INSERT INTO traces (username, manifest, key, trace, updated_at)
                 VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (username, manifest, key)
                 DO UPDATE SET trace = excluded.trace, updated_at = excluded.updated_at",
                params![
                    user.as_ref(),
                    known.manifest.to_hex(),
                    known.key.as_ref(),
                    known.trace,
                    now()
                ],
            )?;
            transaction.execute(
                "DELETE FROM traces WHERE rowid IN (
                     SELECT rowid FROM (
                         SELECT rowid, row_number() OVER newest AS number,
                                sum(length(trace)) OVER newest AS bytes
                         FROM traces WINDOW newest AS (ORDER BY updated_at DESC, rowid DESC))
                     WHERE number > ?1 OR bytes > ?2)",
                params![ROWS_MAX, BYTES_MAX],
            )?;
            transaction.commit()?;
            Ok(())
        })
        .await
    }

    /// What is known of one image and key.
    pub async fn trace(
        &self,
        user: &UserName,
        manifest: Digest,
        key: &TraceKey,
    ) -> Result<Option<Vec<u8>>, DbError> {
        let (user, key) = (user.clone(), key.clone());
        self.call(move |connection| {
            let query =
                "SELECT trace FROM traces WHERE username = ?1 AND manifest = ?2 AND key = ?3";
            let mut statement = connection.prepare_cached(query)?;
            let row = params![user.as_ref(), manifest.to_hex(), key.as_ref()];
            Ok(statement.query_row(row, |row| row.get(0)).optional()?)
        })
        .await
    }

    /// All traces of these users, or of everybody, newest first. Rows that are no traces any more
    /// are left out.
    pub async fn traces(&self, users: Option<Vec<UserName>>) -> Result<Vec<KnownTrace>, DbError> {
        self.call(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT username, manifest, key, trace FROM traces
                 ORDER BY updated_at DESC, rowid DESC",
            )?;
            let mut rows = statement.query([])?;
            let mut known = Vec::new();
            while let Some(row) = rows.next()? {
                let user: String = row.get(0)?;
                let visible = users
                    .as_ref()
                    .is_none_or(|users| users.iter().any(|other| other.as_ref() == user.as_str()));
                let (manifest, key): (String, String) = (row.get(1)?, row.get(2)?);
                if let (true, Ok(manifest), Ok(key)) = (visible, manifest.parse(), key.parse()) {
                    known.push(KnownTrace { manifest, key, trace: row.get(3)? });
                }
            }
            Ok(known)
        })
        .await
    }

    /// Notes how many bytes of its trace a job's latest run used.
    pub async fn note_trace_used(&self, job_id: &str, bytes: u64) -> Result<(), DbError> {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let job_id = job_id.to_owned();
        self.call(move |connection| {
            let set = "UPDATE runs SET trace_used_bytes = ?2 \
                       WHERE id = (SELECT max(id) FROM runs WHERE job_id = ?1)";
            connection.execute(set, params![job_id, bytes])?;
            Ok(())
        })
        .await
    }
}
