//! Which libraries an ELF file needs, and which of its bytes loading it touches. Pure.
//!
//! The loader reads the program headers, follows the dynamic section to the string table, and
//! relocates what may be written; code is paged in as it runs. The file is foreign: every number
//! is checked, and whatever is odd ends the reading. 64-bit little-endian files only, which are
//! all that Sway's machines run.

use std::ops::Range;

/// Bytes of the file that [`Headers::parse`] wants: the headers of every usual file.
pub(super) const HEAD_LEN: usize = 4096;

const PROGRAM_HEADER_LEN: usize = 56;
const SEGMENTS_MAX: usize = 64;

/// The longest dynamic section that is read, in bytes.
const DYNAMIC_LEN_MAX: u64 = 64 << 10;

/// The longest string table that is read, in bytes.
const STRINGS_LEN_MAX: u64 = 64 << 20;

/// The longest name or path in it, in bytes.
const NAME_LEN_MAX: usize = 4096;

const NEEDED_MAX: usize = 256;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PF_W: u32 = 2;

const DT_NEEDED: u64 = 1;
const DT_PLTRELSZ: u64 = 2;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const DT_STRSZ: u64 = 10;
const DT_JMPREL: u64 = 23;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

/// A piece of the file that is mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    /// Where it is mapped.
    address: u64,
    /// Where it is in the file.
    file: Range<u64>,
    writable: bool,
}

/// What the program headers tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Headers {
    segments: Vec<Segment>,
    /// The program that loads this one, a path.
    pub(super) interpreter: Option<Vec<u8>>,
    /// The dynamic section, in bytes of the file; none for a static program.
    pub(super) dynamic: Option<Range<u64>>,
}

/// What the dynamic section tells, as places in the string table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dynamic {
    needed: Vec<u64>,
    rpath: Option<u64>,
    runpath: Option<u64>,
    strings: Range<u64>,
    /// What loading touches: tables, and what may be written.
    pub(super) loaded: Vec<Range<u64>>,
}

/// What a file asks its loader for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Names of libraries, or paths where they hold a `/`.
    pub(super) libraries: Vec<Vec<u8>>,
    /// Directories to search first, before those that are the system's; `$ORIGIN` unreplaced.
    pub(super) search: Vec<Vec<u8>>,
}

impl Headers {
    /// From the first bytes of a file ([`HEAD_LEN`], or all of a shorter one); none where it is no
    /// ELF file.
    pub(super) fn parse(head: &[u8]) -> Option<Self> {
        // Class 64, little-endian, version 1.
        if head.get(..7)? != b"\x7fELF\x02\x01\x01" {
            return None;
        }
        let offset = usize::try_from(u64_at(head, 32)?).ok()?;
        let len = usize::from(u16_at(head, 54)?);
        let count = usize::from(u16_at(head, 56)?);
        if len != PROGRAM_HEADER_LEN || count > SEGMENTS_MAX {
            return None;
        }
        let mut headers = Self { segments: Vec::new(), interpreter: None, dynamic: None };
        for number in 0..count {
            let start = offset.checked_add(number * len)?;
            let header = head.get(start..start.checked_add(len)?)?;
            let (kind, flags) = (u32_at(header, 0)?, u32_at(header, 4)?);
            let (from, address) = (u64_at(header, 8)?, u64_at(header, 16)?);
            let file = from..from.checked_add(u64_at(header, 32)?)?;
            match kind {
                PT_LOAD => {
                    let writable = flags & PF_W != 0;
                    headers.segments.push(Segment { address, file, writable });
                }
                PT_DYNAMIC => headers.dynamic = Some(file),
                PT_INTERP => headers.interpreter = string_in(head, file),
                _ => {}
            }
        }
        if headers.dynamic.as_ref().is_some_and(|range| range.end - range.start > DYNAMIC_LEN_MAX) {
            return None;
        }
        Some(headers)
    }

