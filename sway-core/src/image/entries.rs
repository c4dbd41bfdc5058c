//! The entries of a tar stream, with everything that image builders put into them.
//!
//! The `tar` crate gives the layout of a header. Going from entry to entry is done here, because
//! images need what its iterator leaves out: PAX records with any bytes in their values (file
//! capabilities hold newlines), negative and fractional times, sizes and owners from PAX, and
//! sparse files whose holes are never read as zeros: GNU's old form and PAX 0.0, 0.1 and 1.0.
//!
//! Names are handed on as they are; what may be applied to a tree is `layer`'s business.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};

use tar::{EntryType, GnuExtSparseHeader, Header};

use crate::chunk::{CHUNK_LEN, Piece};
use crate::manifest::Timestamp;

const BLOCK_LEN: usize = 512;
const BLOCK: u64 = BLOCK_LEN as u64;

/// The longest PAX header or GNU long name, in bytes: what Go's `archive/tar` accepts too.
const EXTENSION_LEN_MAX: u64 = 1 << 20;

/// Most data areas of one sparse file.
const AREAS_MAX: usize = 1 << 20;

/// The longest file, in bytes: the manifest counts chunks with 32 bits.
const FILE_LEN_MAX: u64 = (CHUNK_LEN as u64) * (u32::MAX as u64 - 1);

/// A tar stream that can't be read on.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// The stream ends in the middle of something.
    #[error("the archive is truncated")]
    Truncated,
    /// Reading or decompressing failed.
    #[error("can't read the archive: {0}")]
    Read(#[source] io::Error),
    /// Bytes that are not a tar header, or one that makes no sense.
    #[error("the archive is damaged at byte {position}{}: {reason}", of(.path))]
    Malformed {
        /// Where in the uncompressed stream.
        position: u64,
        /// The entry, where it has a name.
        path: Vec<u8>,
        /// What is wrong.
        reason: String,
    },
}

fn of(path: &[u8]) -> String {
    if path.is_empty() { String::new() } else { format!(" ({})", path.escape_ascii()) }
}

impl From<io::Error> for EntryError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Read(error),
        }
    }
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// One more name of an earlier file.
    HardLink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
}

/// One entry.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name as it stands in the archive.
    pub path: Vec<u8>,
    /// Target of a link.
    pub target: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permissions with setuid, setgid and sticky.
    pub permissions: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Extended attributes (`SCHILY.xattr.*`).
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Device number, packed as by `makedev(3)`.
    pub device: u64,
    /// Bytes of the file, holes included.
    pub size: u64,
    /// Where the file's data begins in the archive, for files without holes.
    pub position: u64,
    /// Data areas in order; the rest of the file is zeros.
    areas: Vec<Area>,
}

#[derive(Clone, Copy, Debug)]
struct Area {
    start: u64,
    len: u64,
}

/// Reads a tar stream entry by entry.
#[derive(Debug)]
pub struct Entries<R> {
    input: R,
    /// Bytes read so far.
    position: u64,
    /// Bytes of the entry's data that were not read yet.
    data_left: u64,
    /// Bytes that fill the data's last block.
    padding: u64,
}

