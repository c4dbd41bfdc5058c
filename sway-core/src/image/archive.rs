//! Finds one image in what builders write: an OCI layout, as a directory or in a tar archive, or
//! an archive of `docker save`.
//!
//! Pure: the caller lends a function that reads a document by its digest or name, and gets an
//! [`ImagePlan`] that says how to run the image and where its layers are. Every document that has
//! a digest is checked against it here; layers are checked while they are read ([`Checked`]).

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read, Seek};
use std::str::FromStr;

use oci_spec::image::{
    Descriptor, Digest, DigestAlgorithm, ImageConfiguration, ImageIndex, ImageManifest, MediaType,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::entries::{Entries, EntryError, EntryKind};
use crate::manifest::RunConfig;

/// The longest index, manifest or configuration, in bytes.
pub const DOCUMENT_LEN_MAX: u64 = 8 << 20;

/// Indexes in indexes.
const NESTING_MAX: usize = 4;

/// Most members of an archive that is a container of layers.
const MEMBERS_MAX: usize = 100_000;

/// An archive in which no image can be found.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A document or layer is not there.
    #[error("the archive has no {0}: it is incomplete, or of another kind")]
    Absent(String),
    /// It can't be read.
    #[error("can't read {name} of the archive: {source}")]
    Read {
        /// Which part.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The tar archive around it can't be read.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The bytes are not those that the digest names.
    #[error(
        "{name} does not match its digest: expected sha256:{expected}, its bytes have {actual}"
    )]
    Mismatch {
        /// Which part.
        name: String,
        /// Hex digits of the digest in the document that names it.
        expected: String,
        /// What was found.
        actual: String,
    },
    /// A document that makes no sense.
    #[error("{name} of the archive is malformed: {reason}")]
    Malformed {
        /// Which part.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Several images, or none that fits.
    #[error("{0}")]
    Choice(String),
}

fn malformed(name: &str, reason: impl fmt::Display) -> ArchiveError {
    ArchiveError::Malformed { name: name.to_owned(), reason: reason.to_string() }
}

/// The SHA-256 of something, as 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Hex(String);

impl Sha256Hex {
    /// Of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hash(Sha256::digest(bytes).as_slice())
    }

    fn from_hash(hash: &[u8]) -> Self {
        Self(hash.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn from_digest(digest: &Digest) -> Result<Self, ArchiveError> {
        match digest.algorithm() {
            DigestAlgorithm::Sha256 => Ok(Self(digest.digest().to_owned())),
            _ => Err(malformed("a descriptor", format!("only sha256 is known, not {digest}"))),
        }
    }
}

impl fmt::Display for Sha256Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Operating system, architecture and perhaps variant, in Go's spelling: `linux/amd64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// Such as `amd64` or `arm64`.
    pub architecture: String,
    /// Such as `v8`; any where absent.
    pub variant: Option<String>,
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split('/').map(str::to_owned);
        let platform = (parts.next(), parts.next(), parts.next(), parts.next());
        match platform {
            (Some(os), Some(architecture), variant, None)
                if !os.is_empty() && !architecture.is_empty() =>
            {
                Ok(Self { os, architecture, variant })
            }
            _ => Err(format!("not a platform: {text:?} (expected such as linux/amd64)")),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// One image of an archive: how to run it, and its layers from the lowest up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagePlan {
    /// How to run it.
    pub config: RunConfig,
    /// Lowest first.
    pub layers: Vec<LayerPlan>,
}

/// Where a layer is, and what its bytes must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerPlan {
    /// SHA-256 of the uncompressed tar stream: the layer's name in caches, however it is packed.
    pub diff_id: Sha256Hex,
    /// Where the bytes are.
    pub place: LayerPlace,
}

/// Where the bytes of a layer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerPlace {
    /// A blob of an OCI layout, with its digest and length in bytes.
    Blob {
        /// SHA-256 of the bytes as they are stored.
        digest: Sha256Hex,
        /// How many.
        size: u64,
    },
    /// A member of an archive of `docker save`.
    Member(String),
}

