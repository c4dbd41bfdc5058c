//! Storing an image: first, after one changed file, without a change, against `nydus-image
//! create` on the same tree. What is read lies in the page cache, as after a build.

use anyhow::{Result, ensure};

use super::{Bench, say};
use crate::arms::nydus;
use crate::arms::origin::Origin;
use crate::arms::sway::Installation;
use crate::machine::{remove, warm};
use crate::row::Cell;

/// Each round has an empty fileserver and an empty cache of layers.
pub(crate) fn measure(bench: &mut Bench) -> Result<()> {
    let mut workloads = vec![bench.workloads.w1.clone()];
    if !bench.quick {
        workloads.push(bench.workloads.w2.clone());
    }
    let [one, two] = bench.workloads.changing.clone();
    for round in 0..bench.rounds {
        for workload in &workloads {
            let image = &workload.image;
            let cell = |arm| Cell::new("export", workload.name, "-", arm);
            warm(&image.layout)?;
            if bench.peers.nydus_image.is_some() {
                warm(&image.rootfs)?;
                bench.record(round, &cell("nydus-image create"), |bench| {
                    let folder = bench.scratch.join("nydus-image");
                    nydus::create(&bench.peers, image, &folder, None, None)
                });
                remove(&bench.scratch.join("nydus-image"))?;
            }
            let store = Store::new(bench, &format!("{round}-{}", workload.name))?;
            bench.record(round, &cell("Sway, first"), |_| {
                Ok(store
                    .installation
                    .export(image, "a", store.origin.address, &["--no-trace"])?
                    .sample)
            });
            bench.record(round, &cell("Sway, nothing changed"), |_| {
                Ok(store
                    .installation
                    .export(image, "a", store.origin.address, &["--no-trace"])?
                    .sample)
            });
        }
        if !one.image.layout.is_dir() {
            say("the images that change were not built");
            continue;
        }
        let store = Store::new(bench, &format!("{round}-changing"))?;
        let first =
            store.installation.export(&one.image, "a", store.origin.address, &["--no-trace"])?;
        warm(&two.image.layout)?;
        bench.record(round, &Cell::new("export", "W1", "-", "Sway, one file changed"), |_| {
            let second = store.installation.export(
                &two.image,
                "a",
                store.origin.address,
                &["--no-trace"],
            )?;
            ensure!(first.manifest != second.manifest, "nothing has changed");
            Ok(second.sample)
        });
    }
    Ok(())
}

/// A fileserver and a command line that know nothing.
struct Store {
    origin: Origin,
    installation: Installation,
}

impl Store {
    /// In folders of its own, which stay until the end: ext4 passes over inodes that were deleted
    /// in the last minutes, one by one, so a store that was just removed makes the next one slow.
    fn new(bench: &Bench, name: &str) -> Result<Self> {
        let data = bench.scratch.join(format!("store-{name}"));
        let home = bench.scratch.join(format!("home-{name}"));
        remove(&data)?;
        remove(&home)?;
        let Installation { binaries, token, .. } = &bench.installation;
        let origin = Origin::start(binaries, &data, token)?;
        let installation = Installation { binaries: binaries.clone(), token: token.clone(), home };
        Ok(Self { origin, installation })
    }
}
