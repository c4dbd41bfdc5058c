//! Which files the start of a job needs, as far as its request tells. Pure.

use std::collections::BTreeMap;

use sway_core::job::{JobSpec, Program};
use sway_core::manifest::Ino;

use super::pyc::Import;
use super::python::{self, Python};
use super::tree::Tree;

/// Where programs are looked for unless image or job say something else.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Files that the C library and most programs read at their start.
const USUAL: [&str; 8] = [
    "etc/ld.so.cache",
    "etc/passwd",
    "etc/nsswitch.conf",
    "etc/localtime",
    "usr/lib/locale/C.utf8/LC_CTYPE",
    "usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache",
    "usr/share/zoneinfo/Etc/UTC",
    "etc/ssl/openssl.cnf",
];

/// Files of a folder that are scanned.
const SOURCES_MAX: usize = 256;

/// What a job's start is known to need.
#[derive(Debug, Default)]
pub(super) struct Start {
    /// The image's Python, where the job runs one.
    pub(super) python: Option<Python>,
    /// Files to bring, in order.
    pub(super) files: Vec<Ino>,
    /// Python modules to bring, in order, where they are taken from the path.
    pub(super) imports: Vec<Import>,
    /// Node.js modules to bring, and the directory that they are asked for in.
    pub(super) modules: Vec<String>,
    pub(super) directory: Option<Ino>,
    /// The job's `LD_LIBRARY_PATH`.
    pub(super) ld_library_path: String,
}

/// Reads a job's request.
pub(super) fn start(tree: &Tree, spec: &JobSpec) -> Start {
    let config = tree.manifest().config();
    let pairs = config.env.iter().filter_map(|pair| pair.split_once('='));
    let mut env: BTreeMap<&str, &str> = pairs.collect();
    env.extend(spec.env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let search = env.get("PATH").copied().unwrap_or(PATH);
    let cwd = tree.directory(Ino::ROOT, config.working_dir.as_bytes()).unwrap_or(Ino::ROOT);
    let mut start = Start {
        ld_library_path: env.get("LD_LIBRARY_PATH").copied().unwrap_or_default().to_owned(),
        directory: Some(cwd),
        ..Start::default()
    };

    let (runner, arguments, sources) = match &spec.program {
        Program::Script { file } => {
            (runner_of(&file.path, &file.content), &[][..], vec![(&file.path, &file.content)])
        }
        Program::Folder { files, entry } => {
            let mut sources: Vec<_> =
                files.iter().map(|file| (&file.path, &file.content)).collect();
            sources.sort_by_key(|(path, _)| *path != entry);
            let runner = sources.first().and_then(|(path, content)| runner_of(path, content));
            (runner, &[][..], sources)
        }
        Program::Handler(handler) => {
            let mut sources: Vec<_> =
                handler.files.iter().map(|file| (&file.path, &file.content)).collect();
            let module = handler.module_file().map(|file| &file.path);
            sources.sort_by_key(|(path, _)| Some(*path) != module);
            // Not by its first line: the worker's own words run it.
            let runner = sources.first().and_then(|(path, _)| runner_of(path, &[]));
            (runner, &[][..], sources)
        }
        Program::Command { argv } => {
            let rest = if argv.is_empty() { &config.cmd } else { argv };
            let mut all = config.entrypoint.iter().chain(rest);
            let runner = all.next().cloned();
            let skip = usize::from(config.entrypoint.is_empty());
            let arguments = rest.get(skip.min(rest.len())..).unwrap_or_default();
            (runner, arguments, Vec::new())
        }
    };
    let Some(runner) = runner else { return start };
    let Some((program, home)) = find(tree, cwd, search, &runner) else { return start };
    start.files.push(program);
    start.files.extend(USUAL.iter().filter_map(|path| tree.file(Ino::ROOT, path.as_bytes())));

    let python_path = env.get("PYTHONPATH").copied().unwrap_or_default().split(':');
    let first: Vec<Ino> = std::iter::once(cwd)
        .filter(|&cwd| cwd != Ino::ROOT)
        .chain(python_path.filter_map(|path| tree.directory(cwd, path.as_bytes())))
        .collect();
    if let Some(python) = Python::of(tree, program, &first) {
        let environment = tree.directory_of(home);
        let python = python.within(tree, environment);
        start.files.extend(python.path_files(tree));
        start.imports = python.start();
        start.python = Some(python);
        let own = |module: &str| {
            let first = module.split('.').next().unwrap_or_default();
            let (file, folder) = (format!("{first}.py"), format!("{first}/"));
            sources.iter().any(|(path, _)| **path == file || path.starts_with(&folder))
        };
        let texts = sources.iter().filter(|(path, _)| path.ends_with(".py")).take(SOURCES_MAX);
        for (_, content) in texts {
            let found = python::imports(&String::from_utf8_lossy(content));
            let found =
                found.into_iter().filter(|import| import.level == 0 && !own(&import.module));
            start.imports.extend(found);
        }
        python_arguments(tree, cwd, arguments, &mut start);
    } else if tree.name_of(program).starts_with(b"node") {
        for (_, content) in sources.iter().take(SOURCES_MAX) {
            start.modules.extend(super::node::imports(content));
        }
        start.files.extend(script_of(tree, cwd, arguments));
    } else {
        start.files.extend(script_of(tree, cwd, arguments));
    }
    start
}

/// `python -m module`, `python -c text`, `python file`.
fn python_arguments(tree: &Tree, cwd: Ino, arguments: &[String], start: &mut Start) {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "-m" => {
                let module = arguments.next().cloned().unwrap_or_default();
                let names = vec!["__main__".to_owned()];
                start.imports.push(Import { level: 0, module, names, later: false });
                return;
            }
            "-c" => {
                let text = arguments.next().map_or("", String::as_str);
                start.imports.extend(python::imports(text));
                return;
            }
            option if option.starts_with('-') => {}
            file => {
                start.files.extend(tree.file(cwd, file.as_bytes()));
                return;
            }
        }
    }
}

