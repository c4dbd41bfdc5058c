//! The mount against the plain directory that it was made of, under random operations.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use sway_core::chunk::CHUNK_LEN;

use crate::mount_fixture::{Fixture, Options, blocking, listing};

/// What a random directory is made of, in this order; what can't be made is left out.
#[derive(Clone, Debug)]
enum Make {
    Directory(Vec<u8>),
    File { name: Vec<u8>, len: usize, seed: u8 },
    Sparse { name: Vec<u8>, chunks: u64 },
    Symlink { name: Vec<u8>, target: Vec<u8> },
    HardLink { name: Vec<u8>, of: prop::sample::Index },
    Mode(prop::sample::Index, u32),
    Xattr(prop::sample::Index, Vec<u8>),
}

/// What is done to both trees; the outcomes have to be equal.
#[derive(Clone, Debug)]
enum Act {
    Read { of: prop::sample::Index, offset: u64, len: usize },
    List(prop::sample::Index),
    ReadLink(prop::sample::Index),
    Xattrs(prop::sample::Index),
    Missing(prop::sample::Index, Vec<u8>),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(b'a'), Just(b'b'), Just(0xff), Just(b' '), Just(b'\n')];
    prop_oneof![
        8 => prop::collection::vec(byte, 1..4),
        1 => prop::collection::vec(Just(b'n'), 255..=255),
    ]
}

