//! Which jobs can have a container that was made before they came, and what is put in place then.
//! Pure.
//!
//! A job is planned as if it got a container of its own. What of that plan can't be changed once a
//! container is there is its [`Shape`]; a container can be any job's of the same shape. So whatever
//! a plan will hold one day that nobody thought of here keeps a job from a container that waits.

use std::collections::HashSet;

use serde_json::Value;
use sway_core::handler::Runtime;
use sway_core::job::{JobSpec, Limits, Network, Program};

use crate::job::bundle::Bundle;
use crate::job::program::Process;

/// Reads a job from its standard input, see there.
const WAIT: &str = include_str!("wait.py");

/// What asks a container that waits to import what its image names.
const PRELOAD: &[u8] = b"preload";

/// The image's variable that names what is imported ahead.
pub(crate) const PRELOAD_VARIABLE: &str = "SWAY_PRELOAD";

/// What is the same in every container that can serve a job.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    config: Value,
    interpreter: String,
}

/// What a job brings to a container of its shape.
#[derive(Debug)]
pub(crate) struct Fitting {
    pub(crate) shape: Shape,
    /// What its container reads.
    pub(crate) message: Vec<u8>,
    /// Names that its own files can be imported by.
    pub(crate) names: HashSet<String>,
    /// Whether it imports from the image's working directory, too.
    pub(crate) in_working_dir: bool,
}

/// Whether a job may be one for a container that waits, by what is known without a plan.
pub(crate) fn may_fit(spec: &JobSpec, limits: &Limits) -> bool {
    let is_python = match &spec.program {
        Program::Script { file } => file.path.ends_with(".py") && is_plain(&file.content),
        Program::Folder { files, entry } => {
            let entry = files.iter().find(|file| file.path == *entry);
            entry.is_some_and(|file| file.path.ends_with(".py") && is_plain(&file.content))
        }
        Program::Handler(handler) => handler.runtime == Runtime::Python,
        Program::Command { .. } => false,
    };
    let is_alone = match spec.network {
        Network::None => true,
        Network::Isolated => false,
    };
    is_python && is_alone && spec.datasets.is_empty() && limits.output.is_none()
}

/// Whether Python reads the bytes of a source as it reads its file: errors of encodings differ.
fn is_plain(source: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(source) else { return false };
    let mut first = text.lines().take(2);
    !text.contains('\0') && !first.any(|line| line.contains("coding"))
}

/// What a planned job brings; none where it needs a container of its own.
pub(crate) fn fitting(spec: &JobSpec, bundle: &mut Bundle<'_>) -> Option<Fitting> {
    if !bundle.skeleton.hiding()?.is_empty() {
        return None;
    }
    let Process { argv, cwd } = &bundle.process;
    let (interpreter, rest) = argv.split_first()?;
    let is_interpreter = ["python", "python3"].contains(&interpreter.rsplit('/').next()?);
    let stem = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let parts = |path: &str| path.split('/').map(stem).collect::<Vec<_>>();
    let (starts_alike, names, in_working_dir): (_, HashSet<_>, _) = match &spec.program {
        Program::Script { file } => {
            (rest.first()?.ends_with(&file.path), [stem(&file.path)].into(), true)
        }
        Program::Folder { files, entry } => {
            let names = files.iter().flat_map(|file| parts(&file.path)).collect();
            (rest.first()?.ends_with(entry), names, false)
        }
        Program::Handler(handler) => {
            let names = handler.files.iter().flat_map(|file| parts(&file.path)).collect();
            (rest.first()? == "-u", names, false)
        }
        Program::Command { .. } => return None,
    };
    if !(is_interpreter && starts_alike) {
        return None;
    }
    let has_stdin = spec.stdin || matches!(spec.program, Program::Handler(_));
    let (cwd, interpreter, rest) = (cwd.clone(), interpreter.clone(), rest.to_vec());
    let mut config = bundle.config.take();
    let hostname = changeable(&mut config)?;
    let fields = [hostname, cwd, if has_stdin { "1" } else { "" }.to_owned()];
    let fields: Vec<String> = fields.into_iter().chain(rest).collect();
    let message = framed(fields.join("\0").as_bytes());
    Some(Fitting { shape: Shape { config, interpreter }, message, names, in_working_dir })
}

