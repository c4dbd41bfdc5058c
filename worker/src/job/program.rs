//! What a job's first process is: its arguments, its working directory, the files it brings. Pure.
//!
//! A script runs in the image's working directory under its own name, a folder at `/code`. Who
//! runs a file is told by its `#!` line if the image has that program, else by the name's
//! extension, else the file runs by itself.

use sway_core::handler::{Handler, Runtime};
use sway_core::job::{JobFile, JobSpec, Program};
use sway_core::manifest::{Ino, Manifest, RunConfig};

use super::RunError;
use super::handler;
use super::skeleton::{Owner, Skeleton, names};

/// Where folders go.
pub(crate) const CODE: &str = "/code";

/// Extensions and who runs them, the first that the image has.
const INTERPRETERS: [(&str, &[&str]); 7] = [
    ("py", &["python3", "python"]),
    ("pyz", &["python3", "python"]),
    ("js", &["node", "nodejs"]),
    ("mjs", &["node", "nodejs"]),
    ("cjs", &["node", "nodejs"]),
    ("sh", &["sh", "bash"]),
    ("bash", &["bash"]),
];

/// The bytes that a `#!` line may have (Linux `BINPRM_BUF_SIZE`).
const SHEBANG_MAX: usize = 256;

/// The first process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) argv: Vec<String>,
    /// Working directory; the skeleton has it where the image has not.
    pub(crate) cwd: String,
}

/// Plans the first process of `spec`, and puts the files that it brings into `skeleton`. `search`
/// is the job's `PATH`.
pub(crate) fn plan(
    spec: &JobSpec,
    manifest: &Manifest,
    search: &str,
    owner: Owner,
    skeleton: &mut Skeleton<'_>,
) -> Result<Process, RunError> {
    let config = manifest.config();
    let image = Image { manifest, search };
    match &spec.program {
        Program::Script { file } => {
            let cwd = working_dir(config);
            let mut at = enter(skeleton, &cwd)?;
            at.push(file.path.as_bytes().to_vec());
            let (mut argv, permissions) = image.run_file(file, &cwd)?;
            skeleton.file(&at, file.content.clone(), permissions, owner)?;
            argv.extend(spec.args.iter().cloned());
            Ok(Process { argv, cwd })
        }
        Program::Folder { files, entry } => {
            let code = names(CODE);
            skeleton.own_directory(&code, owner)?;
            let mut argv = Vec::new();
            for file in files {
                let (command, permissions) = if file.path == *entry {
                    image.run_file(file, CODE)?
                } else {
                    (Vec::new(), permissions(file.executable))
                };
                argv.extend(command);
                let at = [code.clone(), names(&file.path)].concat();
                skeleton.file(&at, file.content.clone(), permissions, owner)?;
            }
            argv.extend(spec.args.iter().cloned());
            Ok(Process { argv, cwd: CODE.to_owned() })
        }
        Program::Handler(handler) => {
            let code = names(CODE);
            skeleton.own_directory(&code, owner)?;
            for file in &handler.files {
                let at = [code.clone(), names(&file.path)].concat();
                skeleton.file(&at, file.content.clone(), permissions(file.executable), owner)?;
            }
            Ok(Process { argv: image.call(handler)?, cwd: CODE.to_owned() })
        }
        Program::Command { argv } => {
            let cwd = working_dir(config);
            enter(skeleton, &cwd)?;
            let arguments = [argv.as_slice(), &spec.args].concat();
            let rest = if arguments.is_empty() { &config.cmd } else { &arguments };
            let argv = [config.entrypoint.as_slice(), rest].concat();
            let program = argv.first().filter(|program| !program.is_empty()).ok_or_else(|| {
                RunError::Refused("the image has no command, and the job names none".to_owned())
            })?;
            image.check_program(program, &cwd)?;
            Ok(Process { argv, cwd })
        }
    }
}

/// The image's working directory as an absolute path.
pub(crate) fn working_dir(config: &RunConfig) -> String {
    let path = config.working_dir.as_str();
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Makes sure that the working directory exists.
fn enter(skeleton: &mut Skeleton<'_>, cwd: &str) -> Result<Vec<Vec<u8>>, RunError> {
    let at = skeleton.canonical(cwd).ok_or_else(|| {
        RunError::Refused(format!("the image's working directory {cwd} is a circle of links"))
    })?;
    skeleton.directory(&at)?;
    Ok(at)
}

fn permissions(executable: bool) -> u32 {
    if executable { 0o755 } else { 0o644 }
}

/// Programs of an image.
struct Image<'a> {
    manifest: &'a Manifest,
    search: &'a str,
}

