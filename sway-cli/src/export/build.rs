//! Builds the image of a project with docker, podman or buildah.
//!
//! The only place of the CLI that starts builders. buildah writes into an OCI layout that is kept
//! (`layout`), so that layers that did not change are not written again; the others save an
//! archive. All of them write layers uncompressed where they can: nothing here is sent as it is.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::ValueEnum;
use serde::Deserialize;
use sway_core::image::Platform;
use sway_core::name::ImageName;
use tempfile::{NamedTempFile, TempDir};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::Command;

use super::error::ExportError;
use super::layout::Layout;
use super::read::Source;

/// Lines of a failed builder's output that are shown.
const TAIL_LINES: usize = 20;

/// A builder that does not say within this time whether it works does not.
const PROBE_DEADLINE: Duration = Duration::from_secs(15);

/// Names under which a Dockerfile is looked for; tinycontainer knows the second.
pub(crate) const DOCKERFILES: [&str; 3] = ["Dockerfile", "DockerFile", "Containerfile"];

const FROM_REQUIREMENTS: &str = "\
ARG BASE=python:3.11-slim
FROM ${BASE}
COPY requirements.txt /opt/requirements.txt
RUN pip install --no-cache-dir -r /opt/requirements.txt
WORKDIR /app
";

/// For a project whose own build says what it depends on.
const FROM_BUILT_PROJECT: &str = "\
ARG BASE=python:3.11-slim
FROM ${BASE}
WORKDIR /app
COPY . /app
RUN pip install --no-cache-dir .
";

const FROM_DEPENDENCIES: &str = "\
ARG BASE=python:3.11-slim
FROM ${BASE}
WORKDIR /app
";

/// Names of what an image can be made of where there is no Dockerfile, the first that is there.
const PYPROJECT: &str = "pyproject.toml";
const REQUIREMENTS: &str = "requirements.txt";

/// A program that builds images from Dockerfiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Builder {
    /// Docker, with its daemon
    Docker,
    /// Podman
    Podman,
    /// Buildah
    Buildah,
}

impl fmt::Display for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Buildah => "buildah",
        })
    }
}

/// What to build, and how.
#[derive(Clone, Debug)]
pub(crate) struct BuildRequest {
    /// The project.
    pub(crate) directory: PathBuf,
    /// Its Dockerfile, where it has another name.
    pub(crate) file: Option<PathBuf>,
    /// Which builder; the first that works where absent.
    pub(crate) builder: Option<Builder>,
    /// `NAME=VALUE` for the Dockerfile.
    pub(crate) build_args: Vec<String>,
    /// For the builder, as they are.
    pub(crate) builder_args: Vec<String>,
    /// For which machine.
    pub(crate) platform: Platform,
    /// What the image will be called.
    pub(crate) image: ImageName,
}

/// A built image; its files are there as long as this is.
#[derive(Debug)]
pub(crate) struct Built {
    /// Where it is.
    pub(crate) source: Source,
    /// Who built it.
    pub(crate) builder: Builder,
    /// Where builders that keep a layout keep it.
    pub(crate) layout: Option<Layout>,
    _archive: Option<TempDir>,
}

/// Builds. `cache` is Sway's cache directory; `on_line` gets what the builder writes.
pub(crate) async fn build(
    request: &BuildRequest,
    cache: &Path,
    on_line: &mut (dyn FnMut(&str) + Send),
) -> Result<Built, ExportError> {
    let dockerfile = Dockerfile::find(request)?;
    let builder = match request.builder {
        Some(builder) => builder,
        None => first_that_works(on_line).await?,
    };
    let tag = format!("localhost/sway/{}:{}", request.image.name, request.image.tag_or_latest());
    let mut command = command_of(builder);
    command.arg("build");
    if builder == Builder::Buildah {
        // Without it every step of the Dockerfile is done again.
        command.arg("--layers");
    }
    command.args(["--platform", &request.platform.to_string(), "--tag", &tag, "--file"]);
    command.arg(dockerfile.path());
    for argument in &request.build_args {
        command.args(["--build-arg", argument]);
    }
    command.args(&request.builder_args).arg(&request.directory);
    run(builder, "could not build the image", command, on_line).await?;
    save(builder, &tag, cache, on_line).await
}

