//! A rootfs without a kernel: names, attributes, reads.

use std::collections::BTreeMap;

use sway_core::chunk::{CHUNK_LEN, CutChunk};
use sway_core::manifest::{FileContent, Metadata, NodeKind, RunConfig, Tree};
use sway_server::tasks::Tasks;

use super::*;
use crate::cache::ChunksConfig;
use crate::fetch::script::{Script, Scripted};

const CHUNK: u64 = CHUNK_LEN as u64;
const CHUNK_SIZE: usize = CHUNK_LEN as usize;

struct Built {
    rootfs: Rootfs,
    script: Arc<Script>,
    tasks: Tasks,
    account: Arc<RunAccount>,
}

/// A root with `file` (chunk, hole, chunk, tail), `long` (20 chunks), `d/link`, and attributes.
fn build() -> Built {
    let script = Script::of([]);
    let chunk = |bytes: &[u8]| {
        script.put(bytes);
        CutChunk::of(bytes)
    };
    let mut content = FileContent::new();
    content.push_chunk(chunk(&[1; CHUNK_SIZE]));
    content.push_holes(2);
    content.push_chunk(chunk(&[2; CHUNK_SIZE]));
    content.push_chunk(chunk(b"tail"));
    let mut long = FileContent::new();
    for fill in 10..30 {
        long.push_chunk(chunk(&[fill; CHUNK_SIZE]));
    }
    let mut tree = Tree::new();
    let metadata = Metadata {
        permissions: 0o4751,
        uid: 1000,
        gid: 50,
        mtime: Timestamp { seconds: -7, nanoseconds: 3 },
        xattrs: BTreeMap::from([
            (b"user.b".to_vec(), b"2".to_vec()),
            (b"user.a".to_vec(), b"".to_vec()),
            (b"trusted.overlay.opaque".to_vec(), b"y".to_vec()),
            (b"user.overlay.redirect".to_vec(), b"/long".to_vec()),
        ]),
    };
    let file = tree.add(metadata, NodeKind::Regular(content));
    let long = tree.add(Metadata::default(), NodeKind::Regular(long));
    let link = tree.add(Metadata::default(), NodeKind::Symlink(b"../file".to_vec()));
    let entries = BTreeMap::from([(b"link".to_vec(), link)]);
    let directory = tree.add(Metadata::default(), NodeKind::Directory(entries));
    let root = tree.entries_mut(Tree::ROOT).unwrap();
    root.extend([(b"file".to_vec(), file), (b"long".to_vec(), long), (b"d".to_vec(), directory)]);
    let (manifest, _) = tree.to_manifest(RunConfig::default()).unwrap();
    let tasks = Tasks::new();
    let source = Arc::new(Scripted(Arc::clone(&script)));
    let chunks = Chunks::new(ChunksConfig::default(), source, tasks.clone()).unwrap();
    let rootfs = Rootfs::new(Arc::new(manifest), chunks);
    Built { rootfs, script, tasks, account: Arc::default() }
}

impl Built {
    fn ino(&self, path: &str) -> Ino {
        self.rootfs.manifest().resolve(path.as_bytes()).unwrap()
    }

    async fn read(&self, path: &str, offset: u64, len: usize) -> Vec<u8> {
        let content = self.rootfs.read(self.ino(path), offset, len, &self.account).await.unwrap();
        content.as_ref().to_vec()
    }

    fn fetched(&self) -> usize {
        self.script.requests().iter().map(|request| request.digests.len()).sum()
    }
}

#[tokio::test]
async fn names_and_attributes_come_from_the_manifest_alone() {
    let built = build();
    let rootfs = &built.rootfs;
    let file = rootfs.lookup(Ino::ROOT, b"file").unwrap();
    assert_eq!((file.mode, file.uid, file.gid), (0o104_751, 1000, 50));
    assert_eq!(file.size, 4 * CHUNK + 4);
    assert_eq!(file.blocks, 2 * CHUNK / 512 + 1);
    assert_eq!(
        file.mtime,
        SystemTime::UNIX_EPOCH - Duration::from_secs(7) + Duration::from_nanos(3)
    );
    let directory = built.ino("d");
    assert_eq!(rootfs.lookup(directory, b"..").unwrap().ino, Ino::ROOT);
    assert_eq!(rootfs.lookup(directory, b".").unwrap().ino, directory);
    assert!(matches!(rootfs.lookup(directory, b"x"), Err(RootfsError::NoEntry)));
    assert!(matches!(rootfs.lookup(file.ino, b"x"), Err(RootfsError::NotADirectory)));
    assert!(matches!(rootfs.lookup(directory, &[b'x'; 256]), Err(RootfsError::NameTooLong)));
    assert!(matches!(rootfs.ino(0), Err(RootfsError::NoInode(0))));
    assert!(matches!(rootfs.ino(u64::MAX), Err(RootfsError::NoInode(_))));
    assert_eq!(rootfs.readlink(built.ino("d/link")).unwrap(), b"../file");
    assert!(matches!(rootfs.readlink(file.ino), Err(RootfsError::NotALink)));
    assert_eq!(rootfs.xattr(file.ino, b"user.b").unwrap(), b"2");
    assert!(matches!(rootfs.xattr(file.ino, b"user.c"), Err(RootfsError::NoAttribute)));
    assert_eq!(rootfs.xattr_names(file.ino).unwrap(), b"user.a\0user.b\0");
    assert_eq!(built.fetched(), 0);
}