/// What stands before an entry and changes it.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    pax: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl<R: Read> Entries<R> {
    /// Of an uncompressed stream.
    pub fn new(input: R) -> Self {
        Self { input, position: 0, data_left: 0, padding: 0 }
    }

    /// The next entry; none at the archive's end. What was not read of the entry before is
    /// skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, EntryError> {
        let mut extensions = Extensions::default();
        let mut is_described = false;
        loop {
            self.skip_data()?;
            let Some(header) = self.header()? else {
                // An extended header alone has lost its entry.
                return if is_described { Err(EntryError::Truncated) } else { Ok(None) };
            };
            is_described = true;
            match header.entry_type() {
                EntryType::XHeader => extensions.pax = self.pax(&header)?,
                EntryType::GNULongName => extensions.path = Some(self.long_name(&header)?),
                EntryType::GNULongLink => extensions.target = Some(self.long_name(&header)?),
                // Values for all entries that follow: comments in practice. Docker and
                // containerd leave them aside as well.
                EntryType::XGlobalHeader => {
                    self.extension(&header)?;
                    is_described = false;
                }
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
    }

    /// The pieces of a regular file that [`Entries::next_entry`] has just returned, one chunk
    /// each, runs of holes together. Holes cost nothing, whatever their length.
    pub fn pieces<'a>(&'a mut self, entry: &'a Entry) -> Pieces<'a, R> {
        Pieces { entries: self, size: entry.size, areas: &entry.areas, at: 0, read: 0 }
    }

    /// All bytes of a small file.
    pub fn read_all(&mut self, entry: &Entry, len_max: u64) -> Result<Vec<u8>, EntryError> {
        if entry.size > len_max
            || entry.areas.iter().map(|area| area.len).sum::<u64>() != entry.size
        {
            return Err(self.malformed(&entry.path, format!("longer than {len_max} bytes")));
        }
        self.take(self.data_left)
    }

    /// The stream behind, to read what follows the archive's end.
    pub fn into_inner(self) -> R {
        self.input
    }

    fn malformed(&self, path: &[u8], reason: impl Into<String>) -> EntryError {
        EntryError::Malformed {
            position: self.position,
            path: path.to_vec(),
            reason: reason.into(),
        }
    }

    fn skip_data(&mut self) -> Result<(), EntryError> {
        let skip = self.data_left + self.padding;
        let skipped = io::copy(&mut (&mut self.input).take(skip), &mut io::sink())?;
        self.position += skipped;
        self.data_left = 0;
        self.padding = 0;
        if skipped == skip { Ok(()) } else { Err(EntryError::Truncated) }
    }

    /// The next header block; none at the end, which is a block of zeros or nothing at all.
    fn header(&mut self) -> Result<Option<Header>, EntryError> {
        let mut block = Vec::with_capacity(BLOCK_LEN);
        (&mut self.input).take(BLOCK).read_to_end(&mut block)?;
        if block.is_empty() || block.len() == BLOCK_LEN && block.iter().all(|&b| b == 0) {
            self.position += block.len() as u64;
            return Ok(None);
        }
        if block.len() < BLOCK_LEN {
            return Err(EntryError::Truncated);
        }
        let header = Header::from_byte_slice(&block).clone();
        if !checksum_holds(&block, number(&header.as_old().cksum)) {
            return Err(self.malformed(&[], "not a tar header (its checksum does not match)"));
        }
        self.position += BLOCK;
        Ok(Some(header))
    }

    /// Declares the data that follows a header.
    fn expect_data(&mut self, len: u64) {
        self.data_left = len;
        self.padding = len.next_multiple_of(BLOCK) - len;
    }

    /// Reads `len` of the entry's data.
    fn take(&mut self, len: u64) -> Result<Vec<u8>, EntryError> {
        let mut bytes = Vec::new();
        (&mut self.input).take(len).read_to_end(&mut bytes)?;
        self.position += bytes.len() as u64;
        self.data_left -= bytes.len() as u64;
        if bytes.len() as u64 == len { Ok(bytes) } else { Err(EntryError::Truncated) }
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), EntryError> {
        self.input.read_exact(out)?;
        self.position += out.len() as u64;
        self.data_left -= out.len() as u64;
        Ok(())
    }

    /// The data of a header that describes the entry after it.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, EntryError> {
        let len = number(&header.as_old().size).unwrap_or(u64::MAX);
        if len > EXTENSION_LEN_MAX {
            let reason = format!("an extended header of more than {EXTENSION_LEN_MAX} bytes");
            return Err(self.malformed(&[], reason));
        }
        self.expect_data(len);
        self.take(len)
    }

    fn long_name(&mut self, header: &Header) -> Result<Vec<u8>, EntryError> {
        let mut name = self.extension(header)?;
        if let Some(end) = name.iter().position(|&byte| byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn pax(&mut self, header: &Header) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, EntryError> {
        let bytes = self.extension(header)?;
        pax_records(&bytes).ok_or_else(|| self.malformed(&[], "a malformed PAX header"))
    }

    fn entry(&mut self, header: &Header, mut extensions: Extensions) -> Result<Entry, EntryError> {
        let old = header.as_old();
        let pax = std::mem::take(&mut extensions.pax);
        let text = |key: &str| pax.get(key.as_bytes()).map(Vec::as_slice);
        let path = text("GNU.sparse.name")
            .or(text("path"))
            .map(<[u8]>::to_vec)
            .or(extensions.path)
            .unwrap_or_else(|| header_path(header));
        let target = text("linkpath")
            .map(<[u8]>::to_vec)
            .or(extensions.target)
            .unwrap_or_else(|| until_nul(&old.linkname).to_vec());
        let bad = |what: &str| self.malformed(&path, format!("a malformed {what}"));
        let decimal = |key: &str, field: &[u8]| match text(key) {
            Some(text) => decimal(text),
            None => number(field),
        };
        let id = |key: &str, field: &[u8]| {
            // All ones is what chown(2) takes for "leave it".
            decimal(key, field)
                .and_then(|id| u32::try_from(id).ok())
                .filter(|&id| id != u32::MAX)
                .ok_or_else(|| bad(key))
        };
        let kind = self.kind(header, &path)?;
        let stored = match kind {
            EntryKind::Regular => decimal("size", &old.size).ok_or_else(|| bad("size"))?,
            // Other entries have no data, whatever their size field says.
            _ => 0,
        };
        let device = match kind {
            EntryKind::CharDevice | EntryKind::BlockDevice => {
                device(header).ok_or_else(|| bad("device number"))?
            }
            _ => 0,
        };
        let mtime = match text("mtime") {
            Some(text) => pax_time(text),
            None => number(&old.mtime)
                .map(|seconds| Timestamp { seconds: seconds.cast_signed(), nanoseconds: 0 }),
        };
        let xattrs = pax.iter().filter_map(|(key, value)| {
            let name = key.strip_prefix(b"SCHILY.xattr.")?;
            (!name.is_empty()).then(|| (name.to_vec(), value.clone()))
        });
        let mut entry = Entry {
            target,
            kind,
            permissions: number(&old.mode)
                .and_then(|mode| u32::try_from(mode & 0o7777).ok())
                .ok_or_else(|| bad("mode"))?,
            uid: id("uid", &old.uid)?,
            gid: id("gid", &old.gid)?,
            mtime: mtime.ok_or_else(|| bad("time"))?,
            xattrs: xattrs.collect(),
            device,
            size: stored,
            position: 0,
            areas: vec![Area { start: 0, len: stored }],
            path,
        };
        self.expect_data(stored);
        if kind == EntryKind::Regular {
            self.find_areas(header, &pax, stored, &mut entry)?;
        }
        entry.position = self.position;
        Ok(entry)
    }

    fn kind(&self, header: &Header, path: &[u8]) -> Result<EntryKind, EntryError> {
        Ok(match header.entry_type() {
            // Before POSIX a directory was a file whose name ends in a slash.
            EntryType::Regular
                if header.as_old().linkflag[0] == 0 && path.last() == Some(&b'/') =>
            {
                EntryKind::Directory
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => EntryKind::Regular,
            EntryType::Directory => EntryKind::Directory,
            EntryType::Symlink => EntryKind::Symlink,
            EntryType::Link => EntryKind::HardLink,
            EntryType::Char => EntryKind::CharDevice,
            EntryType::Block => EntryKind::BlockDevice,
            EntryType::Fifo => EntryKind::Fifo,
            other => {
                let flag = [other.as_byte()];
                let reason = format!("an entry of unknown type '{}'", flag.escape_ascii());
                return Err(self.malformed(path, reason));
            }
        })
    }

    /// Replaces the one area of an entry by the map of a sparse file, if it is one.
    fn find_areas(
        &mut self,
        header: &Header,
        pax: &BTreeMap<Vec<u8>, Vec<u8>>,
        stored: u64,
        entry: &mut Entry,
    ) -> Result<(), EntryError> {
        let text = |key: &str| pax.get(key.as_bytes()).map(Vec::as_slice);
        let version = (text("GNU.sparse.major"), text("GNU.sparse.minor"));
        let map = text("GNU.sparse.map");
        let found = if header.entry_type() == EntryType::GNUSparse {
            Some(self.gnu_map(header, stored)?)
        } else if version == (Some(b"1"), Some(b"0")) {
            let size = text("GNU.sparse.realsize").and_then(decimal);
            self.inline_map()?.zip(size)
        } else if map.is_some() || version.0 == Some(b"0") {
            let size = text("GNU.sparse.size").or(text("GNU.sparse.realsize")).and_then(decimal);
            pax_map(map.unwrap_or_default()).zip(size)
        } else {
            Some((vec![Area { start: 0, len: stored }], stored))
        };
        let sound = found.filter(|(areas, size)| areas_are_sound(areas, *size, self.data_left));
        let Some((areas, size)) = sound else {
            return Err(self.malformed(&entry.path, "a malformed map of a sparse file"));
        };
        if size > FILE_LEN_MAX {
            return Err(self.malformed(&entry.path, format!("a file of {size} bytes")));
        }
        entry.areas = areas;
        entry.size = size;
        Ok(())
    }

    /// GNU's old form: four areas in the header, more in blocks that follow it.
    fn gnu_map(&mut self, header: &Header, stored: u64) -> Result<(Vec<Area>, u64), EntryError> {
        let malformed = |entries: &Self| entries.malformed(&[], "a malformed sparse header");
        let gnu = header.as_gnu().ok_or_else(|| malformed(self))?;
        let mut areas = Vec::new();
        let mut add = |fields: &[tar::GnuSparseHeader]| {
            for field in fields.iter().filter(|field| field.numbytes[0] != 0) {
                areas.push(Area { start: number(&field.offset)?, len: number(&field.numbytes)? });
            }
            (areas.len() <= AREAS_MAX).then_some(())
        };
        add(&gnu.sparse).ok_or_else(|| malformed(self))?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            self.input.read_exact(block.as_mut_bytes())?;
            self.position += BLOCK;
            add(block.sparse()).ok_or_else(|| malformed(self))?;
            more = block.is_extended();
        }
        self.expect_data(stored);
        let size = number(&gnu.realsize).ok_or_else(|| malformed(self))?;
        Ok((areas, size))
    }

    /// PAX 1.0: decimal lines at the head of the data, filled up to a whole block.
    fn inline_map(&mut self) -> Result<Option<Vec<Area>>, EntryError> {
        let mut text = Vec::new();
        let mut numbers: Vec<u64> = Vec::new();
        let mut wanted = 1;
        while numbers.len() < wanted {
            match text.iter().position(|&byte| byte == b'\n') {
                Some(end) => {
                    let Some(value) = decimal(&text[..end]) else { return Ok(None) };
                    text.drain(..=end);
                    numbers.push(value);
                    if numbers.len() == 1 {
                        match usize::try_from(value) {
                            Ok(count) if count <= AREAS_MAX => wanted += 2 * count,
                            _ => return Ok(None),
                        }
                    }
                }
                None if self.data_left >= BLOCK && text.len() < BLOCK_LEN => {
                    text.extend(self.take(BLOCK)?);
                }
                None => return Ok(None),
            }
        }
        Ok(Some(pairs(&numbers[1..])))
    }
}

impl<R: Read + Seek> Entries<R> {
    /// Skips the data of the current entry without reading it.
    pub fn seek_past_data(&mut self) -> Result<(), EntryError> {
        let skip = self.data_left + self.padding;
        if let (Some(last), true) = (skip.checked_sub(1), skip > 0) {
            // Reading the last byte notices an archive that ends before.
            let by = i64::try_from(last).map_err(|_| EntryError::Truncated)?;
            self.input.seek(SeekFrom::Current(by))?;
            self.input.read_exact(&mut [0])?;
            self.position += skip;
        }
        self.data_left = 0;
        self.padding = 0;
        Ok(())
    }
}

/// What a file consists of, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentPiece {
    /// One chunk; only the last one is shorter than [`CHUNK_LEN`].
    Data(Vec<u8>),
    /// So many full chunks of zeros.
    Holes(u32),
}