    /// From the bytes of [`Headers::dynamic`].
    pub(super) fn dynamic(&self, section: &[u8]) -> Option<Dynamic> {
        let mut needed = Vec::new();
        let mut values = [None; 32];
        for entry in section.chunks_exact(16) {
            let (tag, value) = (u64_at(entry, 0)?, u64_at(entry, 8)?);
            match tag {
                0 => break,
                DT_NEEDED if needed.len() < NEEDED_MAX => needed.push(value),
                tag if tag < 32 => values[usize::try_from(tag).ok()?] = Some(value),
                _ => {}
            }
        }
        let value = |tag: u64| values[usize::try_from(tag).ok()?];
        let start = self.file_offset(value(DT_STRTAB)?)?;
        let strings_len = value(DT_STRSZ).unwrap_or(0).min(STRINGS_LEN_MAX);
        let strings = start..start.checked_add(strings_len)?;
        let table = |at: u64, len: u64| {
            let start = self.file_offset(value(at)?)?;
            Some(start..start.checked_add(value(len)?)?)
        };
        // The symbols have no length of their own; the strings usually follow them.
        let symbols = value(DT_SYMTAB).and_then(|at| self.file_offset(at));
        let symbols = symbols.map(|at| at..if at < start { start } else { at + 1 });
        let tables = [
            symbols,
            Some(strings.clone()),
            table(DT_RELA, DT_RELASZ),
            table(DT_JMPREL, DT_PLTRELSZ),
        ];
        let writable = self.segments.iter().filter(|segment| segment.writable);
        let writable = writable.map(|segment| segment.file.clone());
        let loaded = tables.into_iter().flatten().chain(writable).collect();
        let (rpath, runpath) = (value(DT_RPATH), value(DT_RUNPATH));
        Some(Dynamic { needed, rpath, runpath, strings, loaded })
    }

    /// Everything that is mapped, in the order of the file.
    pub(super) fn mapped(&self) -> impl Iterator<Item = Range<u64>> {
        self.segments.iter().map(|segment| segment.file.clone())
    }

    fn file_offset(&self, address: u64) -> Option<u64> {
        self.segments.iter().find_map(|segment| {
            let within = address.checked_sub(segment.address)?;
            let offset = segment.file.start.checked_add(within)?;
            (offset < segment.file.end).then_some(offset)
        })
    }
}

impl Dynamic {
    /// The bytes of the file that hold all names that are asked for.
    pub(super) fn strings(&self) -> Option<Range<u64>> {
        let wanted = self.needed.iter().chain(&self.rpath).chain(&self.runpath);
        let (mut first, mut last) = (u64::MAX, 0);
        for &at in wanted {
            first = first.min(at);
            last = last.max(at);
        }
        if first > last {
            return None;
        }
        let start = self.strings.start.checked_add(first)?;
        let end = self.strings.start.checked_add(last)?.checked_add(NAME_LEN_MAX as u64)?;
        let end = end.min(self.strings.end);
        (start < end).then_some(start..end)
    }

    /// From the bytes of [`Dynamic::strings`].
    pub(super) fn needs(&self, strings: &[u8]) -> Needs {
        let Some(range) = self.strings() else { return Needs::default() };
        let string = |&at: &u64| {
            let at = usize::try_from(self.strings.start.checked_add(at)? - range.start).ok()?;
            string_in(strings, at as u64..strings.len() as u64)
        };
        // A file with a RUNPATH has no RPATH for the loader.
        let search = self.runpath.or(self.rpath).as_ref().and_then(string).unwrap_or_default();
        let search = search.split(|&byte| byte == b':').filter(|path| !path.is_empty());
        Needs {
            libraries: self.needed.iter().filter_map(string).collect(),
            search: search.map(<[u8]>::to_vec).collect(),
        }
    }
}

