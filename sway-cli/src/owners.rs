//! Owners who have workers of their own: where each one's is, under which label its queue goes, and
//! what opens it.
//!
//! One JSON file in the data directory, replaced as a whole and readable by its user alone: it holds
//! tokens. The Python client reads it too.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sway_core::name::UserName;

/// The file in the data directory.
const FILE: &str = "owners.json";

/// Why the owners are not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnersError {
    /// The file is there and can't be read, or can't be written.
    #[error("can't use the list of owners in {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody has changed it.
    #[error("the list of owners in {path} is not valid")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A token that others can read opens the worker to them.
    #[error("others can read the list of owners in {path}, which holds tokens (chmod 600 it)")]
    Exposed {
        /// Which file.
        path: PathBuf,
    },
}

/// How to reach one owner.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Owner {
    /// The worker that the owner decides at.
    pub(crate) worker_url: String,
    /// Under which label jobs go there; the usual one where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) queue: Option<String>,
    /// SHA-256 of the worker's certificate, if it is pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) worker_pin: Option<String>,
    /// What opens the worker; the token of the settings where absent, which is for their worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
}

/// All of them, by name.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Owners(pub(crate) BTreeMap<UserName, Owner>);

impl Owners {
    /// Those that the data directory tells; none where nobody was added.
    pub(crate) fn load(data: &Path) -> Result<Self, OwnersError> {
        let path = data.join(FILE);
        let failed = |source| OwnersError::Io { path: path.clone(), source };
        let bytes = match fs_err::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if is_missing(&error) => return Ok(Self::default()),
            Err(source) => return Err(failed(source)),
        };
        if is_exposed(&fs_err::metadata(&path).map_err(failed)?) {
            return Err(OwnersError::Exposed { path });
        }
        serde_json::from_slice(&bytes).map_err(|source| OwnersError::Parse { path, source })
    }

    /// Writes them down, for this user alone.
    pub(crate) fn save(&self, data: &Path) -> Result<(), OwnersError> {
        let path = data.join(FILE);
        let saving = || {
            make_private(data)?;
            // A new file of this kind has mode 0600.
            let mut file = tempfile::NamedTempFile::new_in(data)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            Ok(())
        };
        saving().map_err(|source| OwnersError::Io { path: path.clone(), source })
    }
}

/// As for the token: a data directory of somebody else's is none.
fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied
    )
}

fn is_exposed(file: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.permissions().mode() & 0o077 != 0
}

/// A directory that is not there yet is made for this user alone.
fn make_private(data: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_list_is_its_users_alone_and_is_not_used_where_others_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("new/data");
        let list = |data: &Path| Owners::load(data).map(|owners| owners.0);
        assert!(list(&data).unwrap().is_empty());
        let alice = Owner {
            worker_url: "https://alice.example.org:8444".to_owned(),
            queue: Some("nightly".to_owned()),
            worker_pin: None,
            token: Some("sway_1_2".to_owned()),
        };
        let all = Owners([("alice@example.org".parse().unwrap(), alice)].into());
        all.save(&data).unwrap();
        assert!(Owners::load(&data).unwrap() == all);
        let path = data.join(FILE);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&data)), (0o600, 0o700));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(list(&data), Err(OwnersError::Exposed { .. })));
        all.save(&data).unwrap();
        assert!(list(&data).is_ok(), "a new list is as it should be");
        fs_err::write(&path, "{\"alice\": {}}").unwrap();
        assert!(matches!(list(&data), Err(OwnersError::Parse { .. })));
    }
}
