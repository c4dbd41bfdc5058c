//! Which image belongs to which project directory: what `sway export` made of it last.
//!
//! One small JSON file in the user's state directory, replaced as a whole. Losing it costs
//! nothing but the names that were given by `--name`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sway_core::name::ImageName;

use crate::config;
use crate::export::{dockerfile_in, has_recipe};

/// Directories that are remembered before those that are gone are forgotten.
const PROJECTS_MAX: usize = 1_000;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Projects {
    /// Canonical directory to image.
    #[serde(default)]
    projects: BTreeMap<String, ImageName>,
}

/// Remembers that the image of `directory` is `image`.
pub(crate) fn remember(directory: &Path, image: &ImageName) -> io::Result<()> {
    match state_path() {
        Some(path) => remember_in(&path, directory, image),
        None => Ok(()),
    }
}

/// The image of the project that a script or folder belongs to: of the nearest directory above it
/// that was exported, or that has a Dockerfile and so would be exported under its own name. Of the
/// script's or folder's own directory a pyproject.toml or requirements.txt says the same.
pub(crate) fn find(program: &Path) -> Option<ImageName> {
    let known = state_path().map(|path| load(&path)).unwrap_or_default();
    find_among(&known, program)
}

fn remember_in(path: &Path, directory: &Path, image: &ImageName) -> io::Result<()> {
    let directory = fs_err::canonicalize(directory)?;
    // A directory whose name is not text goes by its Dockerfile.
    let Some(directory) = directory.to_str() else { return Ok(()) };
    let mut known = load(path);
    if known.projects.get(directory) == Some(image) {
        return Ok(());
    }
    if known.projects.len() >= PROJECTS_MAX {
        known.projects.retain(|directory, _| Path::new(directory).is_dir());
    }
    known.projects.insert(directory.to_owned(), image.clone());
    let parent = path.parent().unwrap_or(Path::new("."));
    fs_err::create_dir_all(parent)?;
    let file = tempfile::NamedTempFile::new_in(parent)?;
    fs_err::write(file.path(), serde_json::to_vec_pretty(&known)?)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn find_among(known: &Projects, program: &Path) -> Option<ImageName> {
    let program = fs_err::canonicalize(program).ok()?;
    let directories = program.ancestors().filter(|directory| directory.is_dir());
    directories.enumerate().find_map(|(above, directory)| {
        let remembered = directory.to_str().and_then(|directory| known.projects.get(directory));
        remembered.cloned().or_else(|| {
            let is_own = above == 0 && has_recipe(directory);
            let is_project = is_own || dockerfile_in(directory).is_some();
            is_project.then(|| ImageName::from_folder(directory.file_name()?.to_str()?)).flatten()
        })
    })
}

fn load(path: &Path) -> Projects {
    fs_err::read(path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

fn state_path() -> Option<PathBuf> {
    let state = config::variable("XDG_STATE_HOME").filter(|value| !value.is_empty());
    let state = state.map(PathBuf::from).or_else(|| {
        config::variable("HOME").map(|home| PathBuf::from(home).join(".local/state"))
    })?;
    Some(state.join("sway/projects.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_finds_the_image_of_its_project() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state/projects.json");
        let project = dir.path().join("My Project");
        let inner = project.join("scripts/deep");
        fs_err::create_dir_all(&inner).unwrap();
        let script = inner.join("app.py");
        fs_err::write(&script, "").unwrap();
        assert_eq!(find_among(&load(&state), &script), None);

        // What an application above it installs is not this script's business.
        fs_err::write(project.join("pyproject.toml"), "").unwrap();
        assert_eq!(find_among(&load(&state), &script), None);
        assert_eq!(find_among(&load(&state), &project), Some("my-project".parse().unwrap()));

        fs_err::write(project.join("Dockerfile"), "").unwrap();
        assert_eq!(find_among(&load(&state), &script), Some("my-project".parse().unwrap()));

        let name: ImageName = "other:v2".parse().unwrap();
        remember_in(&state, &project, &name).unwrap();
        assert_eq!(find_among(&load(&state), &script), Some(name.clone()));
        assert_eq!(find_among(&load(&state), &project), Some(name));
        assert_eq!(find_among(&load(&state), &project.join("missing.py")), None);
    }

    #[test]
    fn a_damaged_file_is_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("projects.json");
        fs_err::write(&state, "{").unwrap();
        remember_in(&state, dir.path(), &"a".parse().unwrap()).unwrap();
        assert_eq!(load(&state).projects.len(), 1);
    }
}
