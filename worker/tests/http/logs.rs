//! The event stream: complete, in order, resumable, prompt.

use std::time::Duration;

use futures::StreamExt as _;
use sway_core::api::jobs::{JobEvent, OutputStream};
use sway_core::job::JobState;

use crate::support::{PATIENCE, Worker, events, job_when, spec, stdout};

#[tokio::test]
async fn a_stream_tells_a_job_from_beginning_to_end() {
    let worker = Worker::start().await;
    let client = worker.client("ada");
    let job = client.jobs().submit(&spec(&["say", "a", "b", "c"])).await.unwrap();
    let live = events(&client, &job.id, None).await;
    assert_eq!(live[0], (2, JobEvent::State { state: JobState::Approved }));
    assert_eq!(live[1], (3, JobEvent::State { state: JobState::Running }));
    assert_eq!(stdout(&live), "abc");
    let Some((_, JobEvent::End { state, run: Some(run) })) = live.last() else {
        panic!("{live:?}")
    };
    assert_eq!((*state, run.exit_code), (JobState::Completed, Some(0)));
    // Who comes later hears the same story.
    job_when(&client, &job.id, |job| job.state.is_final()).await;
    assert_eq!(events(&client, &job.id, None).await, live);
}

#[tokio::test]
async fn a_stream_resumes_without_loss_or_repetition() {
    let worker = Worker::start().await;
    let client = worker.client("ada");
    let texts: Vec<String> = (0..100).map(|n| format!("{n}\n")).collect();
    let argv: Vec<&str> = std::iter::once("say").chain(texts.iter().map(String::as_str)).collect();
    let job = client.jobs().submit(&spec(&argv)).await.unwrap();
    let mut seen = Vec::new();
    // Each connection breaks after a few events.
    loop {
        let last = seen.last().map(|(id, _)| *id);
        let some = client.jobs().events(&job.id, last).take(7).map(Result::unwrap);
        seen.extend(some.collect::<Vec<_>>().await);
        if matches!(seen.last(), Some((_, JobEvent::End { .. }))) {
            break;
        }
    }
    assert_eq!(stdout(&seen), texts.concat());
    let numbers: Vec<u64> = seen.iter().map(|(id, _)| *id).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    assert_eq!(events(&client, &job.id, None).await, seen);
    // Also from each place of a job that has ended.
    for from in [2, 3, 4, 50, 103] {
        let rest = events(&client, &job.id, Some(from)).await;
        let expected: Vec<_> = seen.iter().filter(|(id, _)| *id > from).cloned().collect();
        assert_eq!(rest, expected, "after {from}");
    }
}

#[tokio::test]
async fn what_a_job_uses_is_told_without_a_number_of_its_own() {
    let worker = Worker::start().await;
    let client = worker.client("ada");
    let job = client.jobs().submit(&spec(&["use", "1", "2", "3"])).await.unwrap();
    let live = events(&client, &job.id, None).await;
    let mut used = Vec::new();
    for pair in live.windows(2) {
        if let (id, JobEvent::Usage(usage)) = &pair[1] {
            assert_eq!(*id, pair[0].0, "the number of what came before it");
            used.push(usage.memory_bytes);
        }
    }
    assert_eq!(used, [1, 2, 3]);
    assert_eq!(stdout(&live), "123");
    // It is over: nobody hears them again, and nothing else is missing.
    let numbered = live.iter().filter(|(_, event)| !matches!(event, JobEvent::Usage(_)));
    let numbered: Vec<_> = numbered.cloned().collect();
    assert_eq!(events(&client, &job.id, None).await, numbered);
    let stream = worker.get(&format!("/v1/jobs/{}/logs", job.id)).header("last-event-id", "4");
    let body = stream.send().await.body;
    assert!(body.contains("id: 5\n") && !body.contains("id: 4\n"), "{body}");
    assert_eq!(client.jobs().run(&job.id).await.unwrap().cpu_ms, Some(1));
}

#[tokio::test]
async fn output_is_sent_while_the_job_runs() {
    let worker = Worker::start().await;
    let client = worker.client("ada");
    let mut asked = spec(&["cat"]);
    asked.stdin = true;
    let job = client.jobs().submit(&asked).await.unwrap();
    let (mut sender, input) = futures::channel::mpsc::channel(1);
    let feeding = client.jobs();
    let feed = feeding.send_stdin(&job.id, input);
    let watch = async {
        let mut events = client.jobs().events(&job.id, None);
        for text in ["one", "two", "three"] {
            futures::SinkExt::send(&mut sender, Ok(bytes::Bytes::from(text))).await.unwrap();
            loop {
                let next = tokio::time::timeout(PATIENCE, events.next()).await.unwrap();
                if let (_, JobEvent::Output { data, .. }) = next.unwrap().unwrap() {
                    assert_eq!(data, text.as_bytes());
                    break;
                }
            }
        }
        drop(sender);
        while events.next().await.is_some() {}
    };
    let (fed, ()) = futures::join!(feed, watch);
    fed.unwrap();
}

#[tokio::test]
async fn cut_output_is_marked_in_stream_and_record() {
    let worker = Worker::start().await;
    let client = worker.client("ada");
    let mut asked = spec(&["big", "5000"]);
    asked.limits.output_bytes = Some(1000);
    let job = client.jobs().submit(&asked).await.unwrap();
    let all = events(&client, &job.id, None).await;
    assert_eq!(stdout(&all).len(), 1000);
    let mark = JobEvent::Truncated { stream: OutputStream::Stdout };
    assert_eq!(all.iter().filter(|(_, event)| *event == mark).count(), 1);
    let run = client.jobs().run(&job.id).await.unwrap();
    assert!(run.stdout_truncated && !run.stderr_truncated);
    assert_eq!(run.stdout.unwrap().len(), 1000);
}

#[tokio::test]
async fn a_cancelled_job_that_never_ran_has_an_end() {
    let worker = Worker::start_with(|config| config.running_max = 1).await;
    let client = worker.client("ada");
    let first = client.jobs().submit(&spec(&["hang"])).await.unwrap();
    job_when(&client, &first.id, |job| job.state == JobState::Running).await;
    let second = client.jobs().submit(&spec(&["say", "x"])).await.unwrap();
    let watch = events(&client, &second.id, None);
    let cancel = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.jobs().cancel(&second.id).await.unwrap();
    };
    let (live, ()) = futures::join!(watch, cancel);
    assert_eq!(live.last().unwrap().1, JobEvent::End { state: JobState::Cancelled, run: None });
    assert_eq!(events(&client, &second.id, None).await, live);
}

#[tokio::test]
async fn odd_requests_for_a_stream_are_refused() {
    let worker = Worker::start().await;
    let missing = worker.get("/v1/jobs/abcdefghjk/logs").send().await;
    assert_eq!((missing.status, missing.error().0.as_str()), (404, "job_not_found"));
    let client = worker.client("operator");
    let job = client.jobs().submit(&spec(&["say", "x"])).await.unwrap();
    let path = format!("/v1/jobs/{}/logs", job.id);
    let odd = worker.get(&path).header("last-event-id", "x").send().await;
    assert_eq!((odd.status, odd.error().0.as_str()), (400, "bad_last_event_id"));
    // An id from the future: nothing to tell but the end.
    let end = events(&client, &job.id, Some(u64::MAX - 1)).await;
    assert!(matches!(end.as_slice(), [(_, JobEvent::End { .. })]), "{end:?}");
}
