//! An image made to be difficult: an OCI layout with all that a tar archive and a filesystem can
//! hold and that programs get wrong. Written without a builder and without privileges, the same
//! bytes every time.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// How the layers are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// gzip and plain, one after the other: what umoci reads.
    Gzip,
    /// zstd: the twin that umoci can't read.
    Zstd,
}

/// Writes the layout, with the image under the name `latest`.
pub(crate) fn write(directory: &Path, packing: Packing) -> io::Result<()> {
    let blobs = directory.join("blobs/sha256");
    fs_err::create_dir_all(&blobs)?;
    let put = |bytes: &[u8], media_type: &str| -> io::Result<serde_json::Value> {
        let digest = hex::encode(Sha256::digest(bytes));
        fs_err::write(blobs.join(&digest), bytes)?;
        Ok(serde_json::json!({
            "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len(),
        }))
    };
    let mut diff_ids = Vec::new();
    let mut layers = Vec::new();
    for (number, layer) in [lower(), upper(), top()].into_iter().enumerate() {
        let tar = layer.finish();
        diff_ids.push(format!("sha256:{}", hex::encode(Sha256::digest(&tar))));
        let (packed, suffix) = match packing {
            Packing::Zstd => (zstd::stream::encode_all(&tar[..], 3)?, "+zstd"),
            Packing::Gzip if number == 2 => (tar, ""),
            Packing::Gzip => {
                let mut gzip =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(&tar)?;
                (gzip.finish()?, "+gzip")
            }
        };
        layers.push(put(&packed, &format!("application/vnd.oci.image.layer.v1.tar{suffix}"))?);
    }
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "WorkingDir": "/files"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = put(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json")?;
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers,
    });
    let mut manifest = put(manifest.to_string().as_bytes(), manifest_type)?;
    manifest["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "latest"});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
    fs_err::write(directory.join("index.json"), index.to_string())?;
    fs_err::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
}

