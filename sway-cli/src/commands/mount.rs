//! `sway mount`: an image on a directory, to look around in it.

use std::path::PathBuf;

use clap::Args;
use sway_client::Client;
use sway_core::access::Scope;
use sway_core::digest::Digest;
use sway_core::name::{ImageName, UserName};

use crate::context::{Context, Fileserver};
use crate::exit_code::ExitCode;
use crate::failure::Failure;

/// Names told in an error message.
const NAMES_TOLD_MAX: usize = 20;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway mount scipy /mnt        until Ctrl-C; then it is unmounted
  ls -l /mnt/usr/lib           names, owners, modes and times are those of the image

Needs root. Content comes from the fileserver when it is read; the cache is thrown away at the
end.")]
pub(crate) struct MountArgs {
    /// The image
    #[arg(value_name = "[USER/]NAME[:TAG][@DIGEST]")]
    image: ImageName,
    /// An existing directory
    dir: PathBuf,
}

/// Mounts, and waits for Ctrl-C.
pub(crate) async fn run(args: MountArgs, context: &Context) -> anyhow::Result<ExitCode> {
    if !args.dir.is_dir() {
        return Err(Failure::new(format!("there is no directory {}", args.dir.display())).into());
    }
    let owner = args.image.user.as_ref().filter(|owner| **owner != UserName::library());
    let Fileserver { client, user } = context.fileserver_for(owner, Scope::Read).await?;
    let manifest = resolve(&client, &args.image, &user).await?;
    serve(client, manifest, &args, context).await?;
    Ok(ExitCode::Success)
}

/// The manifest of an image: the caller's own, else the library's.
async fn resolve(
    fileserver: &Client,
    image: &ImageName,
    user: &UserName,
) -> anyhow::Result<Digest> {
    let owners = match &image.user {
        Some(owner) => vec![owner.clone()],
        None => vec![user.clone(), UserName::library()],
    };
    for owner in owners {
        let Some(found) = fileserver.refs().get(&image.to_ref(&owner)).await? else { continue };
        if image.digest.is_some_and(|asked| asked != found) {
            return Err(Failure::new(format!("{image} has moved: it is {found} now")).into());
        }
        return Ok(found);
    }
    let refs = fileserver.refs().list("images/").await?;
    let mut known: Vec<String> = refs
        .iter()
        .filter_map(|entry| Some(ImageName::from_ref(&entry.name)?.to_string()))
        .collect();
    known.truncate(NAMES_TOLD_MAX);
    Err(Failure::new(format!("there is no image {image}"))
        .hint(match known.as_slice() {
            [] => "there are none yet: `sway export` makes one".to_owned(),
            known => format!("there are {}", known.join(", ")),
        })
        .into())
}

#[cfg(target_os = "linux")]
async fn serve(
    fileserver: Client,
    manifest: Digest,
    args: &MountArgs,
    context: &Context,
) -> anyhow::Result<()> {
    use std::path::Path;
    use std::sync::Arc;

    use anyhow::Context as _;
    use sway_worker::cache::ChunksConfig;
    use tokio_util::sync::CancellationToken;

    use crate::config::Login;
    use crate::interrupt::Interrupts;

    if !Login::current().root {
        return Err(Failure::new("mounting needs root").hint("sudo sway mount …").into());
    }
    // Not /tmp, which is memory on many machines.
    let cache = tempfile::Builder::new()
        .prefix("sway-mount-")
        .tempdir_in(Path::new("/var/tmp"))
        .context("no place for a cache in /var/tmp")?;
    let config =
        ChunksConfig { disk_dir: Some(cache.path().to_owned()), ..ChunksConfig::default() };
    let mut interrupts = Interrupts::listen()?;
    let shutdown = CancellationToken::new();
    let (image, dir) = (&args.image, args.dir.display());
    context.output.note(format_args!("Mounting {image} on {dir}. Ctrl-C unmounts it."));
    let mount = sway_worker::mount::foreground(
        Arc::new(fileserver),
        manifest,
        &args.dir,
        config,
        shutdown.clone(),
    );
    let stopping = async {
        interrupts.next().await;
        shutdown.cancel();
        std::future::pending().await
    };
    tokio::select! {
        ended = mount => {
            ended.with_context(|| format!("can't mount {image} on {dir}"))
        }
        () = stopping => Ok(()),
    }
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unused_async, reason = "as on Linux")]
async fn serve(
    _fileserver: Client,
    _manifest: Digest,
    _args: &MountArgs,
    _context: &Context,
) -> anyhow::Result<()> {
    Err(Failure::new("sway mount needs Linux").into())
}
