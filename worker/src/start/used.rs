//! How much of what a start pushed its job used, as the kernel's marks on the pages tell.
//!
//! FUSE sees no use of a page that lies in the page cache. The kernel does: a pushed page is made
//! as referenced (`fuse_notify_store` takes it with `FGP_ACCESSED`), and its first use, by a read or
//! when a mapping of it goes away, makes it active instead (`folio_mark_accessed` in mm/swap.c).
//! What is referenced and not active after the job has ended was not used by it. The marks are read
//! from `/proc/kpageflags` (Documentation/admin-guide/mm/pagemap.rst), through a mapping of our own
//! that leaves none. Kernels with the multi-generational LRU switched on keep other marks.
#![expect(unsafe_code, reason = "mappings of files have no safe wrapper")]

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::ptr;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, Mode, OFlags};
use sway_core::chunk::PAGE_LEN;
use sway_core::trace::TraceRange;

use super::plan::Plan;
use crate::mount::{Aftermath, ImageMount};

/// Bits of `/proc/kpageflags`.
const REFERENCED: u64 = 1 << 2;
const ACTIVE: u64 = 1 << 6;

/// Fields of an entry of `/proc/self/pagemap`.
const PRESENT: u64 = 1 << 63;
const FRAME_NUMBER: u64 = (1 << 55) - 1;

/// Where the kernel says whether its LRU has generations.
const GENERATIONS: &str = "/sys/kernel/mm/lru_gen/enabled";

const PAGE: u64 = PAGE_LEN as u64;

/// What was pushed for a job that had its mount for itself, and has ended.
#[derive(Debug)]
pub struct Pushed {
    pub(super) mount: Aftermath,
    pub(super) plan: Arc<Plan>,
    pub(super) bytes: u64,
}

impl Pushed {
    /// Bytes that were pushed.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of pages that the job used. None where that is not known: another job has begun on the
    /// mount, the kernel has taken pages back, the job's own reads brought many of them, or the kernel
    /// keeps other marks. Takes some 10 ms for 30 MB, and blocks.
    pub fn used(&self) -> io::Result<Option<u64>> {
        let Some(mount) = self.mount.mount() else { return Ok(None) };
        if has_generations()? {
            return Ok(None);
        }
        let marks = Marks::read(&mount, &self.plan)?;
        // Whoever came meanwhile has left marks of its own.
        let is_alone = self.mount.mount().is_some();
        // Pages of reads start with other marks than pushed ones.
        let are_pushed = marks.resident.abs_diff(self.bytes) <= self.bytes / 20;
        Ok((is_alone && are_pushed).then(|| marks.used.min(self.bytes)))
    }
}