/// Takes out of a plan what can be changed afterwards, and tells the variable `HOSTNAME`; none
/// where its Python would not write at once.
fn changeable(config: &mut Value) -> Option<String> {
    for (of, names) in [
        ("", &["hostname", "root"][..]),
        ("/process", &["args", "cwd"]),
        ("/linux", &["cgroupsPath", "uidMappings", "gidMappings"]),
        // Written into the cgroup.
        ("/linux/resources", &["memory", "cpu", "pids"]),
    ] {
        let object = config.pointer_mut(of)?.as_object_mut()?;
        for name in names {
            object.remove(*name);
        }
    }
    let env = config.pointer_mut("/process/env")?.as_array_mut()?;
    let unbuffered = |pair: &Value| {
        let value = pair.as_str().and_then(|pair| pair.strip_prefix("PYTHONUNBUFFERED="));
        value.is_some_and(|value| !value.is_empty())
    };
    if !env.iter().any(unbuffered) {
        return None;
    }
    let is_hostname = |pair: &Value| pair.as_str().is_some_and(|it| it.starts_with("HOSTNAME="));
    let at = env.iter().position(is_hostname)?;
    let pair = env.remove(at);
    Some(pair.as_str()?.strip_prefix("HOSTNAME=")?.to_owned())
}

/// As a container that waits reads it.
fn framed(text: &[u8]) -> Vec<u8> {
    [format!("{:08x}", text.len()).as_bytes(), text].concat()
}

impl Shape {
    /// Whether its image names something to import ahead.
    pub(crate) fn has_preload(&self) -> bool {
        let env = self.config.pointer("/process/env").and_then(Value::as_array);
        let named = |pair: &Value| {
            let pair = pair.as_str().and_then(|pair| pair.split_once('='));
            pair.is_some_and(|(name, value)| name == PRELOAD_VARIABLE && !value.is_empty())
        };
        env.is_some_and(|env| env.iter().any(named))
    }

    /// The process of a container that waits for a job of this shape.
    pub(crate) fn process(&self) -> Process {
        let argv = [&self.interpreter, "-c", WAIT].map(str::to_owned).to_vec();
        Process { argv, cwd: "/".to_owned() }
    }
}

/// What asks a container that waits to import what its image names.
pub(crate) fn preload() -> Vec<u8> {
    framed(PRELOAD)
}

/// What a container says when it has imported that.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Preloaded {
    /// Anonymous memory that it took.
    pub(crate) bytes: u64,
    /// What could not be imported.
    pub(crate) missing: Vec<String>,
    /// Modules that a job finds loaded, without those within packages.
    pub(crate) modules: HashSet<String>,
}

