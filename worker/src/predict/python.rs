//! What a Python program imports, and where an image has it. Pure.
//!
//! Two readers of imports: compiled modules by their bytecode (`pyc`), the job's own files by
//! their text. The text is scanned line by line and not parsed: what is missed is only not
//! predicted. Modules are looked for along the path that the image's Python would have.

use std::collections::BTreeSet;

use sway_core::manifest::Ino;

use super::pyc::Import;
use super::tree::Tree;

/// The longest name of a module.
const NAME_LEN_MAX: usize = 128;

/// Imports of one source.
const IMPORTS_MAX: usize = 1024;

/// Modules that every start of Python imports; those that are frozen into the interpreter
/// (3.11 and later) are left out, but for a version before.
const START: [&str; 4] = ["encodings", "encodings.aliases", "encodings.utf_8", "sitecustomize"];
const START_BEFORE_3_11: [&str; 11] = [
    "codecs",
    "io",
    "abc",
    "site",
    "os",
    "stat",
    "posixpath",
    "genericpath",
    "_collections_abc",
    "_sitebuiltins",
    "_bootlocale",
];

/// The import statements of a source text, those that run with the module first.
pub(super) fn imports(source: &str) -> Vec<Import> {
    let mut found = Vec::new();
    // How far the innermost `def` is indented that the current line is in.
    let mut function: Option<usize> = None;
    let mut quote: Option<&str> = None;
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        if found.len() >= IMPORTS_MAX {
            break;
        }
        if let Some(mark) = quote {
            if line.contains(mark) {
                quote = None;
            }
            continue;
        }
        let text = line.trim_start();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let indent = line.len() - text.len();
        if function.is_some_and(|at| indent <= at) {
            function = None;
        }
        if text.starts_with("def ") || text.starts_with("async def ") {
            function.get_or_insert(indent);
            continue;
        }
        let later = function.is_some();
        let mut statement = text.to_owned();
        let is_import = ["import ", "from "].iter().any(|word| statement.starts_with(word));
        if !is_import {
            quote = ["\"\"\"", "'''"].into_iter().find(|mark| text.matches(mark).count() % 2 == 1);
            continue;
        }
        // A statement may go on behind `\` or within parentheses.
        for _ in 0..IMPORTS_MAX {
            let code = statement.split('#').next().unwrap_or_default().trim_end().to_owned();
            let open = code.contains('(') && !code.contains(')');
            let Some(more) = (open || code.ends_with('\\')).then(|| lines.next()).flatten() else {
                statement = code;
                break;
            };
            statement = format!("{} {}", code.trim_end_matches('\\'), more.trim());
        }
        // Several statements on one line are seldom; the first one counts.
        let statement = statement.split(';').next().unwrap_or_default();
        found.extend(statement_imports(statement, later));
    }
    found.truncate(IMPORTS_MAX);
    found.sort_by_key(|import| import.later);
    found
}

