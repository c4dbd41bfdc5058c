//! What `sway run` is told of data: which files and folders of this machine a job reads, and where.

use std::path::{Path, PathBuf};

use sway_core::access::Scope;
use sway_core::job::{Dataset, DatasetKind};
use sway_core::name::DatasetName;

use crate::context::{Context, Fileserver};
use crate::export::{Progress, StoredDataset, cache_directory, store_dataset};
use crate::failure::Failure;

/// Where a job finds its data.
const DATA: &str = "/data";

/// A file or folder of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataSource {
    /// What it is to be called.
    pub(crate) name: Option<String>,
    /// Where it is.
    pub(crate) path: PathBuf,
}

/// One that a job will read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SentDataset {
    /// As it was given.
    pub(crate) path: PathBuf,
    /// What the worker is told.
    pub(crate) dataset: Dataset,
}

impl DataSource {
    /// `[NAME=]PATH`. A path that is there is taken as it is, whatever it holds.
    pub(crate) fn parse(text: &str) -> Self {
        let split = text.split_once('=').filter(|(name, _)| !name.contains('/'));
        match split {
            Some((name, path)) if !Path::new(text).exists() => {
                Self { name: Some(name.to_owned()), path: path.into() }
            }
            _ => Self { name: None, path: text.into() },
        }
    }

    /// The name below `/data`: none for a folder that comes alone.
    fn target(&self, kind: DatasetKind, is_alone: bool) -> anyhow::Result<Option<String>> {
        if self.name.is_some() || is_alone && kind == DatasetKind::Folder {
            return Ok(self.name.clone());
        }
        let named = match self.path.file_name() {
            Some(name) => Some(name.to_owned()),
            // `.` and `..` have one, too.
            None => fs_err::canonicalize(&self.path)?.file_name().map(ToOwned::to_owned),
        };
        let name = named.and_then(|name| name.into_string().ok()).ok_or_else(|| {
            Failure::refused(format!("{} has no name to go by", self.path.display()))
                .hint("give it one: --data NAME=PATH")
        })?;
        Ok(Some(name))
    }
}

/// Puts all of them on the fileserver, as the caller's own.
pub(crate) async fn send(
    sources: &[DataSource],
    context: &Context,
) -> anyhow::Result<Vec<SentDataset>> {
    if sources.is_empty() {
        return Ok(Vec::new());
    }
    let cache = cache_directory()?;
    let Fileserver { client, user } = context.fileserver(&[Scope::Run]).await?;
    let progress = Progress::new(context.output.clone());
    let mut sent = Vec::new();
    for source in sources {
        let to_ref = |digest| DatasetName::of_digest(digest).to_ref(&user);
        let stored = store_dataset(&client, &source.path, to_ref, &cache, &progress).await?;
        tracing::info!(
            path = %source.path.display(),
            manifest.digest = %stored.manifest,
            files = stored.files,
            bytes = stored.bytes,
            bytes_sent = stored.bytes_sent,
            "dataset stored"
        );
        let StoredDataset { manifest, kind, .. } = stored;
        let name = source.target(kind, sources.len() == 1)?;
        let dataset = Dataset { name, kind, dataset: DatasetName::of_digest(manifest) };
        sent.push(SentDataset { path: source.path.clone(), dataset });
    }
    Ok(sent)
}

impl SentDataset {
    /// Where the job finds it.
    pub(crate) fn target(&self) -> String {
        match &self.dataset.name {
            Some(name) => format!("{DATA}/{name}"),
            None => DATA.to_owned(),
        }
    }
}

/// What the job's `DATA_PATH` is.
pub(crate) fn data_path(datasets: &[SentDataset]) -> Option<String> {
    match datasets {
        [] => None,
        [only] => Some(only.target()),
        _ => Some(DATA.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_before_the_path_unless_all_of_it_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a=b");
        fs_err::write(&odd, "").unwrap();
        let odd = odd.to_str().unwrap();
        for (text, name, path) in [
            ("x.csv", None, "x.csv"),
            ("sales=data/x.csv", Some("sales"), "data/x.csv"),
            ("./a=b/c", None, "./a=b/c"),
            ("sales=a=b", Some("sales"), "a=b"),
            (odd, None, odd),
        ] {
            let expected = DataSource { name: name.map(str::to_owned), path: path.into() };
            assert_eq!(DataSource::parse(text), expected);
        }
    }

    #[test]
    fn a_folder_alone_is_data_itself_and_all_else_has_a_name() {
        use DatasetKind::{File, Folder};
        let target =
            |text: &str, kind, is_alone| DataSource::parse(text).target(kind, is_alone).unwrap();
        assert_eq!(target("d/x.csv", File, true).as_deref(), Some("x.csv"));
        assert_eq!(target("d/tables/", Folder, true), None);
        assert_eq!(target("d/tables/", Folder, false).as_deref(), Some("tables"));
        assert_eq!(target("t=d/tables", Folder, true).as_deref(), Some("t"));
        let here = fs_err::canonicalize(".").unwrap();
        let name = here.file_name().unwrap().to_str();
        assert_eq!(target(".", Folder, false).as_deref(), name);
    }
}
