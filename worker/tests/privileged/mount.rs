//! What docs/semantics.md promises of a mounted image.

use std::collections::{BTreeSet, HashSet};
use std::ffi::CString;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sway_core::chunk::{CHUNK_LEN, CutChunk};
use sway_core::digest::Digest;
use sway_core::manifest::{FileContent, Metadata, NodeKind, Tree};
use sway_worker::fuse::{Operation, RequestHook};
use sway_worker::id_map::{IdMap, IdMaps};
use sway_worker::mount::{Mounts, MountsConfig, foreground};
use tokio_util::sync::CancellationToken;

use crate::mount_fixture::{
    Fixture, Options, Store, blocking, export, listing, mounted_below, store_tree,
};

/// Longer than anything takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(len)
    .collect()
}

fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = nix::sys::time::TimeSpec::new(seconds, nanoseconds);
    let flags = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
    nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, flags).unwrap();
}

fn mknod(path: &Path, kind: nix::sys::stat::SFlag, rdev: u64) {
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o640);
    nix::sys::stat::mknod(path, kind, mode, rdev).unwrap();
}

/// A directory with one of everything.
fn zoo() -> tempfile::TempDir {
    use nix::sys::stat::SFlag;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o751)).unwrap();
    fs::write(at("empty"), b"").unwrap();
    fs::write(at("small"), b"hello\n").unwrap();
    fs::write(at("large"), noise(3 * CHUNK_LEN as usize + 17, 1)).unwrap();
    fs::create_dir_all(at("d/e/f")).unwrap();
    fs::hard_link(at("small"), at("d/same")).unwrap();
    fs::hard_link(at("small"), at("d/e/same again")).unwrap();
    symlink("../small", at("d/link")).unwrap();
    symlink("x".repeat(3000), at("long link")).unwrap();
    fs::write(at("setuid"), b"#!/bin/sh\n").unwrap();
    std::os::unix::fs::lchown(at("setuid"), Some(123_456), Some(7)).unwrap();
    fs::set_permissions(at("setuid"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::create_dir(at("sticky")).unwrap();
    fs::set_permissions(at("sticky"), fs::Permissions::from_mode(0o1777)).unwrap();
    mknod(&at("char"), SFlag::S_IFCHR, nix::sys::stat::makedev(1, 3));
    mknod(&at("block"), SFlag::S_IFBLK, nix::sys::stat::makedev(259, 70_000));
    mknod(&at("fifo"), SFlag::S_IFIFO, 0);
    mknod(&at("socket"), SFlag::S_IFSOCK, 0);
    let odd = std::ffi::OsStr::from_bytes(b"not utf-8 \xff\xfe");
    fs::write(dir.path().join(odd), b"odd").unwrap();
    fs::write(at(&"n".repeat(255)), b"long").unwrap();
    xattr::set(at("small"), "user.note", b"with \0 inside").unwrap();
    xattr::set(at("d"), "user.empty", b"").unwrap();
    set_mtime(&at("large"), -1, 999_999_999);
    set_mtime(&at("small"), -12_345_678_901, 1);
    set_mtime(&at("d/link"), 1_700_000_000, 123_456_789);
    set_mtime(&at("d/e"), 4_102_444_800, 5);
    dir
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_lists_and_reads_like_the_directory_it_was_made_of() {
    let fixture = Fixture::new(Options::default());
    let zoo = zoo();
    let mount = fixture.mount(zoo.path()).await;
    let (plain, mounted) = (zoo.path().to_owned(), mount.path().to_owned());
    blocking(move || {
        assert_eq!(listing(&mounted), listing(&plain));
        for name in ["empty", "small", "large", "d/same", "d/link"] {
            assert_eq!(fs::read(mounted.join(name)).unwrap(), fs::read(plain.join(name)).unwrap());
        }
        let ino = |name: &str| fs::metadata(mounted.join(name)).unwrap().ino();
        assert_eq!(ino("small"), ino("d/same"));
        assert_eq!(ino("small"), ino("d/e/same again"));
    })
    .await;
    drop(mount);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_and_a_stat_of_everything_fetch_no_content() {
    let fixture = Fixture::new(Options::default());
    let zoo = zoo();
    let mount = fixture.mount(zoo.path()).await;
    let asked = fixture.store.asked();
    assert_eq!(asked, [mount.digest()]);
    let path = mount.path().to_owned();
    assert!(blocking(move || listing(&path)).await.len() > 15);
    assert_eq!(fixture.store.asked(), asked);
    drop(mount);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_can_be_written_and_no_device_opened() {
    let fixture = Fixture::new(Options::default());
    let mount = fixture.mount(zoo().path()).await;
    let path = mount.path().to_owned();
    blocking(move || {
        let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error().unwrap();
        assert_eq!(errno(fs::write(path.join("new"), b"")), libc::EROFS);
        assert_eq!(errno(fs::write(path.join("small"), b"")), libc::EROFS);
        assert_eq!(errno(fs::remove_file(path.join("small"))), libc::EROFS);
        assert_eq!(errno(fs::create_dir(path.join("new"))), libc::EROFS);
        assert_eq!(errno(xattr::set(path.join("small"), "user.x", b"")), libc::EROFS);
        assert_eq!(errno(fs::File::open(path.join("char")).map(drop)), libc::EACCES);
        assert_eq!(errno(fs::File::open(path.join("block")).map(drop)), libc::EACCES);
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = mountinfo.lines().find(|line| line.contains(path.to_str().unwrap())).unwrap();
        assert!(line.contains(" ro,nosuid,nodev"), "{line}");
        assert!(line.contains("- fuse.sway sway ro"), "{line}");
    })
    .await;
    drop(mount);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_asks_for_a_name_once_whether_it_exists_or_not() {
    let lookups = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&lookups);
    let hook = RequestHook(Arc::new(move |request| seen.lock().unwrap().push(request.to_owned())));
    let fixture = Fixture::new(Options { hook: Some(hook), ..Options::default() });
    let mount = fixture.mount(zoo().path()).await;
    let path = mount.path().to_owned();
    blocking(move || {
        let touch = || {
            assert_eq!(
                fs::metadata(path.join("missing")).unwrap_err().raw_os_error(),
                Some(libc::ENOENT)
            );
            fs::metadata(path.join("d/e/f")).unwrap();
            fs::read_link(path.join("d/link")).unwrap();
            fs::read_dir(path.join("d")).unwrap().count();
            fs::read(path.join("small")).unwrap();
        };
        touch();
        let after_one = lookups.lock().unwrap().clone();
        (0..20).for_each(|_| touch());
        let all = lookups.lock().unwrap().clone();
        // xattrs are not cached by the kernel; nothing here asks for them.
        assert_eq!(all[after_one.len()..], [""; 0], "after {after_one:?}");
    })
    .await;
    drop(mount);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sparse_file_of_2_tib_reads_maps_and_seeks() {
    let fixture = Fixture::new(Options::default());
    let mut content = FileContent::new();
    content.push_chunk(CutChunk::of(&noise(CHUNK_LEN as usize, 3)));
    fixture.store.put(&noise(CHUNK_LEN as usize, 3));
    content.push_holes(u32::try_from((2u64 << 40) / u64::from(CHUNK_LEN)).unwrap());
    content.push_chunk(CutChunk::of(b"end"));
    fixture.store.put(b"end");
    let mut tree = Tree::new();
    let metadata = Metadata { permissions: 0o644, ..Metadata::default() };
    let node = tree.add(metadata, NodeKind::Regular(content));
    tree.entries_mut(Tree::ROOT).unwrap().insert(b"sparse".to_vec(), node);
    let manifest = store_tree(&tree, &fixture.store);
    let mount = fixture.mounts.get(manifest).await.unwrap();
    let path = mount.path().join("sparse");
    blocking(move || {
        let data_end = u64::from(CHUNK_LEN);
        let hole_end = data_end + (2 << 40);
        let mut file = fs::File::open(&path).unwrap();
        let stat = file.metadata().unwrap();
        assert_eq!(stat.len(), hole_end + 3);
        assert_eq!(stat.blocks(), data_end / 512 + 1);
        let mut bytes = [1; 8];
        file.read_exact_at(&mut bytes, 1 << 40).unwrap();
        assert_eq!(bytes, [0; 8]);
        assert_eq!(file.read_at(&mut bytes, hole_end - 2).unwrap(), 5);
        assert_eq!(&bytes[..5], b"\0\0end");
        assert_eq!(file.read_at(&mut bytes, hole_end + 3).unwrap(), 0);
        let seek = |offset, whence| {
            use std::os::fd::AsRawFd as _;
            nix::unistd::lseek(&file, offset, whence).map_err(|_| file.as_raw_fd())
        };
        use nix::unistd::Whence::{SeekData, SeekHole};
        assert_eq!(seek(0, SeekHole), Ok(i64::try_from(data_end).unwrap()));
        assert_eq!(seek(1 << 40, SeekData), Ok(i64::try_from(hole_end).unwrap()));
        assert_eq!(
            seek(i64::try_from(hole_end).unwrap() + 1, SeekHole),
            Ok(i64::try_from(hole_end).unwrap() + 3)
        );
        file.seek(SeekFrom::End(-3)).unwrap();
        let mut end = String::new();
        file.read_to_string(&mut end).unwrap();
        assert_eq!(end, "end");
    })
    .await;
    drop(mount);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapped_file_reads_like_a_read_one() {
    let fixture = Fixture::new(Options::default());
    let zoo = zoo();
    let mount = fixture.mount(zoo.path()).await;
    let path = mount.path().join("large");
    let expected = fs::read(zoo.path().join("large")).unwrap();
    // `cmp` maps nothing; Python's mmap does, as does the loader of shared objects.
    let sum = format!(
        "import mmap,sys,hashlib\nf=open({path:?},'rb')\nm=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ)\n\
         b=m[200000:200010]\nprint(hashlib.sha1(m).hexdigest(), b.hex())"
    );
    let output = blocking(move || {
        std::process::Command::new("python3").args(["-c", &sum]).output().unwrap()
    })
    .await;
    let text = String::from_utf8(output.stdout).unwrap();
    let part: String = expected[200_000..200_010].iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(text.trim(), format!("{} {part}", Digest::of(&expected)));
    drop(mount);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_20_000_files_lists_each_once() {
    let fixture = Fixture::new(Options::default());
    let mut tree = Tree::new();
    let names: Vec<_> = (0..20_000).map(|number| format!("file number {number}")).collect();
    for name in &names {
        let node = tree.add(Metadata::default(), NodeKind::Regular(FileContent::new()));
        tree.entries_mut(Tree::ROOT).unwrap().insert(name.clone().into_bytes(), node);
    }
    let manifest = store_tree(&tree, &fixture.store);
    let mount = fixture.mounts.get(manifest).await.unwrap();
    let path = mount.path().to_owned();
    let listed: Vec<_> = blocking(move || {
        let entries = fs::read_dir(path).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    })
    .await;
    assert_eq!(listed.len(), names.len());
    assert_eq!(listed.into_iter().collect::<HashSet<_>>(), names.into_iter().collect());
    drop(mount);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_readers_of_one_chunk_make_one_request() {
    let fixture = Fixture::new(Options::default());
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), noise(100_000, 5)).unwrap();
    let mount = fixture.mount(dir.path()).await;
    fixture.store.set_closed(true);
    let readers: Vec<_> = (0..8)
        .map(|reader| {
            // Different pages, so that the kernel sends a request for each reader.
            let path = mount.path().join("file");
            std::thread::spawn(move || {
                let file = fs::File::open(path).unwrap();
                nix::fcntl::posix_fadvise(
                    &file,
                    0,
                    0,
                    nix::fcntl::PosixFadviseAdvice::POSIX_FADV_RANDOM,
                )
                .unwrap();
                let mut bytes = vec![0; 100];
                file.read_exact_at(&mut bytes, reader * 12_288).unwrap();
                bytes
            })
        })
        .collect();
    wait_until(|| fixture.store.asked().len() > 1).await;
    fixture.store.set_closed(false);
    let expected = noise(100_000, 5);
    for (reader, thread) in readers.into_iter().enumerate() {
        let bytes = blocking(move || thread.join().unwrap()).await;
        assert_eq!(bytes, expected[reader * 12_288..][..100]);
    }
    assert_eq!(fixture.store.asked(), [mount.digest(), Digest::of(&expected)]);
    let figures = fixture.accounts.unattributed().figures();
    assert_eq!((figures.fetches, figures.memory_hits), (2, 7));
    drop(mount);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_on_disk_is_healed_and_never_read() {
    let fixture = Fixture::new(Options { memory_bytes: 0, ..Options::default() });
    let zoo = zoo();
    let mount = fixture.mount(zoo.path()).await;
    let expected = fs::read(zoo.path().join("large")).unwrap();
    let read = |path: PathBuf| blocking(move || fs::read(path).unwrap());
    assert_eq!(read(mount.path().join("large")).await, expected);
    let (manifest, first) = (mount.digest(), Digest::of(&expected[..CHUNK_LEN as usize]));
    let disk = Arc::clone(fixture.chunks.disk().unwrap());
    let cached = disk.path_of(first);
    wait_until(|| cached.exists() && disk.path_of(manifest).exists()).await;
    drop(mount);
    let store = Arc::clone(&fixture.store);
    drop(disk);
    let dir = fixture.end().await;

    let mut bytes = fs::read(&cached).unwrap();
    bytes[1000] ^= 1;
    fs::write(&cached, bytes).unwrap();
    let before = store.asked().len();
    // A new worker on the same directory: the kernel has no page of it.
    let fixture = Fixture::over(store, dir, Options::default());
    let mount = fixture.mounts.get(manifest).await.unwrap();
    assert_eq!(read(mount.path().join("large")).await, expected);
    assert_eq!(fixture.store.asked()[before..], [first]);
    wait_until(|| fs::read(&cached).is_ok_and(|bytes| Digest::of(&bytes) == first)).await;
    drop(mount);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_cached_reads_go_on_and_others_end_in_eio_that_names_the_path() {
    let deadline = Duration::from_secs(6);
    let fixture = Fixture::new(Options { deadline, ..Options::default() });
    let zoo = zoo();
    let mount = fixture.mount(zoo.path()).await;
    let read = |name: &str| {
        let path = mount.path().join(name);
        blocking(move || fs::read(path))
    };
    read("small").await.unwrap();
    fixture.store.set_down(true);
    let started = Instant::now();
    let error = read("large").await.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    // The kernel asks twice, for its read-ahead and then for the page: the second answer must
    // not take as long again.
    assert!(started.elapsed() < deadline * 2, "{:?}", started.elapsed());
    assert_eq!(read("small").await.unwrap(), b"hello\n");
    let messages = fixture.accounts.unattributed().messages();
    assert!(
        messages.iter().any(|text| text.contains("/large") && text.contains("connection refused")),
        "{messages:?}"
    );
    fixture.store.set_down(false);
    let expected = fs::read(zoo.path().join("large")).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while read("large").await.ok().as_ref() != Some(&expected) {
        assert!(Instant::now() < deadline, "the server is back and nobody noticed");
    }
    drop(mount);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_read_is_answered_when_its_run_is_doomed() {
    let fixture = Fixture::new(Options::default());
    let mount = fixture.mount(zoo().path()).await;
    fixture.store.set_closed(true);
    let path = mount.path().join("large");
    let reader = std::thread::spawn(move || fs::read(path));
    wait_until(|| fixture.store.asked().len() > 1).await;
    assert!(!reader.is_finished());
    fixture.accounts.unattributed().doom();
    let error = blocking(move || reader.join().unwrap()).await.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    fixture.store.set_closed(false);
    drop(mount);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_waits_blocks_no_other() {
    let fixture = Fixture::new(Options::default());
    let mount = fixture.mount(zoo().path()).await;
    let path = mount.path().to_owned();
    let small = path.join("small");
    blocking(move || fs::read(small).unwrap()).await;
    fixture.store.set_closed(true);
    // More than there are session threads.
    let readers: Vec<_> = (0..4)
        .flat_map(|chunk| {
            let path = path.join("large");
            (0..4).map(move |part| {
                let path = path.clone();
                std::thread::spawn(move || {
                    let file = fs::File::open(path).unwrap();
                    let mut byte = [0];
                    let offset =
                        chunk * u64::from(CHUNK_LEN) + if chunk < 3 { part * 16_384 } else { 0 };
                    file.read_exact_at(&mut byte, offset).unwrap();
                })
            })
        })
        .collect();
    wait_until(|| fixture.store.asked().len() > 4).await;
    blocking(move || {
        assert_eq!(fs::read(path.join("d/same")).unwrap(), b"hello\n");
        assert!(listing(&path).len() > 15);
    })
    .await;
    fixture.store.set_closed(false);
    for reader in readers {
        blocking(move || reader.join().unwrap()).await;
    }
    drop(mount);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panicking_handler_answers_eio_and_the_session_goes_on() {
    let armed = Arc::new(AtomicBool::new(false));
    let fuse = Arc::clone(&armed);
    let hook = RequestHook(Arc::new(move |request| {
        assert!(request == "statfs" || !fuse.swap(false, Ordering::SeqCst), "on purpose");
    }));
    let fixture = Fixture::new(Options { hook: Some(hook), ..Options::default() });
    let mount = fixture.mount(zoo().path()).await;
    let path = mount.path().to_owned();
    blocking(move || {
        for _ in 0..5 {
            armed.store(true, Ordering::SeqCst);
            let error = fs::metadata(path.join("d/e")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO));
            assert!(!armed.load(Ordering::SeqCst));
        }
        assert!(fs::metadata(path.join("d/e")).unwrap().is_dir());
    })
    .await;
    drop(mount);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_askers_share_one_mount_and_idle_ones_go_when_there_are_too_many() {
    let fixture = Fixture::new(Options { mounts_max: 2, ..Options::default() });
    let dirs: Vec<_> = (0..4)
        .map(|number| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("number"), number.to_string()).unwrap();
            dir
        })
        .collect();
    let images: Vec<_> = dirs.iter().map(|dir| export(dir.path(), &fixture.store)).collect();
    let askers = (0..8).map(|_| fixture.mounts.get(images[0]));
    let mounts = futures::future::try_join_all(askers).await.unwrap();
    assert!(mounts.iter().all(|mount| Arc::ptr_eq(mount, &mounts[0])));
    assert_eq!(fixture.store.asked(), [images[0]]);
    for image in &images[1..] {
        fixture.mounts.get(*image).await.unwrap();
    }
    assert_eq!(fixture.mounts.len(), 2);
    // The first is in use and stays, however old.
    let kept = mounted_below(fixture.dir.path());
    assert!(kept.iter().any(|path| path.contains(&images[0].to_hex())), "{kept:?}");
    assert!(kept.iter().any(|path| path.contains(&images[3].to_hex())), "{kept:?}");
    assert_eq!(kept.len(), 2);
    assert_eq!(mounts[0].read_file(b"/number", 100).await.unwrap(), b"0");
    drop(mounts);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_late_end_of_a_mount_leaves_a_newer_one_of_the_same_image_alone() {
    let fixture = Fixture::new(Options::default());
    let old = fixture.mount(zoo().path()).await;
    // Others in the same directory, as an idle mount is no longer known when it ends.
    let config = MountsConfig::new(fixture.dir.path().join("mounts"));
    let (chunks, accounts) = (Arc::clone(&fixture.chunks), Arc::clone(&fixture.accounts));
    let others = Mounts::new(config, chunks, accounts, fixture.tasks.clone());
    let new = others.get(old.digest()).await.unwrap();
    let gone = old.path().to_owned();
    drop(old);
    fixture.mounts.shutdown().await;
    assert!(!gone.exists());
    let small = new.path().join("small");
    assert_eq!(blocking(move || fs::read(small).unwrap()).await, b"hello\n");
    others.shutdown().await;
    // Also while somebody still holds it.
    assert!(!new.path().exists());
    drop(new);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_was_taken_away_is_made_again() {
    let fixture = Fixture::new(Options::default());
    let zoo = zoo();
    let mount = fixture.mount(zoo.path()).await;
    let path = mount.path().to_owned();
    let digest = mount.digest();
    drop(mount);
    blocking(move || nix::mount::umount(&path).unwrap()).await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mount = fixture.mounts.get(digest).await.unwrap();
        let small = mount.path().join("small");
        if blocking(move || fs::read(small)).await.is_ok() {
            break;
        }
        assert!(Instant::now() < deadline);
    }
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_inherits_no_fuse_device() {
    let fixture = Fixture::new(Options::default());
    let mount = fixture.mount(zoo().path()).await;
    let list = || std::process::Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
    let listed = String::from_utf8(blocking(list).await.stdout).unwrap();
    assert!(listed.contains("-> /"), "{listed}");
    assert!(!listed.contains("/dev/fuse"), "{listed}");
    let own = fs::read_dir("/proc/self/fd").unwrap();
    let mut own = own.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    assert!(own.any(|path| path == Path::new("/dev/fuse")), "this process has one");
    drop(mount);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_worker_left_mounted_is_taken_away() {
    let fixture = Fixture::new(Options::default());
    let mount = fixture.mount(zoo().path()).await;
    let dir = fixture.dir.path().join("mounts");
    assert_eq!(mounted_below(&dir).len(), 1);
    let held = fs::File::open(mount.path().join("small")).unwrap();
    let recovered = dir.clone();
    assert_eq!(blocking(move || Mounts::recover(&recovered).unwrap()).await, 1);
    assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
    assert!(mounted_below(fixture.dir.path()).is_empty());
    drop(held);
    drop(mount);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_shifted_for_kernels_that_can_t_map_them() {
    let fixture = Fixture::new(Options::default());
    let plain = fixture.mount(zoo().path()).await;
    let maps = |base| IdMaps {
        uids: IdMap::new(base, &BTreeSet::from([123_456])).unwrap(),
        gids: IdMap::new(base, &BTreeSet::new()).unwrap(),
    };
    let first = plain.shifted(&maps(1 << 20)).await.unwrap();
    assert_eq!(plain.shifted(&maps(1 << 20)).await.unwrap(), first, "one for each range");
    let second = plain.shifted(&maps(1 << 21)).await.unwrap();
    assert_eq!(mounted_below(fixture.dir.path()).len(), 3);
    let paths = [plain.path(), &first, &second].map(|path| path.join("setuid"));
    let owners = blocking(move || {
        paths.map(|path| {
            let stat = fs::metadata(path).unwrap();
            (stat.uid(), stat.gid())
        })
    });
    let beyond = 1 << 16;
    assert_eq!(
        owners.await,
        [(123_456, 7), ((1 << 20) + beyond, (1 << 20) + 7), ((1 << 21) + beyond, (1 << 21) + 7)]
    );
    // Whoever unmounts one behind the worker's back makes nobody else's reads fail.
    nix::mount::umount2(&first, nix::mount::MntFlags::MNT_DETACH).unwrap();
    let begun = Instant::now();
    while mounted_below(fixture.dir.path()).len() < 3 {
        assert!(begun.elapsed() < PATIENCE);
        plain.shifted(&maps(1 << 20)).await.unwrap();
    }
    let again = plain.shifted(&maps(1 << 20)).await.unwrap().join("small");
    assert_eq!(blocking(move || fs::read(again).unwrap()).await, b"hello\n");
    // Its range has no map for this owner.
    let unmapped = IdMaps { uids: IdMap::new(0, &BTreeSet::new()).unwrap(), ..maps(0) };
    let third = plain.shifted(&unmapped).await.unwrap().join("setuid");
    assert_eq!(blocking(move || fs::metadata(third).unwrap().uid()).await, 65_534);
    drop(plain);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_are_checked_by_the_kernel_for_every_user() {
    let fixture = Fixture::new(Options::default());
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.path().join("secret"), b"root's").unwrap();
    fs::set_permissions(dir.path().join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(dir.path().join("public"), b"all's").unwrap();
    fs::set_permissions(dir.path().join("public"), fs::Permissions::from_mode(0o644)).unwrap();
    let mount = fixture.mount(dir.path()).await;
    fs::set_permissions(fixture.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = CString::new(mount.path().as_os_str().as_bytes()).unwrap();
    let path = path.into_string().unwrap();
    let output = blocking(move || {
        let script = format!("cat {path}/public; cat {path}/secret");
        std::os::unix::process::CommandExt::uid(
            std::process::Command::new("sh").args(["-c", &script]).current_dir("/"),
            65_534,
        )
        .output()
        .unwrap()
    })
    .await;
    assert_eq!(output.stdout, b"all's");
    assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"));
    drop(mount);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreground_mount_ends_when_it_is_told_to_or_unmounted() {
    let store: Arc<Store> = Arc::default();
    let zoo = zoo();
    let manifest = export(zoo.path(), &store);
    for by_hand in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (root, stop) = (dir.path().join("root"), CancellationToken::new());
        fs::create_dir(&root).unwrap();
        let config = sway_worker::cache::ChunksConfig {
            disk_dir: Some(dir.path().join("cache")),
            ..sway_worker::cache::ChunksConfig::default()
        };
        let source = Store::source(&store);
        let served = foreground(source, manifest, &root, config, stop.clone());
        let used = async {
            wait_until(|| mounted_below(dir.path()).len() == 1).await;
            let small = root.join("small");
            assert_eq!(blocking(move || fs::read(small).unwrap()).await, b"hello\n");
            if by_hand {
                let root = root.clone();
                blocking(move || nix::mount::umount(&root).unwrap()).await;
            } else {
                stop.cancel();
            }
        };
        let (served, ()) = tokio::join!(served, used);
        served.unwrap();
        assert!(mounted_below(dir.path()).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_of_what_is_no_manifest_is_refused() {
    let fixture = Fixture::new(Options { deadline: Duration::from_secs(1), ..Options::default() });
    let text = fixture.store.put(b"not a manifest");
    let error = fixture.mounts.get(text).await.unwrap_err().to_string();
    assert!(error.contains(&text.to_hex()), "{error}");
    let missing = Digest::of(b"never stored");
    let error = fixture.mounts.get(missing).await.unwrap_err().to_string();
    assert!(error.contains("does not have"), "{error}");
    fixture.store.set_down(true);
    let error = fixture.mounts.get(Digest::of(b"other")).await.unwrap_err().to_string();
    assert!(error.contains("connection refused"), "{error}");
    assert!(mounted_below(fixture.dir.path()).is_empty());
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_walks_through_a_large_tree_finds_directories_listed() {
    const DIRECTORIES: u64 = 1500;
    let tree = tempfile::tempdir().unwrap();
    for number in 0..DIRECTORIES {
        let directory = tree.path().join(format!("{:02}/{number:04}", number / 50));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("file"), number.to_string()).unwrap();
    }
    let fixture = Fixture::new(Options::default());
    let mount = fixture.mount(tree.path()).await;
    let (root, requests) = (mount.path().to_owned(), Arc::clone(&mount));
    let requests = move || requests.requests().of(Operation::Readdirplus);
    let walk = move || {
        let mut listed = 0;
        let directories = walkdir::WalkDir::new(&root).sort_by_file_name().into_iter();
        let directories = directories.filter(|it| it.as_ref().unwrap().file_type().is_dir());
        for _ in directories {
            listed += 1;
            // The walk itself asks twice for each.
            if requests() > 2 * listed + 20 {
                return listed;
            }
            std::thread::yield_now();
        }
        listed
    };
    let listed = blocking(walk).await;
    assert!(listed < DIRECTORIES, "nobody lists ahead of {listed} listings");
    let (root, source) = (mount.path().to_owned(), tree.path().to_owned());
    blocking(move || assert_eq!(listing(&root), listing(&source))).await;
    drop(mount);
    fixture.end().await;
}

async fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "the condition did not come true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
