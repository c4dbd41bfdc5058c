//! What `sway run` sends: a script, or a folder without what no job needs.
//!
//! Everything travels in one request, so it has to fit; what does not is said before anything
//! is sent. Links are followed as long as they stay in the folder: a folder from somewhere else
//! must not send files that are not its own.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sway_core::api::jobs::JOB_BODY_LEN_MAX;
use sway_core::job::{JobFile, Program};
use walkdir::{DirEntry, WalkDir};

use crate::size::show_size;

/// Files that start a folder, in the order in which they are looked for.
const ENTRIES: [&str; 2] = ["main.py", "run.sh"];

/// Caches, version control and virtual environments: no job needs them.
const LEFT_OUT: [&str; 14] = [
    ".git",
    ".hg",
    ".svn",
    ".jj",
    ".venv",
    ".tox",
    ".nox",
    ".idea",
    ".vscode",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".ipynb_checkpoints",
    "__pycache__",
];

/// Bytes of content that fit into a request: base64 makes four of three, and a MiB is for names,
/// arguments and the rest.
const CONTENT_LEN_MAX: u64 = ((JOB_BODY_LEN_MAX as u64) - (1 << 20)) / 4 * 3;

/// What a file costs in a request beside its content.
const FILE_OVERHEAD: u64 = 128;

/// Something that can't be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    /// Nothing there.
    #[error("there is no {0} on this machine")]
    Missing(PathBuf),
    /// There, and not readable.
    #[error("can't read {path}")]
    Read {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither a file nor a folder.
    #[error("{0} is neither a file nor a folder")]
    Special(PathBuf),
    /// A link that leads to what is not the folder's own.
    #[error("{0} is a link that leads out of the folder")]
    LeadsOut(PathBuf),
    /// JSON can't carry it.
    #[error("the name of {0} is not valid UTF-8")]
    Name(PathBuf),
    /// More than fits into a request.
    #[error(
        "{path} is too large to be sent with a job: more than {}; the largest file is {largest} \
         ({})",
        show_size(CONTENT_LEN_MAX),
        show_size(*.largest_len)
    )]
    TooLarge {
        /// What was to be sent.
        path: PathBuf,
        /// Its largest file so far.
        largest: PathBuf,
        /// That file's bytes.
        largest_len: u64,
    },
    /// A folder that nothing can start.
    #[error("the folder {0} has neither main.py nor run.sh: name the file to start by --entry")]
    NoEntry(PathBuf),
    /// `--entry` names nothing.
    #[error("{entry:?} is not a file in the folder {folder}")]
    EntryMissing {
        /// What was asked for.
        entry: String,
        /// The folder.
        folder: PathBuf,
    },
    /// `--entry` where there is nothing to choose.
    #[error("--entry is for folders, and {0} is a file")]
    EntryOfFile(PathBuf),
}

/// The words of a command line, as a shell cuts it where no word needs one: quotes and backslashes
/// hold words together, nothing is expanded. None where a quote is not closed.
pub(crate) fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            (closing, Some(open)) if closing == open => quote = None,
            ('\\', None | Some('"')) => word.get_or_insert_default().push(letters.next()?),
            ('\'' | '"', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (space, None) if space.is_whitespace() => words.extend(word.take()),
            (other, _) => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// The file of a folder that a word names, to be sent along; none where it names none.
pub(crate) fn file_in(folder: &Path, word: &str) -> Option<Result<JobFile, ProgramError>> {
    let inside = Path::new(word);
    let is_plain = inside.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    let path = folder.join(inside);
    if !is_plain || !path.is_file() {
        return None;
    }
    Some(read(&path, None).and_then(|program| match program {
        Program::Script { file } => Ok(JobFile { path: word.to_owned(), ..file }),
        Program::Folder { .. } | Program::Command { .. } | Program::Handler(_) => {
            Err(ProgramError::Missing(path))
        }
    }))
}

/// Reads the script or folder at `path`.
pub(crate) fn read(path: &Path, entry: Option<&str>) -> Result<Program, ProgramError> {
    let metadata = match fs_err::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ProgramError::Missing(path.to_owned()));
        }
        Err(source) => return Err(ProgramError::Read { path: path.to_owned(), source }),
    };
    if metadata.is_dir() {
        return read_folder(path, entry);
    }
    if entry.is_some() {
        return Err(ProgramError::EntryOfFile(path.to_owned()));
    }
    let mut budget = Budget::new(path);
    let name = path.file_name().unwrap_or(path.as_os_str());
    let name = name.to_str().ok_or_else(|| ProgramError::Name(path.to_owned()))?.to_owned();
    Ok(Program::Script { file: read_file(path, name, &metadata, &mut budget)? })
}