impl Image<'_> {
    /// The arguments that run `file` from the directory `cwd`, and its permissions.
    fn run_file(&self, file: &JobFile, cwd: &str) -> Result<(Vec<String>, u32), RunError> {
        // A name such as `-c.py` would be an option.
        let name =
            if file.path.starts_with('-') { format!("./{}", file.path) } else { file.path.clone() };
        let shebang = shebang(&file.content);
        if let Some(mut argv) = shebang.clone()
            && self.can_run(&argv, cwd)
        {
            argv.push(name);
            return Ok((argv, permissions(file.executable)));
        }
        let extension = file.path.rsplit_once('.').map(|(_, extension)| extension);
        let interpreters =
            INTERPRETERS.iter().find(|(of, _)| Some(*of) == extension).map(|(_, names)| *names);
        if let Some(names) = interpreters {
            let found = names.iter().find_map(|name| self.find(name));
            let program = found.ok_or_else(|| {
                RunError::NotFound(format!("{}: the image has no {}", file.path, names[0]))
            })?;
            return Ok((vec![program, name], permissions(file.executable)));
        }
        if let Some(argv) = shebang {
            let asked = argv.join(" ");
            return Err(RunError::NotFound(format!(
                "{}: the image has no {asked}, which its first line asks for",
                file.path
            )));
        }
        if file.executable || file.content.starts_with(b"\x7fELF") {
            return Ok((vec![format!("./{}", file.path)], 0o755));
        }
        Err(RunError::Refused(format!(
            "{}: neither its first line (#!) nor its extension says what runs it, and it is not \
             executable",
            file.path
        )))
    }

    /// The arguments that call a handler.
    fn call(&self, handler: &Handler) -> Result<Vec<String>, RunError> {
        let first = |names: &[&str]| {
            let found = names.iter().find_map(|name| self.find(name));
            let missing = || {
                RunError::NotFound(format!("{}: the image has no {}", handler.handler, names[0]))
            };
            found.ok_or_else(missing)
        };
        let interpreter = first(handler::interpreters(handler.runtime))?;
        let shell = match handler.runtime {
            Runtime::Python => String::new(),
            Runtime::Nodejs => first(&["sh", "bash"])?,
        };
        Ok(handler::argv(handler, interpreter, shell))
    }

    /// Whether the image has what a `#!` line asks for, behind `env` too.
    fn can_run(&self, argv: &[String], cwd: &str) -> bool {
        let Some(program) = argv.first() else { return false };
        let behind_env = program.ends_with("/env").then(|| argv.get(1)).flatten();
        self.check_program(program, cwd).is_ok()
            && behind_env.is_none_or(|name| name.starts_with('-') || self.find(name).is_some())
    }

    /// Whether `program` can be started: 127 where it is missing, 126 where it is no program.
    fn check_program(&self, program: &str, cwd: &str) -> Result<(), RunError> {
        if !program.contains('/') {
            let found = self.find(program).is_some();
            let missing = || RunError::NotFound(format!("{program}: not found in the image"));
            return found.then_some(()).ok_or_else(missing);
        }
        let path =
            if program.starts_with('/') { program.to_owned() } else { format!("{cwd}/{program}") };
        match self.manifest.resolve_following(path.as_bytes()) {
            None => Err(RunError::NotFound(format!("{program}: not found in the image"))),
            Some(ino) if self.is_program(ino) => Ok(()),
            Some(_) => Err(RunError::NotExecutable(format!("{program}: not executable"))),
        }
    }

    /// A program by name along `PATH`.
    fn find(&self, name: &str) -> Option<String> {
        let directories = self.search.split(':').filter(|directory| directory.starts_with('/'));
        directories.map(|directory| format!("{}/{name}", directory.trim_end_matches('/'))).find(
            |path| {
                let found = self.manifest.resolve_following(path.as_bytes());
                found.is_some_and(|ino| self.is_program(ino))
            },
        )
    }

    fn is_program(&self, ino: Ino) -> bool {
        let inode = self.manifest.inode(ino);
        inode.is_some_and(|inode| inode.is_regular() && inode.mode & 0o111 != 0)
    }
}

