//! What became of the packages that submitted jobs ask for, and table `package_builds`: what was
//! installed a short while ago.
//!
//! Installing them gives a job another image, and so another digest. It is taken only where the row
//! still is what was submitted: whoever changed it meanwhile gets no digest for that.

use rusqlite::{Connection, OptionalExtension as _, params};
use serde_json::json;
use sway_core::api::submissions::{Package, Packages};
use sway_core::digest::Digest;
use sway_core::job::JobState;

use super::audit::{self, Action, Caller};
use super::jobs::{from_json, job_of_id, to_json};
use super::submissions::{no_job, pinned};
use super::{Db, DbError, now};

/// How long an image with packages is used for others that ask for the same; an index has new
/// versions then.
const KEPT: &str = "-1 day";

/// An image that packages were installed into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageBuild {
    /// Its manifest.
    pub manifest: Digest,
    /// What was installed.
    pub installed: Vec<Package>,
}

impl Db {
    /// A pending job gets the image that its packages were installed into. False where it is not
    /// what was submitted.
    pub async fn packages_ready(&self, id: &str, build: PackageBuild) -> Result<bool, DbError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            if !is_preparing(&transaction, &id)? {
                return Ok(false);
            }
            let image = job_of_id(&transaction, &id)?.view.manifest;
            let PackageBuild { manifest, installed } = build;
            let count = installed.len();
            let set = "UPDATE jobs SET manifest = ?2 WHERE id = ?1";
            transaction.execute(set, params![id, manifest.to_string()])?;
            let digest = set_packages(&transaction, &id, &Packages::Ready { image, installed })?;
            let detail = json!({ "digest": digest, "manifest": manifest, "installed": count });
            audit::append(&transaction, &Caller::WORKER, Action::Prepared, Some(&id), &detail)?;
            transaction.commit()?;
            Ok(true)
        })
        .await
    }

    /// The packages of a pending job can't be installed; it is about to end. False where it is not
    /// pending any more.
    pub async fn packages_failed(&self, id: &str, reason: String) -> Result<bool, DbError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            if job_of_id(&transaction, &id)?.view.state != JobState::Pending {
                return Ok(false);
            }
            set_packages(&transaction, &id, &Packages::Failed { reason })?;
            transaction.commit()?;
            Ok(true)
        })
        .await
    }

    /// What was built for this key, if that is not long ago.
    pub async fn package_build(&self, key: &str) -> Result<Option<PackageBuild>, DbError> {
        let key = key.to_owned();
        self.call(move |connection| {
            let query = "SELECT manifest, packages FROM package_builds
                 WHERE key = ?1 AND built_at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?2)";
            let found: Option<(String, String)> = connection
                .query_row(query, [key.as_str(), KEPT], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((manifest, packages)) = found else { return Ok(None) };
            let installed = from_json("packages", packages)?;
            let bad = |_| DbError::Row { column: "manifest", value: manifest.clone() };
            Ok(Some(PackageBuild { manifest: manifest.parse().map_err(bad)?, installed }))
        })
        .await
    }

    /// Keeps what was built, and forgets what is old.
    pub async fn keep_package_build(&self, key: &str, build: PackageBuild) -> Result<(), DbError> {
        let key = key.to_owned();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let old = "DELETE FROM package_builds
                 WHERE built_at <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?1)";
            transaction.execute(old, [KEPT])?;
            transaction.execute(
                "INSERT OR REPLACE INTO package_builds (key, manifest, packages, built_at)
                 VALUES (?1, ?2, ?3, ?4)",
                params![key, build.manifest.to_string(), to_json(&build.installed), now()],
            )?;
            transaction.commit()?;
            Ok(())
        })
        .await
    }
}

/// Whether the job waits for its packages, and is what was submitted.
fn is_preparing(connection: &Connection, id: &str) -> Result<bool, DbError> {
    let job = job_of_id(connection, id)?.view;
    let row = pinned(connection, id)?.ok_or_else(|| no_job(id))?;
    Ok(job.state == JobState::Pending
        && job.submission.is_some_and(|submission| {
            submission.digest == row.digest && submission.packages == Some(Packages::Preparing)
        }))
}

/// Says what became of a job's packages; its digest then.
fn set_packages(connection: &Connection, id: &str, packages: &Packages) -> Result<String, DbError> {
    let set = "UPDATE submissions SET packages = ?2 WHERE job_id = ?1";
    connection.execute(set, params![id, to_json(packages)])?;
    let row = pinned(connection, id)?.ok_or_else(|| no_job(id))?;
    let set = "UPDATE submissions SET digest = ?2 WHERE job_id = ?1";
    connection.execute(set, [id, &row.digest])?;
    Ok(row.digest)
}