/// Finds an image in an OCI layout. `index` are the bytes of its `index.json`; `read_blob` reads a
/// blob of at most [`DOCUMENT_LEN_MAX`] bytes; `reference` chooses among several images by their
/// `org.opencontainers.image.ref.name`.
pub fn plan_oci(
    index: &[u8],
    reference: Option<&str>,
    platform: &Platform,
    mut read_blob: impl FnMut(&Sha256Hex) -> Result<Vec<u8>, ArchiveError>,
) -> Result<ImagePlan, ArchiveError> {
    let index: ImageIndex = parse("index.json", index)?;
    let mut candidates = index.manifests().clone();
    if let Some(reference) = reference {
        candidates.retain(|descriptor| ref_name(descriptor) == Some(reference));
        if candidates.is_empty() {
            let names = ref_names(index.manifests());
            let message = format!("the archive has no image {reference:?}, only {names:?}");
            return Err(ArchiveError::Choice(message));
        }
    }
    let manifest = choose(candidates, platform, &mut read_blob)?;
    let bytes = read_document(&manifest, &mut read_blob)?;
    let manifest: ImageManifest = parse("the image's manifest", &bytes)?;
    let config = read_document(manifest.config(), &mut read_blob)?;
    let (config, diff_ids) = parse_config(&config, platform)?;
    let places = manifest.layers().iter().map(|descriptor| {
        Ok(LayerPlace::Blob {
            digest: Sha256Hex::from_digest(descriptor.digest())?,
            size: descriptor.size(),
        })
    });
    let layers = pair(diff_ids, places.collect::<Result<_, ArchiveError>>()?)?;
    Ok(ImagePlan { config, layers })
}

/// Follows indexes down to the one manifest that fits.
fn choose(
    mut candidates: Vec<Descriptor>,
    platform: &Platform,
    read_blob: &mut impl FnMut(&Sha256Hex) -> Result<Vec<u8>, ArchiveError>,
) -> Result<Descriptor, ArchiveError> {
    for _ in 0..NESTING_MAX {
        let found: Vec<String> = candidates.iter().filter_map(platform_name).collect();
        candidates.retain(|descriptor| fits(descriptor, platform));
        // Two names of one image are no question.
        candidates.dedup_by(|a, b| a.digest() == b.digest());
        let chosen = match candidates.as_slice() {
            [one] => one.clone(),
            [] if found.is_empty() => {
                return Err(ArchiveError::Choice("the archive has no image".to_owned()));
            }
            [] => {
                return Err(ArchiveError::Choice(format!(
                    "the archive has no image for {platform}, only for {}",
                    found.join(", ")
                )));
            }
            several => {
                return Err(ArchiveError::Choice(format!(
                    "the archive has {} images, {:?}: choose one by adding :NAME",
                    several.len(),
                    ref_names(several)
                )));
            }
        };
        if !matches!(chosen.media_type(), MediaType::ImageIndex)
            && chosen.media_type().as_ref()
                != "application/vnd.docker.distribution.manifest.list.v2+json"
        {
            return Ok(chosen);
        }
        let bytes = read_document(&chosen, read_blob)?;
        let index: ImageIndex = parse("an index", &bytes)?;
        candidates = index.manifests().clone();
    }
    Err(malformed("index.json", format!("more than {NESTING_MAX} indexes in one another")))
}

fn fits(descriptor: &Descriptor, platform: &Platform) -> bool {
    descriptor.platform().as_ref().is_none_or(|found| {
        found.os().to_string() == platform.os
            && found.architecture().to_string() == platform.architecture
            && platform
                .variant
                .as_ref()
                .is_none_or(|variant| found.variant().as_ref().is_none_or(|found| found == variant))
    })
}