/// A string that ends with a NUL or with its range.
fn string_in(bytes: &[u8], range: Range<u64>) -> Option<Vec<u8>> {
    let start = usize::try_from(range.start).ok()?;
    let end = usize::try_from(range.end).ok()?.min(bytes.len());
    let bytes = bytes.get(start..end)?;
    let len = bytes.iter().take(NAME_LEN_MAX).position(|&byte| byte == 0)?;
    (len > 0).then(|| bytes[..len].to_vec())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A library: one data segment that holds everything, one of code.
    pub(in crate::predict) fn library(needed: &[&str], runpath: Option<&str>) -> Vec<u8> {
        let mut strings = vec![0u8];
        let mut add = |text: &str| {
            let at = strings.len() as u64;
            strings.extend(text.as_bytes());
            strings.push(0);
            at
        };
        let mut dynamic: Vec<(u64, u64)> =
            needed.iter().map(|name| (DT_NEEDED, add(name))).collect();
        dynamic.extend(runpath.map(|path| (DT_RUNPATH, add(path))));
        let base = 0x10_000u64;
        let (dynamic_at, strings_at) = (512u64, 2048u64);
        dynamic.extend([(DT_STRTAB, base + strings_at), (DT_STRSZ, strings.len() as u64), (0, 0)]);
        let mut file = vec![0u8; 8192];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..56].copy_from_slice(&56u16.to_le_bytes());
        file[56..58].copy_from_slice(&3u16.to_le_bytes());
        let headers = [
            (PT_LOAD, 6u32, 0u64, base, 4096u64),
            (PT_LOAD, 5, 4096, base + 4096, 4096),
            (PT_DYNAMIC, 6, dynamic_at, base + dynamic_at, dynamic.len() as u64 * 16),
        ];
        for (number, (kind, flags, offset, address, len)) in headers.into_iter().enumerate() {
            let at = 64 + number * PROGRAM_HEADER_LEN;
            file[at..at + 4].copy_from_slice(&kind.to_le_bytes());
            file[at + 4..at + 8].copy_from_slice(&flags.to_le_bytes());
            for (place, value) in [(8, offset), (16, address), (32, len), (40, len)] {
                file[at + place..at + place + 8].copy_from_slice(&value.to_le_bytes());
            }
        }
        for (number, (tag, value)) in dynamic.into_iter().enumerate() {
            let at = usize::try_from(dynamic_at).unwrap() + number * 16;
            file[at..at + 8].copy_from_slice(&tag.to_le_bytes());
            file[at + 8..at + 16].copy_from_slice(&value.to_le_bytes());
        }
        let at = usize::try_from(strings_at).unwrap();
        file[at..at + strings.len()].copy_from_slice(&strings);
        file
    }

    fn slice(file: &[u8], range: Range<u64>) -> &[u8] {
        let start = usize::try_from(range.start).unwrap().min(file.len());
        &file[start..usize::try_from(range.end).unwrap().clamp(start, file.len())]
    }

    /// All that can be asked of a file.
    fn needs(file: &[u8]) -> Option<Needs> {
        let headers = Headers::parse(&file[..HEAD_LEN.min(file.len())])?;
        assert!(headers.mapped().count() <= SEGMENTS_MAX);
        let dynamic = headers.dynamic(slice(file, headers.dynamic.clone()?))?;
        Some(dynamic.needs(slice(file, dynamic.strings()?)))
    }

    #[test]
    fn a_library_names_what_it_needs_and_where_to_look() {
        let file = library(&["libc.so.6", "libm.so.6"], Some("$ORIGIN/../lib:/opt/lib"));
        let needs = needs(&file).unwrap();
        assert_eq!(needs.libraries, [b"libc.so.6".to_vec(), b"libm.so.6".to_vec()]);
        assert_eq!(needs.search, [b"$ORIGIN/../lib".to_vec(), b"/opt/lib".to_vec()]);
    }

    #[test]
    fn loading_touches_tables_and_what_may_be_written() {
        let file = library(&["x"], None);
        let headers = Headers::parse(&file).unwrap();
        let dynamic = headers.dynamic(slice(&file, headers.dynamic.clone().unwrap())).unwrap();
        assert_eq!(dynamic.loaded, [2048..2051, 0..4096]);
        assert_eq!(headers.mapped().collect::<Vec<_>>(), [0..4096, 4096..8192]);
    }

    #[test]
    fn this_test_itself_needs_a_libc() {
        let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let needs = needs(&file).unwrap();
        assert!(needs.libraries.iter().any(|name| name.starts_with(b"libc.")), "{needs:?}");
    }

    #[test]
    fn what_is_cut_short_says_nothing() {
        let file = library(&["libc.so.6"], None);
        for len in 0..2000 {
            assert_eq!(needs(&file[..len]).unwrap_or_default(), Needs::default());
        }
    }

    proptest! {
        #[test]
        fn changed_bytes_are_survived(
            changes in prop::collection::vec((7usize..2200, any::<u8>()), 1..30),
        ) {
            let mut file = library(&["libc.so.6", "b"], Some("/x"));
            for (at, byte) in changes {
                file[at] = byte;
            }
            needs(&file);
        }

        #[test]
        fn foreign_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            let mut file = b"\x7fELF\x02\x01\x01".to_vec();
            file.extend(bytes);
            needs(&file);
        }
    }
}
