//! Storing an image: first, after one changed file, without a change, against `nydus-image
//! create` on the same tree. What is read lies in the page cache, as after a build.

use anyhow::{Result, ensure};

use super::Bench;
use crate::arms::nydus;
use crate::arms::origin::Origin;
use crate::arms::sway::Installation;
use crate::images::Image;
use crate::machine::{remove, warm};
use crate::row::Cell;

/// Each round has an empty fileserver and an empty cache of layers.
pub(crate) fn measure(bench: &mut Bench) -> Result<()> {
    let mut workloads = vec![bench.workloads.w1.clone()];
    if !bench.quick {
        workloads.push(bench.workloads.w2.clone());
    }
    let changes = [
        ("Sway, one file changed", bench.workloads.changing.clone().map(|workload| workload.image)),
        ("Sway, one file of a big layer changed", bench.workloads.big.clone()),
    ];
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
        for (arm, images) in &changes {
            let cell = Cell::new("export", "W1", "-", arm);
            if let Err(error) = change(bench, round, &cell, images) {
                bench.unmeasured(&cell, &error);
            }
        }
    }
    Ok(())
}

/// The second of two images, where the first is known.
fn change(bench: &mut Bench, round: u32, cell: &Cell, [one, two]: &[Image; 2]) -> Result<()> {
    for image in [one, two] {
        ensure!(image.layout.is_dir(), "{} was not built", image.name);
    }
    let store = Store::new(bench, &format!("{round}-{}", two.name))?;
    let export =
        |image| store.installation.export(image, "a", store.origin.address, &["--no-trace"]);
    let first = export(one)?;
    warm(&two.layout)?;
    bench.record(round, cell, |_| {
        let second = export(two)?;
        ensure!(first.manifest != second.manifest, "nothing has changed");
        Ok(second.sample)
    });
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
