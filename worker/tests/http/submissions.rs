//! Jobs that an owner decides on, from submission to clean-up, and what the audit tells of them.

use serde_json::json;
use sway_client::ClientError;
use sway_client::submissions::{AuditQuery, JobQuery};
use sway_core::api::submissions::{DecisionRequest, QueueSettings, Submission};
use sway_core::digest::Digest;
use sway_core::job::{Cause, Dataset, DatasetKind, JobFile, JobState, LimitsRequest, Program};

use crate::support::{Worker, database, events, job_when, spec, stdout};

fn submission(argv: &[&str]) -> Submission {
    Submission {
        owner: "alice".parse().unwrap(),
        queue: "code-queue".to_owned(),
        name: "Statistics".to_owned(),
        description: "Sums alone".to_owned(),
        tags: vec!["statistics".to_owned()],
        job: spec(argv),
    }
}

fn because(reason: &str) -> DecisionRequest {
    DecisionRequest { reason: reason.to_owned(), digest: None }
}

fn code(refusal: ClientError) -> String {
    match refusal {
        ClientError::Refused { code, .. } => code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_submitted_job_waits_for_its_owner_and_runs_when_approved() {
    let worker = Worker::start().await;
    let [alice, bob, eve] = ["alice", "bob", "eve"].map(|user| worker.client(user));
    let job = bob.submissions().submit(&submission(&["say", "4", "2"])).await.unwrap();
    let submitted = job.submission.clone().unwrap();
    assert_eq!((job.state, job.username.as_ref()), (JobState::Pending, "bob"));
    assert_eq!((submitted.owner.as_ref(), submitted.decision), ("alice", None));
    assert_eq!(
        (job.limits.timeout_ms, job.limits.memory_bytes, job.limits.pids),
        (600_000, 1 << 30, 128)
    );
    assert!(job.limits.output.is_some(), "what it writes to OUTPUT_DIR is kept");

    // Who decides, and who sees it.
    assert_eq!(
        code(bob.submissions().approve(&job.id, &because("")).await.unwrap_err()),
        "forbidden"
    );
    assert_eq!(
        code(eve.submissions().approve(&job.id, &because("")).await.unwrap_err()),
        "job_not_found"
    );
    assert_eq!(code(eve.submissions().review(&job.id).await.unwrap_err()), "job_not_found");
    let pending = JobQuery {
        owner: Some("alice".parse().unwrap()),
        state: Some(JobState::Pending),
        ..JobQuery::default()
    };
    assert_eq!(alice.submissions().jobs(&pending).await.unwrap().jobs.len(), 1);
    assert_eq!(eve.submissions().jobs(&pending).await.unwrap().jobs.len(), 0);
    for (queue, found) in [("code-queue", 1), ("other", 0)] {
        let query = JobQuery { queue: Some(queue.to_owned()), ..pending.clone() };
        assert_eq!(alice.submissions().jobs(&query).await.unwrap().jobs.len(), found);
    }
    let review = alice.submissions().review(&job.id[..5]).await.unwrap();
    assert_eq!(review.spec.unwrap().program, spec(&["say", "4", "2"]).program);

    // Only what was reviewed, and only one way.
    let other = DecisionRequest { digest: Some("0".repeat(64)), ..because("") };
    let refusal = alice.submissions().approve(&job.id, &other).await.unwrap_err();
    assert_eq!(code(refusal), "not_reviewed");
    let reviewed = DecisionRequest { digest: Some(submitted.digest), ..because("Looks safe") };
    let decided = alice.submissions().approve(&job.id, &reviewed).await.unwrap();
    assert!(!decided.already);
    let all = events(&bob, &job.id, None).await;
    assert_eq!((stdout(&all), all[0].0), ("42".to_owned(), 1));
    let job = bob.jobs().job(&job.id).await.unwrap();
    assert_eq!(job.state, JobState::Completed);
    let decision = job.submission.unwrap().decision.unwrap();
    assert_eq!((decision.by.as_str(), decision.reason.as_str()), ("alice", "Looks safe"));
    assert!(alice.submissions().approve(&job.id, &because("again")).await.unwrap().already);
    let refusal = alice.submissions().reject(&job.id, &because("too late")).await.unwrap_err();
    assert_eq!(code(refusal), "decided");

    // The run is both's.
    for client in [&alice, &bob] {
        assert_eq!(client.jobs().run(&job.id).await.unwrap().stdout.as_deref(), Some("42"));
        assert_eq!(client.jobs().runs(Default::default()).await.unwrap().runs.len(), 1);
    }
    assert_eq!(eve.jobs().runs(Default::default()).await.unwrap().runs.len(), 0);
    let view = alice.submissions().queue().await.unwrap();
    assert_eq!((view.for_me.completed, view.by_me.completed), (1, 0));
}

/// What stands beyond the first ones must not go unseen.
#[tokio::test]
async fn a_review_tells_all_that_the_policy_finds_or_that_there_is_more() {
    let worker = Worker::start().await;
    let [alice, bob] = ["alice", "bob"].map(|user| worker.client(user));
    for (imports, told, more) in [(30, 30, false), (1000, 1000, false), (1001, 1000, true)] {
        let source = "import subprocess\n".repeat(imports);
        let file =
            JobFile { path: "main.py".to_owned(), content: source.into(), executable: false };
        let mut submission = submission(&[]);
        submission.job.program = Program::Script { file };
        let job = bob.submissions().submit(&submission).await.unwrap();
        let review = alice.submissions().review(&job.id).await.unwrap();
        assert_eq!((review.findings.len(), review.more_findings), (told, more), "{imports}");
        assert_eq!(review.findings.last().unwrap().line, told);
    }
}

#[tokio::test]
async fn rejected_and_cancelled_jobs_never_run_and_their_followers_hear_it() {
    let worker = Worker::start().await;
    let [alice, bob] = ["alice", "bob"].map(|user| worker.client(user));
    let rejected = bob.submissions().submit(&submission(&["say", "no"])).await.unwrap();
    let cancelled = bob.submissions().submit(&submission(&["say", "no"])).await.unwrap();
    let following = events(&bob, &rejected.id, None);
    let deciding = alice.submissions();
    let because_broad = because("Too broad");
    let deciding = deciding.reject(&rejected.id, &because_broad);
    let (all, decided) = tokio::join!(following, deciding);
    assert_eq!(decided.unwrap().job.state, JobState::Rejected);
    assert_eq!(all.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 4]);
    let refusal = alice.submissions().approve(&rejected.id, &because("")).await.unwrap_err();
    assert_eq!(code(refusal), "decided");
    assert_eq!(bob.jobs().cancel(&cancelled.id).await.unwrap().state, JobState::Cancelled);
    let refusal = alice.submissions().approve(&cancelled.id, &because("")).await.unwrap_err();
    assert_eq!(code(refusal), "job_ended");
    assert!(bob.jobs().runs(Default::default()).await.unwrap().runs.is_empty());
    // Nor does a direct job, on which nobody decides, become one.
    let direct = bob.jobs().submit(&spec(&["hang"])).await.unwrap();
    let refusal = bob.submissions().approve(&direct.id, &because("")).await.unwrap_err();
    assert_eq!(code(refusal), "not_submitted");
}

#[tokio::test]
async fn a_job_that_was_changed_in_any_byte_after_submission_does_not_run() {
    let worker = Worker::start().await;
    let [alice, bob] = ["alice", "bob"].map(|user| worker.client(user));
    let settings = QueueSettings { max_concurrent_jobs: 1, ..QueueSettings::default() };
    alice.submissions().set_queue(&settings).await.unwrap();
    let approved = async |argv: &[&str]| {
        let job = bob.submissions().submit(&submission(argv)).await.unwrap();
        alice.submissions().approve(&job.id, &because("ok")).await.unwrap();
        job.id
    };
    let first = approved(&["hang"]).await;
    job_when(&bob, &first, |job| job.state == JobState::Running).await;

    // All of these wait for alice's only turn, and meanwhile somebody is at the database.
    let connection = database(worker.data.path());
    let mut changed = Vec::new();
    for (table, key, columns) in [
        (
            "jobs",
            "id",
            &[
                "username",
                "image",
                "manifest",
                "filename",
                "spec",
                "limits",
                "network",
                "created_at",
            ][..],
        ),
        ("submissions", "job_id", &["owner", "queue", "name", "description", "tags", "digest"]),
    ] {
        for (at, column) in columns.iter().cycle().take(columns.len() * 3).enumerate() {
            let id = approved(&["say", "changed"]).await;
            let query = format!("SELECT CAST({column} AS BLOB) FROM {table} WHERE {key} = ?1");
            let mut bytes: Vec<u8> = connection.query_row(&query, [&id], |row| row.get(0)).unwrap();
            // Some byte, another one each time: a small letter stays a letter, so that names and
            // numbers mostly stay readable.
            let place = (at * 37 + 11) % bytes.len();
            bytes[place] ^= 1;
            let as_type = if *column == "spec" { "?2" } else { "CAST(?2 AS TEXT)" };
            let set = format!("UPDATE {table} SET {column} = {as_type} WHERE {key} = ?1");
            assert_eq!(connection.execute(&set, (&id, &bytes)).unwrap(), 1);
            changed.push((id, format!("{column}[{place}]")));
        }
    }
    for column in ["datasets", "labels"] {
        let id = approved(&["say", "changed"]).await;
        connection
            .execute(&format!("UPDATE jobs SET {column} = '[]' WHERE id = ?1"), [&id])
            .unwrap();
        changed.push((id, column.to_owned()));
    }
    // One that nobody approved.
    let job = bob.submissions().submit(&submission(&["say", "changed"])).await.unwrap();
    let set = "UPDATE jobs SET state = 'approved' WHERE id = ?1";
    connection.execute(set, [&job.id]).unwrap();
    let sound = approved(&["say", "sound"]).await;
    bob.jobs().cancel(&first).await.unwrap();
    job_when(&bob, &sound, |job| job.state == JobState::Completed).await;

    let ran = "SELECT count(*) FROM runs WHERE job_id = ?1 AND (stdout <> x'' OR duration_ms > 0)";
    for (id, what) in &changed {
        let ran: i64 = connection.query_row(ran, [id], |row| row.get(0)).unwrap();
        assert_eq!(ran, 0, "{what}");
        let state = "SELECT state FROM jobs WHERE id = ?1";
        let state: String = connection.query_row(state, [id], |row| row.get(0)).unwrap();
        assert_eq!(state, "failed", "{what}");
    }
    let run = alice.jobs().run(&changed[0].0).await.unwrap();
    assert_eq!(run.cause, Some(Cause::Infrastructure));
    let message = "the job was not started: it is not what was submitted";
    assert_eq!(run.message.as_deref(), Some(message));
    // A worker that is started again takes the unapproved one for approved, and does not run it.
    drop(connection);
    let worker = Worker::start_on(worker.stop().await, |_| {}).await;
    let failed = job_when(&worker.client("bob"), &job.id, |job| job.state.is_final()).await;
    assert_eq!(failed.state, JobState::Failed);
    let message = failed.run.unwrap().message.unwrap();
    assert_eq!(message, "the job was not started: the audit has no approval of it");
}

#[tokio::test]
async fn an_approved_job_runs_exactly_once_also_when_its_worker_dies_before_it_starts() {
    let worker = Worker::start_with(|config| config.running_max = 1).await;
    let [alice, bob] = ["alice", "bob"].map(|user| worker.client(user));
    let busy = bob.jobs().submit(&spec(&["hang"])).await.unwrap();
    job_when(&bob, &busy.id, |job| job.state == JobState::Running).await;
    let pending = bob.submissions().submit(&submission(&["say", "later"])).await.unwrap();
    let job = bob.submissions().submit(&submission(&["say", "once"])).await.unwrap();
    alice.submissions().approve(&job.id, &because("ok")).await.unwrap();
    let mut data = worker.kill().await;
    for _ in 0..2 {
        let worker = Worker::start_on(data, |_| {}).await;
        let bob = worker.client("bob");
        job_when(&bob, &job.id, |job| job.state == JobState::Completed).await;
        let runs = bob.jobs().runs(Default::default()).await.unwrap().runs;
        assert_eq!(runs.iter().filter(|run| run.job_id == job.id).count(), 1);
        // What nobody decided on still waits.
        let pending = bob.jobs().job(&pending.id).await.unwrap();
        assert_eq!(pending.state, JobState::Pending);
        data = worker.kill().await;
    }
}

#[tokio::test]
async fn a_worker_that_is_started_for_once_runs_what_is_approved_and_ends() {
    let worker = Worker::start_with(|config| config.running_max = 1).await;
    let [alice, bob] = ["alice", "bob"].map(|user| worker.client(user));
    let busy = bob.jobs().submit(&spec(&["hang"])).await.unwrap();
    job_when(&bob, &busy.id, |job| job.state == JobState::Running).await;
    let pending = bob.submissions().submit(&submission(&["say", "later"])).await.unwrap();
    let job = bob.submissions().submit(&submission(&["say", "now"])).await.unwrap();
    alice.submissions().approve(&job.id, &because("ok")).await.unwrap();
    let data = worker.kill().await;
    let data = Worker::start_on(data, |config| config.once = true).await.ended().await;
    let state = |id: &str| -> String {
        let query = "SELECT state FROM jobs WHERE id = ?1";
        database(data.path()).query_row(query, [id], |row| row.get(0)).unwrap()
    };
    assert_eq!((state(&job.id), state(&pending.id)), ("completed".into(), "pending".into()));
}

#[tokio::test]
async fn an_owner_grants_turns_limits_and_images() {
    let worker = Worker::start().await;
    let [alice, bob] = ["alice", "bob"].map(|user| worker.client(user));
    let settings = QueueSettings {
        max_concurrent_jobs: 1,
        job_timeout_s: 60,
        images: Some(vec!["scipy".parse().unwrap()]),
        ..QueueSettings::default()
    };
    let view = alice.submissions().set_queue(&settings).await.unwrap();
    assert_eq!((view.settings, view.owner.as_ref()), (settings.clone(), "alice"));
    let mut long = submission(&["hang"]);
    long.job.limits = LimitsRequest { timeout_ms: Some(61_000), ..LimitsRequest::default() };
    assert_eq!(code(bob.submissions().submit(&long).await.unwrap_err()), "limit_exceeded");
    let mut other = submission(&["hang"]);
    other.job.image = Some("science".parse().unwrap());
    assert_eq!(code(bob.submissions().submit(&other).await.unwrap_err()), "not_granted");
    let mut ids = Vec::new();
    for _ in 0..2 {
        let job = bob.submissions().submit(&submission(&["hang"])).await.unwrap();
        assert_eq!(job.limits.timeout_ms, 60_000);
        alice.submissions().approve(&job.id, &because("ok")).await.unwrap();
        ids.push(job.id);
    }
    job_when(&bob, &ids[0], |job| job.state == JobState::Running).await;
    // The worker has four places, and bob's direct jobs take others.
    let direct = bob.jobs().submit(&spec(&["say", "direct"])).await.unwrap();
    job_when(&bob, &direct.id, |job| job.state == JobState::Completed).await;
    assert_eq!(bob.jobs().job(&ids[1]).await.unwrap().state, JobState::Approved);
    let more = QueueSettings { max_concurrent_jobs: 2, ..settings };
    alice.submissions().set_queue(&more).await.unwrap();
    job_when(&bob, &ids[1], |job| job.state == JobState::Running).await;
}

#[tokio::test]
async fn a_submitted_job_names_datasets_of_its_owner_and_of_nobody_else() {
    let worker = Worker::start().await;
    let [alice, bob] = ["alice", "bob"].map(|user| worker.client(user));
    let asking = |dataset: &str| {
        let mut submission = submission(&["say", "x"]);
        let (kind, dataset) = (DatasetKind::Folder, dataset.parse().unwrap());
        submission.job.datasets = vec![Dataset { name: None, kind, dataset }];
        submission
    };
    let job = bob.submissions().submit(&asking("alice/weather")).await.unwrap();
    assert_eq!(job.datasets[0].manifest, Digest::of(b"weather"), "what it led to then");
    for other in ["carol/census", "weather"] {
        let refusal = bob.submissions().submit(&asking(other)).await.unwrap_err();
        assert_eq!(code(refusal), "dataset_not_found", "{other}");
    }
    let settings = QueueSettings { datasets: Some(vec![]), ..QueueSettings::default() };
    alice.submissions().set_queue(&settings).await.unwrap();
    let refusal = bob.submissions().submit(&asking("alice/weather")).await.unwrap_err();
    assert_eq!(code(refusal), "not_granted");
}

#[tokio::test]
async fn code_outputs_and_logs_go_when_their_time_is_over_and_the_audit_stays() {
    let worker = Worker::start().await;
    let [alice, bob] = ["alice", "bob"].map(|user| worker.client(user));
    let job = bob.submissions().submit(&submission(&["leave", "sums.csv", "1,2"])).await.unwrap();
    alice.submissions().approve(&job.id, &because("ok")).await.unwrap();
    job_when(&bob, &job.id, |job| job.state == JobState::Completed).await;
    let next = bob.submissions().submit(&submission(&["say", "next"])).await.unwrap();
    let review = alice.submissions().review(&next.id).await.unwrap();
    assert!(review.previous.unwrap().spec.is_some(), "to be compared with");
    let data = worker.stop().await;
    let worker = Worker::start_on(data, |_| {}).await;
    let [alice, bob] = ["alice", "bob"].map(|user| worker.client(user));
    assert_eq!(bob.jobs().output_files(&job.id).await.unwrap().len(), 1, "a day is not over");
    let now = QueueSettings { cleanup_completed_after_s: 0, ..QueueSettings::default() };
    alice.submissions().set_queue(&now).await.unwrap();
    let data = worker.stop().await;
    let worker = Worker::start_on(data, |_| {}).await;
    let [alice, bob] = ["alice", "bob"].map(|user| worker.client(user));
    let cleaned =
        |job: &sway_core::api::jobs::JobView| job.submission.as_ref().unwrap().cleaned_at.is_some();
    let job = job_when(&bob, &job.id, cleaned).await;
    assert_eq!(job.state, JobState::Completed);
    assert_eq!(code(bob.jobs().output_files(&job.id).await.unwrap_err()), "no_outputs");
    assert_eq!(bob.jobs().run(&job.id).await.unwrap().stdout.as_deref(), Some(""));
    let outputs = worker.data.path().join("outputs");
    assert_eq!(std::fs::read_dir(outputs).unwrap().count(), 0);
    let review = alice.submissions().review(&next.id).await.unwrap();
    assert!(review.previous.unwrap().spec.is_none());
    let query = AuditQuery { job: Some(job.id.clone()), ..AuditQuery::default() };
    let entries = bob.submissions().audit(&query).await.unwrap().entries;
    let actions: Vec<&str> = entries.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["submitted", "approved", "started", "ended", "cleaned"]);
    let by: Vec<_> = entries.iter().map(|entry| (&*entry.actor, &*entry.peer)).collect();
    let itself = ("(worker)", "-");
    assert_eq!(by, [("bob", "127.0.0.1"), ("alice", "127.0.0.1"), itself, itself, itself]);
}

