//! The packages that a submitted job asks for: installed before anybody can approve it, or the end of
//! it. What real installations do is tested in `tests/privileged/packages.rs`.

use sway_client::{Client, ClientError};
use sway_core::api::jobs::JobView;
use sway_core::api::submissions::{DecisionRequest, Packages, Submission};
use sway_core::digest::Digest;
use sway_core::job::{Cause, JobFile, JobSpec, JobState, Program};

use crate::support::{Worker, database, events, job_when, python, stdout};

/// A folder of bob's for alice, which says 42.
fn asking_for(image: &str, requirements: &str) -> Submission {
    let file = |path: &str, content: &str| JobFile {
        path: path.to_owned(),
        content: content.into(),
        executable: true,
    };
    let files = vec![file("run.sh", "say 42"), file("requirements.txt", requirements)];
    let program = Program::Folder { files, entry: "run.sh".to_owned() };
    Submission {
        owner: "alice".parse().unwrap(),
        queue: "code-queue".to_owned(),
        name: "Statistics".to_owned(),
        description: String::new(),
        tags: Vec::new(),
        job: JobSpec::new(Some(image.parse().unwrap()), program),
    }
}

fn packages(job: &JobView) -> Packages {
    job.submission.clone().unwrap().packages.unwrap()
}

fn digest(job: &JobView) -> String {
    job.submission.clone().unwrap().digest
}

fn reviewed(job: &JobView) -> DecisionRequest {
    DecisionRequest { reason: "ok".to_owned(), digest: Some(digest(job)) }
}

fn code(refusal: ClientError) -> String {
    match refusal {
        ClientError::Refused { code, .. } => code,
        other => panic!("{other:?}"),
    }
}

async fn prepared(client: &Client, id: &str) -> JobView {
    job_when(client, id, |job| packages(job) != Packages::Preparing).await
}

#[tokio::test]
async fn packages_are_installed_before_a_job_can_be_approved() {
    let worker = Worker::start().await;
    let [alice, bob] = ["alice", "bob"].map(|user| worker.client(user));
    let asked = asking_for("alice/python", "gated\nsix>=1\nonce\nthere\n");
    let submitted = bob.submissions().submit(&asked).await.unwrap();
    assert_eq!((submitted.state, packages(&submitted)), (JobState::Pending, Packages::Preparing));
    let image = Digest::of(&python());
    assert_eq!(submitted.manifest, image);
    let refusal = alice.submissions().approve(&submitted.id, &reviewed(&submitted)).await;
    assert_eq!(code(refusal.unwrap_err()), "preparing");
    let unwanted = bob.submissions().submit(&asked).await.unwrap();
    let rejected = alice.submissions().reject(&unwanted.id, &reviewed(&unwanted)).await.unwrap();
    assert_eq!(rejected.job.state, JobState::Rejected);

    std::fs::write(worker.data.path().join("gate"), "").unwrap();
    let job = prepared(&bob, &submitted.id).await;
    let Packages::Ready { image: of, installed } = packages(&job) else { panic!("{job:?}") };
    let names: Vec<_> = installed.iter().map(|package| package.name.as_str()).collect();
    assert_eq!((of, names), (image, vec!["gated", "six>=1", "once"]));
    assert_ne!(job.manifest, image, "the job has an image of its own");
    // What was seen before is not what runs.
    let refusal = alice.submissions().approve(&job.id, &reviewed(&submitted)).await.unwrap_err();
    assert_eq!(code(refusal), "not_reviewed");
    alice.submissions().approve(&job.id, &reviewed(&job)).await.unwrap();
    assert_eq!(stdout(&events(&bob, &job.id, None).await), "42");
    let run = bob.jobs().run(&job.id).await.unwrap();
    assert_eq!(run.manifest, job.manifest.to_string());
    let query =
        sway_client::submissions::AuditQuery { job: Some(job.id.clone()), ..Default::default() };
    let audit = alice.submissions().audit(&query).await.unwrap();
    let actions: Vec<_> = audit.entries.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["submitted", "prepared", "approved", "started", "ended"]);

    // The same once more is there already: `once` can't be installed twice.
    let again = bob.submissions().submit(&asked).await.unwrap();
    let again = prepared(&bob, &again.id).await;
    assert_eq!((again.manifest, packages(&again)), (job.manifest, packages(&job)));
    // And an image that has them all stays what it is.
    let asked = asking_for("alice/python", "there");
    let there = prepared(&bob, &bob.submissions().submit(&asked).await.unwrap().id).await;
    assert_eq!(packages(&there), Packages::Ready { image, installed: Vec::new() });
    assert_eq!(there.manifest, image);
}

