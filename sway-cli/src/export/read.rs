//! Opens an image where it is: an OCI layout, an archive of one, or an archive of `docker save`.
//!
//! The core decides which parts are needed and checks them; this file reads them from disk.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use fs_err::File;
use sway_core::image::archive::{
    Checked, DOCUMENT_LEN_MAX, LayerPlace, Members, Sha256Hex, plan_docker, plan_oci,
};
use sway_core::image::{ArchiveError, ImagePlan, LayerPlan, Platform, decompress};
use sway_core::manifest::RunConfig;

use super::error::ExportError;

/// What `--from` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    kind: SourceKind,
    /// As it was typed, `:NAME` and all.
    path: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SourceKind {
    DockerArchive,
    OciArchive,
    OciDirectory,
}

impl Source {
    /// An OCI layout in a directory; `name` is its reference.
    pub(crate) fn oci_directory(directory: &Path, name: &str) -> Self {
        let mut path = directory.as_os_str().to_owned();
        path.push(":");
        path.push(name);
        Self { kind: SourceKind::OciDirectory, path: path.into() }
    }

    /// An archive of `docker save`.
    pub(crate) fn docker_archive(path: PathBuf) -> Self {
        Self { kind: SourceKind::DockerArchive, path }
    }

    /// An archive of an OCI layout.
    pub(crate) fn oci_archive(path: PathBuf) -> Self {
        Self { kind: SourceKind::OciArchive, path }
    }
}

impl FromStr for Source {
    type Err = ExportError;