#[tokio::test]
async fn the_audit_shows_an_edited_a_removed_and_a_moved_row() {
    let worker = Worker::start().await;
    let [alice, bob] = ["alice", "bob"].map(|user| worker.client(user));
    for _ in 0..3 {
        let job = bob.submissions().submit(&submission(&["say", "x"])).await.unwrap();
        alice.submissions().approve(&job.id, &because("ok")).await.unwrap();
        job_when(&bob, &job.id, |job| job.state == JobState::Completed).await;
    }
    let verify = async |head: &str| {
        let answer = worker.get(&format!("/v1/audit/verify{head}")).send().await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    };
    let sound = verify("").await;
    assert_eq!((&sound["head"]["seq"], sound.get("fault")), (&json!(12), None));
    let head = format!("?head=12:{}", sound["head"]["hash"].as_str().unwrap());
    assert_eq!(verify(&head).await, sound);

    let connection = database(worker.data.path());
    for refused in [
        "UPDATE audit SET actor = 'eve' WHERE seq = 5",
        "DELETE FROM audit WHERE seq = 5",
        "INSERT OR REPLACE INTO audit SELECT * FROM audit WHERE seq = 5",
        "INSERT INTO audit SELECT 20, at, actor, token, peer, action, job, detail, previous, hash
             FROM audit WHERE seq = 5",
    ] {
        let error = connection.execute(refused, []).unwrap_err().to_string();
        assert!(error.contains("only ever added to"), "{error}");
    }
    // Whoever can write the file can also take the triggers away.
    let triggers = "DROP TRIGGER audit_is_not_changed; DROP TRIGGER audit_is_not_shortened;";
    connection.execute_batch(triggers).unwrap();
    for (change, back, seq) in [
        (
            "UPDATE audit SET actor = 'eve' WHERE seq = 5",
            "UPDATE audit SET actor = 'bob' WHERE seq = 5",
            5,
        ),
        (
            "UPDATE audit SET seq = -1 WHERE seq = 6; UPDATE audit SET seq = 6 WHERE seq = 7;
             UPDATE audit SET seq = 7 WHERE seq = -1",
            "UPDATE audit SET seq = -1 WHERE seq = 6; UPDATE audit SET seq = 6 WHERE seq = 7;
             UPDATE audit SET seq = 7 WHERE seq = -1",
            6,
        ),
    ] {
        connection.execute_batch(change).unwrap();
        assert_eq!(verify("").await["fault"]["seq"], json!(seq), "{change}");
        connection.execute_batch(back).unwrap();
        assert_eq!(verify("").await, sound);
    }
    connection.execute("DELETE FROM audit WHERE seq = 12", []).unwrap();
    assert_eq!(verify("").await.get("fault"), None, "nobody can tell from the rest");
    assert_eq!(verify(&head).await["fault"]["seq"], json!(12));
    connection.execute("DELETE FROM audit WHERE seq = 3", []).unwrap();
    assert_eq!(verify("").await["fault"]["seq"], json!(3));
}
