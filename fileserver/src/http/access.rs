//! What of the store each caller sees and changes.
//!
//! Workers and the operator see everything. A user reads what own refs and the library's lead to,
//! and writes own refs, to what the user sent or reads. The name of a blob is no right to it: what
//! a user neither sent nor reads is as what is not there.

use std::collections::HashSet;
use std::sync::Arc;

use sway_core::access::Scope;
use sway_core::api::blobs::RefEntry;
use sway_core::digest::Digest;
use sway_core::name::RefName;
use sway_server::error::ServerError;
use sway_server::guard::Identity;

use super::refs::no_target;
use super::{App, blocking, place};
use crate::blobs::StoreError;
use crate::reach;

/// Whether nothing is hidden from the caller.
pub(super) fn sees_all(identity: &Identity) -> bool {
    identity.is_operator() || identity.may(Scope::Worker)
}

/// Whether the caller reads this ref.
pub(super) fn may_read(identity: &Identity, name: &RefName) -> bool {
    sees_all(identity) || reach::may_read(&identity.user, name)
}

/// The refs whose names start with `prefix` and that the caller reads, sorted.
pub(super) fn refs(app: &App, identity: &Identity, prefix: &str, max: usize) -> Vec<RefEntry> {
    if sees_all(identity) {
        return app.refs.list(prefix, max);
    }
    let readable = reach::prefixes(&identity.user).filter_map(|own| {
        // The narrower of the two.
        let is_within = own.starts_with(prefix);
        (is_within || prefix.starts_with(&own))
            .then(|| if is_within { own } else { prefix.to_owned() })
    });
    let mut refs: Vec<_> = readable.flat_map(|prefix| app.refs.list(&prefix, max)).collect();
    refs.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    refs.dedup_by(|a, b| a.name == b.name);
    refs.truncate(max);
    refs
}

/// Refuses who may not move this ref to `target`, or remove it. Users write their own images and
/// datasets, with the scope `run` alone only datasets that go by their digests; what is no image
/// and no dataset is written by workers.
pub(super) fn check_may_write(
    identity: &Identity,
    name: &RefName,
    target: Option<Digest>,
) -> Result<(), ServerError> {
    let kind = name.as_ref().split('/').next().unwrap_or_default();
    if !["images", "data"].contains(&kind) {
        return if identity.may(Scope::Worker) {
            Ok(())
        } else {
            Err(ServerError::forbidden(format!("refs under {kind} are written by workers")))
        };
    }
    let [images, data] = reach::own_prefixes(&identity.user);
    let own = [&images, &data].into_iter().any(|own| name.as_ref().starts_with(own));
    if !(own || identity.is_operator()) {
        let user = &identity.user;
        let message = format!("{user} may write refs under {images} and {data} only");
        return Err(ServerError::forbidden(message));
    }
    let is_unnamed =
        target.is_some_and(|digest| name.as_ref().strip_prefix(&data) == Some(&digest.to_hex()));
    if identity.may(Scope::Export) || identity.may(Scope::Run) && is_unnamed {
        Ok(())
    } else {
        let message = "a token without the scope export stores no image, and a dataset only \
                       under its digest";
        Err(ServerError::forbidden(message))
    }
}

/// Which blobs a user is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// Those that refs lead to which the user reads.
    Read,
    /// Also those that the user sent.
    SentOrRead,
}

/// Those of `digests` that are hidden from the caller.
pub(super) async fn hidden(
    app: &App,
    identity: &Identity,
    digests: impl IntoIterator<Item = Digest>,
    of: Of,
) -> Result<HashSet<Digest>, ServerError> {
    if sees_all(identity) {
        return Ok(HashSet::new());
    }
    let mut digests: HashSet<Digest> = digests.into_iter().collect();
    if of == Of::SentOrRead {
        app.holdings.strike(&identity.user, &mut digests);
    }
    if digests.is_empty() {
        return Ok(digests);
    }
    let place = place(&app.lookups).await?;
    let (app, user) = (app.clone(), identity.user.clone());
    blocking(move || {
        let _place = place;
        app.reach.strike(&user, &app.refs, &*app.blobs, &mut digests)?;
        Ok::<_, StoreError>(digests)
    })
    .await
}

/// Refuses a ref of a user to anything but a manifest that the user sent or reads, as all that it
/// leads to; these blobs are the answer. Workers and the operator may have refs lead anywhere.
pub(super) async fn check_target(
    app: &App,
    identity: &Identity,
    target: Digest,
) -> Result<HashSet<Digest>, ServerError> {
    if sees_all(identity) {
        return Ok(HashSet::new());
    }
    if !hidden(app, identity, [target], Of::SentOrRead).await?.is_empty() {
        return Err(no_target(target));
    }
    let reading = {
        let (place, store) = (place(&app.lookups).await?, Arc::clone(&app.blobs));
        blocking(move || {
            let _place = place;
            let manifest = reach::read(&*store, target)?;
            Ok::<_, StoreError>(manifest.map(|manifest| manifest.blobs().collect()))
        })
    };
    let mut reached: HashSet<Digest> = reading.await?.ok_or_else(|| {
        ServerError::bad_request("not_a_manifest", format!("blob {target} is no manifest"))
    })?;
    let hidden = hidden(app, identity, reached.iter().copied(), Of::SentOrRead).await?;
    if let Some(first) = hidden.iter().min() {
        return Err(no_target(*first));
    }
    reached.insert(target);
    Ok(reached)
}

#[cfg(test)]
mod tests {
    use sway_core::access::{Role, Scopes};

    use super::*;

    fn identity(user: &str, scopes: Scopes) -> Identity {
        Identity { user: user.parse().unwrap(), scopes, token: Some("1".into()) }
    }

    #[test]
    fn users_write_their_own_images_and_datasets_and_workers_the_rest() {
        let digest = Digest::of(b"");
        let by_digest = format!("data/ada/{digest}");
        let may = |scopes: Scopes, name: &str| {
            let name = name.parse().unwrap();
            check_may_write(&identity("ada", scopes), &name, Some(digest)).is_ok()
        };
        let [owner, operator] = [Role::Owner, Role::Operator].map(Role::scopes);
        let [run, export, worker, admin] = [Scope::Run, Scope::Export, Scope::Worker, Scope::Admin]
            .map(|scope| Scopes::of(&[scope]));
        // Name, and whether an owner, the scopes run, export, worker, admin alone, and an operator
        // may write it.
        for (name, allowed) in [
            ("images/ada/x:1", [true, false, true, false, false, true]),
            ("data/ada/x", [true, false, true, false, false, true]),
            (by_digest.as_str(), [true, true, true, false, false, true]),
            (
                "data/ada/0000000000000000000000000000000000000000",
                [true, false, true, false, false, true],
            ),
            ("images/bob/x:1", [false, false, false, false, false, true]),
            ("images/library/x:1", [false, false, false, false, false, true]),
            ("data/bob/x", [false, false, false, false, false, true]),
            ("data/adamant/x", [false, false, false, false, false, true]),
            ("images/ada", [false, false, false, false, false, true]),
            ("traces/ada/x/_", [false, false, false, true, false, true]),
            ("jobs/1", [false, false, false, true, false, true]),
        ] {
            let found =
                [owner, run, export, worker, admin, operator].map(|scopes| may(scopes, name));
            assert_eq!(found, allowed, "{name}");
        }
    }
}
