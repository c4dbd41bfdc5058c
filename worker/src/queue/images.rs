//! From an image's name to its manifest, by the fileserver's refs.

use std::sync::Arc;

use sway_client::{Client, ClientError};
use sway_core::api::jobs::{DatasetView, ImageView};
use sway_core::api::submissions::NamedDataset;
use sway_core::digest::Digest;
use sway_core::job::{Dataset, DatasetKind};
use sway_core::manifest::{Ino, Manifest};
use sway_core::name::{ImageName, UserName};
use sway_core::trace::TraceKey;

use super::QueueError;
use crate::start::Starts;

/// Images told in an error message.
const NAMES_TOLD_MAX: usize = 50;

/// Datasets in one listing: the manifest of each is looked at.
const DATASETS_TOLD_MAX: usize = 200;

/// Looks images up.
#[derive(Clone, Debug)]
pub struct Images {
    client: Client,
    starts: Option<Arc<Starts>>,
    /// Whose images and datasets may be named beside the user's own.
    lender: Option<UserName>,
}

impl Images {
    /// Asks the fileserver behind `client`.
    pub fn new(client: Client) -> Self {
        Self { client, starts: None, lender: None }
    }

    /// Begins the start of each image that it finds.
    pub fn with_starts(client: Client, starts: Arc<Starts>) -> Self {
        Self { client, starts: Some(starts), lender: None }
    }

    /// The same without starts: for jobs that are to be started without help.
    pub fn without_starts(&self) -> Self {
        Self::new(self.client.clone())
    }

    /// The same for jobs that may name what is `owner`'s, too: the owner decides on them.
    #[must_use]
    pub fn lent_by(self, owner: &UserName) -> Self {
        Self { lender: Some(owner.clone()), ..self }
    }

    /// The manifest of `name`: the user's own image, else the library's. Somebody else's image
    /// is found only by the operator. `key` is the trace that the image is started by.
    pub async fn resolve(
        &self,
        user: &UserName,
        operator: bool,
        name: &ImageName,
        key: &TraceKey,
    ) -> Result<Digest, QueueError> {
        let users = self.owners(user, operator, name);
        let found = match &self.starts {
            Some(starts) => self.find_and_start(starts, user, users, name, key).await,
            None => self.find(users, name).await,
        };
        let found =
            found.map_err(|source| QueueError::Fileserver { name: name.to_string(), source })?;
        match (found, name.digest) {
            (None, _) => {}
            (Some(found), Some(asked)) if found != asked => {
                return Err(QueueError::ImageMoved { name: name.clone(), found });
            }
            (Some(found), _) => return Ok(found),
        }
        let mut known: Vec<String> =
            self.list(user).await?.into_iter().map(|image| image.name.to_string()).collect();
        known.truncate(NAMES_TOLD_MAX);
        Err(QueueError::NoImage { name: name.clone(), known })
    }

