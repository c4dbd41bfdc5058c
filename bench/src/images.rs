//! The images and programs that are measured, as `bench/images/build.sh` left them.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use fs_err as fs;

/// An image, packed and unpacked.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// Its name on every server.
    pub(crate) name: String,
    /// OCI layout.
    pub(crate) layout: PathBuf,
    /// The same, unpacked, for runs without any image.
    pub(crate) rootfs: PathBuf,
}

impl Image {
    /// An image below the directory of all.
    pub(crate) fn new(images: &Path, name: &str) -> Self {
        let folder = images.join(name);
        Self { name: name.to_owned(), layout: folder.join("oci"), rootfs: folder.join("rootfs") }
    }
}

/// A script with the output that it must have.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// The script.
    pub(crate) script: PathBuf,
    expected: String,
}

impl Program {
    pub(crate) fn new(script: &Path, expected: &str) -> Result<Self> {
        Ok(Self { script: fs::canonicalize(script)?, expected: expected.to_owned() })
    }

    /// Its name in a container.
    pub(crate) fn name(&self) -> String {
        self.script.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }

    /// Whether a run printed what it must: all of it, and nothing else.
    pub(crate) fn check(&self, stdout: &[u8]) -> Result<()> {
        let text = String::from_utf8_lossy(stdout);
        ensure!(text == self.expected, "the output is {text:?}, not {:?}", self.expected);
        Ok(())
    }
}

/// A program in an image.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    /// In tables.
    pub(crate) name: &'static str,
    /// Where it runs.
    pub(crate) image: Image,
    /// What runs.
    pub(crate) program: Program,
}

/// All workloads.
#[derive(Debug)]
pub(crate) struct Workloads {
    /// scipy in its own image.
    pub(crate) w1: Workload,
    /// A day's work in a team's image.
    pub(crate) w2: Workload,
    /// W1's program in W2's image.
    pub(crate) stranger: Workload,
    /// W1's program as a part of an image, before and after a change.
    pub(crate) changing: [Workload; 2],
    /// The same, each image being one single layer.
    pub(crate) big: [Image; 2],
}

impl Workloads {
    /// `images` is what `build.sh` printed, `project` the checkout.
    pub(crate) fn new(images: &Path, project: &Path) -> Result<Self> {
        let scipy = fs::read_to_string(project.join("bench/images/scipy/expected"))?;
        let science = fs::read_to_string(project.join("bench/images/science/expected"))?;
        let w1 = Program::new(&project.join("bench/images/scipy/app.py"), &scipy)?;
        let w2 = Program::new(&project.join("bench/images/science/app.py"), &science)?;
        let changing = |number: u32| {
            // A quick run has not built these: the group that runs them finds them missing.
            let name = format!("changing-{number}");
            let script = images.join(&name).join("app.py");
            let program = Program { script, expected: format!("{scipy}version {number}\n") };
            Workload { name: "W1", image: Image::new(images, &name), program }
        };
        let science_image = Image::new(images, "science");
        Ok(Self {
            w1: Workload { name: "W1", image: Image::new(images, "scipy"), program: w1.clone() },
            w2: Workload { name: "W2", image: science_image.clone(), program: w2 },
            stranger: Workload { name: "W1 in W2's image", image: science_image, program: w1 },
            changing: [changing(1), changing(2)],
            big: [Image::new(images, "big-1"), Image::new(images, "big-2")],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_with_something_more_is_wrong() {
        let program = Program { script: "x".into(), expected: "a\n".to_owned() };
        program.check(b"a\n").unwrap();
        for wrong in ["", "a", "a\nb\n"] {
            program.check(wrong.as_bytes()).unwrap_err();
        }
    }
}
