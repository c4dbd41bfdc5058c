//! The packages that a submitted job asks for, installed for real: pip in a container, wheels of an
//! owner's dataset, an image of the job's own.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt as _;
use sway_client::refs::Expect;
use sway_client::{Client, ClientConfig};
use sway_core::api::jobs::JobView;
use sway_core::api::submissions::{DecisionRequest, Packages, QueueSettings, Submission};
use sway_core::blob::{FrameHeader, encode};
use sway_core::digest::Digest;
use sway_core::job::{Cause, JobFile, JobSpec, JobState, Program};

use crate::job::base;
use crate::mount_fixture::{Store, export};
use crate::worker::{PATIENCE, Site, TOKEN, client, ended};

/// Blobs of one upload.
const BATCH: usize = 400;

/// Stores a directory under a ref.
async fn stored(fileserver: &Client, dir: &Path, name: &str) -> Digest {
    let store = Store::default();
    let manifest = export(dir, &store);
    for some in store.all().chunks(BATCH) {
        let frames = some.iter().map(|raw| {
            let encoded = Bytes::from(encode(raw));
            (FrameHeader::new(Digest::of(raw), raw.len(), encoded.len()), encoded)
        });
        fileserver.blobs().upload_batch(&frames.collect::<Vec<_>>()).await.unwrap();
    }
    fileserver.refs().put(&name.parse().unwrap(), manifest, Expect::Any).await.unwrap();
    manifest
}