fn read_folder(folder: &Path, entry: Option<&str>) -> Result<Program, ProgramError> {
    let files = read_files(folder)?;
    let is_there = |name: &str| files.iter().any(|file| file.path == name);
    let entry = match entry {
        Some(entry) => {
            let entry = entry.trim_start_matches("./");
            if !is_there(entry) {
                let entry = entry.to_owned();
                return Err(ProgramError::EntryMissing { entry, folder: folder.to_owned() });
            }
            entry.to_owned()
        }
        None => ENTRIES
            .into_iter()
            .find(|name| is_there(name))
            .ok_or_else(|| ProgramError::NoEntry(folder.to_owned()))?
            .to_owned(),
    };
    Ok(Program::Folder { files, entry })
}

/// All files of a folder that a job may need.
pub(crate) fn read_files(folder: &Path) -> Result<Vec<JobFile>, ProgramError> {
    let real_folder = fs_err::canonicalize(folder)
        .map_err(|source| ProgramError::Read { path: folder.to_owned(), source })?;
    let mut budget = Budget::new(folder);
    let mut files = Vec::new();
    let walk = WalkDir::new(folder).follow_links(true).sort_by_file_name();
    for item in walk.into_iter().filter_entry(is_wanted) {
        let item = item.map_err(|error| ProgramError::Read {
            path: error.path().unwrap_or(folder).to_owned(),
            source: error.into(),
        })?;
        if item.path_is_symlink() && item.depth() > 0 {
            let target = fs_err::canonicalize(item.path())
                .map_err(|source| ProgramError::Read { path: item.path().to_owned(), source })?;
            if !target.starts_with(&real_folder) {
                return Err(ProgramError::LeadsOut(item.path().to_owned()));
            }
        }
        if item.file_type().is_dir() {
            continue;
        }
        let bad_name = || ProgramError::Name(item.path().to_owned());
        let relative = item.path().strip_prefix(folder).unwrap_or(item.path());
        let relative = relative.to_str().ok_or_else(bad_name)?.to_owned();
        let metadata = item.metadata().map_err(|error| ProgramError::Read {
            path: item.path().to_owned(),
            source: error.into(),
        })?;
        files.push(read_file(item.path(), relative, &metadata, &mut budget)?);
    }
    Ok(files)
}

fn is_wanted(item: &DirEntry) -> bool {
    let Some(name) = item.file_name().to_str() else { return true };
    let is_environment = || item.file_type().is_dir() && item.path().join("pyvenv.cfg").exists();
    item.depth() == 0
        || !(LEFT_OUT.contains(&name)
            || name == ".DS_Store"
            || name.ends_with(".pyc")
            || is_environment())
}

fn read_file(
    path: &Path,
    name: String,
    metadata: &Metadata,
    budget: &mut Budget<'_>,
) -> Result<JobFile, ProgramError> {
    // Reading a pipe or a device might never end.
    if !metadata.is_file() {
        return Err(ProgramError::Special(path.to_owned()));
    }
    budget.spend(path, metadata.len())?;
    let content = fs_err::read(path)
        .map_err(|source| ProgramError::Read { path: path.to_owned(), source })?;
    Ok(JobFile { path: name, content, executable: metadata.permissions().mode() & 0o111 != 0 })
}

/// What still fits.
struct Budget<'a> {
    path: &'a Path,
    left: u64,
    largest: PathBuf,
    largest_len: u64,
}

impl<'a> Budget<'a> {
    fn new(path: &'a Path) -> Self {
        Self { path, left: CONTENT_LEN_MAX, largest: PathBuf::new(), largest_len: 0 }
    }

    fn spend(&mut self, file: &Path, len: u64) -> Result<(), ProgramError> {
        if len >= self.largest_len {
            self.largest = file.to_owned();
            self.largest_len = len;
        }
        match self.left.checked_sub(len.saturating_add(FILE_OVERHEAD)) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(ProgramError::TooLarge {
                path: self.path.to_owned(),
                largest: std::mem::take(&mut self.largest),
                largest_len: self.largest_len,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, file).unwrap();
        }
        folder
    }

