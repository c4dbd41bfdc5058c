//! Looks into files as they arrive: what they name is wanted next.

use sway_core::blob::Blob;
use sway_core::manifest::{Ino, mode};
use sway_core::read_plan::{Slice, read_plan};

use super::elf::{HEAD_LEN, Headers};
use super::program::{find, shebang};
use super::pyc::Import;
use super::python::Python;
use super::queue::{Class, Order};
use super::{Lead, Predictor, State, WHOLE_LEN_MAX, libraries, node, pyc, python};
use crate::cache::ChunkCache as _;

/// The longest compiled module or source that is looked into, in bytes.
const TEXT_LEN_MAX: u64 = 4 << 20;

/// The longest extension module whose strings are looked at, in bytes.
const EXTENSION_LEN_MAX: u64 = 4 << 20;

/// Bytes of one library's code that are wanted ahead; further ones when they are missed.
const CODE_LEN_MAX: u64 = 32 << 20;

/// Files that are remembered; the guessing ends there.
const SEEN_MAX: usize = 100_000;

/// What a file may name others in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Compiled,
    Source,
    Node,
    Package,
    Program,
}

/// Why a file can't be looked into now.
enum NotNow {
    /// These chunks are missing.
    Missing(Vec<u32>),
    /// It is not what its name says.
    Never,
}

impl Predictor {
    /// Wants a file, and what it names in turn once it is there. Wanting it more than before
    /// moves it forward.
    pub(super) fn want_file(&self, state: &mut State, ino: Ino, class: Class, order: &Order) {
        let Some(inode) = self.manifest.inode(ino).filter(|inode| inode.is_regular()) else {
            return;
        };
        if state.seen.get(&ino).is_some_and(|seen| *seen <= class) || state.seen.len() >= SEEN_MAX {
            return;
        }
        state.seen.insert(ino, class);
        let len = if inode.size() <= WHOLE_LEN_MAX { inode.size() } else { 1 };
        for chunk in self.chunks_of(ino, 0, len) {
            state.queue.want(chunk, class, order);
        }
        if self.is_telling(ino) {
            state.leads.push_back(Lead { ino, class, order: order.clone() });
        }
    }

    /// Whether a file may name others.
    pub(super) fn is_telling(&self, ino: Ino) -> bool {
        self.kind(ino).is_some()
    }

    fn kind(&self, ino: Ino) -> Option<Kind> {
        let inode = self.manifest.inode(ino).filter(|inode| inode.is_regular())?;
        let name = self.tree().name_of(ino);
        let ends = |ending: &str| name.ends_with(ending.as_bytes());
        let kind = if ends(".pyc") {
            Kind::Compiled
        } else if ends(".py") {
            Kind::Source
        } else if ends(".js") || ends(".mjs") || ends(".cjs") {
            Kind::Node
        } else if name == b"package.json" {
            Kind::Package
        } else if inode.mode & 0o111 & mode::PERMISSIONS != 0
            || name.windows(3).any(|part| part == b".so")
            || ends(".node")
        {
            Kind::Program
        } else {
            return None;
        };
        (kind == Kind::Program || inode.size() <= TEXT_LEN_MAX).then_some(kind)
    }

    /// Wants what a file names; waits for its bytes where they are not here. `arrived` is the
    /// chunk that came last.
    pub(super) fn look_into(&self, state: &mut State, lead: Lead, arrived: Option<(u32, &Blob)>) {
        let Some(kind) = self.kind(lead.ino) else { return };
        let outcome = match kind {
            Kind::Program => self.look_into_program(state, &lead, arrived),
            Kind::Compiled | Kind::Source | Kind::Node | Kind::Package => {
                self.look_into_text(state, kind, &lead, arrived)
            }
        };
        let Err(NotNow::Missing(missing)) = outcome else { return };
        for &chunk in &missing {
            state.queue.want(chunk, lead.class, &lead.order);
        }
        // One at a time: each arrival looks again.
        if let Some(&chunk) = missing.first() {
            state.waiting.entry(chunk).or_default().push(lead);
        }
    }

    fn look_into_text(
        &self,
        state: &mut State,
        kind: Kind,
        lead: &Lead,
        arrived: Option<(u32, &Blob)>,
    ) -> Result<(), NotNow> {
        let (tree, class, order) = (self.tree(), lead.class, &lead.order);
        if matches!(kind, Kind::Compiled | Kind::Source) && state.python.is_none() {
            return Ok(());
        }
        let bytes = self.bytes(lead.ino, 0, TEXT_LEN_MAX, arrived)?;
        match kind {
            Kind::Compiled => self.want_imports(state, lead, &pyc::imports(&bytes)),
            Kind::Source => {
                let imports = python::imports(&String::from_utf8_lossy(&bytes));
                self.want_imports(state, lead, &imports);
            }
            Kind::Package => {
                let directory = tree.directory_of(lead.ino);
                if let Some(main) = node::main_of(&bytes) {
                    for file in node::files(tree, directory, &format!("./{main}")) {
                        self.want_file(state, file, class, &order.then(0));
                    }
                }
            }
            Kind::Node | Kind::Program => {
                let directory = tree.directory_of(lead.ino);
                for (number, module) in node::imports(&bytes).iter().enumerate() {
                    for file in node::files(tree, directory, module) {
                        self.want_file(state, file, class, &order.then(number));
                    }
                }
            }
        }
        Ok(())
    }

