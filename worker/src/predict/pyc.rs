//! What a compiled Python module imports, read from its bytecode. Pure.
//!
//! A `.pyc` is what a Python start reads, so it costs nothing beside what is needed anyway, and
//! unlike its source it tells exactly which imports run with the module and which wait in
//! functions. The file is foreign: nothing in it is believed, and whatever is odd ends the
//! reading, which only means that nothing is predicted.

use std::ops::Range;

/// Where the marshalled code begins: behind magic, flags, and time and size (or a hash) of the
/// source (PEP 552).
const HEADER_LEN: usize = 16;

/// How deep objects may nest.
const DEPTH_MAX: usize = 64;

/// Objects in one file.
const NODES_MAX: usize = 1 << 20;

/// Imports of one file.
const IMPORTS_MAX: usize = 2048;

/// One import, as `IMPORT_NAME` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Import {
    /// Dots before the name: 0 is absolute, 1 the own package.
    pub(super) level: usize,
    /// The module, dotted; empty for `from . import x`.
    pub(super) module: String,
    /// What is taken from it, which may be further modules.
    pub(super) names: Vec<String>,
    /// Whether it waits in a function.
    pub(super) later: bool,
}

/// The imports of a `.pyc`, those that run with the module first; none where it can't be read.
pub(super) fn imports(file: &[u8]) -> Vec<Import> {
    let Some(dialect) = Dialect::of(file) else { return Vec::new() };
    let mut reader = Reader { bytes: file, at: HEADER_LEN, nodes: Vec::new(), refs: Vec::new() };
    let Some(root) = reader.object(&dialect, 0) else { return Vec::new() };
    let mut found = Vec::new();
    // Breadth first: what runs with the module is before what waits.
    let mut codes = vec![(root, false)];
    let mut seen = std::collections::HashSet::new();
    let mut next = 0;
    while let Some(&(node, later)) = codes.get(next) {
        next += 1;
        if found.len() >= IMPORTS_MAX || !seen.insert(node) {
            continue;
        }
        let Some(&Node::Code { code, consts, names, flags }) = reader.node(node) else { continue };
        // A class' body runs with its module, a function's does not.
        let later = later || flags & CO_NEWLOCALS != 0;
        found.extend(reader.imports_of(&dialect, code, consts, names, later));
        for &inner in reader.items(consts) {
            if matches!(reader.node(inner), Some(Node::Code { .. })) {
                codes.push((inner, later));
            }
        }
    }
    found.truncate(IMPORTS_MAX);
    found.sort_by_key(|import| import.later);
    found
}

/// Set for functions, not for modules and classes (`inspect.CO_NEWLOCALS`).
const CO_NEWLOCALS: i32 = 2;

/// What differs between versions of Python.
struct Dialect {
    /// Integers before the code, the flags last.
    integers: usize,
    /// Objects behind `names` and before the line number.
    objects: usize,
    /// Objects behind the line number.
    objects_last: usize,
    import_name: u8,
    load_const: u8,
    extended_arg: u8,
}

