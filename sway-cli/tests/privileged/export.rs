//! The difficult image: exported to a real fileserver, its manifest read back and compared with
//! the tree that umoci unpacks, `lstat` by `lstat`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use sway_client::{Client, ClientConfig};
use sway_core::manifest::{ExtentSource, Ino, Manifest, mode};
use sway_fileserver::config::Config;
use sway_server::token::Token;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::difficult_image::{Packing, write};

#[tokio::test(flavor = "multi_thread")]
async fn the_manifest_of_a_difficult_image_is_the_tree_that_umoci_unpacks() {
    let dir = tempfile::tempdir().unwrap();
    let (gzip, zstd) = (dir.path().join("gzip"), dir.path().join("zstd"));
    write(&gzip, Packing::Gzip).unwrap();
    write(&zstd, Packing::Zstd).unwrap();
    let umoci = Command::new("umoci")
        .args(["unpack", "--image"])
        .arg(format!("{}:latest", gzip.display()))
        .arg(dir.path().join("bundle"))
        .output()
        .unwrap();
    assert!(umoci.status.success(), "{}", String::from_utf8_lossy(&umoci.stderr));

    let server = Fileserver::start(dir.path());
    let client = server.client();
    let first = server.export(&gzip, "gzip");
    assert_eq!(
        (first["layers_processed"].as_u64(), first["layers_cached"].as_u64()),
        (Some(3), Some(0))
    );
    // The twin has the same layers in other packing: none is read again, nothing is sent.
    let second = server.export(&zstd, "zstd");
    assert_eq!(second["manifest"], first["manifest"]);
    assert_eq!(second["new_blobs"].as_u64(), Some(0));
    assert_eq!(second["bytes_sent"].as_u64(), Some(0));
    assert_eq!(second["layers_processed"].as_u64(), Some(0));
    // And read for itself, it is the same tree.
    fs_err::remove_dir_all(server.cache()).unwrap();
    assert_eq!(server.export(&zstd, "zstd")["manifest"], first["manifest"]);

    let digest = first["manifest"].as_str().unwrap().parse().unwrap();
    let bytes = client.blobs().get(digest).await.unwrap();
    let manifest = Manifest::decode(bytes.as_ref()).unwrap();
    let mut comparing =
        Comparing { client, manifest, links: BTreeMap::new(), differences: Vec::new() };
    comparing.compare(Ino::ROOT, &dir.path().join("bundle/rootfs")).await;
    assert!(comparing.differences.is_empty(), "{:#?}", comparing.differences);
}

struct Comparing {
    client: Client,
    manifest: Manifest,
    /// Inode here to inode there: hard links group alike.
    links: BTreeMap<Ino, u64>,
    differences: Vec<String>,
}