fn make() -> impl Strategy<Value = Make> {
    let chunk = CHUNK_LEN as usize;
    let len = prop_oneof![0..5000usize, chunk - 2..chunk + 2, 0..4 * chunk];
    let index = any::<prop::sample::Index>;
    prop_oneof![
        3 => name().prop_map(Make::Directory),
        5 => (name(), len, any::<u8>()).prop_map(|(name, len, seed)| Make::File { name, len, seed }),
        1 => (name(), 1..40u64).prop_map(|(name, chunks)| Make::Sparse { name, chunks }),
        2 => (name(), prop::collection::vec(1u8.., 1..300))
            .prop_map(|(name, target)| Make::Symlink { name, target }),
        2 => (name(), index()).prop_map(|(name, of)| Make::HardLink { name, of }),
        2 => (index(), 0..0o10_000u32).prop_map(|(of, mode)| Make::Mode(of, mode)),
        1 => (index(), prop::collection::vec(any::<u8>(), 0..50))
            .prop_map(|(of, value)| Make::Xattr(of, value)),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let index = any::<prop::sample::Index>;
    let offset = prop_oneof![0..1000u64, 0..6 * u64::from(CHUNK_LEN)];
    prop_oneof![
        6 => (index(), offset, 0..300_000usize)
            .prop_map(|(of, offset, len)| Act::Read { of, offset, len }),
        2 => index().prop_map(Act::List),
        1 => index().prop_map(Act::ReadLink),
        1 => index().prop_map(Act::Xattrs),
        1 => (index(), name()).prop_map(|(of, name)| Act::Missing(of, name)),
    ]
}

/// Everything below `root`, relative to it, in an order that does not depend on the filesystem.
fn paths(root: &Path) -> Vec<PathBuf> {
    let walk = walkdir::WalkDir::new(root).sort_by_file_name();
    let path = |entry: walkdir::Result<walkdir::DirEntry>| {
        entry.unwrap().path().strip_prefix(root).unwrap().to_owned()
    };
    walk.into_iter().map(path).collect()
}

fn build(root: &Path, makes: &[Make]) -> io::Result<()> {
    for (number, make) in makes.iter().enumerate() {
        let existing = paths(root);
        let directories: Vec<_> = existing
            .iter()
            .filter(|path| root.join(path).symlink_metadata().unwrap().is_dir())
            .collect();
        let parent = root.join(directories[number % directories.len()]);
        let new = |name: &[u8]| parent.join(std::ffi::OsStr::from_bytes(name));
        let any = |index: &prop::sample::Index| root.join(index.get(&existing));
        // A name that is taken, a link to a directory: not every step is possible.
        let _: io::Result<()> = match make {
            Make::Directory(name) => fs::create_dir(new(name)),
            Make::File { name, len, seed } => {
                let lines = (0..).map(|line: u32| format!("{line} {seed}\n").repeat(9));
                let bytes: Vec<u8> = lines.flat_map(String::into_bytes).take(*len).collect();
                fs::File::create_new(new(name)).and_then(|file| file.write_all_at(&bytes, 0))
            }
            Make::Sparse { name, chunks } => fs::File::create_new(new(name)).and_then(|file| {
                file.set_len(chunks * u64::from(CHUNK_LEN) + 5)?;
                file.write_all_at(b"data", chunks / 2 * u64::from(CHUNK_LEN))
            }),
            Make::Symlink { name, target } => {
                symlink(std::ffi::OsStr::from_bytes(target), new(name))
            }
            Make::HardLink { name, of } => fs::hard_link(any(of), new(name)),
            Make::Mode(of, mode) if !any(of).is_symlink() => {
                fs::set_permissions(any(of), fs::Permissions::from_mode(*mode))
            }
            Make::Xattr(of, value) if !any(of).is_symlink() => {
                xattr::set(any(of), "user.random", value)
            }
            Make::Mode(..) | Make::Xattr(..) => Ok(()),
        };
    }
    Ok(())
}

/// What an act comes to, as text.
fn outcome(root: &Path, paths: &[PathBuf], act: &Act) -> String {
    let at = |index: &prop::sample::Index| root.join(index.get(paths));
    let told = |result: io::Result<String>| {
        result.unwrap_or_else(|error| format!("errno {:?}", error.raw_os_error()))
    };
    match act {
        Act::Read { of, offset, len } => told((|| {
            // Not through links, which may lead out of the tree.
            let path = at(of);
            if path.is_symlink() {
                return Ok("a link".to_owned());
            }
            let mut bytes = vec![0; *len];
            let file = fs::File::open(path)?;
            let mut done = 0;
            while done < *len {
                match file.read_at(&mut bytes[done..], offset + done as u64)? {
                    0 => break,
                    count => done += count,
                }
            }
            Ok(format!("{done} {}", sway_core::digest::Digest::of(&bytes)))
        })()),
        Act::List(of) if at(of).is_symlink() => "a link".to_owned(),
        Act::List(of) => told(fs::read_dir(at(of)).map(|entries| {
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            format!("{names:?}")
        })),
        Act::ReadLink(of) => told(fs::read_link(at(of)).map(|target| format!("{target:?}"))),
        Act::Xattrs(of) => told(match xattr::get(at(of), "user.random") {
            // An image without any attribute says so once and for all.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok("None".to_owned()),
            other => other.map(|value| format!("{value:?}")),
        }),
        Act::Missing(of, name) => {
            let path = at(of).join(std::ffi::OsStr::from_bytes(name));
            // What a directory says of its size is each filesystem's own.
            let len = |stat: &fs::Metadata| if stat.is_dir() { 0 } else { stat.len() };
            let stat = fs::symlink_metadata(path);
            told(stat.map(|stat| format!("{:?} {}", stat.file_type(), len(&stat))))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_random_tree_behaves_like_the_directory_it_was_made_of(
        makes in prop::collection::vec(make(), 1..40),
        acts in prop::collection::vec(act(), 1..60),
        memory_bytes in prop_oneof![Just(0u64), Just(200_000), Just(64 << 20)],
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let checked = runtime.block_on(async {
            let fixture = Fixture::new(Options { memory_bytes, ..Options::default() });
            let plain = tempfile::tempdir().unwrap();
            build(plain.path(), &makes).unwrap();
            let mount = fixture.mount(plain.path()).await;
            let (plain_root, mounted) = (plain.path().to_owned(), mount.path().to_owned());
            let checked = blocking(move || -> Result<(), TestCaseError> {
                let paths = paths(&plain_root);
                for act in &acts {
                    let expected = outcome(&plain_root, &paths, act);
                    prop_assert_eq!(outcome(&mounted, &paths, act), expected, "{:?}", act);
                }
                prop_assert_eq!(listing(&mounted), listing(&plain_root));
                Ok(())
            })
            .await;
            drop(mount);
            fixture.end().await;
            checked
        });
        checked?;
    }
}