/// Program and at most one argument of a `#!` line, as the kernel splits it.
fn shebang(content: &[u8]) -> Option<Vec<String>> {
    let line = content.strip_prefix(b"#!")?;
    let line = &line[..line.len().min(SHEBANG_MAX)];
    let line = line.split(|&byte| byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?.trim();
    let (program, argument) = match line.split_once([' ', '\t']) {
        Some((program, argument)) => (program, Some(argument.trim())),
        None => (line, None),
    };
    let argv: Vec<String> =
        [Some(program), argument].into_iter().flatten().map(str::to_owned).collect();
    (!program.is_empty() && !program.contains('\0')).then_some(argv)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sway_core::manifest::{FileContent, Metadata, NodeId, NodeKind, Tree};

    use super::*;

    fn image(config: RunConfig) -> Manifest {
        let mut tree = Tree::new();
        let metadata = |permissions| Metadata { permissions, ..Metadata::default() };
        let program = |tree: &mut Tree, permissions| -> NodeId {
            tree.add(metadata(permissions), NodeKind::Regular(FileContent::new()))
        };
        let programs: BTreeMap<_, _> = [
            (b"python3".to_vec(), program(&mut tree, 0o755)),
            (b"env".to_vec(), program(&mut tree, 0o755)),
            (b"sh".to_vec(), program(&mut tree, 0o755)),
            (b"notes".to_vec(), program(&mut tree, 0o644)),
        ]
        .into();
        let bin = tree.add(metadata(0o755), NodeKind::Directory(programs));
        let usr = BTreeMap::from([(b"bin".to_vec(), bin)]);
        let usr = tree.add(metadata(0o755), NodeKind::Directory(usr));
        let link = tree.add(metadata(0o777), NodeKind::Symlink(b"usr/bin".to_vec()));
        let root = tree.entries_mut(Tree::ROOT).unwrap();
        root.extend([(b"usr".to_vec(), usr), (b"bin".to_vec(), link)]);
        tree.to_manifest(config).unwrap().0
    }

    fn planned(program: Program, args: &[&str], config: RunConfig) -> Result<Process, RunError> {
        let manifest = image(config);
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let spec = JobSpec { args, ..JobSpec::new(Some("x".parse().unwrap()), program) };
        let mut skeleton = Skeleton::new(&manifest);
        plan(&spec, &manifest, "/usr/local/bin:/usr/bin:/bin", Owner::ROOT, &mut skeleton)
    }

    fn script(name: &str, content: &str, executable: bool) -> Result<Vec<String>, RunError> {
        let file = JobFile { path: name.into(), content: content.into(), executable };
        planned(Program::Script { file }, &["a"], RunConfig::default()).map(|process| process.argv)
    }

    fn command(argv: &[&str], config: RunConfig) -> Result<Vec<String>, RunError> {
        let argv = argv.iter().map(|&arg| arg.to_owned()).collect();
        planned(Program::Command { argv }, &[], config).map(|process| process.argv)
    }

    #[test]
    fn the_first_line_or_the_extension_tells_who_runs_a_script() {
        assert_eq!(script("a.py", "", false).unwrap(), ["/usr/bin/python3", "a.py", "a"]);
        assert_eq!(script("a", "#!/bin/sh -e\n", false).unwrap(), ["/bin/sh", "-e", "a", "a"]);
        let env = script("a", "#!/usr/bin/env python3\r\n", false).unwrap();
        assert_eq!(env, ["/usr/bin/env", "python3", "a", "a"]);
        assert_eq!(script("a", "\x7fELF", false).unwrap(), ["./a", "a"]);
        assert_eq!(script("-c.py", "", false).unwrap(), ["/usr/bin/python3", "./-c.py", "a"]);
    }

    #[test]
    fn an_interpreter_that_the_image_lacks_is_named() {
        let other = script("a.py", "#!/opt/python\n", false).unwrap();
        assert_eq!(other[0], "/usr/bin/python3", "the extension helps");
        let missing = script("a", "#!/usr/bin/env ruby\n", false).unwrap_err();
        assert!(missing.to_string().contains("ruby"), "{missing}");
        let missing = script("a.js", "", false).unwrap_err();
        assert!(matches!(missing, RunError::NotFound(_)) && missing.to_string().contains("node"));
        assert!(matches!(script("a.txt", "x", false), Err(RunError::Refused(_))));
    }

    #[test]
    fn a_folder_runs_its_entry_at_code() {
        let file = |path: &str| JobFile { path: path.into(), content: vec![], executable: false };
        let program = Program::Folder {
            files: vec![file("lib/x.py"), file("src/main.py")],
            entry: "src/main.py".into(),
        };
        let process = planned(program, &["1"], RunConfig::default()).unwrap();
        assert_eq!(process.argv, ["/usr/bin/python3", "src/main.py", "1"]);
        assert_eq!(process.cwd, "/code");
    }

    #[test]
    fn commands_follow_the_images_entrypoint() {
        let config = || RunConfig {
            entrypoint: vec!["/usr/bin/env".into()],
            cmd: vec!["sh".into()],
            ..RunConfig::default()
        };
        assert_eq!(command(&[], config()).unwrap(), ["/usr/bin/env", "sh"]);
        assert_eq!(command(&["python3"], config()).unwrap(), ["/usr/bin/env", "python3"]);
        assert_eq!(command(&["sh"], RunConfig::default()).unwrap(), ["sh"]);
        assert!(matches!(command(&[], RunConfig::default()), Err(RunError::Refused(_))));
        assert!(matches!(command(&["gcc"], RunConfig::default()), Err(RunError::NotFound(_))));
        let notes = command(&["/bin/notes"], RunConfig::default());
        assert!(matches!(notes, Err(RunError::NotExecutable(_))));
    }
}