/// The first argument that names a file of the image.
fn script_of(tree: &Tree, cwd: Ino, arguments: &[String]) -> Option<Ino> {
    arguments.iter().find_map(|argument| tree.file(cwd, argument.as_bytes()))
}

/// Who runs a file: by its `#!` line, else by its name.
fn runner_of(path: &str, content: &[u8]) -> Option<String> {
    if let Some(runner) = shebang(content) {
        return Some(runner);
    }
    let runner = match path.rsplit_once('.')?.1 {
        "py" | "pyz" => "python3",
        "js" | "mjs" | "cjs" => "node",
        "sh" => "sh",
        "bash" => "bash",
        _ => return None,
    };
    Some(runner.to_owned())
}

/// The program of a `#!` line, behind `env` too.
pub(super) fn shebang(content: &[u8]) -> Option<String> {
    let line = content.strip_prefix(b"#!")?;
    let line = line[..line.len().min(256)].split(|&byte| byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_whitespace();
    let program = words.next()?;
    let behind_env = program.ends_with("/env").then(|| words.find(|word| !word.starts_with('-')));
    Some(behind_env.flatten().unwrap_or(program).to_owned())
}

/// A program and the directory where it was found, before links were followed.
pub(super) fn find(tree: &Tree, cwd: Ino, search: &str, name: &str) -> Option<(Ino, Ino)> {
    if let Some((directory, _)) = name.rsplit_once('/') {
        let program = tree.file(cwd, name.as_bytes())?;
        let directory = if directory.is_empty() { "/" } else { directory };
        return Some((program, tree.directory(cwd, directory.as_bytes())?));
    }
    search.split(':').find_map(|directory| {
        let directory = tree.directory(cwd, directory.as_bytes())?;
        Some((tree.file(directory, name.as_bytes())?, directory))
    })
}