fn has_generations() -> io::Result<bool> {
    match fs_err::read_to_string(GENERATIONS) {
        Ok(enabled) => Ok(enabled.trim().trim_start_matches("0x").bytes().any(|bit| bit != b'0')),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Bytes of the trace's pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Marks {
    /// In the page cache.
    resident: u64,
    /// Of those, used.
    used: u64,
}

impl Marks {
    fn read(mount: &ImageMount, plan: &Plan) -> io::Result<Self> {
        let kernel = Kernel::open()?;
        let mut ranges: Vec<&TraceRange> = plan.trace().ranges().iter().collect();
        ranges.sort_unstable_by_key(|range| (range.file, range.first));
        let mut marks = Self::default();
        for ranges in ranges.chunk_by(|a, b| a.file == b.file) {
            let Some(target) = plan.target(ranges[0].file) else { continue };
            let relative = target.path.strip_prefix(b"/").unwrap_or(&target.path);
            let path = mount.path().join(OsStr::from_bytes(relative));
            let pages = Pages::of(&path, ranges)?;
            for range in ranges {
                let end = plan.trace().range_bytes(range).end;
                kernel.look(&pages, range, |page, flags| {
                    let bytes = (end - page * PAGE).min(PAGE);
                    marks.resident += bytes;
                    if flags & ACTIVE != 0 || flags & REFERENCED == 0 {
                        marks.used += bytes;
                    }
                })?;
            }
        }
        Ok(marks)
    }
}

/// A part of a file, mapped.
struct Pages {
    address: *mut libc::c_void,
    /// Pages of the file.
    pages: Range<u64>,
}

impl Pages {
    /// Maps what these ranges of one file span. They are sorted.
    fn of(path: &Path, ranges: &[&TraceRange]) -> io::Result<Self> {
        let first = u64::from(ranges.first().map_or(0, |range| range.first));
        let end =
            ranges.last().map_or(first, |range| u64::from(range.first) + u64::from(range.count));
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file: OwnedFd = rustix::fs::open(path, flags, Mode::empty())?;
        let len = bytes(end - first)?;
        let offset = libc::off_t::try_from(first * PAGE).map_err(io::Error::other)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let address = unsafe {
            let (prot, flags) = (libc::PROT_READ, libc::MAP_SHARED);
            libc::mmap(ptr::null_mut(), len, prot, flags, file.as_raw_fd(), offset)
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let pages = Self { address, pages: first..end };
        // Without reading ahead, and without marking what is mapped as used when it goes away.
        // SAFETY: the range is the mapping's own, and no memory of it is in use.
        match unsafe { libc::madvise(address, len, libc::MADV_RANDOM) } {
            0 => Ok(pages),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Where a page of the file, which is one of these, is mapped.
    fn address(&self, page: u64) -> io::Result<*mut libc::c_void> {
        Ok(self.address.wrapping_byte_add(bytes(page - self.pages.start)?))
    }

    /// Which pages are in the page cache.
    fn resident(&self, pages: Range<u64>) -> io::Result<Vec<bool>> {
        let mut found =
            vec![0u8; usize::try_from(pages.end - pages.start).map_err(io::Error::other)?];
        // SAFETY: the range lies in the mapping, and `found` has a byte for each of its pages.
        let result = unsafe {
            let address = self.address(pages.start)?;
            libc::mincore(address, bytes(pages.end - pages.start)?, found.as_mut_ptr())
        };
        match result {
            0 => Ok(found.into_iter().map(|byte| byte & 1 != 0).collect()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Ok(len) = bytes(self.pages.end - self.pages.start) {
            // SAFETY: the mapping is ours, and nothing points into it any more.
            unsafe { libc::munmap(self.address, len) };
        }
    }
}

/// The kernel's own view of our mappings.
struct Kernel {
    /// Page frame numbers.
    pagemap: File,
    /// Marks by page frame number.
    flags: File,
    /// Where bytes are written to that the kernel is to look at.
    sink: OwnedFd,
}

impl Kernel {
    fn open() -> io::Result<Self> {
        Ok(Self {
            pagemap: fs_err::File::open("/proc/self/pagemap")?.into_parts().0,
            flags: fs_err::File::open("/proc/kpageflags")?.into_parts().0,
            sink: rustix::fs::memfd_create("pages", MemfdFlags::CLOEXEC)?,
        })
    }

    /// Tells each page of `range` that is in the page cache, with its marks.
    fn look(
        &self,
        pages: &Pages,
        range: &TraceRange,
        mut tell: impl FnMut(u64, u64),
    ) -> io::Result<()> {
        let first = u64::from(range.first);
        let all = first..first + u64::from(range.count);
        let resident = pages.resident(all.clone())?;
        let mut entries = self.entries(pages, all.clone())?;
        for (at, page) in all.clone().enumerate() {
            if !resident[at] {
                continue;
            }
            if entries[at] & PRESENT == 0 {
                self.map(pages, page)?;
                // The kernel has mapped what lies around it too.
                entries.truncate(at);
                entries.extend(self.entries(pages, page..all.end)?);
            }
            let frame = entries[at] & FRAME_NUMBER;
            if entries[at] & PRESENT == 0 || frame == 0 {
                let reason = "the kernel does not tell where pages are (CAP_SYS_ADMIN is needed)";
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
            }
            tell(page, word(&self.flags, frame)?);
        }
        Ok(())
    }

    fn entries(&self, pages: &Pages, which: Range<u64>) -> io::Result<Vec<u64>> {
        let first = pages.address(which.start)? as u64 / PAGE;
        let mut raw =
            vec![0; usize::try_from((which.end - which.start) * 8).map_err(io::Error::other)?];
        self.pagemap.read_exact_at(&mut raw, first * 8)?;
        Ok(raw.as_chunks::<8>().0.iter().map(|entry| u64::from_ne_bytes(*entry)).collect())
    }

    /// Has the kernel map a page by reading from it itself: where its content can't be had, that is
    /// an error and not a signal.
    fn map(&self, pages: &Pages, page: u64) -> io::Result<()> {
        // SAFETY: the kernel reads one byte of the mapping.
        match unsafe { libc::pwrite(self.sink.as_raw_fd(), pages.address(page)?, 1, 0) } {
            1 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn word(file: &File, at: u64) -> io::Result<u64> {
    let mut raw = [0; 8];
    file.read_exact_at(&mut raw, at * 8)?;
    Ok(u64::from_ne_bytes(raw))
}

fn bytes(pages: u64) -> io::Result<usize> {
    usize::try_from(pages * PAGE).map_err(io::Error::other)
}