    fn from_str(text: &str) -> Result<Self, ExportError> {
        let unknown = || ExportError::Source(text.to_owned());
        let (kind, path) = text.split_once(':').ok_or_else(unknown)?;
        let kind = match kind {
            "docker-archive" => SourceKind::DockerArchive,
            "oci-archive" => SourceKind::OciArchive,
            "oci" => SourceKind::OciDirectory,
            _ => return Err(unknown()),
        };
        if path.is_empty() { Err(unknown()) } else { Ok(Self { kind, path: path.into() }) }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

/// An image whose layers can be read, each as often as need be.
#[derive(Clone, Debug)]
pub(crate) struct OpenImage {
    plan: ImagePlan,
    origin: String,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Directory(PathBuf),
    Archive(PathBuf, std::sync::Arc<Members>),
}

impl OpenImage {
    /// Finds the image for `platform`.
    pub(crate) fn open(source: &Source, platform: &Platform) -> Result<Self, ExportError> {
        let (path, reference) = split_reference(&source.path);
        let origin = path.display().to_string();
        let failed = |source| ExportError::Archive { origin: origin.clone(), source };
        let place = match source.kind {
            SourceKind::OciDirectory => {
                fs_err::metadata(&path).map_err(ExportError::file(&path))?;
                Place::Directory(path)
            }
            SourceKind::OciArchive | SourceKind::DockerArchive => {
                let file = File::open(&path).map_err(ExportError::file(&path))?;
                let members = Members::read(io::BufReader::new(file)).map_err(failed)?;
                Place::Archive(path, members.into())
            }
        };
        let reference = reference.as_deref();
        let plan = match source.kind {
            SourceKind::OciDirectory | SourceKind::OciArchive => {
                place.document("index.json").and_then(|index| {
                    plan_oci(&index, reference, platform, |digest| {
                        place.document(&blob_path(digest))
                    })
                })
            }
            SourceKind::DockerArchive => place.document("manifest.json").and_then(|manifest| {
                plan_docker(&manifest, reference, platform, |name| place.document(name))
            }),
        };
        Ok(Self { plan: plan.map_err(failed)?, origin: origin.clone(), place })
    }

    /// The path, for messages.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// How to run it.
    pub(crate) fn config(&self) -> &RunConfig {
        &self.plan.config
    }

    /// Lowest first.
    pub(crate) fn layers(&self) -> &[LayerPlan] {
        &self.plan.layers
    }

    /// Bytes of a layer as they are stored.
    pub(crate) fn stored_len(&self, layer: &LayerPlan) -> Result<u64, ExportError> {
        self.place.find(&layer.place).map(|(_, len)| len).map_err(|source| self.failed(source))
    }

    /// Reads a layer: `read` gets its uncompressed stream, wrapped by `watch` below the
    /// decompression. Whatever `read` leaves is read as well; then the bytes must be those that
    /// the digests name, or the error says so, even where `read` failed on them first.
    pub(crate) fn read_layer<T>(
        &self,
        layer: &LayerPlan,
        watch: impl FnOnce(Box<dyn Read + Send>) -> Box<dyn Read + Send>,
        read: impl FnOnce(&mut dyn Read) -> Result<T, ExportError>,
    ) -> Result<T, ExportError> {
        let stored = watch(self.place.open(&layer.place).map_err(|source| self.failed(source))?);
        let mut stored = Checked::new(stored);
        let result = match &layer.place {
            // Not compressed: one hash is both digests.
            LayerPlace::Blob { digest, .. } if *digest == layer.diff_id => {
                read(&mut io::BufReader::with_capacity(128 << 10, &mut stored))
            }
            _ => self.read_checked(layer, &mut stored, read),
        };
        if let LayerPlace::Blob { digest, .. } = &layer.place {
            let name = format!("blob {digest}");
            // A reader that wants no more has reasons that have nothing to do with the bytes.
            let stopped = matches!(
                &result,
                Err(ExportError::Layer { source: sway_core::image::LayerError::Stopped, .. })
            );
            if !stopped {
                stored.finish(&name, digest).map_err(|source| self.failed(source))?;
            }
        }
        result
    }

    /// Reads a layer whose content is known, to see whether the bytes here are that layer's.
    pub(crate) fn check_layer(
        &self,
        layer: &LayerPlan,
        watch: impl FnOnce(Box<dyn Read + Send>) -> Box<dyn Read + Send>,
    ) -> Result<(), ExportError> {
        match &layer.place {
            LayerPlace::Blob { digest, .. } => {
                let stored = self.place.open(&layer.place).map_err(|source| self.failed(source))?;
                Checked::new(watch(stored))
                    .finish(&format!("blob {digest}"), digest)
                    .map_err(|source| self.failed(source))
            }
            LayerPlace::Member(_) => self.read_layer(layer, watch, |_| Ok(())),
        }
    }

    fn read_checked<T>(
        &self,
        layer: &LayerPlan,
        stored: &mut (impl Read + Send),
        read: impl FnOnce(&mut dyn Read) -> Result<T, ExportError>,
    ) -> Result<T, ExportError> {
        let name = format!("layer {}", layer.diff_id);
        let stream = decompress(stored)
            .map_err(|source| self.failed(ArchiveError::Read { name: name.clone(), source }))?;
        let mut stream = Checked::new(stream);
        let value = read(&mut stream)?;
        stream.finish(&name, &layer.diff_id).map_err(|source| self.failed(source))?;
        Ok(value)
    }

    fn failed(&self, source: ArchiveError) -> ExportError {
        ExportError::Archive { origin: self.origin.clone(), source }
    }
}

impl Place {
    fn document(&self, name: &str) -> Result<Vec<u8>, ArchiveError> {
        let read_error = |source| ArchiveError::Read { name: name.to_owned(), source };
        let (input, len) = self.open_named(name)?;
        if len > DOCUMENT_LEN_MAX {
            let reason = format!("{len} bytes; at most {DOCUMENT_LEN_MAX} are possible");
            return Err(ArchiveError::Malformed { name: name.to_owned(), reason });
        }
        let mut bytes = Vec::new();
        input.take(DOCUMENT_LEN_MAX).read_to_end(&mut bytes).map_err(read_error)?;
        Ok(bytes)
    }

    fn open(&self, place: &LayerPlace) -> Result<Box<dyn Read + Send>, ArchiveError> {
        let name = layer_path(place);
        let (input, len) = self.open_named(&name)?;
        if let LayerPlace::Blob { size, .. } = place
            && *size != len
        {
            let reason = format!("it has {len} bytes where {size} are due: it is truncated");
            return Err(ArchiveError::Malformed { name, reason });
        }
        Ok(input)
    }

    fn find(&self, place: &LayerPlace) -> Result<(u64, u64), ArchiveError> {
        let name = layer_path(place);
        match self {
            Self::Archive(_, members) => members.find(&name),
            Self::Directory(_) => self.open_named(&name).map(|(_, len)| (0, len)),
        }
    }

    fn open_named(&self, name: &str) -> Result<(Box<dyn Read + Send>, u64), ArchiveError> {
        let read_error = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ArchiveError::Absent(name.to_owned()),
            _ => ArchiveError::Read { name: name.to_owned(), source },
        };
        match self {
            Self::Directory(directory) => {
                let file = File::open(directory.join(name)).map_err(read_error)?;
                let metadata = file.metadata().map_err(read_error)?;
                if !metadata.is_file() {
                    return Err(ArchiveError::Absent(name.to_owned()));
                }
                Ok((Box::new(file), metadata.len()))
            }
            Self::Archive(path, members) => {
                let (position, len) = members.find(name)?;
                let mut file = File::open(path).map_err(read_error)?;
                file.seek(SeekFrom::Start(position)).map_err(read_error)?;
                Ok((Box::new(file.take(len)), len))
            }
        }
    }
}

fn blob_path(digest: &Sha256Hex) -> String {
    format!("blobs/sha256/{digest}")
}

fn layer_path(place: &LayerPlace) -> String {
    match place {
        LayerPlace::Blob { digest, .. } => blob_path(digest),
        LayerPlace::Member(name) => name.clone(),
    }
}

/// `PATH` where it exists, else `PATH:NAME`, as skopeo and buildah write it.
fn split_reference(path: &Path) -> (PathBuf, Option<String>) {
    if let Some(text) = path.to_str()
        && !path.exists()
    {
        // A tag may follow the name: the shortest path that exists is meant.
        for (at, _) in text.match_indices(':') {
            let (shorter, reference) = (Path::new(&text[..at]), &text[at + 1..]);
            if shorter.exists() && !reference.is_empty() {
                return (shorter.to_owned(), Some(reference.to_owned()));
            }
        }
    }
    (path.to_owned(), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_kind_and_a_path() {
        let source: Source = "oci:/a:b".parse().unwrap();
        assert_eq!(source.kind, SourceKind::OciDirectory);
        assert_eq!(source.path, Path::new("/a:b"));
        for text in ["", "oci", "oci:", "docker:x", "/a/b"] {
            assert!(text.parse::<Source>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_reference_follows_a_path_that_exists() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let named = format!("{path}:a/b:c");
        assert_eq!(split_reference(Path::new(&named)), (path.into(), Some("a/b:c".to_owned())));
        assert_eq!(split_reference(Path::new(path)), (path.into(), None));
        assert_eq!(split_reference(Path::new("/nowhere:x")), ("/nowhere:x".into(), None));
    }
}
