//! `sway mount`: an image on a directory, to look around in it.

use std::path::PathBuf;

use clap::Args;
use sway_core::name::ImageName;

use crate::context::Context;
use crate::exit_code::ExitCode;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway mount scipy /mnt        until Ctrl-C; then it is unmounted
  ls -l /mnt/usr/lib           names, owners and modes are those of the image")]
pub(crate) struct MountArgs {
    /// The image
    #[arg(value_name = "[USER/]NAME[:TAG][@DIGEST]")]
    image: ImageName,
    /// An existing directory
    dir: PathBuf,
}

/// Mounts, and waits for Ctrl-C.
pub(crate) async fn run(args: MountArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let _ = (args.image, args.dir, context);
    anyhow::bail!("not there yet")
}