#[tokio::test]
async fn what_can_not_be_installed_is_the_jobs_end_with_its_reason() {
    let worker = Worker::start().await;
    let [alice, bob] = ["alice", "bob"].map(|user| worker.client(user));
    let asked = asking_for("alice/python", "source-only");
    let job = bob.submissions().submit(&asked).await.unwrap();
    // Who follows it hears of no approval.
    let all = events(&bob, &job.id, None).await;
    let numbers: Vec<_> = all.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [1, 4]);
    let job = bob.jobs().job(&job.id).await.unwrap();
    assert_eq!(job.state, JobState::Failed);
    let run = bob.jobs().run(&job.id).await.unwrap();
    let message = run.message.unwrap();
    assert!(
        message.contains("requirements.txt: source-only has to be built from source"),
        "{message}"
    );
    assert!(message.contains("alice"), "it says whom to ask: {message}");
    assert_eq!((run.cause, run.stderr.as_deref()), (Some(Cause::Policy), Some("ERROR: no wheel")));
    assert!(
        matches!(packages(&job), Packages::Failed { reason } if reason.contains("source-only"))
    );
    let refusal = alice.submissions().approve(&job.id, &reviewed(&job)).await.unwrap_err();
    assert_eq!(code(refusal), "job_ended");
    let left = std::fs::read_dir(worker.data.path().join("packages")).unwrap();
    assert_eq!(left.count(), 0, "nothing is left of it");

    for bad in ["-e .", "https://example.org/x.whl", "six @ https://example.org/x.whl"] {
        let refusal = bob.submissions().submit(&asking_for("alice/python", bad)).await.unwrap_err();
        assert!(refusal.to_string().contains("requirements.txt: line 1"), "{refusal}");
        assert_eq!(code(refusal), "bad_job");
    }
}

#[tokio::test]
async fn nothing_is_installed_into_a_submitters_own_image() {
    let worker = Worker::start().await;
    let [alice, ada] = ["alice", "ada"].map(|user| worker.client(user));
    let job = ada.submissions().submit(&asking_for("own:1", "six")).await.unwrap();
    assert_eq!(packages(&job), Packages::LeftToImage);
    assert_eq!(job.manifest, Digest::of(b"own"));
    alice.submissions().approve(&job.id, &reviewed(&job)).await.unwrap();
    assert_eq!(stdout(&events(&ada, &job.id, None).await), "42");
    // Whose image it is makes the difference, and not its name: ada may do that for herself.
    let own = Submission { owner: "ada".parse().unwrap(), ..asking_for("own:1", "there") };
    let job = ada.submissions().submit(&own).await.unwrap();
    assert!(matches!(packages(&prepared(&ada, &job.id).await), Packages::Ready { .. }));
}

#[tokio::test]
async fn what_is_changed_while_its_packages_are_installed_is_not_approved() {
    let worker = Worker::start().await;
    let bob = worker.client("bob");
    let job = bob.submissions().submit(&asking_for("alice/python", "gated")).await.unwrap();
    let set = "UPDATE jobs SET filename = 'other.sh' WHERE id = ?1";
    assert_eq!(database(worker.data.path()).execute(set, [&job.id]).unwrap(), 1);
    std::fs::write(worker.data.path().join("gate"), "").unwrap();
    let job = job_when(&bob, &job.id, |job| job.state.is_final()).await;
    let run = bob.jobs().run(&job.id).await.unwrap();
    assert_eq!((job.state, run.cause), (JobState::Failed, Some(Cause::Infrastructure)));
    assert!(run.message.unwrap().contains("it is not what was submitted"));
}

#[tokio::test]
async fn a_worker_that_ends_while_it_installs_begins_again() {
    let worker = Worker::start().await;
    let job = worker.client("bob").submissions().submit(&asking_for("alice/python", "gated")).await;
    let id = job.unwrap().id;
    let data = worker.stop().await;
    std::fs::write(data.path().join("gate"), "").unwrap();
    let worker = Worker::start_on(data, |_| {}).await;
    let job = prepared(&worker.client("bob"), &id).await;
    assert_eq!(job.state, JobState::Pending);
    assert!(matches!(packages(&job), Packages::Ready { .. }), "{job:?}");
}

#[tokio::test]
async fn a_worker_for_once_installs_and_leaves_the_decision() {
    let worker = Worker::start().await;
    let job = worker.client("bob").submissions().submit(&asking_for("alice/python", "gated")).await;
    let id = job.unwrap().id;
    let data = worker.stop().await;
    std::fs::write(data.path().join("gate"), "").unwrap();
    let data = Worker::start_on(data, |config| config.once = true).await.ended().await;
    let query = "SELECT json_extract(packages, '$.state') FROM submissions WHERE job_id = ?1";
    let state: String = database(data.path()).query_row(query, [&id], |row| row.get(0)).unwrap();
    assert_eq!(state, "ready");
}