#[tokio::test]
async fn a_listing_can_be_taken_up_at_any_position() {
    let built = build();
    let names = |from| {
        let entries = built.rootfs.entries(Ino::ROOT, from).unwrap();
        entries.map(|(next, _, name)| (next, name.to_vec())).collect::<Vec<_>>()
    };
    let all = names(0);
    let texts: Vec<_> = all.iter().map(|(_, name)| &name[..]).collect();
    assert_eq!(texts, [&b"."[..], b"..", b"d", b"file", b"long"]);
    for (at, (next, _)) in all.iter().enumerate() {
        assert_eq!(names(*next), all[at + 1..]);
    }
    assert_eq!(names(u64::MAX - 1), []);
    let not_one = built.rootfs.entries(built.ino("file"), 0).err();
    assert!(matches!(not_one, Some(RootfsError::NotADirectory)));
}

#[tokio::test]
async fn a_read_over_chunks_and_holes_yields_the_bytes() {
    let built = build();
    let whole = built.read("file", 0, 10 * CHUNK_SIZE).await;
    assert_eq!(whole.len() as u64, 4 * CHUNK + 4);
    let at = |chunk: usize| whole[chunk * CHUNK_SIZE];
    assert_eq!([at(0), at(1), at(2), at(3)], [1, 0, 0, 2]);
    assert!(whole.ends_with(b"tail"));
    assert_eq!(built.read("file", CHUNK - 1, 2).await, [1, 0]);
    assert_eq!(built.read("file", 4 * CHUNK + 3, 100).await, b"l");
    assert_eq!(built.read("file", u64::MAX, 100).await, b"");
    let of_directory = built.rootfs.read(Ino::ROOT, 0, 1, &built.account).await;
    assert!(matches!(of_directory, Err(RootfsError::IsADirectory)));
}

#[tokio::test]
async fn what_was_read_once_is_answered_without_waiting() {
    let built = build();
    let ino = built.ino("file");
    let from_memory =
        |offset| built.rootfs.read_from_memory(ino, offset, 100, &built.account).unwrap();
    assert!(from_memory(0).is_none());
    assert_eq!(built.account.figures().memory_hits, 0, "a miss counts nothing");
    assert!(from_memory(CHUNK).is_some(), "zeros are always there");
    built.read("file", 0, 100).await;
    assert_eq!(from_memory(5).unwrap().as_ref(), [1; 100]);
    assert!(from_memory(3 * CHUNK).is_none());
    let figures = built.account.figures();
    assert_eq!((figures.memory_hits, figures.memory_bytes, figures.fetches), (1, 100, 1));
}

#[tokio::test]
async fn a_sequential_reader_finds_the_next_chunks_in_memory() {
    let built = build();
    for chunk in 0..3 {
        built.read("long", chunk * CHUNK, CHUNK_SIZE).await;
    }
    while !built.tasks.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(built.fetched() > 3);
    let ino = built.ino("long");
    let next = built.rootfs.read_from_memory(ino, 3 * CHUNK, CHUNK_SIZE, &built.account);
    assert!(next.unwrap().is_some());
}

#[tokio::test]
async fn scattered_reads_fetch_their_own_chunks_and_nothing_else() {
    let built = build();
    for chunk in [17, 3, 11, 0, 7, 14, 5] {
        built.read("long", chunk * CHUNK + 5000, 4096).await;
    }
    while !built.tasks.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(built.fetched(), 7);
}

#[tokio::test]
async fn an_image_says_nothing_to_overlayfs() {
    let built = build();
    let file = built.ino("file");
    let stored = built.rootfs.manifest().xattrs(file);
    for name in [&b"trusted.overlay.opaque"[..], b"user.overlay.redirect"] {
        assert!(stored.iter().any(|xattr| xattr.name == name), "the manifest has it");
        let answer = built.rootfs.xattr(file, name);
        assert!(matches!(answer, Err(RootfsError::NoAttribute)));
    }
    assert_eq!(built.rootfs.xattr_names(file).unwrap(), b"user.a\0user.b\0");
}