/// Dotted names among the strings of a compiled extension module: what it imports is there, beside
/// other things, which are mostly no modules.
pub(super) fn names_in(binary: &[u8]) -> Vec<Import> {
    let strings = binary.split(|&byte| byte == 0).filter(|text| {
        (3..=NAME_LEN_MAX).contains(&text.len())
            && text.contains(&b'.')
            && text.iter().all(|&byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'))
    });
    let names = strings.filter_map(|text| std::str::from_utf8(text).ok());
    let modules: BTreeSet<&str> = names.filter(|name| is_dotted(name)).take(IMPORTS_MAX).collect();
    let import = |module: &str| Import {
        level: 0,
        module: module.to_owned(),
        names: Vec::new(),
        later: false,
    };
    modules.into_iter().map(import).collect()
}

fn statement_imports(statement: &str, later: bool) -> Vec<Import> {
    let first_word = |text: &str| text.split_whitespace().next().unwrap_or_default().to_owned();
    if let Some(modules) = statement.strip_prefix("import ") {
        let modules = modules.split(',').map(first_word).filter(|module| is_dotted(module));
        return modules
            .map(|module| Import { level: 0, module, names: Vec::new(), later })
            .collect();
    }
    let Some((module, names)) =
        statement.strip_prefix("from ").and_then(|rest| rest.split_once(" import"))
    else {
        return Vec::new();
    };
    let module = module.trim();
    let level = module.len() - module.trim_start_matches('.').len();
    let module = module[level..].to_owned();
    if !(is_dotted(&module) || module.is_empty() && level > 0) {
        return Vec::new();
    }
    let names = names.trim().trim_matches(['(', ')']);
    let names = names.split(',').map(first_word).filter(|name| is_dotted(name)).collect();
    vec![Import { level, module, names, later }]
}

fn is_dotted(name: &str) -> bool {
    !name.is_empty()
        && name
            .split('.')
            .all(|part| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_'))
}

/// The Python of an image and where it looks for modules.
#[derive(Clone, Debug)]
pub(super) struct Python {
    /// Directories, in order.
    path: Vec<Ino>,
    /// The middle of a compiled file's name, such as `cpython-311`.
    tag: String,
    minor: u32,
}

impl Python {
    /// The Python whose interpreter is the file `interpreter`; none where that is something else.
    /// `first` are the directories that the job adds in front.
    pub(super) fn of(tree: &Tree, interpreter: Ino, first: &[Ino]) -> Option<Self> {
        let name = std::str::from_utf8(tree.name_of(interpreter)).ok()?;
        let minor: u32 = name.strip_prefix("python3.")?.parse().ok()?;
        let library = format!("python3.{minor}");
        let prefix = tree.manifest().parent(tree.directory_of(interpreter))?;
        let mut path = first.to_vec();
        let mut add = |from: Ino, place: &str| {
            if let Some(found) = tree.directory(from, place.as_bytes())
                && !path.contains(&found)
            {
                path.push(found);
            }
        };
        add(prefix, &format!("lib/{library}"));
        add(prefix, &format!("lib/{library}/lib-dynload"));
        add(Ino::ROOT, &format!("usr/local/lib/{library}/dist-packages"));
        add(Ino::ROOT, "usr/lib/python3/dist-packages");
        add(prefix, &format!("lib/{library}/site-packages"));
        add(Ino::ROOT, &format!("usr/local/lib/{library}/site-packages"));
        Some(Self { path, tag: format!("cpython-3{minor}"), minor })
    }

    /// A version of the same that looks into the packages of a virtual environment first.
    pub(super) fn within(mut self, tree: &Tree, environment: Ino) -> Self {
        let packages = format!("lib/python3.{}/site-packages", self.minor);
        if let Some(found) = tree.directory(environment, packages.as_bytes()) {
            self.path.retain(|&directory| directory != found);
            self.path.insert(0, found);
        }
        self
    }

    /// What every start of this Python imports.
    pub(super) fn start(&self) -> Vec<Import> {
        let before = if self.minor < 11 { &START_BEFORE_3_11[..] } else { &[] };
        let modules = START.iter().chain(before);
        modules
            .map(|&module| Import {
                level: 0,
                module: module.to_owned(),
                names: Vec::new(),
                later: false,
            })
            .collect()
    }

    /// Files `*.pth` of the path, which every start reads.
    pub(super) fn path_files(&self, tree: &Tree) -> Vec<Ino> {
        let entries = self.path.iter().flat_map(|&at| tree.manifest().entries(at));
        let files = entries.flatten().filter(|(name, _)| name.ends_with(b".pth"));
        files.map(|(_, ino)| ino).take(64).collect()
    }

    /// The files that `import` reads, in order, where the importing file lies in `package`: the
    /// module, what it lies in, and those of the names that are modules.
    pub(super) fn files(&self, tree: &Tree, package: Option<Ino>, import: &Import) -> Vec<Ino> {
        let mut files = Vec::new();
        let Some(module) = self.module(tree, package, import, &mut files) else { return files };
        if let Some(directory) = module {
            for name in &import.names {
                if let Some((file, _)) = self.in_directory(tree, directory, name) {
                    files.extend(file);
                }
            }
        }
        files
    }

    /// Walks to the module that is imported from; returns its directory if it is a package.
    fn module(
        &self,
        tree: &Tree,
        package: Option<Ino>,
        import: &Import,
        files: &mut Vec<Ino>,
    ) -> Option<Option<Ino>> {
        let mut names = import.module.split('.').filter(|name| !name.is_empty());
        let mut at = if import.level == 0 {
            let first = names.next()?;
            let found = self.path.iter().find_map(|&at| self.in_directory(tree, at, first));
            let (file, directory) = found?;
            files.extend(file);
            directory
        } else {
            let mut directory = package?;
            for _ in 1..import.level {
                directory = tree.manifest().parent(directory)?;
            }
            Some(directory)
        };
        for name in names {
            let (file, directory) = self.in_directory(tree, at?, name)?;
            files.extend(file);
            at = directory;
        }
        Some(at)
    }

    /// A module in a directory: the file that is read for it, and its own directory where it is
    /// a package. In the order of Python's own finder.
    fn in_directory(
        &self,
        tree: &Tree,
        directory: Ino,
        name: &str,
    ) -> Option<(Option<Ino>, Option<Ino>)> {
        let package = tree.directory(directory, name.as_bytes());
        if let Some(package) = package
            && let Some(file) = self.source(tree, package, "__init__")
        {
            return Some((Some(file), Some(package)));
        }
        if let Some(file) =
            self.extension(tree, directory, name).or_else(|| self.source(tree, directory, name))
        {
            return Some((Some(file), None));
        }
        // A namespace package has no file of its own.
        package.map(|package| (None, Some(package)))
    }

    /// The compiled file of a module, else its source.
    fn source(&self, tree: &Tree, directory: Ino, name: &str) -> Option<Ino> {
        let source = tree.file(directory, format!("{name}.py").as_bytes());
        let compiled = format!("__pycache__/{name}.{}.pyc", self.tag);
        match source {
            Some(source) => tree.file(directory, compiled.as_bytes()).or(Some(source)),
            None => tree.file(directory, format!("{name}.pyc").as_bytes()),
        }
    }

    /// An extension module: `name.so`, `name.abi3.so`, `name.cpython-311-….so`.
    fn extension(&self, tree: &Tree, directory: Ino, name: &str) -> Option<Ino> {
        let usual = format!("{name}.{}-x86_64-linux-gnu.so", self.tag);
        let names = [usual, format!("{name}.abi3.so"), format!("{name}.so")];
        names.iter().find_map(|name| tree.file(directory, name.as_bytes()))
    }

    /// The directory that relative imports of a file start from: that of its source.
    pub(super) fn package_of(tree: &Tree, file: Ino) -> Ino {
        let directory = tree.directory_of(file);
        if tree.name_of(directory) == b"__pycache__" {
            return tree.manifest().parent(directory).unwrap_or(directory);
        }
        directory
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(source: &str) -> Vec<String> {
        let show = |import: Import| {
            let later = if import.later { " later" } else { "" };
            let names = import.names.join(",");
            format!("{}{}:{names}{later}", ".".repeat(import.level), import.module)
        };
        imports(source).into_iter().map(show).collect()
    }

    #[test]
    fn every_form_of_an_import_is_seen() {
        let source = "import os, sys as system\nfrom scipy import linalg, stats as s\n\
                      from . import x\nfrom ..a.b import (\n    c,  # why\n    d as e,\n)\n\
                      try:\n    import fast\nexcept ImportError:\n    pass\n\
                      import a.b \\\n  , c\n";
        let expected =
            ["os:", "sys:", "scipy:linalg,stats", ".:x", "..a.b:c,d", "fast:", "a.b:", "c:"];
        assert_eq!(shown(source), expected);
    }

    #[test]
    fn what_waits_in_functions_comes_last_and_texts_don_t_count() {
        let source = "\"\"\"\nimport not_this\n\"\"\"\ndef f():\n    import later\n    return 1\n\
                      import now\n# import nor_this\nx = 'import nor_that'\n";
        assert_eq!(shown(source), ["now:", "later: later"]);
    }

    #[test]
    fn names_of_modules_are_found_among_the_strings_of_a_binary() {
        let binary = b"\x7fELF\0scipy.linalg.cython_blas\0not a name.\0plain\0a.b\0a.b\0.x\0";
        let found: Vec<_> = names_in(binary).into_iter().map(|import| import.module).collect();
        assert_eq!(found, ["a.b", "scipy.linalg.cython_blas"]);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(source in "(import|from|def|[ .,()\\\\\\n\"'#a-z]){0,200}") {
            imports(&source);
        }
    }
}