    /// Whether `manifest` is what `name` leads to where it is `owner`'s or the library's.
    pub async fn is_kept_by(
        &self,
        owner: &UserName,
        name: &ImageName,
        manifest: Digest,
    ) -> Result<bool, QueueError> {
        for keeper in [owner, &UserName::library()] {
            if name.user.as_ref().is_some_and(|user| user != keeper) {
                continue;
            }
            let found = self.client.refs().get(&name.to_ref(keeper)).await;
            let found = found
                .map_err(|source| QueueError::Fileserver { name: name.to_string(), source })?;
            if found == Some(manifest) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The fileserver.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// What [`Images::resolve`] will most likely find, where that is ready for a run.
    pub fn expected(
        &self,
        user: &UserName,
        operator: bool,
        name: &ImageName,
        key: &TraceKey,
    ) -> Option<Digest> {
        let images =
            self.owners(user, operator, name).iter().map(|owner| name.to_ref(owner)).collect();
        let expected = self.starts.as_ref()?.expected(user, images, key)?;
        name.digest.is_none_or(|asked| asked == expected).then_some(expected)
    }

    async fn find(
        &self,
        owners: Vec<UserName>,
        name: &ImageName,
    ) -> Result<Option<Digest>, ClientError> {
        for owner in owners {
            if let Some(found) = self.client.refs().get(&name.to_ref(&owner)).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// One request finds the image and begins to bring it.
    async fn find_and_start(
        &self,
        starts: &Arc<Starts>,
        user: &UserName,
        owners: Vec<UserName>,
        name: &ImageName,
        key: &TraceKey,
    ) -> Result<Option<Digest>, ClientError> {
        if owners.is_empty() {
            return Ok(None);
        }
        let images = owners.iter().map(|owner| name.to_ref(owner)).collect();
        let found = starts.resolve(user, images, key).await?;
        Ok(found.map(|head| head.manifest))
    }

    /// What the names of a job's datasets lead to. Users read their own and the library's.
    pub async fn datasets(
        &self,
        user: &UserName,
        operator: bool,
        datasets: &[Dataset],
    ) -> Result<Vec<DatasetView>, QueueError> {
        let resolving = datasets.iter().map(|Dataset { name, kind, dataset }| async move {
            let owner = dataset.user.as_ref().unwrap_or(user);
            let may_read = operator || self.may_name(user, owner);
            let found = match may_read {
                true => self.client.refs().get(&dataset.to_ref(owner)).await,
                false => Ok(None),
            };
            let found = found
                .map_err(|source| QueueError::Fileserver { name: dataset.to_string(), source })?;
            let manifest = found.ok_or_else(|| QueueError::NoDataset(dataset.clone()))?;
            let (name, dataset) = (name.clone(), dataset.clone());
            Ok(DatasetView { name, kind: *kind, dataset, manifest })
        });
        futures::future::try_join_all(resolving).await
    }

    /// What the user can run: own images and the library's, sorted by name.
    pub async fn list(&self, user: &UserName) -> Result<Vec<ImageView>, QueueError> {
        let mut owners = vec![user.clone(), UserName::library()];
        owners.dedup();
        let mut images = Vec::new();
        for owner in owners {
            let prefix = format!("images/{}/", owner.to_ref_part());
            let refs = self
                .client
                .refs()
                .list(&prefix)
                .await
                .map_err(|source| QueueError::Fileserver { name: prefix.clone(), source })?;
            images.extend(refs.into_iter().filter_map(|entry| {
                let name = ImageName::from_ref(&entry.name)?;
                Some(ImageView { name, manifest: entry.digest, updated_at: entry.updated_at })
            }));
        }
        images.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(images)
    }

    /// The datasets of `owner` that were given names, sorted by them.
    pub async fn named_datasets(&self, owner: &UserName) -> Result<Vec<NamedDataset>, QueueError> {
        let prefix = format!("data/{}/", owner.to_ref_part());
        let failed = |source| QueueError::Fileserver { name: prefix.clone(), source };
        let refs = self.client.refs().list(&prefix).await.map_err(failed)?;
        let named = refs.into_iter().filter_map(|entry| {
            let name = entry.name.as_ref().strip_prefix(&prefix)?.to_owned();
            // One that nobody named goes by its digest.
            name.parse::<Digest>().is_err().then_some((name, entry))
        });
        let mut datasets = Vec::new();
        for (name, entry) in named.take(DATASETS_TOLD_MAX) {
            let blob = self.client.blobs().get(entry.digest).await.map_err(failed)?;
            let read = move || described(blob.bytes());
            let read = tokio::task::spawn_blocking(read).await.map_err(|_| QueueError::Stopping)?;
            let Some((kind, file, bytes)) = read else {
                tracing::warn!(dataset.name = name, "a ref under data/ leads to no dataset");
                continue;
            };
            let (manifest, updated_at) = (entry.digest, entry.updated_at);
            let owner = owner.clone();
            datasets.push(NamedDataset { name, owner, kind, file, bytes, manifest, updated_at });
        }
        Ok(datasets)
    }

    /// Whether a user's job may name what is `owner`'s.
    fn may_name(&self, user: &UserName, owner: &UserName) -> bool {
        owner == user || *owner == UserName::library() || self.lender.as_ref() == Some(owner)
    }

    /// Whose image may be meant, in the order in which they are asked for.
    fn owners(&self, user: &UserName, operator: bool, name: &ImageName) -> Vec<UserName> {
        match &name.user {
            Some(owner) if operator || self.may_name(user, owner) => vec![owner.clone()],
            Some(_) => vec![],
            None => vec![user.clone(), UserName::library()],
        }
    }
}

/// What a dataset is: one file, or a folder, and its bytes.
fn described(raw: &[u8]) -> Option<(DatasetKind, Option<String>, u64)> {
    let manifest = Manifest::decode(raw).ok()?;
    let bytes = manifest.size_bytes();
    let mut entries = manifest.entries(Ino::ROOT)?;
    let file = match (entries.next(), entries.next()) {
        (Some((name, ino)), None) if manifest.inode(ino)?.is_regular() => {
            std::str::from_utf8(name).ok().map(str::to_owned)
        }
        _ => None,
    };
    let kind = if file.is_some() { DatasetKind::File } else { DatasetKind::Folder };
    Some((kind, file, bytes))
}