#[tokio::test]
async fn data_and_holes_are_found() {
    let built = build();
    let ino = built.ino("file");
    let seek = |offset, what| built.rootfs.seek(ino, offset, what).ok();
    assert_eq!(seek(0, Seek::Data), Some(0));
    assert_eq!(seek(5, Seek::Hole), Some(CHUNK));
    assert_eq!(seek(CHUNK, Seek::Data), Some(3 * CHUNK));
    assert_eq!(seek(3 * CHUNK, Seek::Hole), Some(4 * CHUNK + 4));
    assert_eq!(seek(4 * CHUNK + 4, Seek::Data), None);
}

/// Were one question to walk through the file, all of them would take hours.
#[tokio::test]
async fn a_question_about_a_file_of_many_extents_does_not_walk_through_it() {
    const PAIRS: u32 = 100_000;
    let chunk = CutChunk::of(&[1; CHUNK_SIZE]);
    let mut content = FileContent::new();
    for _ in 0..PAIRS {
        content.push_chunk(chunk);
        content.push_holes(1);
    }
    // The same chunk again and again: each is an extent of its own.
    (0..PAIRS).for_each(|_| content.push_chunk(chunk));
    content.push_holes(1);
    let mut tree = Tree::new();
    let file = tree.add(Metadata::default(), NodeKind::Regular(content));
    tree.entries_mut(Tree::ROOT).unwrap().insert(b"file".to_vec(), file);
    let (manifest, _) = tree.to_manifest(RunConfig::default()).unwrap();
    let ino = manifest.resolve(b"file").unwrap();
    assert!(manifest.extents(ino).len() > 3 * PAIRS as usize);
    let source = Arc::new(Scripted(Script::of([])));
    let chunks = Chunks::new(ChunksConfig::default(), source, Tasks::new()).unwrap();
    let rootfs = Rootfs::new(Arc::new(manifest), chunks);
    let pairs = u64::from(PAIRS);
    for at in 0..pairs {
        assert_eq!(rootfs.attributes(ino).unwrap().blocks, 2 * pairs * CHUNK / 512);
        let (data, hole) = (2 * at * CHUNK, (2 * at + 1) * CHUNK);
        let seek = |offset, what| rootfs.seek(ino, offset, what).unwrap();
        assert_eq!(seek(data + 5, Seek::Data), data + 5);
        assert_eq!(seek(data + 5, Seek::Hole), hole);
        assert_eq!(seek(hole + 5, Seek::Data), hole + CHUNK);
        assert_eq!(seek(hole + 5, Seek::Hole), hole + 5);
        assert_eq!(seek(2 * pairs * CHUNK + at, Seek::Hole), 3 * pairs * CHUNK);
    }
    let end = rootfs.seek(ino, 3 * pairs * CHUNK, Seek::Data);
    assert!(matches!(end, Err(RootfsError::NoData)));
}

#[test]
fn times_are_exact_on_both_sides_of_1970() {
    for (seconds, nanoseconds) in
        [(0, 0), (1, 999_999_999), (-1, 999_999_999), (-2, 1), (i64::MIN, 0)]
    {
        let time = system_time(Timestamp { seconds, nanoseconds });
        let since = match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => i128::try_from(after.as_nanos()).unwrap(),
            Err(before) => -i128::try_from(before.duration().as_nanos()).unwrap(),
        };
        assert_eq!(since, i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds));
    }
}

#[tokio::test]
async fn a_path_in_a_message_has_a_bound() {
    let mut tree = Tree::new();
    let mut inner = tree.add(Metadata::default(), NodeKind::Fifo);
    for _ in 0..5000 {
        let children = BTreeMap::from([(b"d".to_vec(), inner)]);
        inner = tree.add(Metadata::default(), NodeKind::Directory(children));
    }
    tree.entries_mut(Tree::ROOT).unwrap().insert(b"top".to_vec(), inner);
    let (manifest, _) = tree.to_manifest(RunConfig::default()).unwrap();
    let last = Ino(u32::try_from(manifest.inode_count()).unwrap());
    let source = Arc::new(Scripted(Script::of([])));
    let chunks = Chunks::new(ChunksConfig::default(), source, Tasks::new()).unwrap();
    let rootfs = Rootfs::new(Arc::new(manifest), chunks);
    assert_eq!(rootfs.path_of(Ino(2)), "/top");
    assert_eq!(rootfs.path_of(last), "/d".repeat(PATH_LEN_MAX / 2));
}