/// Takes the image out of the builder's store.
async fn save(
    builder: Builder,
    tag: &str,
    cache: &Path,
    on_line: &mut (dyn FnMut(&str) + Send),
) -> Result<Built, ExportError> {
    const WHAT: &str = "could not hand over the image";
    let mut command = command_of(builder);
    if builder == Builder::Buildah {
        let layout = Layout::lock(cache, tag).await?;
        command.args(["push", "--quiet", "--disable-compression", tag]).arg(layout.destination());
        run(builder, WHAT, command, on_line).await?;
        layout.prune();
        let source = Source::oci_directory(layout.directory(), layout.reference());
        return Ok(Built { source, builder, layout: Some(layout), _archive: None });
    }
    fs_err::create_dir_all(cache).map_err(ExportError::file(cache))?;
    let directory = tempfile::Builder::new()
        .prefix("image-")
        .tempdir_in(cache)
        .map_err(ExportError::file(cache))?;
    let path = directory.path().join("image.tar");
    command.arg("save");
    let source = if builder == Builder::Podman {
        command.args(["--format", "oci-archive"]);
        Source::oci_archive(path.clone())
    } else {
        Source::docker_archive(path.clone())
    };
    command.arg("--output").arg(&path).arg(tag);
    run(builder, WHAT, command, on_line).await?;
    Ok(Built { source, builder, layout: None, _archive: Some(directory) })
}

/// What to build from.
#[derive(Debug)]
enum Dockerfile {
    Written(PathBuf),
    Made(NamedTempFile),
}

impl Dockerfile {
    fn find(request: &BuildRequest) -> Result<Self, ExportError> {
        let directory = &request.directory;
        fs_err::read_dir(directory).map_err(ExportError::file(directory))?;
        if let Some(file) = &request.file {
            fs_err::File::open(file).map_err(ExportError::file(file))?;
            return Ok(Self::Written(file.clone()));
        }
        if let Some(path) = dockerfile_in(directory) {
            return Ok(Self::Written(path));
        }
        let recipe = if directory.join(PYPROJECT).is_file() {
            from_pyproject(&directory.join(PYPROJECT))?
        } else if directory.join(REQUIREMENTS).is_file() {
            FROM_REQUIREMENTS.to_owned()
        } else {
            return Err(ExportError::NoDockerfile(directory.clone()));
        };
        let file = NamedTempFile::with_prefix("sway-dockerfile-")
            .map_err(ExportError::file(std::env::temp_dir()))?;
        fs_err::write(file.path(), recipe).map_err(ExportError::file(file.path()))?;
        Ok(Self::Made(file))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Written(path) => path,
            Self::Made(file) => file.path(),
        }
    }
}

/// An image with exactly the packages that a `pyproject.toml` lists, and none of the folder's files:
/// those come with each job, so that changing them needs no other image.
fn from_pyproject(path: &Path) -> Result<String, ExportError> {
    #[derive(Deserialize)]
    struct Document {
        project: Option<Project>,
    }
    #[derive(Deserialize)]
    struct Project {
        #[serde(default)]
        dependencies: Vec<String>,
        #[serde(default)]
        dynamic: Vec<String>,
    }
    let text = fs_err::read_to_string(path).map_err(ExportError::file(path))?;
    let document: Document = toml::from_str(&text)
        .map_err(|source| ExportError::Project { path: path.to_owned(), source: source.into() })?;
    let listed =
        document.project.filter(|project| !project.dynamic.iter().any(|it| it == "dependencies"));
    // Its tool knows; pip asks it.
    let Some(Project { dependencies, .. }) = listed else {
        return Ok(FROM_BUILT_PROJECT.to_owned());
    };
    let mut recipe = FROM_DEPENDENCIES.to_owned();
    if !dependencies.is_empty() {
        let pip = ["python3", "-m", "pip", "install", "--no-cache-dir", "--"];
        let command: Vec<&str> =
            pip.into_iter().chain(dependencies.iter().map(String::as_str)).collect();
        let command = serde_json::to_string(&command).expect("strings always serialise");
        recipe.push_str(&format!("RUN {command}\n"));
    }
    Ok(recipe)
}

