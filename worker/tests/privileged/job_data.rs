//! Datasets below `/data` and files in `/output`: what a job sees, what it may do, what is kept.

use std::path::Path;

use futures::StreamExt as _;
use sway_client::refs::Expect;
use sway_core::digest::Digest;
use sway_core::job::{Cause, Dataset, DatasetKind, JobSpec, JobState, OutputLimits, OutputRequest};
use sway_core::manifest::RunConfig;
use sway_worker::job::{MountedDataset, archive};

use crate::job::{Bench, Order, PlainRootfs, Ran};
use crate::mount_fixture::{Store, export, mounted_below};
use crate::worker::{Site, client, ended, script};

fn dataset(name: Option<&str>, kind: DatasetKind) -> Dataset {
    Dataset { name: name.map(str::to_owned), kind, dataset: "d".parse().unwrap() }
}

/// A dataset's name, its kind, and the folder that holds it.
type Given<'a> = (Option<&'a str>, DatasetKind, &'a Path);

fn with_data(mut order: Order, data: &[Given<'_>]) -> Order {
    for (name, kind, path) in data {
        order.spec.datasets.push(dataset(*name, *kind));
        let mount = PlainRootfs::new(path, RunConfig::default());
        order.datasets.push(MountedDataset { mount, kind: *kind });
    }
    order
}

fn with_output(order: Order, limits: OutputLimits) -> Order {
    order.limits(|all| all.output = Some(limits))
}

const SMALL: OutputLimits = OutputLimits { bytes: 1 << 20, files: 20, file_bytes: 1 << 20 };

#[tokio::test]
async fn datasets_are_where_the_job_is_told_and_can_not_be_changed() {
    let (file, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs_err::write(file.path().join("private_message.txt"), "the message").unwrap();
    fs_err::create_dir(folder.path().join("deep")).unwrap();
    fs_err::write(folder.path().join("deep/er.csv"), "1,2").unwrap();
    let bench = Bench::new();
    let read = "import os\npath = os.environ['DATA_PATH']\nprint(path, os.environ['TIMEOUT'])\n\
        for at, _, files in os.walk('/data'):\n    for name in sorted(files):\n        \
        name = f'{at}/{name}'\n        print(name, open(name).read())\n        for change in \
        (lambda: open(name, 'a'), lambda: os.remove(name), lambda: os.chmod(name, 0o777), lambda: \
        open(at + '/new', 'w')):\n            try:\n                change()\n                \
        print('changed')\n            except OSError as error:\n                assert \
        error.errno in (30, 13, 1, 16), error\n";
    use DatasetKind::{File, Folder};
    let cases: [(&[Given<'_>], &str); 3] = [
        (
            &[(Some("private_message.txt"), File, file.path())],
            "/data/private_message.txt 30\n/data/private_message.txt the message\n",
        ),
        (&[(None, Folder, folder.path())], "/data 30\n/data/deep/er.csv 1,2\n"),
        (
            &[(Some("other"), File, file.path()), (Some("tables"), Folder, folder.path())],
            "/data 30\n/data/other the message\n/data/tables/deep/er.csv 1,2\n",
        ),
    ];
    for (run_id, (data, expected)) in (1..).zip(cases) {
        let order = Order { run_id, ..with_data(Order::python(read), data) };
        let ran = bench.run(order).await;
        assert_eq!(ran.stdout, expected, "{ran:?}");
        assert_eq!((ran.outcome.cause, ran.outcome.exit_code), (Cause::Exited, Some(0)));
        assert_eq!(bench.leftovers(), [""; 0]);
    }
    // The overlay that they used has nothing of it for the next job.
    let look = Order::shell("ls -d /data /output; env | grep -c -e DATA -e OUTPUT");
    let ran = bench.run(Order { run_id: 9, ..look }).await;
    assert_eq!(ran.stdout, "0\n", "{ran:?}");
}

#[tokio::test]
async fn what_a_job_leaves_in_output_is_packed_however_it_ends() {
    let bench = Bench::new();
    let write = "cd $OUTPUT_DIR && mkdir plots && echo hello >plots/a.txt && echo x >secret && \
        chmod 000 secret && ln -s plots/a.txt latest && ln -s /etc/passwd out && mkfifo pipe && ";
    for (run_id, last, cause) in
        [(1, "exit 3", Cause::Exited), (2, "exec sleep 60", Cause::Timeout)]
    {
        let order = with_output(Order::shell(&format!("{write}{last}")), SMALL);
        let order = Order { run_id, ..order };
        let ran = bench.run(order.limits(|limits| limits.timeout_ms = 3000)).await;
        assert_eq!(ran.outcome.cause, cause, "{ran:?}");
        let packed = ran.outcome.packed.unwrap();
        assert_eq!((packed.files, packed.bytes, packed.left_out), (2, 8, 2));
        let message = ran.outcome.message.unwrap();
        assert_eq!(message, "/output held 2 entries that are not kept");
        let listed = archive::list(&bench.archive(run_id)).unwrap();
        let listed: Vec<_> = listed.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(listed, ["latest", "plots", "secret", "plots/a.txt"]);
        assert_eq!(bench.leftovers(), [""; 0]);
    }
}

/// Runs Python that is to meet a limit of `/output`.
async fn at_a_limit(source: &str, limits: OutputLimits) -> Ran {
    let bench = Bench::new();
    let ran = bench.run(with_output(Order::python(source), limits)).await;
    assert_eq!(bench.leftovers(), [""; 0]);
    ran
}

fn assert_limited(ran: &Ran, errno: &str, message: &str) {
    assert!(ran.stderr.contains(errno), "{ran:?}");
    assert_eq!((ran.outcome.cause, ran.outcome.exit_code), (Cause::OutputLimit, Some(1)));
    assert_eq!(ran.outcome.message.as_deref(), Some(message), "{ran:?}");
}

#[tokio::test]
async fn output_beyond_its_bytes_is_refused_and_on_record() {
    // More than the job's own memory, together with what it holds there.
    let limits = OutputLimits { bytes: 200 << 20, files: 20, file_bytes: 200 << 20 };
    let source = "keep = bytearray(100 << 20)\n\
        with open('/output/all', 'wb', buffering=0) as file:\n    \
        for _ in range(201):\n        assert file.write(b'x' * (1 << 20)) == 1 << 20\n";
    let ran = at_a_limit(source, limits).await;
    assert_limited(&ran, "[Errno 28]", "/output is full: its limit is 209715200 bytes");
    let packed = ran.outcome.packed.unwrap();
    assert_eq!((packed.files, packed.bytes), (1, 200 << 20));
}

#[tokio::test]
async fn output_beyond_its_number_of_files_is_refused_and_on_record() {
    let source = "for number in range(21):\n    open(f'/output/{number}', 'w')\n";
    let ran = at_a_limit(source, SMALL).await;
    assert_limited(&ran, "[Errno 28]", "/output has as many files as it may: 20");
    assert_eq!(ran.outcome.packed.unwrap().files, 20);
}

#[tokio::test]
async fn output_beyond_the_length_of_one_file_is_refused_and_on_record() {
    let limits = OutputLimits { file_bytes: 4000, ..SMALL };
    let source = "with open('/output/long', 'wb', buffering=0) as file:\n    \
        while True:\n        file.write(b'x' * 1000)\n";
    let ran = at_a_limit(source, limits).await;
    assert_limited(&ran, "[Errno 27]", "/output has a file of the greatest length: 4000 bytes");
    assert_eq!(ran.outcome.packed.unwrap().bytes, 4000);
}

#[tokio::test]
async fn a_job_that_comes_to_terms_with_a_limit_ends_by_itself() {
    let source = "try:\n    open('/output/a', 'wb').write(b'x' * (2 << 20))\n\
        except OSError as error:\n    print(error.errno)\n";
    let ran = at_a_limit(source, SMALL).await;
    assert_eq!((ran.stdout.as_str(), ran.outcome.cause), ("28\n", Cause::Exited), "{ran:?}");
    assert_eq!(ran.outcome.exit_code, Some(0));
    assert!(ran.outcome.message.unwrap().contains("/output is full"));
}

#[tokio::test]
async fn an_output_gives_a_job_no_memory_of_its_own() {
    // What `/output` may hold is allowed on top; a job that never writes there has its own limit
    // and that much again, and no more.
    let limits = OutputLimits { bytes: 16 << 20, files: 20, file_bytes: 16 << 20 };
    let order = Order::python("x = bytearray(120 << 20)").limits(|all| all.memory_bytes = 64 << 20);
    let bench = Bench::new();
    let ran = bench.run(with_output(order, limits)).await;
    assert_eq!(ran.outcome.cause, Cause::MemoryExceeded, "{ran:?}");
    assert_eq!(bench.leftovers(), [""; 0]);
}

/// Stores a directory as a dataset of ada's, and tells its digest.
async fn stored(site: &Site, dir: &Path) -> Digest {
    let store = Store::default();
    let manifest = export(dir, &store);
    let client = client(&site.fileserver_url());
    for raw in store.all() {
        client.blobs().put(&raw).await.unwrap();
    }
    let name = format!("data/ada/{manifest}").parse().unwrap();
    client.refs().put(&name, manifest, Expect::Any).await.unwrap();
    manifest
}

fn reads(name: Option<&str>, kind: DatasetKind, manifest: Digest, text: &str) -> JobSpec {
    let dataset = Dataset {
        name: name.map(str::to_owned),
        kind,
        dataset: manifest.to_string().parse().unwrap(),
    };
    JobSpec { datasets: vec![dataset], ..script(text) }
}

/// On a worker that guesses nothing: the first and the last bytes of a file of 64 chunks.
async fn a_large_file_is_read_lazily(more: &[&str]) {
    let on_demand = ["--no-predict", "--trace", "off"];
    let site = Site::start_with(&[&on_demand, more].concat()).await;
    let data = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> =
        (0..64u32 << 15).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs_err::write(data.path().join("large.bin"), &bytes).unwrap();
    let manifest = stored(&site, data.path()).await;
    let client = site.client();
    let text = "head -c 8 $DATA_PATH | cat >/output/first && id -u && echo $DATA_PATH $OUTPUT_DIR";
    let spec = JobSpec {
        output: Some(OutputRequest::default()),
        ..reads(Some("large.bin"), DatasetKind::File, manifest, text)
    };
    let mut fetched = Vec::new();
    for _ in 0..2 {
        let run = ended(&client, &spec).await;
        assert_eq!(run.exit_code, Some(0), "{run:?}");
        assert_eq!(run.stdout.as_deref(), Some("65532\n/data/large.bin /output\n"));
        assert_eq!((run.output_files, run.output_files_bytes), (Some(1), Some(8)));
        let mut file = client.jobs().output(&run.job_id, "first").await.unwrap();
        assert_eq!(file.next().await.unwrap().unwrap(), bytes[..8]);
        fetched.push(run);
    }
    assert!(fetched[0].bytes_fetched < 4 << 20, "lazily: {:?}", fetched[0]);
    // What the first job has read is in the kernel's cache, if owners need no mounts of their own.
    assert!(fetched[1].server_fetches == 0, "shared: {:?}", fetched[1]);
    let job = client.jobs().job(&fetched[0].job_id).await.unwrap();
    assert_eq!(job.datasets[0].manifest, manifest);
    assert_eq!(job.limits.output, Some(OutputLimits::DEFAULT));
}

#[tokio::test]
async fn a_dataset_is_read_page_by_page_and_its_mount_is_shared() {
    a_large_file_is_read_lazily(&[]).await;
}

#[tokio::test]
async fn a_dataset_is_read_likewise_where_the_worker_maps_its_owners() {
    a_large_file_is_read_lazily(&["--id-mapping", "shift"]).await;
}

#[tokio::test]
async fn a_folder_is_data_itself_and_a_killed_worker_leaves_none_of_it() {
    let mut site = Site::start_with(&[]).await;
    let data = tempfile::tempdir().unwrap();
    fs_err::write(data.path().join("a"), "alpha").unwrap();
    fs_err::write(data.path().join("b"), "beta").unwrap();
    let manifest = stored(&site, data.path()).await;
    let client = site.client();
    let text = "cat /data/a $DATA_PATH/b; echo kept >/output/kept; [ ! -e /data/stay ] || exit; \
        echo; echo running; exec sleep 60";
    let spec = JobSpec {
        output: Some(OutputRequest::default()),
        ..reads(None, DatasetKind::Folder, manifest, text)
    };
    let job = client.jobs().submit(&spec).await.unwrap();
    let mut events = client.jobs().events(&job.id, None);
    let mut seen = Vec::new();
    while !seen.ends_with(b"running\n") {
        let (_, event) = events.next().await.unwrap().unwrap();
        if let sway_core::api::jobs::JobEvent::Output { data, .. } = event {
            seen.extend(data);
        }
    }
    assert_eq!(seen, b"alphabeta\nrunning\n");
    drop(events);
    site.kill();
    site.restart().await;
    let client = site.client();
    let job = client.jobs().job(&job.id).await.unwrap();
    assert_eq!(job.state, JobState::Failed);
    let error = client.jobs().output_files(&job.id).await.unwrap_err();
    assert!(error.to_string().contains("no files in /output"), "{error}");
    let jobs = site.worker_dir().join("jobs");
    assert_eq!(mounted_below(&jobs), [""; 0]);
    assert_eq!(fs_err::read_dir(jobs).unwrap().count(), 0);
}

#[tokio::test]
async fn somebody_elses_dataset_and_one_that_is_none_are_refused() {
    let site = Site::start_with(&[]).await;
    let data = tempfile::tempdir().unwrap();
    fs_err::write(data.path().join("a"), "alpha").unwrap();
    fs_err::write(data.path().join("b"), "beta").unwrap();
    let manifest = stored(&site, data.path()).await;
    let ada = site.client();
    let mut config = sway_client::ClientConfig::new(ada.base().parse().unwrap());
    config.token = Some("test-token".to_owned());
    config.user = Some("bob".parse().unwrap());
    let bob = sway_client::Client::new(&config).unwrap();
    let own = reads(None, DatasetKind::Folder, manifest, "true");
    let mut adas = own.clone();
    adas.datasets[0].dataset = format!("ada/{manifest}").parse().unwrap();
    // The operator's token speaks for bob, and may read everything; bob's name leads nowhere.
    let error = bob.jobs().submit(&own).await.unwrap_err().to_string();
    assert!(error.contains(&format!("no dataset {manifest}")), "{error}");
    assert_eq!(ended(&ada, &adas).await.exit_code, Some(0));
    let two = reads(Some("x"), DatasetKind::File, manifest, "true");
    let run = ended(&ada, &two).await;
    assert_eq!(run.cause, Some(Cause::Policy), "{run:?}");
    assert!(run.message.unwrap().contains("is not one file"));
}
