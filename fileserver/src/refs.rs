//! Refs: names that move, each move durable and atomic.
//!
//! One file for each ref, named by the SHA-1 of the ref's name (which may be longer than a file's
//! name may be); all of them are in memory, sorted. A move checks what the caller expects, writes
//! the file, then the table; one lock makes moves one after the other.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use fs_err as fs;
use sway_core::api::blobs::RefEntry;
use sway_core::digest::Digest;
use sway_core::name::RefName;

use crate::data::{DataDir, sync_dir, write_durably};

/// Most refs: all of them are held in memory.
pub const REFS_MAX: usize = 1_000_000;

/// A ref that was not moved.
#[derive(Debug, thiserror::Error)]
pub enum RefError {
    /// It is not what the caller expected.
    #[error("ref {name} is {}, not as expected", match actual {
        Some(digest) => format!("at {digest}"),
        None => "not there".to_owned(),
    })]
    Conflict {
        /// The ref.
        name: RefName,
        /// What it points to.
        actual: Option<Digest>,
    },
    /// It is not there.
    #[error("there is no ref {0}")]
    Missing(RefName),
    /// No further ref.
    #[error("there are {REFS_MAX} refs already")]
    TooMany,
    /// A file that should hold a ref.
    #[error("{path} does not hold a ref")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The disk.
    #[error("can't keep refs in {path}")]
    Io {
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What a ref must be for a move to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Whatever it is.
    Any,
    /// There, whatever it points to.
    Present,
    /// Not there.
    Absent,
    /// Pointing to this blob.
    Is(Digest),
}

impl Expected {
    fn check(self, name: &RefName, actual: Option<Digest>) -> Result<(), RefError> {
        let holds = match self {
            Self::Any => true,
            Self::Present => actual.is_some(),
            Self::Absent => actual.is_none(),
            Self::Is(digest) => actual == Some(digest),
        };
        if holds { Ok(()) } else { Err(RefError::Conflict { name: name.clone(), actual }) }
    }
}

type Table = BTreeMap<RefName, RefEntry>;

/// All refs of a data directory. Calls that write block on the disk.
#[derive(Debug)]
pub struct Refs {
    dir: PathBuf,
    tmp: PathBuf,
    /// Held over check and write. Taken before `table`.
    moving: Mutex<()>,
    table: RwLock<Table>,
}

impl Refs {
    /// Reads all refs.
    pub fn open(data: &DataDir) -> Result<Self, RefError> {
        let dir = data.refs();
        let io = |source| RefError::Io { path: dir.clone(), source };
        let mut table = Table::new();
        for file in fs::read_dir(&dir).map_err(io)? {
            let path = file.map_err(io)?.path();
            let bytes = fs::read(&path).map_err(io)?;
            let entry: RefEntry = serde_json::from_slice(&bytes)
                .map_err(|source| RefError::Malformed { path, source })?;
            table.insert(entry.name.clone(), entry);
        }
        Ok(Self { dir, tmp: data.tmp(), moving: Mutex::new(()), table: RwLock::new(table) })
    }

    /// A ref.
    pub fn get(&self, name: &RefName) -> Option<RefEntry> {
        self.read().get(name).cloned()
    }

    /// At most `limit` refs whose names start with `prefix`, sorted.
    pub fn list(&self, prefix: &str, limit: usize) -> Vec<RefEntry> {
        let table = self.read();
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let rest = table.range::<str, _>(from);
        let matching = rest.take_while(|(name, _)| name.as_ref().starts_with(prefix));
        matching.map(|(_, entry)| entry.clone()).take(limit).collect()
    }

    /// What those `limit` refs point to whose names start with `prefix` and that were moved last,
    /// the latest first.
    pub fn latest(&self, prefix: &str, limit: usize) -> Vec<Digest> {
        let mut entries = self.list(prefix, REFS_MAX);
        entries.sort_unstable_by(|a, b| b.updated_at.cmp(&a.updated_at));
        entries.into_iter().take(limit).map(|entry| entry.digest).collect()
    }

    /// Points `name` to `digest` if it is what is expected. Tells whether the ref is new.
    pub fn put(
        &self,
        name: &RefName,
        digest: Digest,
        expected: Expected,
    ) -> Result<bool, RefError> {
        let _moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        let actual = self.get(name).map(|entry| entry.digest);
        expected.check(name, actual)?;
        if actual.is_none() && self.read().len() >= REFS_MAX {
            return Err(RefError::TooMany);
        }
        let updated_at = jiff::Timestamp::now().to_string();
        let entry = RefEntry { name: name.clone(), digest, updated_at };
        let bytes = serde_json::to_vec(&entry).expect("strings always serialise");
        let path = self.path(name);
        write_durably(&self.tmp, &path, &bytes).map_err(|source| RefError::Io { path, source })?;
        self.write(|table| table.insert(name.clone(), entry));
        Ok(actual.is_none())
    }

    /// Removes `name` if it is what is expected.
    pub fn delete(&self, name: &RefName, expected: Expected) -> Result<(), RefError> {
        let _moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        let actual = self.get(name).map(|entry| entry.digest);
        expected.check(name, actual)?;
        if actual.is_none() {
            return Err(RefError::Missing(name.clone()));
        }
        let path = self.path(name);
        fs::remove_file(&path)
            .and_then(|()| sync_dir(&self.dir))
            .map_err(|source| RefError::Io { path, source })?;
        self.write(|table| table.remove(name));
        Ok(())
    }

    fn path(&self, name: &RefName) -> PathBuf {
        self.dir.join(Digest::of(name.as_ref().as_bytes()).to_hex())
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        change(&mut self.table.write().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> RefName {
        text.parse().unwrap()
    }

    #[test]
    fn refs_outlive_the_server() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = [b"one", b"two"].map(|bytes| Digest::of(bytes));
        {
            let data = DataDir::open(dir.path()).unwrap();
            let refs = Refs::open(&data).unwrap();
            assert!(refs.put(&name("images/a/x:1"), one, Expected::Any).unwrap());
            assert!(!refs.put(&name("images/a/x:1"), two, Expected::Any).unwrap());
            refs.put(&name("images/a/y:1"), one, Expected::Absent).unwrap();
            refs.put(&name("images/a"), one, Expected::Any).unwrap();
            refs.delete(&name("images/a/y:1"), Expected::Is(one)).unwrap();
        }
        let refs = Refs::open(&DataDir::open(dir.path()).unwrap()).unwrap();
        assert_eq!(refs.get(&name("images/a/x:1")).unwrap().digest, two);
        assert_eq!(refs.get(&name("images/a/y:1")), None);
        let names: Vec<_> =
            refs.list("images/a", 10).into_iter().map(|entry| entry.name.to_string()).collect();
        assert_eq!(names, ["images/a", "images/a/x:1"]);
    }

    #[test]
    fn of_many_movers_with_one_expectation_one_moves() {
        let dir = tempfile::tempdir().unwrap();
        let refs = Refs::open(&DataDir::open(dir.path()).unwrap()).unwrap();
        let won: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8u8)
                .map(|i| {
                    let refs = &refs;
                    scope.spawn(move || {
                        refs.put(&name("r"), Digest::of(&[i]), Expected::Absent).is_ok()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum()
        });
        assert_eq!(won, 1);
        let wrong = Expected::Is(Digest::of(b"wrong"));
        assert!(matches!(refs.delete(&name("r"), wrong), Err(RefError::Conflict { .. })));
        assert!(matches!(refs.delete(&name("s"), Expected::Any), Err(RefError::Missing(_))));
    }
}