/// Whether a folder says by itself what its image is made of.
pub(crate) fn has_recipe(directory: &Path) -> bool {
    dockerfile_in(directory).is_some()
        || [PYPROJECT, REQUIREMENTS].iter().any(|name| directory.join(name).is_file())
}

/// The Dockerfile of a project, if it has one.
pub(crate) fn dockerfile_in(directory: &Path) -> Option<PathBuf> {
    DOCKERFILES.iter().map(|name| directory.join(name)).find(|path| path.is_file())
}

/// Docker without its daemon is on many machines and builds nothing.
async fn first_that_works(on_line: &mut (dyn FnMut(&str) + Send)) -> Result<Builder, ExportError> {
    let mut reasons = Vec::new();
    for builder in [Builder::Docker, Builder::Podman, Builder::Buildah] {
        match probe(builder).await {
            Ok(()) => {
                reasons.iter().for_each(|reason: &String| on_line(reason));
                return Ok(builder);
            }
            Err(reason) => reasons.push(format!("{builder} {reason}")),
        }
    }
    Err(ExportError::NoBuilder(reasons))
}

/// The builder, with the caller's environment but Sway's token: it runs what a Dockerfile says,
/// as the caller, and has no need of it.
fn command_of(builder: Builder) -> Command {
    let mut command = Command::new(builder.to_string());
    command.env_remove("SWAY_TOKEN");
    command
}

async fn probe(builder: Builder) -> Result<(), String> {
    let mut command = command_of(builder);
    match builder {
        Builder::Docker => command.args(["version", "--format", "{{.Server.Version}}"]),
        Builder::Podman => command.args(["info", "--format", "{{.Host.OS}}"]),
        Builder::Buildah => command.arg("version"),
    };
    command.stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(PROBE_DEADLINE, command.output()).await {
        Err(_) => Err("does not answer".to_owned()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            Err("is not installed".to_owned())
        }
        Ok(Err(error)) => Err(format!("can't be started: {error}")),
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            let text = String::from_utf8_lossy(&output.stderr);
            let reason = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason");
            Err(format!("does not work ({})", reason.trim()))
        }
    }
}

async fn run(
    builder: Builder,
    what: &str,
    mut command: Command,
    on_line: &mut (dyn FnMut(&str) + Send),
) -> Result<(), ExportError> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let failed =
        |what: String, output| ExportError::Build { builder: builder.to_string(), what, output };
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            ExportError::NoBuilder(vec![format!("{builder} is not installed")])
        }
        _ => failed(format!("can't be started: {error}"), Vec::new()),
    })?;
    let mut tail = VecDeque::new();
    let mut keep = |line: &str| {
        on_line(line);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(line.to_owned());
    };
    let broken = |error| failed(format!("{what}: {error}"), Vec::new());
    let mut out = child.stdout.take().map(lines);
    let mut err = child.stderr.take().map(lines);
    while out.is_some() || err.is_some() {
        let (line, which) = tokio::select! {
            line = next_line(&mut out), if out.is_some() => (line, &mut out as &mut dyn Ends),
            line = next_line(&mut err), if err.is_some() => (line, &mut err as &mut dyn Ends),
        };
        match line.map_err(broken)? {
            Some(line) => keep(&line),
            None => which.end(),
        }
    }
    let status = child.wait().await.map_err(broken)?;
    if status.success() {
        return Ok(());
    }
    Err(failed(format!("{what} ({status})"), tail.into()))
}

type Lines<R> = tokio::io::Split<BufReader<R>>;

fn lines<R: AsyncRead + Unpin>(stream: R) -> Lines<R> {
    BufReader::new(stream).split(b'\n')
}

async fn next_line<R: AsyncRead + Unpin>(
    lines: &mut Option<Lines<R>>,
) -> io::Result<Option<String>> {
    let Some(lines) = lines else { return Ok(None) };
    let line = lines.next_segment().await?;
    Ok(line.map(|line| String::from_utf8_lossy(&line).trim_end().to_owned()))
}

/// A stream that has nothing more to say.
trait Ends {
    fn end(&mut self);
}