impl Comparing {
    async fn compare(&mut self, root: Ino, path: &Path) {
        let mut work = vec![(root, path.to_owned())];
        while let Some((ino, path)) = work.pop() {
            let found = self.describe_manifest(ino).await;
            let expected = describe_path(&path);
            if found != expected {
                self.differences.push(format!("{}: {found:?} / {expected:?}", path.display()));
            }
            let there = fs_err::symlink_metadata(&path).unwrap();
            if *self.links.entry(ino).or_insert(there.ino()) != there.ino() {
                self.differences.push(format!("{}: another hard link", path.display()));
            }
            if !there.is_dir() {
                continue;
            }
            let names: BTreeSet<Vec<u8>> = fs_err::read_dir(&path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
                .collect();
            let entries: BTreeMap<Vec<u8>, Ino> = self
                .manifest
                .entries(ino)
                .unwrap()
                .map(|(name, child)| (name.to_vec(), child))
                .collect();
            if !entries.keys().eq(names.iter()) {
                self.differences.push(format!("{}: other names", path.display()));
            }
            let both = entries.into_iter().filter(|(name, _)| names.contains(name));
            work.extend(both.map(|(name, child)| (child, path.join(OsStr::from_bytes(&name)))));
        }
    }

    async fn describe_manifest(&self, ino: Ino) -> Node {
        let inode = self.manifest.inode(ino).unwrap();
        let is_directory = inode.is_directory();
        Node {
            mode: inode.mode,
            owner: (inode.uid, inode.gid),
            mtime: (inode.mtime.seconds, inode.mtime.nanoseconds.into()),
            size: if is_directory { 0 } else { inode.size() },
            links: if is_directory { 0 } else { inode.nlink.into() },
            device: inode.rdev(),
            target: self.manifest.symlink_target(ino).map(<[u8]>::to_vec),
            attributes: self
                .manifest
                .xattrs(ino)
                .iter()
                .map(|xattr| (xattr.name.clone(), xattr.value.clone()))
                .collect(),
            content: if inode.is_regular() { Some(self.content(ino).await) } else { None },
        }
    }

    async fn content(&self, ino: Ino) -> Content {
        let mut content = Vec::new();
        for extent in self.manifest.extents(ino) {
            let count = extent.count as usize;
            match extent.source {
                ExtentSource::Hole => {
                    content.resize(content.len() + count * self.manifest.chunk_len() as usize, 0);
                }
                ExtentSource::Chunks(first) => {
                    for chunk in &self.manifest.chunks()[first as usize..][..count] {
                        let blob = self.client.blobs().get(chunk.digest).await.unwrap();
                        content.extend_from_slice(blob.as_ref());
                    }
                }
            }
        }
        Content(content)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Node {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    size: u64,
    links: u64,
    device: u64,
    target: Option<Vec<u8>>,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    content: Option<Content>,
}

/// Not printed where it differs.
#[derive(PartialEq, Eq)]
struct Content(Vec<u8>);

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, {}", self.0.len(), sway_core::digest::Digest::of(&self.0))
    }
}

fn describe_path(path: &Path) -> Node {
    let metadata = fs_err::symlink_metadata(path).unwrap();
    let is_directory = metadata.is_dir();
    let kind = metadata.mode() & mode::TYPE;
    let attributes = xattr::list(path).unwrap().map(|name| {
        let value = xattr::get(path, &name).unwrap().unwrap();
        (name.as_bytes().to_vec(), value)
    });
    Node {
        mode: metadata.mode(),
        owner: (metadata.uid(), metadata.gid()),
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        size: if is_directory { 0 } else { metadata.size() },
        links: if is_directory { 0 } else { metadata.nlink() },
        device: metadata.rdev(),
        target: (kind == mode::SYMLINK)
            .then(|| fs_err::read_link(path).unwrap().as_os_str().as_bytes().to_vec()),
        attributes: attributes.collect(),
        content: (kind == mode::REGULAR).then(|| Content(fs_err::read(path).unwrap())),
    }
}

/// A fileserver in this process, and the `sway` that exports to it.
struct Fileserver {
    directory: PathBuf,
    url: String,
    _running: JoinSet<anyhow::Result<()>>,
}

const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

impl Fileserver {
    fn start(directory: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let data = directory.join("fileserver");
        let token = Token::parse(TOKEN).unwrap();
        let mut running = JoinSet::new();
        running.spawn(sway_fileserver::run(
            Config::new(data, token),
            listener,
            CancellationToken::new(),
        ));
        Self { directory: directory.to_owned(), url, _running: running }
    }

    fn client(&self) -> Client {
        let mut config = ClientConfig::new(self.url.parse().unwrap());
        config.token = Some(TOKEN.to_owned());
        Client::new(&config).unwrap()
    }

    fn cache(&self) -> PathBuf {
        self.directory.join("cache")
    }

    fn export(&self, layout: &Path, name: &str) -> serde_json::Value {
        let output = assert_cmd::Command::cargo_bin("sway")
            .unwrap()
            .env("SWAY_TOKEN", TOKEN)
            .env("FILESERVER_URL", &self.url)
            .env("XDG_CACHE_HOME", self.cache())
            .env("XDG_STATE_HOME", self.directory.join("state"))
            .args(["export", "--json", "--name", name, "--from"])
            .arg(format!("oci:{}", layout.display()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}