fn platform_name(descriptor: &Descriptor) -> Option<String> {
    let platform = descriptor.platform().as_ref()?;
    Some(format!("{}/{}", platform.os(), platform.architecture()))
}

fn ref_name(descriptor: &Descriptor) -> Option<&str> {
    let annotations = descriptor.annotations().as_ref()?;
    annotations.get("org.opencontainers.image.ref.name").map(String::as_str)
}

fn ref_names(descriptors: &[Descriptor]) -> Vec<&str> {
    descriptors.iter().filter_map(ref_name).collect()
}

fn read_document(
    descriptor: &Descriptor,
    read_blob: &mut impl FnMut(&Sha256Hex) -> Result<Vec<u8>, ArchiveError>,
) -> Result<Vec<u8>, ArchiveError> {
    let expected = Sha256Hex::from_digest(descriptor.digest())?;
    let bytes = read_blob(&expected)?;
    let actual = Sha256Hex::of(&bytes);
    if actual == expected {
        Ok(bytes)
    } else {
        Err(ArchiveError::Mismatch {
            name: format!("blob {expected}"),
            expected: expected.0,
            actual: actual.0,
        })
    }
}

fn parse<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, ArchiveError> {
    serde_json::from_slice(bytes).map_err(|error| malformed(name, error))
}

/// How to run the image, and the digests of its uncompressed layers.
fn parse_config(
    bytes: &[u8],
    wanted: &Platform,
) -> Result<(RunConfig, Vec<Sha256Hex>), ArchiveError> {
    const NAME: &str = "the image's configuration";
    let configuration: ImageConfiguration = parse(NAME, bytes)?;
    let architecture = configuration.architecture().to_string();
    let os = configuration.os().to_string();
    let fits = |found: &str, wanted: &str| found.is_empty() || found == wanted;
    if !fits(&os, &wanted.os) || !fits(&architecture, &wanted.architecture) {
        return Err(ArchiveError::Choice(format!(
            "the image is for {os}/{architecture}, not for {wanted}"
        )));
    }
    let diff_ids = configuration.rootfs().diff_ids().iter().map(|text| {
        let digest = Digest::from_str(text).map_err(|error| malformed(NAME, error))?;
        Sha256Hex::from_digest(&digest)
    });
    let diff_ids = diff_ids.collect::<Result<_, _>>()?;
    let mut run = RunConfig { architecture, os, ..RunConfig::default() };
    if let Some(config) = configuration.config() {
        run.env = config.env().clone().unwrap_or_default();
        run.entrypoint = config.entrypoint().clone().unwrap_or_default();
        run.cmd = config.cmd().clone().unwrap_or_default();
        run.working_dir = config.working_dir().clone().unwrap_or_default();
        run.user = config.user().clone().unwrap_or_default();
    }
    Ok((run, diff_ids))
}

fn pair(diff_ids: Vec<Sha256Hex>, places: Vec<LayerPlace>) -> Result<Vec<LayerPlan>, ArchiveError> {
    if diff_ids.len() != places.len() {
        return Err(malformed(
            "the image's configuration",
            format!("it names {} layers, the manifest {}", diff_ids.len(), places.len()),
        ));
    }
    let pairs = diff_ids.into_iter().zip(places);
    Ok(pairs.map(|(diff_id, place)| LayerPlan { diff_id, place }).collect())
}