impl Preloaded {
    /// Reads the line.
    pub(crate) fn read(line: &str) -> Option<Self> {
        let list = |field: &str| -> Vec<String> {
            field.split(',').filter(|name| *name != "-").map(str::to_owned).collect()
        };
        let fields: Vec<&str> = line.trim_end().split(' ').collect();
        let &[bytes, missing, modules] = fields.as_slice() else { return None };
        let modules = list(modules).into_iter().collect();
        Some(Self { bytes: bytes.parse().ok()?, missing: list(missing), modules })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sway_core::job::JobFile;
    use sway_core::manifest::{FileContent, Manifest, Metadata, NodeKind, RunConfig, Tree};

    use super::*;
    use crate::id_map::{IdMap, IdMaps};
    use crate::job::bundle::{self, Host, Request};
    use crate::job::user::User;

    fn image() -> Manifest {
        let mut tree = Tree::new();
        let metadata = Metadata { permissions: 0o755, ..Metadata::default() };
        let python = tree.add(metadata.clone(), NodeKind::Regular(FileContent::new()));
        let bin = BTreeMap::from([(b"python3".to_vec(), python)]);
        let bin = tree.add(metadata, NodeKind::Directory(bin));
        tree.entries_mut(Tree::ROOT).unwrap().insert(b"bin".to_vec(), bin);
        tree.to_manifest(RunConfig::default()).unwrap().0
    }

    /// The fitting of a job, with the shape of the container that would be made for it.
    fn fitted(spec: &JobSpec, limits: &Limits, base: u32) -> Option<(Fitting, Shape)> {
        if !may_fit(spec, limits) {
            return None;
        }
        let (manifest, none) = (image(), std::collections::BTreeSet::new());
        let map = |base| IdMap::new(base, &none).unwrap();
        let ids = IdMaps { uids: map(base), gids: map(base) };
        let user = User { uid: 1000, gid: 1000, additional_gids: vec![], home: None };
        let cgroup = format!("/sway/w/run-{base}");
        let request = Request {
            spec,
            limits,
            manifest: &manifest,
            user: &user,
            ids: &ids,
            cgroup: &cgroup,
            hostname: &format!("job-{base}"),
            name_server: bundle::name_server(spec.network),
            host: Host { unified: false, swap_limit: true },
            init: None,
        };
        let mut planned = bundle::plan(&request).unwrap();
        let fitting = fitting(spec, &mut planned)?;
        let waits = bundle::plan_waiting(&request, fitting.shape.process()).unwrap();
        let mut config = waits.config;
        changeable(&mut config).unwrap();
        let interpreter = fitting.shape.interpreter.clone();
        Some((fitting, Shape { config, interpreter }))
    }

    fn script(content: &str) -> JobSpec {
        let file = JobFile { path: "main.py".into(), content: content.into(), executable: false };
        JobSpec::new(None, Program::Script { file })
    }

    #[test]
    fn a_container_that_waits_has_the_shape_of_the_job_that_it_was_made_for() {
        let limits = Limits { memory_bytes: 100 << 20, cpus_milli: 700, ..Limits::PYRUNNER };
        let (fitting, made) = fitted(&script("1"), &limits, 65_536).unwrap();
        assert_eq!(fitting.shape, made);
        // So it serves jobs with other ids, names and limits.
        let other = Limits { pids: 7, timeout_ms: 1, ..Limits::PYRUNNER };
        assert_eq!(fitted(&script("2"), &other, 131_072).unwrap().0.shape, made);
        assert_eq!(fitting.message, b"00000014job-65536\0/\0\0main.py");
    }

    #[test]
    fn what_can_not_be_changed_afterwards_makes_another_shape() {
        let shape = |spec: &JobSpec, limits: &Limits| fitted(spec, limits, 65_536).unwrap().0.shape;
        let usual = shape(&script("1"), &Limits::PYRUNNER);
        let mut env = script("1");
        env.env.insert("PYTHONHASHSEED".into(), "1".into());
        assert_ne!(shape(&env, &Limits::PYRUNNER), usual);
        for limits in [
            Limits { tmp_bytes: 1 << 20, ..Limits::PYRUNNER },
            // OpenMP's threads are counted when it is loaded, the size of /dev/shm is fixed.
            Limits { cpus_milli: 1001, ..Limits::PYRUNNER },
            Limits { memory_bytes: 32 << 20, ..Limits::PYRUNNER },
        ] {
            assert_ne!(shape(&script("1"), &limits), usual, "{limits:?}");
        }
    }

    #[test]
    fn jobs_that_need_a_container_of_their_own_fit_none() {
        let fits = |spec: &JobSpec| fitted(spec, &Limits::PYRUNNER, 65_536).is_some();
        assert!(fits(&script("print(1)")));
        assert!(!fits(&JobSpec { network: Network::Isolated, ..script("1") }));
        assert!(!fits(&script("# -*- coding: latin-1 -*-")));
        assert!(!fits(&script("\0")));
        let argv = vec!["python3".to_owned()];
        assert!(!fits(&JobSpec { program: Program::Command { argv }, ..script("1") }));
        let env = JobSpec {
            env: BTreeMap::from([("PYTHONUNBUFFERED".into(), String::new())]),
            ..script("1")
        };
        assert!(!fits(&env), "its output comes in blocks");
    }

    #[test]
    fn what_was_preloaded_is_read() {
        let read = Preloaded::read("4096 nope json,re\n").unwrap();
        let modules = ["json", "re"].map(str::to_owned).into();
        let missing = vec!["nope".to_owned()];
        assert_eq!(read, Preloaded { bytes: 4096, missing, modules });
        assert_eq!(Preloaded::read("0 - -\n"), Some(Preloaded::default()));
        assert_eq!(Preloaded::read("hello"), None);
    }
}