/// Iterator of [`Entries::pieces`]. Ends after the first error.
#[derive(Debug)]
pub struct Pieces<'a, R> {
    entries: &'a mut Entries<R>,
    size: u64,
    areas: &'a [Area],
    /// Position in the file, a multiple of the chunk length.
    at: u64,
    /// Bytes of the first of `areas` that were read.
    read: u64,
}

impl<R: Read> Iterator for Pieces<'_, R> {
    type Item = Result<ContentPiece, EntryError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.size {
            return None;
        }
        while self.areas.first().is_some_and(|area| area.len == self.read) {
            self.areas = &self.areas[1..];
            self.read = 0;
        }
        let data = self.areas.first().map_or(self.size, |area| area.start + self.read);
        let holes = data.saturating_sub(self.at) / u64::from(CHUNK_LEN);
        if let Some(count) = u32::try_from(holes).ok().filter(|&count| count > 0) {
            self.at += holes * u64::from(CHUNK_LEN);
            return Some(Ok(ContentPiece::Holes(count)));
        }
        let piece = self.chunk();
        if piece.is_err() {
            self.at = self.size;
        }
        Some(piece)
    }
}

impl<R: Read> Pieces<'_, R> {
    /// The chunk at `at`, which has data or is the file's short end.
    fn chunk(&mut self) -> Result<ContentPiece, EntryError> {
        let end = self.size.min(self.at + u64::from(CHUNK_LEN));
        let place = |position: u64| {
            usize::try_from(position - self.at).expect("a place within a chunk fits in usize")
        };
        let mut bytes = vec![0; place(end)];
        while let Some(area) = self.areas.first() {
            let from = area.start + self.read;
            let until = end.min(area.start + area.len);
            if from >= end {
                break;
            }
            self.entries.fill(&mut bytes[place(from)..place(until)])?;
            self.read += until - from;
            if until < area.start + area.len {
                break;
            }
            self.areas = &self.areas[1..];
            self.read = 0;
        }
        self.at = end;
        Ok(match Piece::of(bytes) {
            Piece::Data(bytes) => ContentPiece::Data(bytes),
            Piece::Hole => ContentPiece::Holes(1),
        })
    }
}