/// Nodes of every type, names and sizes at their limits.
fn lower() -> Tar {
    let mut tar = Tar::default();
    tar.node(b'5', "./", |e| e.mode = 0o755);
    for (name, mode) in [
        ("files", 0o755),
        ("dev", 0o755),
        ("sticky", 0o1777),
        ("setgid", 0o2755),
        ("secret", 0o700),
    ] {
        tar.node(b'5', name, |e| e.mode = mode);
    }
    tar.file("files/empty", b"");
    tar.file("files/one chunk", &noise(128 << 10));
    tar.file("files/one more byte", &noise((128 << 10) + 1));
    tar.file("files/large", &noise(5_000_000));
    tar.file("files/zeros", &vec![0; 1_000_000]);
    for (name, mode) in [("setuid", 0o4755), ("setgid-file", 0o2755), ("all", 0o7777), ("none", 0)]
    {
        tar.node(b'0', &format!("files/{name}"), |e| e.mode = mode);
    }
    tar.node(b'0', "files/owner", |e| (e.uid, e.gid) = (123_456, 654_321));
    tar.node(b'0', "files/large owner", |e| (e.uid, e.gid) = (4_000_000_000, 3_000_000));
    for (name, mtime) in
        [("nanoseconds", "1234567890.123456789"), ("epoch", "0"), ("future", "4102444800.5")]
    {
        tar.node(b'0', &format!("files/{name}"), |e| e.mtime = mtime.to_owned());
    }
    tar.node(b'0', "files/before 1970", |e| e.mtime = "-1000.25".to_owned());
    for (name, kind, device) in [
        ("null", b'3', (1, 3)),
        ("large", b'3', (259, 70_000)),
        ("disk", b'4', (8, 1)),
        ("pipe", b'6', (0, 0)),
    ] {
        tar.node(kind, &format!("dev/{name}"), |e| (e.mode, e.device) = (0o660, device));
    }
    // A file capability, and values with every byte.
    let capability = [1, 0, 0, 2, 0, 4, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    tar.node(b'0', "files/capable", |e| {
        e.mode = 0o755;
        e.data = b"#!/bin/sh\n".to_vec();
        e.xattrs.insert("security.capability", capability.to_vec());
        e.xattrs.insert("user.bytes", (0..=255).collect());
        e.xattrs.insert("trusted.note", b"a=b\nc".to_vec());
    });
    tar.node(b'5', "attributes", |e| {
        e.xattrs.insert("user.of", b"a directory".to_vec());
    });
    // Names.
    tar.file(&"n".repeat(255), b"255 bytes");
    tar.file(&"é".repeat(127), b"254 bytes of UTF-8");
    tar.named(b"files/\xff\xfe not UTF-8 \x80", b"bytes");
    tar.named(b"files/new\nline\ttab\\ \"quotes\" \x01", b"printable is something else");
    tar.file("files/ leading and trailing ", b"spaces");
    let mut deep = String::from("deep");
    for level in 0..120 {
        tar.node(b'5', &deep, |_| {});
        deep = format!("{deep}/level-{level:03}");
    }
    tar.file(&deep, b"at the bottom");
    tar.node(b'5', "many", |_| {});
    for number in 0..20_000 {
        tar.file(&format!("many/{number:05}"), if number % 100 == 0 { b"x" } else { b"" });
    }
    // Links.
    tar.link(b'2', "long-target", &format!("/{}", "t/".repeat(1_500)));
    tar.link(b'2', "dangling", "nowhere");
    tar.link(b'2', "loop", "loop");
    tar.link(b'2', "usr-link", "files");
    tar.node(b'2', "owned link", |e| (e.target, e.uid) = (b"files".to_vec(), 5));
    tar.node(b'5', "links", |_| {});
    tar.file("links/a", b"three names");
    tar.link(b'1', "links/b", "links/a");
    tar.link(b'1', "secret/c", "./links/a");
    tar.link(b'1', "links/symlink", "dangling");
    tar.link(b'1', "links/null", "dev/null");
    tar.file("links/stays", b"keeps its content when the other name is replaced");
    tar.link(b'1', "links/replaced", "links/stays");
    // What the layers above change.
    for name in ["file to directory", "file to link", "file to nothing", "file to fifo"] {
        tar.file(name, b"old");
    }
    for name in ["directory to file", "directory to link", "opaque", "kept", "gone", "half"] {
        tar.node(b'5', name, |e| e.mode = 0o711);
        tar.file(&format!("{name}/old"), b"old");
        tar.node(b'5', &format!("{name}/sub"), |_| {});
        tar.file(&format!("{name}/sub/old"), b"old");
    }
    tar.link(b'2', "link to directory", "kept");
    tar
}

/// Replaces, hides, and links to what lies below.
fn upper() -> Tar {
    let mut tar = Tar::default();
    tar.node(b'5', "file to directory", |_| {});
    tar.file("file to directory/new", b"new");
    tar.link(b'2', "file to link", "files/empty");
    tar.node(b'6', "file to fifo", |_| {});
    tar.file(".wh.file to nothing", b"");
    tar.file("directory to file", b"new");
    tar.link(b'2', "directory to link", "kept");
    // The marker stands between what it must leave alone.
    tar.node(b'5', "opaque", |e| e.mode = 0o755);
    tar.file("opaque/before", b"new");
    tar.file("opaque/.wh..wh..opq", b"");
    // umoci gives directories without an entry the time at which it unpacks; so there are none.
    tar.node(b'5', "opaque/sub", |e| e.mode = 0o701);
    tar.file("opaque/sub/new", b"new");
    tar.file(".wh.gone", b"");
    tar.file("half/.wh.old", b"");
    tar.file("half/sub/.wh.old", b"");
    tar.file("half/sub/.wh.never there", b"");
    tar.file("links/replaced", b"new");
    tar.link(b'1', "links/across layers", "links/b");
    tar.link(b'1', "files/capable too", "files/capable");
    tar.node(b'5', "kept", |e| e.mtime = "1500000000.000000001".to_owned());
    tar.node(b'5', "link to directory", |_| {});
    tar.file("usr-link/through a link", b"new");
    tar
}

/// A third layer over both: hidden names come back, and the root changes.
fn top() -> Tar {
    let mut tar = Tar::default();
    tar.node(b'5', "gone", |e| e.uid = 77);
    tar.file("gone/again", b"new");
    tar.file("directory to file", b"newer");
    tar.file("opaque/.wh.before", b"");
    tar.file("many/.wh.00000", b"");
    tar.node(b'5', "./", |e| (e.mode, e.mtime) = (0o755, "1600000000.5".to_owned()));
    tar
}

/// Bytes that no compression makes smaller and every run repeats.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// What an entry says.
struct Entry {
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: String,
    device: (u32, u32),
    target: Vec<u8>,
    data: Vec<u8>,
    xattrs: BTreeMap<&'static str, Vec<u8>>,
}

/// A tar stream whose every entry has a PAX header.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn node(&mut self, kind: u8, name: &str, edit: impl FnOnce(&mut Entry)) {
        self.entry(kind, name.as_bytes(), edit);
    }

    fn file(&mut self, name: &str, data: &[u8]) {
        self.named(name.as_bytes(), data);
    }

    fn named(&mut self, name: &[u8], data: &[u8]) {
        self.entry(b'0', name, |e| e.data = data.to_vec());
    }

    fn link(&mut self, kind: u8, name: &str, target: &str) {
        self.node(kind, name, |e| e.target = target.into());
    }

    fn entry(&mut self, kind: u8, name: &[u8], edit: impl FnOnce(&mut Entry)) {
        let mut entry = Entry {
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: "1700000000.000000007".to_owned(),
            device: (0, 0),
            target: Vec::new(),
            data: Vec::new(),
            xattrs: BTreeMap::new(),
        };
        if kind == b'5' {
            entry.mode = 0o755;
        }
        edit(&mut entry);
        let mut pax = Vec::new();
        let mut record = |key: &str, value: &[u8]| {
            let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
            let mut len = rest.len();
            while len != rest.len() + len.to_string().len() {
                len = rest.len() + len.to_string().len();
            }
            pax.extend_from_slice(len.to_string().as_bytes());
            pax.extend_from_slice(&rest);
        };
        record("path", name);
        record("mtime", entry.mtime.as_bytes());
        record("uid", entry.uid.to_string().as_bytes());
        record("gid", entry.gid.to_string().as_bytes());
        if !entry.target.is_empty() {
            record("linkpath", &entry.target);
        }
        for (name, value) in &entry.xattrs {
            record(&format!("SCHILY.xattr.{name}"), value);
        }
        self.block(b'x', 0o644, (0, 0), &pax);
        self.block(kind, entry.mode, entry.device, &entry.data);
    }

    fn block(&mut self, kind: u8, mode: u32, (major, minor): (u32, u32), data: &[u8]) {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().linkflag = [kind];
        header.as_old_mut().name[..4].copy_from_slice(b"name");
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(data.len() as u64);
        header.set_device_major(major).expect("a ustar header has a device");
        header.set_device_minor(minor).expect("a ustar header has a device");
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}