impl Dialect {
    /// By the magic number (`CPython`, `Lib/importlib/_bootstrap_external.py`).
    fn of(file: &[u8]) -> Option<Self> {
        let magic = file.get(..4)?;
        if magic[2..] != *b"\r\n" {
            return None;
        }
        let old = Self {
            integers: 6,
            objects: 5,
            objects_last: 1,
            import_name: 108,
            load_const: 100,
            extended_arg: 144,
        };
        match u16::from_le_bytes([magic[0], magic[1]]) {
            // 3.8 to 3.10.
            3400..3450 => Some(old),
            // 3.11 and 3.12.
            3450..3550 => Some(Self { integers: 5, objects_last: 2, ..old }),
            // 3.13.
            3550..3600 => Some(Self {
                integers: 5,
                objects_last: 2,
                import_name: 75,
                load_const: 83,
                extended_arg: 71,
                ..old
            }),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
enum Node {
    Int(i64),
    /// A string or bytes, by its place in the file.
    Text(Range<usize>),
    Tuple(Vec<usize>),
    Code {
        code: usize,
        consts: usize,
        names: usize,
        flags: i32,
    },
    /// Another node.
    Same(usize),
    Other,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    /// What back references mean, by their number.
    refs: Vec<usize>,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn int(&mut self) -> Option<i32> {
        self.take(4).map(|bytes| i32::from_le_bytes(bytes.try_into().expect("four bytes")))
    }

    fn len(&mut self) -> Option<usize> {
        usize::try_from(self.int()?).ok()
    }

    fn text(&mut self, len: usize) -> Option<Node> {
        let start = self.at;
        self.take(len).map(|_| Node::Text(start..start + len))
    }

    /// Reads one object and returns its node.
    fn object(&mut self, dialect: &Dialect, depth: usize) -> Option<usize> {
        let kind = self.byte()?;
        self.object_of(kind, dialect, depth)
    }

    fn object_of(&mut self, kind: u8, dialect: &Dialect, depth: usize) -> Option<usize> {
        if depth > DEPTH_MAX || self.nodes.len() >= NODES_MAX {
            return None;
        }
        let id = self.nodes.len();
        self.nodes.push(Node::Other);
        if kind & 0x80 != 0 {
            self.refs.push(id);
        }
        let node = match kind & 0x7f {
            b'0' | b'N' | b'F' | b'T' | b'S' | b'.' => Node::Other,
            b'i' => Node::Int(self.int()?.into()),
            b'I' | b'g' => self.take(8).map(|_| Node::Other)?,
            b'y' => self.take(16).map(|_| Node::Other)?,
            b'f' => {
                let len = self.byte()?;
                self.take(len.into()).map(|_| Node::Other)?
            }
            b'x' => {
                for _ in 0..2 {
                    let len = self.byte()?;
                    self.take(len.into())?;
                }
                Node::Other
            }
            b'l' => {
                let digits = self.int()?.unsigned_abs() as usize;
                self.take(digits.checked_mul(2)?).map(|_| Node::Other)?
            }
            b's' | b't' | b'u' | b'a' | b'A' => {
                let len = self.len()?;
                self.text(len)?
            }
            b'z' | b'Z' => {
                let len = self.byte()?;
                self.text(len.into())?
            }
            b'r' => {
                let number = self.len()?;
                Node::Same(*self.refs.get(number)?)
            }
            b')' => {
                let len = self.byte()?.into();
                self.tuple(len, dialect, depth)?
            }
            b'(' | b'[' | b'<' | b'>' => {
                let len = self.len()?;
                self.tuple(len, dialect, depth)?
            }
            b'{' => {
                // Pairs until a NULL in place of a key.
                loop {
                    let kind = self.byte()?;
                    if kind & 0x7f == b'0' {
                        break Node::Other;
                    }
                    self.object_of(kind, dialect, depth + 1)?;
                    self.object(dialect, depth + 1)?;
                }
            }
            b'c' => self.code(dialect, depth)?,
            _ => return None,
        };
        self.nodes[id] = node;
        Some(id)
    }

    fn tuple(&mut self, len: usize, dialect: &Dialect, depth: usize) -> Option<Node> {
        // Each item is a byte at least.
        if len > self.bytes.len() - self.at {
            return None;
        }
        let items = (0..len).map(|_| self.object(dialect, depth + 1)).collect::<Option<_>>()?;
        Some(Node::Tuple(items))
    }

    fn code(&mut self, dialect: &Dialect, depth: usize) -> Option<Node> {
        let mut flags = 0;
        for _ in 0..dialect.integers {
            flags = self.int()?;
        }
        let code = self.object(dialect, depth + 1)?;
        let consts = self.object(dialect, depth + 1)?;
        let names = self.object(dialect, depth + 1)?;
        for _ in 0..dialect.objects {
            self.object(dialect, depth + 1)?;
        }
        self.int()?;
        for _ in 0..dialect.objects_last {
            self.object(dialect, depth + 1)?;
        }
        Some(Node::Code { code, consts, names, flags })
    }

    /// A node behind the references to it.
    fn node(&self, mut id: usize) -> Option<&Node> {
        for _ in 0..4 {
            match self.nodes.get(id)? {
                Node::Same(other) => id = *other,
                node => return Some(node),
            }
        }
        None
    }

    fn items(&self, id: usize) -> &[usize] {
        match self.node(id) {
            Some(Node::Tuple(items)) => items,
            _ => &[],
        }
    }

    fn string(&self, id: usize) -> Option<String> {
        match self.node(id)? {
            Node::Text(range) => String::from_utf8(self.bytes[range.clone()].to_vec()).ok(),
            _ => None,
        }
    }

    /// The imports of one code object: the level and the list of names are loaded right before.
    fn imports_of(
        &self,
        dialect: &Dialect,
        code: usize,
        consts: usize,
        names: usize,
        later: bool,
    ) -> Vec<Import> {
        let Some(Node::Text(range)) = self.node(code) else { return Vec::new() };
        let (consts, names) = (self.items(consts), self.items(names));
        let mut imports = Vec::new();
        let mut loaded: [Option<usize>; 2] = [None; 2];
        let mut extended = 0usize;
        for step in self.bytes[range.clone()].chunks_exact(2) {
            let (operation, argument) = (step[0], extended << 8 | usize::from(step[1]));
            extended = 0;
            if operation == dialect.extended_arg {
                extended = argument & 0xff_ffff;
            } else if operation == dialect.load_const {
                loaded = [loaded[1], consts.get(argument).copied()];
            } else if operation == dialect.import_name {
                let Some(module) = names.get(argument).and_then(|&name| self.string(name)) else {
                    continue;
                };
                let level = loaded[0].and_then(|id| self.node(id));
                let level = match level {
                    Some(Node::Int(level)) => usize::try_from(*level).unwrap_or(0),
                    _ => 0,
                };
                let names = loaded[1].map_or(&[][..], |id| self.items(id));
                let names = names.iter().filter_map(|&name| self.string(name)).collect();
                imports.push(Import { level, module, names, later });
                if imports.len() >= IMPORTS_MAX {
                    break;
                }
            }
        }
        imports
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Hand-made: `from ..a import b, c` in a module of Python 3.11, with a function that
    /// imports `d`.
    fn sample() -> Vec<u8> {
        let text = |text: &str| {
            let len = u8::try_from(text.len()).unwrap();
            [&[b'z', len][..], text.as_bytes()].concat()
        };
        let bytes = |bytes: &[u8]| {
            let len = u32::try_from(bytes.len()).unwrap();
            [&[b's'][..], &len.to_le_bytes(), bytes].concat()
        };
        let tuple = |items: &[Vec<u8>]| {
            let mut out = vec![b')', u8::try_from(items.len()).unwrap()];
            items.iter().for_each(|item| out.extend(item));
            out
        };
        let int = |value: i32| [&[b'i'][..], &value.to_le_bytes()].concat();
        let code = |flags: i32, steps: &[u8], consts: &[Vec<u8>], names: &[Vec<u8>]| {
            let mut out = vec![b'c'];
            [0, 0, 0, 1, flags].iter().for_each(|value: &i32| out.extend(value.to_le_bytes()));
            out.extend(bytes(steps));
            out.extend(tuple(consts));
            out.extend(tuple(names));
            out.extend(tuple(&[]));
            out.extend(bytes(b""));
            [text("f"), text("n"), text("q")].iter().for_each(|item| out.extend(item));
            out.extend(1i32.to_le_bytes());
            out.extend(bytes(b""));
            out.extend(bytes(b""));
            out
        };
        let inner = code(3, &[100, 0, 100, 1, 108, 0], &[int(0), vec![b'N']], &[text("d")]);
        let from = tuple(&[text("b"), text("c")]);
        let outer = code(0, &[100, 0, 100, 1, 108, 0], &[int(2), from, inner], &[text("a")]);
        [&[0xa7, 0x0d, b'\r', b'\n'][..], &[0; 12], &outer].concat()
    }

    #[test]
    fn imports_come_with_level_names_and_whether_they_wait() {
        let import = |level, module: &str, names: &[&str], later| Import {
            level,
            module: module.to_owned(),
            names: names.iter().map(|&name| name.to_owned()).collect(),
            later,
        };
        let expected = [import(2, "a", &["b", "c"], false), import(0, "d", &[], true)];
        assert_eq!(imports(&sample()), expected);
    }

    #[test]
    fn what_is_cut_short_or_of_another_version_says_nothing() {
        let sample = sample();
        for len in 0..sample.len() {
            assert_eq!(imports(&sample[..len]), []);
        }
        let mut other = sample;
        other[..2].copy_from_slice(&9999u16.to_le_bytes());
        assert_eq!(imports(&other), []);
    }

    proptest! {
        #[test]
        fn foreign_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut file = sample()[..HEADER_LEN].to_vec();
            file.extend(bytes);
            imports(&file);
        }

        #[test]
        fn changed_bytes_are_survived(changes in prop::collection::vec((16usize..400, any::<u8>()), 1..20)) {
            let mut file = sample();
            for (at, byte) in changes {
                if let Some(place) = file.get_mut(at) {
                    *place = byte;
                }
            }
            imports(&file);
        }
    }
}