    fn paths_and_entry(program: Program) -> (Vec<String>, String) {
        match program {
            Program::Folder { files, entry } => {
                (files.into_iter().map(|file| file.path).collect(), entry)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_folder_goes_without_caches_and_version_control() {
        let folder = folder(&[
            "main.py",
            "lib/a.py",
            "lib/__pycache__/a.pyc",
            ".git/HEAD",
            "env/pyvenv.cfg",
            "env/bin/python",
            ".env",
        ]);
        let (paths, entry) = paths_and_entry(read(folder.path(), None).unwrap());
        assert_eq!(paths, [".env", "lib/a.py", "main.py"]);
        assert_eq!(entry, "main.py");
    }

    #[test]
    fn a_folder_starts_by_main_py_else_run_sh_else_what_is_named() {
        let both = folder(&["main.py", "run.sh", "x/other.py"]);
        let entry = |folder: &Path, entry| read(folder, entry).map(|p| paths_and_entry(p).1);
        assert_eq!(entry(both.path(), None).unwrap(), "main.py");
        assert_eq!(entry(both.path(), Some("./x/other.py")).unwrap(), "x/other.py");
        let shell = folder(&["run.sh"]);
        assert_eq!(entry(shell.path(), None).unwrap(), "run.sh");
        let error = entry(shell.path(), Some("nope.py")).unwrap_err();
        assert!(matches!(error, ProgramError::EntryMissing { .. }), "{error}");
        let none = folder(&["app.py"]);
        assert!(matches!(entry(none.path(), None), Err(ProgramError::NoEntry(_))));
    }

    #[test]
    fn links_stay_in_the_folder() {
        let inside = folder(&["main.py", "real.txt"]);
        symlink("real.txt", inside.path().join("link.txt")).unwrap();
        let (paths, _) = paths_and_entry(read(inside.path(), None).unwrap());
        assert_eq!(paths, ["link.txt", "main.py", "real.txt"]);
        symlink("/etc/passwd", inside.path().join("out.txt")).unwrap();
        assert!(matches!(read(inside.path(), None), Err(ProgramError::LeadsOut(_))));
    }

    #[test]
    fn a_loop_of_links_ends() {
        let looped = folder(&["main.py"]);
        symlink(".", looped.path().join("again")).unwrap();
        assert!(read(looped.path(), None).is_err());
    }

    #[test]
    fn what_does_not_fit_is_told_before_it_is_read() {
        let large = folder(&["main.py", "small.bin"]);
        let file = fs_err::File::create(large.path().join("large.bin")).unwrap();
        file.set_len(1 << 40).unwrap();
        let error = read(large.path(), None).unwrap_err().to_string();
        assert!(error.contains("large.bin (1 TiB)"), "{error}");
    }

    #[test]
    fn a_command_is_cut_into_words() {
        let cut = |text| words(text).unwrap();
        assert_eq!(cut("python  app.py --x=1 "), ["python", "app.py", "--x=1"]);
        assert_eq!(
            cut(r#"sh -c 'echo "a  b"' "c d"'e' f\ g '' "#),
            ["sh", "-c", r#"echo "a  b""#, "c de", "f g", ""]
        );
        assert!(cut("  ").is_empty());
        assert_eq!(words("'open"), None);
        assert_eq!(words("end\\"), None);
    }

    #[test]
    fn a_word_may_name_a_file_of_the_folder() {
        let folder = folder(&["app.py", "src/main.py"]);
        let name = |word| file_in(folder.path(), word).map(|file| file.unwrap().path);
        assert_eq!(name("app.py").as_deref(), Some("app.py"));
        assert_eq!(name("src/main.py").as_deref(), Some("src/main.py"));
        for word in ["python", "src", "../app.py", "/etc/passwd", ""] {
            assert_eq!(name(word), None, "{word}");
        }
    }

    #[test]
    fn a_script_goes_by_its_own_name() {
        let folder = folder(&["app.py"]);
        let path = folder.path().join("app.py");
        let Program::Script { file } = read(&path, None).unwrap() else { panic!("no script") };
        assert_eq!((file.path.as_str(), file.executable), ("app.py", false));
        fs_err::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let Program::Script { file } = read(&path, None).unwrap() else { panic!("no script") };
        assert!(file.executable);
        assert!(matches!(read(&path, Some("x")), Err(ProgramError::EntryOfFile(_))));
        assert!(matches!(read(&folder.path().join("no"), None), Err(ProgramError::Missing(_))));
        assert!(matches!(read(Path::new("/dev/null"), None), Err(ProgramError::Special(_))));
    }
}
