//! From an image's name to its manifest, by the fileserver's refs.

use sway_client::Client;
use sway_core::api::jobs::ImageView;
use sway_core::digest::Digest;
use sway_core::name::{ImageName, UserName};

use super::QueueError;

/// Images told in an error message.
const NAMES_TOLD_MAX: usize = 50;

/// Looks images up.
#[derive(Clone, Debug)]
pub struct Images {
    client: Client,
}

impl Images {
    /// Asks the fileserver behind `client`.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The manifest of `name`: the user's own image, else the library's. Somebody else's image
    /// is found only by the operator.
    pub async fn resolve(
        &self,
        user: &UserName,
        operator: bool,
        name: &ImageName,
    ) -> Result<Digest, QueueError> {
        let users = match &name.user {
            Some(owner) if operator || owner == user || *owner == UserName::library() => {
                vec![owner.clone()]
            }
            Some(_) => vec![],
            None => vec![user.clone(), UserName::library()],
        };
        for owner in users {
            let reference = name.to_ref(&owner);
            let found = self
                .client
                .refs()
                .get(&reference)
                .await
                .map_err(|source| QueueError::Fileserver { name: name.to_string(), source })?;
            match (found, name.digest) {
                (None, _) => {}
                (Some(found), Some(asked)) if found != asked => {
                    return Err(QueueError::ImageMoved { name: name.clone(), found });
                }
                (Some(found), _) => return Ok(found),
            }
        }
        let mut known: Vec<String> =
            self.list(user).await?.into_iter().map(|image| image.name.to_string()).collect();
        known.truncate(NAMES_TOLD_MAX);
        Err(QueueError::NoImage { name: name.clone(), known })
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
}