/// Python with its libraries and pip, and a shell.
fn python(root: &Path) {
    let copy = |from: &str, to: &str| {
        let to = root.join(to);
        fs::create_dir_all(&to).unwrap();
        let script = format!("cp -a {from} {}", to.display());
        let done = Command::new("sh").args(["-c", &script]).current_dir(base()).status().unwrap();
        assert!(done.success(), "{script}");
    };
    copy("bin lib lib64", "");
    copy("usr/bin/dash usr/bin/sh usr/bin/python3*", "usr/bin");
    copy("usr/lib/python3 usr/lib/python3.11", "usr/lib");
    copy("usr/lib64/*", "usr/lib64");
    copy("usr/lib/x86_64-linux-gnu/*.so*", "usr/lib/x86_64-linux-gnu");
    for dir in ["tmp", "proc", "dev", "etc"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
}

fn wheel(folder: &Path, arguments: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../integration/make_wheel.py");
    let done = Command::new("python3").arg(script).arg(folder).args(arguments).status().unwrap();
    assert!(done.success(), "{arguments:?}");
}

struct Queue {
    site: Site,
    alice: Client,
    bob: Client,
    image: Digest,
}

fn of_user(site: &Site, user: &str) -> Client {
    let mut config = ClientConfig::new(site.url().parse().unwrap());
    config.token = Some(TOKEN.to_owned());
    config.user = Some(user.parse().unwrap());
    Client::new(&config).unwrap()
}

/// A worker, the image `python`, and a dataset of alice's with the wheels of `answer`, which needs
/// `base`, of a newer `wheel` than the image has, and the source of `unbuilt`.
async fn queue() -> Queue {
    let site = Site::start_with(&["--package-index", "off"]).await;
    let fileserver = client(&site.fileserver_url());
    let (root, wheels) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    python(root.path());
    let image = stored(&fileserver, root.path(), "images/library/python:latest").await;
    wheel(wheels.path(), &["answer", "1.0", "def main(): print(40 + 2)\n", "base>=1"]);
    wheel(wheels.path(), &["base", "1.5", "import sys\n"]);
    wheel(wheels.path(), &["wheel", "99.0", "version = 99\n"]);
    // Built, it would tell.
    let setup = "open('/output/built', 'w')\nimport setuptools\nsetuptools.setup()\n";
    fs::write(wheels.path().join("setup.py"), setup).unwrap();
    let pack = ["-czf", "unbuilt-1.0.tar.gz", "--transform=s,^,unbuilt-1.0/,", "setup.py"];
    let done = Command::new("tar").args(pack).current_dir(wheels.path()).status().unwrap();
    assert!(done.success());
    stored(&fileserver, wheels.path(), "data/alice/wheels").await;
    let (alice, bob) = (of_user(&site, "alice"), of_user(&site, "bob"));
    let settings = QueueSettings { wheels: Some("wheels".to_owned()), ..QueueSettings::default() };
    alice.submissions().set_queue(&settings).await.unwrap();
    Queue { site, alice, bob, image }
}

impl Queue {
    /// Submits bob's folder.
    async fn submit(&self, run: &str, requirements: &str) -> JobView {
        let file = |path: &str, content: &str| JobFile {
            path: path.to_owned(),
            content: content.into(),
            executable: true,
        };
        let files = vec![file("run.sh", run), file("requirements.txt", requirements)];
        let program = Program::Folder { files, entry: "run.sh".to_owned() };
        let submission = Submission {
            owner: "alice".parse().unwrap(),
            queue: "code-queue".to_owned(),
            name: "Answer".to_owned(),
            description: String::new(),
            tags: Vec::new(),
            job: JobSpec::new(Some("python".parse().unwrap()), program),
        };
        self.bob.submissions().submit(&submission).await.unwrap()
    }

    /// Submits it, and waits until its packages are installed, or can't be.
    async fn submitted(&self, run: &str, requirements: &str) -> JobView {
        let job = self.submit(run, requirements).await;
        self.prepared(&job.id).await
    }

    async fn prepared(&self, id: &str) -> JobView {
        let begun = Instant::now();
        loop {
            let job = self.bob.jobs().job(id).await.unwrap();
            let packages = &job.submission.as_ref().unwrap().packages;
            // A job whose packages failed ends a moment later.
            let is_open = matches!(packages, Some(Packages::Preparing | Packages::Failed { .. }));
            if job.state.is_final() || !is_open {
                return job;
            }
            assert!(begun.elapsed() < 3 * PATIENCE, "{job:?}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_requirements_ask_for_is_in_the_approved_image() {
    let queue = queue().await;
    let run = "#!/bin/sh\nset -e\n\
        python3 -m pip install -r requirements.txt\n\
        say-answer\n\
        python3 -c 'import answer, base; print(answer.__cached__)'\n\
        python3 -c 'import importlib.metadata as it; print(it.version(\"wheel\"))'\n\
        [ -e /data ] || echo no data\n";
    let job = queue.submitted(run, "answer>=1  # and what it needs\nwheel>=99\npip\n").await;
    let Some(Packages::Ready { image, installed }) = job.submission.clone().unwrap().packages
    else {
        panic!("{:?}: {:?}", job, queue.bob.jobs().run(&job.id).await);
    };
    let names: Vec<_> = installed.iter().map(|it| format!("{}=={}", it.name, it.version)).collect();
    assert_eq!(names, ["answer==1.0", "base==1.5", "wheel==99.0"]);
    assert!(installed.iter().all(|package| package.sha256.len() == 64));
    assert_eq!(image, queue.image);
    assert_ne!(job.manifest, image);
    let digest = job.submission.unwrap().digest;
    let approval = DecisionRequest { reason: "ok".to_owned(), digest: Some(digest) };
    queue.alice.submissions().approve(&job.id, &approval).await.unwrap();
    let mut events = queue.bob.jobs().events(&job.id, None);
    while tokio::time::timeout(PATIENCE, events.next()).await.unwrap().is_some() {}
    let run = queue.bob.jobs().run(&job.id).await.unwrap();
    assert_eq!(
        (run.exit_code, run.manifest.clone()),
        (Some(0), job.manifest.to_string()),
        "{run:?}"
    );
    let stdout = run.stdout.unwrap();
    assert!(stdout.contains("Requirement already satisfied: answer>=1"), "{stdout}");
    assert!(stdout.contains("\n42\n") && stdout.contains("\n99.0\n"), "{stdout}");
    assert!(stdout.contains("no data"), "the wheels are not the job's: {stdout}");
    assert!(stdout.contains("answer.cpython-311.pyc"), "it is compiled already: {stdout}");
    let fileserver = client(&queue.site.fileserver_url());
    let name = format!("jobs/{}", job.id).parse().unwrap();
    assert_eq!(fileserver.refs().get(&name).await.unwrap(), Some(job.manifest));
    // The image itself is what it was.
    let plain = JobFile {
        path: "run.sh".to_owned(),
        content: b"#!/bin/sh\npython3 -c 'import answer'\n".to_vec(),
        executable: true,
    };
    let plain = JobSpec::new(Some("python".parse().unwrap()), Program::Script { file: plain });
    assert_eq!(ended(&queue.bob, &plain).await.exit_code, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_distribution_is_not_built() {
    let queue = queue().await;
    for (requirements, told) in [
        ("unbuilt", "unbuilt has to be built from source"),
        ("answer==2", "No matching distribution found for answer==2"),
    ] {
        let job = queue.submitted("#!/bin/sh\n", requirements).await;
        let run = queue.bob.jobs().run(&job.id).await.unwrap();
        assert_eq!((job.state, run.cause), (JobState::Failed, Some(Cause::Policy)), "{run:?}");
        let message = run.message.unwrap();
        assert!(message.contains(told) && message.contains("ask alice"), "{message}");
        assert!(run.stderr.unwrap().contains("ERROR: No matching distribution"));
        let packages = queue.site.worker_dir().join("packages");
        assert_eq!(fs::read_dir(packages).unwrap().count(), 0, "nothing is left of it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_while_it_installs_begins_again_and_leaves_nothing() {
    let mut queue = queue().await;
    let job = queue.submit("#!/bin/sh\nsay-answer\n", "answer").await;
    queue.site.kill();
    queue.site.restart().await;
    queue.bob = of_user(&queue.site, "bob");
    let job = queue.prepared(&job.id).await;
    let packages = job.submission.unwrap().packages;
    assert!(matches!(packages, Some(Packages::Ready { .. })), "{packages:?}");
    assert_eq!((job.state, job.run), (JobState::Pending, None), "nothing of it has run");
    let left = queue.site.worker_dir().join("packages");
    assert_eq!(fs::read_dir(left).unwrap().count(), 0);
}