/// One image in the `manifest.json` of `docker save`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Finds an image in an archive of `docker save`. `manifest` are the bytes of its `manifest.json`;
/// `read_member` reads a member of at most [`DOCUMENT_LEN_MAX`] bytes; `reference` chooses among
/// several images by their tags.
pub fn plan_docker(
    manifest: &[u8],
    reference: Option<&str>,
    platform: &Platform,
    mut read_member: impl FnMut(&str) -> Result<Vec<u8>, ArchiveError>,
) -> Result<ImagePlan, ArchiveError> {
    let mut images: Vec<DockerImage> = parse("manifest.json", manifest)?;
    let tags = |images: &[DockerImage]| -> Vec<String> {
        images.iter().flat_map(|image| image.repo_tags.clone().unwrap_or_default()).collect()
    };
    let all = tags(&images);
    if let Some(reference) = reference {
        images.retain(|image| tags(std::slice::from_ref(image)).iter().any(|tag| tag == reference));
    }
    let [image] = images.as_slice() else {
        return Err(ArchiveError::Choice(match images.len() {
            0 => {
                format!("the archive has no image {}, only {all:?}", reference.unwrap_or("at all"))
            }
            count => format!("the archive has {count} images, {all:?}: choose one by adding :NAME"),
        }));
    };
    let config = read_member(&image.config)?;
    let (config, diff_ids) = parse_config(&config, platform)?;
    let places = image.layers.iter().map(|name| LayerPlace::Member(name.clone())).collect();
    Ok(ImagePlan { config, layers: pair(diff_ids, places)? })
}

/// Where the members of a tar archive are: name to position and length, links resolved.
#[derive(Debug, Default)]
pub struct Members(HashMap<Vec<u8>, Member>);

#[derive(Clone, Debug)]
enum Member {
    File { position: u64, size: u64 },
    Link(Vec<u8>),
}

impl Members {
    /// Reads the headers of an uncompressed archive.
    pub fn read(archive: impl Read + Seek) -> Result<Self, ArchiveError> {
        let mut entries = Entries::new(archive);
        let mut members = HashMap::new();
        while let Some(entry) = entries.next_entry()? {
            let name = clean(&entry.path);
            let member = match entry.kind {
                EntryKind::Regular => Member::File { position: entry.position, size: entry.size },
                EntryKind::HardLink => Member::Link(clean(&entry.target)),
                // Old archives of Docker keep a layer that occurs twice as a link beside it.
                EntryKind::Symlink => {
                    let end = name.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
                    Member::Link(clean(&[&name[..end], &entry.target].concat()))
                }
                _ => continue,
            };
            members.insert(name, member);
            entries.seek_past_data()?;
            if members.len() > MEMBERS_MAX {
                return Err(malformed("the list", format!("more than {MEMBERS_MAX} members")));
            }
        }
        Ok(Self(members))
    }

    /// Position and length in bytes of a member.
    pub fn find(&self, name: &str) -> Result<(u64, u64), ArchiveError> {
        let mut key = clean(name.as_bytes());
        for _ in 0..8 {
            match self.0.get(&key) {
                Some(Member::File { position, size }) => return Ok((*position, *size)),
                Some(Member::Link(target)) => key = target.clone(),
                None => break,
            }
        }
        Err(ArchiveError::Absent(name.to_owned()))
    }
}

/// Without `.`, empty parts, and `..` as far as it goes: only a key of a map, never a path.
fn clean(name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// Hashes and counts what is read through it, to be compared at the end.
#[derive(Debug)]
pub struct Checked<R> {
    input: R,
    hasher: Sha256,
    len: u64,
}

impl<R: Read> Checked<R> {
    /// Nothing read so far.
    pub fn new(input: R) -> Self {
        Self { input, hasher: Sha256::new(), len: 0 }
    }

    /// Reads to the end and compares. `name` is for the message.
    pub fn finish(mut self, name: &str, expected: &Sha256Hex) -> Result<(), ArchiveError> {
        io::copy(&mut self, &mut io::sink())
            .map_err(|source| ArchiveError::Read { name: name.to_owned(), source })?;
        let actual = Sha256Hex::from_hash(self.hasher.finalize().as_slice());
        if actual == *expected {
            return Ok(());
        }
        Err(ArchiveError::Mismatch {
            name: name.to_owned(),
            expected: expected.0.clone(),
            actual: format!("{actual} ({} bytes)", self.len),
        })
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(out)?;
        self.hasher.update(&out[..n]);
        self.len += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests;