/// In order, apart from one another, within the file, and together what the archive holds.
fn areas_are_sound(areas: &[Area], size: u64, stored: u64) -> bool {
    let mut end = 0;
    let mut sum = 0u64;
    for area in areas {
        let Some(next) = area.start.checked_add(area.len) else { return false };
        if area.start < end || next > size {
            return false;
        }
        end = next;
        sum += area.len;
    }
    sum == stored
}

fn pairs(numbers: &[u64]) -> Vec<Area> {
    numbers.chunks_exact(2).map(|pair| Area { start: pair[0], len: pair[1] }).collect()
}

/// PAX 0.0 and 0.1: `offset,length,offset,length,…`
fn pax_map(text: &[u8]) -> Option<Vec<Area>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let numbers: Vec<u64> = text.split(|&byte| byte == b',').map(decimal).collect::<Option<_>>()?;
    (numbers.len().is_multiple_of(2) && numbers.len() <= 2 * AREAS_MAX).then(|| pairs(&numbers))
}

/// `length key=value\n` over and over. The repeated offsets and lengths of PAX 0.0 are gathered
/// as 0.1 has them. An empty value takes back a value from before.
fn pax_records(mut bytes: &[u8]) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut records = BTreeMap::new();
    let mut sparse = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|&byte| byte == b' ')?;
        let len = usize::try_from(decimal(&bytes[..space])?).ok()?;
        let record = bytes.get(space + 1..len)?.strip_suffix(b"\n")?;
        bytes = &bytes[len..];
        let equals = record.iter().position(|&byte| byte == b'=').filter(|&at| at > 0)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                decimal(value)?;
                sparse.push(value.to_vec());
            }
            _ if value.is_empty() => {
                records.remove(key);
            }
            _ => {
                records.insert(key.to_vec(), value.to_vec());
            }
        }
    }
    if !sparse.is_empty() {
        records.insert(b"GNU.sparse.map".to_vec(), sparse.join(&b','));
    }
    Some(records)
}