    fn want_imports(&self, state: &mut State, lead: &Lead, imports: &[Import]) {
        let Some(python) = state.python.clone() else { return };
        let tree = self.tree();
        let package = Python::package_of(tree, lead.ino);
        for (number, import) in imports.iter().enumerate() {
            // What waits in a function of something that is not sure itself is not followed.
            if import.later && lead.class != Class::Needed {
                continue;
            }
            let class = if import.later { Class::Later } else { lead.class };
            let order = lead.order.then(number);
            let files = python.files(tree, Some(package), import);
            for (number, file) in files.into_iter().enumerate() {
                self.want_file(state, file, class, &order.then(number));
            }
        }
    }

    fn look_into_program(
        &self,
        state: &mut State,
        lead: &Lead,
        arrived: Option<(u32, &Blob)>,
    ) -> Result<(), NotNow> {
        let (tree, ino, class, order) = (self.tree(), lead.ino, lead.class, &lead.order);
        let head = self.bytes(ino, 0, HEAD_LEN as u64, arrived)?;
        if let Some(runner) = shebang(&head) {
            let path = "/usr/local/bin:/usr/bin:/bin";
            if let Some((program, _)) = find(tree, Ino::ROOT, path, &runner) {
                self.want_file(state, program, class, &order.then(0));
                self.note_python(state, program);
            }
            if let Ok(text) = std::str::from_utf8(&head) {
                self.want_imports(state, lead, &python::imports(text));
            }
            return Ok(());
        }
        let headers = Headers::parse(&head).ok_or(NotNow::Never)?;
        self.note_python(state, ino);
        if let Some(loader) = &headers.interpreter
            && let Some(loader) = tree.file(Ino::ROOT, loader)
        {
            self.want_file(state, loader, class, &order.then(0));
        }
        if let Some(section) = headers.dynamic.clone() {
            let len = section.end - section.start;
            let section = self.bytes(ino, section.start, len, arrived)?;
            if let Some(dynamic) = headers.dynamic(&section) {
                for range in &dynamic.loaded {
                    let len = range.end.saturating_sub(range.start).min(CODE_LEN_MAX);
                    for chunk in self.chunks_of(ino, range.start, len) {
                        state.queue.want(chunk, class, order);
                    }
                }
                if let Some(strings) = dynamic.strings() {
                    let bytes =
                        self.bytes(ino, strings.start, strings.end - strings.start, arrived)?;
                    let needs = dynamic.needs(&bytes);
                    let found = libraries::find(tree, ino, &needs, &state.ld_library_path);
                    for (number, library) in found.into_iter().enumerate() {
                        self.want_file(state, library, class, &order.then(1 + number));
                    }
                }
            }
        }
        // The job's own program runs all over its code; that of libraries follows.
        let is_first = state.programs.first() == Some(&ino);
        let class = match class {
            Class::Needed if is_first => Class::Needed,
            Class::Needed => Class::Code,
            Class::Code | Class::Near | Class::Later => Class::Later,
        };
        let mut left = CODE_LEN_MAX;
        for range in headers.mapped() {
            let len = range.end.saturating_sub(range.start).min(left);
            left -= len;
            for chunk in self.chunks_of(ino, range.start, len) {
                state.queue.want(chunk, class, order);
            }
        }
        self.look_into_extension(state, lead, arrived)
    }

    /// An extension module of Python imports others from its own code; their names are among its
    /// strings.
    fn look_into_extension(
        &self,
        state: &mut State,
        lead: &Lead,
        arrived: Option<(u32, &Blob)>,
    ) -> Result<(), NotNow> {
        let name = self.tree().name_of(lead.ino);
        let is_extension = [&b".cpython-3"[..], b".abi3.so"]
            .iter()
            .any(|mark| name.windows(mark.len()).any(|part| part == *mark));
        if !is_extension || state.python.is_none() || self.size_of(lead.ino) > EXTENSION_LEN_MAX {
            return Ok(());
        }
        let bytes = self.bytes(lead.ino, 0, EXTENSION_LEN_MAX, arrived)?;
        self.want_imports(state, lead, &python::names_in(&bytes));
        Ok(())
    }

    /// A Python that turns up in a job that did not name one: a command that starts it.
    fn note_python(&self, state: &mut State, program: Ino) {
        if state.python.is_some() {
            return;
        }
        let tree = self.tree();
        let Some(python) = Python::of(tree, program, &[]) else { return };
        let start: Vec<Ino> = python
            .start()
            .iter()
            .flat_map(|import| python.files(tree, None, import))
            .chain(python.path_files(tree))
            .collect();
        state.python = Some(python);
        for (number, file) in start.into_iter().enumerate() {
            self.want_file(state, file, Class::Needed, &Order::default().then(number));
        }
    }

    /// Bytes of a file from what is in memory, shorter where the file ends.
    fn bytes(
        &self,
        ino: Ino,
        offset: u64,
        len: u64,
        arrived: Option<(u32, &Blob)>,
    ) -> Result<Vec<u8>, NotNow> {
        let plan = read_plan(&self.manifest, ino, offset, usize::try_from(len).unwrap_or(0));
        let (mut bytes, mut missing) = (Vec::new(), Vec::new());
        for slice in plan {
            match slice {
                Slice::Zeros(len) => bytes.resize(bytes.len() + len, 0),
                Slice::Chunk { chunk, range } => {
                    let chunk_ref = self.manifest.chunks()[chunk as usize];
                    let blob = match arrived {
                        Some((last, blob)) if last == chunk => Some(blob.clone()),
                        _ => self.chunks.memory().get(chunk_ref.digest),
                    };
                    match blob.as_ref().map(|blob| blob.as_ref().get(range)) {
                        Some(Some(slice)) => bytes.extend_from_slice(slice),
                        Some(None) => return Err(NotNow::Never),
                        None => missing.push(chunk),
                    }
                }
            }
        }
        if missing.is_empty() { Ok(bytes) } else { Err(NotNow::Missing(missing)) }
    }
}