impl<T> Ends for Option<T> {
    fn end(&mut self) {
        *self = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(directory: &Path) -> BuildRequest {
        BuildRequest {
            directory: directory.to_owned(),
            file: None,
            builder: None,
            build_args: Vec::new(),
            builder_args: Vec::new(),
            platform: "linux/amd64".parse().unwrap(),
            image: "t".parse().unwrap(),
        }
    }

    fn found(directory: &Path) -> String {
        match Dockerfile::find(&request(directory)).unwrap() {
            Dockerfile::Written(path) => path.file_name().unwrap().to_str().unwrap().to_owned(),
            Dockerfile::Made(file) => fs_err::read_to_string(file.path()).unwrap(),
        }
    }

    #[test]
    fn a_project_is_built_from_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let error = Dockerfile::find(&request(dir.path())).unwrap_err();
        assert!(error.to_string().starts_with("no Dockerfile in /"), "{error}");
        fs_err::write(dir.path().join("requirements.txt"), "numpy").unwrap();
        assert_eq!(found(dir.path()), FROM_REQUIREMENTS);
        assert!(has_recipe(dir.path()));
        fs_err::write(dir.path().join("pyproject.toml"), "").unwrap();
        assert_eq!(found(dir.path()), FROM_BUILT_PROJECT);
        fs_err::write(dir.path().join("DockerFile"), "").unwrap();
        assert_eq!(found(dir.path()), "DockerFile");
        fs_err::write(dir.path().join("Dockerfile"), "").unwrap();
        assert_eq!(found(dir.path()), "Dockerfile");
    }

    #[test]
    fn a_pyproject_gives_exactly_the_packages_that_it_lists() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pyproject.toml");
        let recipe = |text: &str| {
            fs_err::write(&path, text).unwrap();
            Dockerfile::find(&request(dir.path())).map(|_| found(dir.path()))
        };
        let listed = "[project]\nname = 'f'\nversion = '1'\n\
            dependencies = ['numpy>=1.26,<3', \"tomli; python_version < '3.11'\"]\n";
        let command = "RUN [\"python3\",\"-m\",\"pip\",\"install\",\"--no-cache-dir\",\"--\",\
            \"numpy>=1.26,<3\",\"tomli; python_version < '3.11'\"]\n";
        assert_eq!(recipe(listed).unwrap(), FROM_DEPENDENCIES.to_owned() + command);
        assert_eq!(recipe("[project]\nname = 'f'\n").unwrap(), FROM_DEPENDENCIES);
        let dynamic = "[project]\nname = 'f'\ndynamic = ['dependencies']\n";
        assert_eq!(recipe(dynamic).unwrap(), FROM_BUILT_PROJECT);
        assert_eq!(recipe("[tool.poetry]\nname = 'f'\n").unwrap(), FROM_BUILT_PROJECT);
        for broken in ["[project", "[project]\ndependencies = 'numpy'\n"] {
            let error = recipe(broken).unwrap_err();
            assert!(error.to_string().contains("pyproject.toml"), "{error}");
        }
    }

    #[test]
    fn a_builder_does_not_get_the_token() {
        let command = command_of(Builder::Buildah);
        let removed = (std::ffi::OsStr::new("SWAY_TOKEN"), None);
        assert!(command.as_std().get_envs().any(|variable| variable == removed));
    }

    #[tokio::test]
    async fn a_failed_builder_is_quoted() {
        let failed = async |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            let mut seen = 0;
            let result = run(Builder::Buildah, "failed", command, &mut |_| seen += 1).await;
            let Err(ExportError::Build { output, what, .. }) = result else { panic!("{result:?}") };
            (seen, output, what)
        };
        let (seen, output, what) =
            failed("for i in $(seq 30); do echo line $i; done; exit 3").await;
        assert_eq!((seen, output.len()), (30, TAIL_LINES));
        assert_eq!(output.last().map(String::as_str), Some("line 30"));
        // Which of two streams is read first is nobody's promise.
        let (_, mut both, _) = failed("echo out; echo err >&2; exit 3").await;
        both.sort();
        assert_eq!(both, ["err", "out"]);
        assert!(what.contains('3'), "{what}");
    }
}