/// `[-]seconds[.fraction]`; digits below a nanosecond are cut off.
fn pax_time(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanoseconds = digits.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanoseconds) {
        (false, _) => Timestamp { seconds, nanoseconds },
        (true, 0) => Timestamp { seconds: -seconds, nanoseconds },
        // Nanoseconds count forward from whole seconds.
        (true, _) => Timestamp { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A numeric field: octal digits among spaces and NULs (none at all is 0), or, with the top bit
/// set, a binary number in two's complement, whose last eight bytes are returned.
fn number(field: &[u8]) -> Option<u64> {
    if field.first()? & 0x80 != 0 {
        let mut value = if field[0] & 0x40 != 0 { u64::MAX } else { u64::from(field[0] & 0x3f) };
        let sign = if field[0] & 0x40 != 0 { 0xff } else { 0 };
        let (high, low) = field[1..].split_at(field.len().saturating_sub(9));
        if high.iter().any(|&byte| byte != sign) {
            return None;
        }
        for &byte in low {
            value = value << 8 | u64::from(byte);
        }
        return Some(value);
    }
    let blank = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    digits[..end].iter().try_fold(0u64, |value, &digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn header_path(header: &Header) -> Vec<u8> {
    let name = until_nul(&header.as_old().name);
    match header.as_ustar().map(|ustar| until_nul(&ustar.prefix)) {
        Some(prefix) if !prefix.is_empty() => [prefix, name].join(&b'/'),
        _ => name.to_vec(),
    }
}

/// `makedev(3)` of glibc.
fn device(header: &Header) -> Option<u64> {
    let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
        (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
        (None, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
        (None, None) => return Some(0),
    };
    let major = u64::from(u32::try_from(number(major)?).ok()?);
    let minor = u64::from(u32::try_from(number(minor)?).ok()?);
    Some(
        (major & 0xffff_f000) << 32
            | (major & 0xfff) << 8
            | (minor & 0xffff_ff00) << 12
            | minor & 0xff,
    )
}

/// Old programs summed up signed bytes.
fn checksum_holds(block: &[u8], expected: Option<u64>) -> bool {
    let counted = |at: usize, byte: u8| if (148..156).contains(&at) { b' ' } else { byte };
    let bytes = || block.iter().enumerate().map(|(at, &byte)| counted(at, byte));
    let unsigned: u64 = bytes().map(u64::from).sum();
    let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
    expected == Some(unsigned) || expected.map(u64::cast_signed) == Some(signed)
}

#[cfg(test)]
mod tests;
