//! Python packages of submitted jobs: what `requirements.txt` asks for is installed into an image of
//! the job's own, before anybody decides on the job.
//!
//! A container like a job's installs them (`install.py`), in the image that the job is submitted for
//! and where that is not the submitter's own: so nothing of the submitter's runs there. What it
//! leaves in `/output` is a layer, and `store` lays it over the image. Here is what is asked for;
//! when it is done is the queue's business.

mod store;

use std::path::PathBuf;

use serde::Deserialize;
use sway_core::api::jobs::DatasetView;
use sway_core::api::submissions::Package;
use sway_core::digest::Digest;
use sway_core::job::{Dataset, DatasetKind, JobFile, JobSpec, Network, OutputRequest, Program};
use sway_core::name::ImageName;
use sway_core::requirements;
use sway_core::seal::seal;
use url::Url;

pub(crate) use self::store::{StoreError, store};

/// What a container runs to install packages.
const INSTALLER: &str = "install.py";

/// Where it finds its dataset of wheels.
const WHEELS: &str = "/data";

/// How packages are installed on this worker.
#[derive(Clone, Debug)]
pub struct PackagesConfig {
    /// Where what is installed lies until it is stored; emptied at each start.
    pub dir: PathBuf,
    /// Where wheels come from, of owners that have no dataset of them; nowhere where absent.
    pub index: Option<Url>,
}

/// Where wheels come from.
#[derive(Clone, Debug)]
pub(crate) enum Wheels {
    /// An owner's dataset. There is no network.
    Dataset(DatasetView),
    /// An index.
    Index(Url),
    /// Nowhere: the image has what is asked for, or it is not to be had.
    Nowhere,
}

/// The `requirements.txt` of a job.
pub(crate) fn requirements_of(program: &Program) -> Option<&[u8]> {
    match program {
        Program::Folder { files, .. } => {
            let file = files.iter().find(|file| file.path == requirements::FILE)?;
            Some(&file.content)
        }
        Program::Script { .. } | Program::Command { .. } | Program::Handler(_) => None,
    }
}

/// What tells an installation from others: where it is the same, so is what comes of it, until there
/// are newer versions.
pub(crate) fn key(image: Digest, requirements: &[String], wheels: &Wheels) -> String {
    let requirements = requirements.join("\n");
    let wheels = match wheels {
        Wheels::Dataset(dataset) => format!("dataset {}", dataset.manifest),
        Wheels::Index(index) => format!("index {index}"),
        Wheels::Nowhere => "nowhere".to_owned(),
    };
    seal(
        "sway packages 1",
        &[
            ("image", Some(image.as_bytes())),
            ("installer", Some(include_bytes!("install.py"))),
            ("requirements", Some(requirements.as_bytes())),
            ("wheels", Some(wheels.as_bytes())),
        ],
    )
}

/// What installs packages.
pub(crate) fn installation(image: &ImageName, requirements: &[String], wheels: &Wheels) -> JobSpec {
    let file = |path: &str, content: Vec<u8>| JobFile {
        path: path.to_owned(),
        content,
        executable: false,
    };
    let files = vec![
        file(INSTALLER, include_bytes!("install.py").to_vec()),
        file(requirements::FILE, requirements.join("\n").into_bytes()),
    ];
    let program = Program::Folder { files, entry: INSTALLER.to_owned() };
    let (args, datasets, network) = match wheels {
        Wheels::Dataset(dataset) => {
            let args = vec!["--no-index", "--find-links", WHEELS];
            let dataset = dataset.dataset.clone();
            let dataset = Dataset { name: None, kind: DatasetKind::Folder, dataset };
            (args, vec![dataset], Network::None)
        }
        Wheels::Index(index) => (vec!["--index-url", index.as_str()], vec![], Network::Isolated),
        Wheels::Nowhere => (vec!["--no-index"], vec![], Network::None),
    };
    // What an image's own configuration of pip says is not asked.
    let env = [("PIP_CONFIG_FILE".to_owned(), "/dev/null".to_owned())].into();
    JobSpec {
        args: args.into_iter().map(str::to_owned).collect(),
        env,
        datasets,
        network,
        detach: true,
        output: Some(OutputRequest::default()),
        ..JobSpec::new(Some(image.clone()), program)
    }
}

/// What an installation wrote to its standard output.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// What was installed; nothing where the image has all of it.
    Installed(Vec<Package>),
    /// Why nothing was.
    Error(String),
}

impl Answer {
    /// Its last line is the answer; none where it ended before.
    pub(crate) fn read(stdout: &[u8]) -> Option<Self> {
        let line = stdout.split(|&byte| byte == b'\n').rfind(|line| !line.is_empty())?;
        serde_json::from_slice(line).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Digest {
        Digest::of(b"image")
    }

    #[test]
    fn an_installation_reaches_an_index_or_a_dataset_and_runs_nothing_of_the_submitters() {
        let name: ImageName = "science".parse().unwrap();
        let asked = ["numpy>=2".to_owned(), "scipy".to_owned()];
        let dataset = DatasetView {
            name: None,
            kind: DatasetKind::Folder,
            dataset: "alice/wheels".parse().unwrap(),
            manifest: Digest::of(b"wheels"),
        };
        let index: Url = "https://example.org/simple".parse().unwrap();
        let all = [Wheels::Dataset(dataset), Wheels::Index(index), Wheels::Nowhere];
        for (wheels, network) in all.iter().zip([Network::None, Network::Isolated, Network::None]) {
            let spec = installation(&name, &asked, wheels);
            assert_eq!(spec.check(), Ok(()));
            assert_eq!(spec.network, network);
            let Program::Folder { files, entry } = &spec.program else { panic!("{spec:?}") };
            assert_eq!((files.len(), entry.as_str()), (2, INSTALLER));
            assert_eq!(requirements_of(&spec.program), Some(&b"numpy>=2\nscipy"[..]));
        }
        let keys: std::collections::HashSet<_> =
            all.iter().map(|wheels| key(image(), &asked, wheels)).collect();
        assert_eq!(keys.len(), 3);
        assert_ne!(key(image(), &asked, &all[2]), key(image(), &asked[..1], &all[2]));
    }

    #[test]
    fn the_last_line_is_the_answer() {
        let text =
            b"noise\n{\"installed\": [{\"name\": \"a\", \"version\": \"1\", \"sha256\": \"0\"}]}\n";
        let Some(Answer::Installed(installed)) = Answer::read(text) else { panic!("no answer") };
        assert_eq!((installed[0].name.as_str(), installed.len()), ("a", 1));
        let Some(Answer::Error(error)) = Answer::read(b"{\"error\": \"no pip\"}") else {
            panic!("no answer")
        };
        assert_eq!(error, "no pip");
        for none in [&b""[..], b"\n", b"Killed\n", b"{}"] {
            assert!(Answer::read(none).is_none(), "{none:?}");
        }
    }
}
