//! A job's history as numbered events, from its database row and its output file.
//!
//! Numbers are fixed by what happened, not by who watched, so that `Last-Event-ID` resumes
//! without loss or repetition, also after the job's end and after a restart of the worker:
//! 1 pending (of jobs that an owner decides on), 2 approved, 3 running, then 4 plus the number of each output frame, then the end.
//! Samples of what a job uses have no number: who was not there when they were taken misses them.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use sway_core::api::jobs::{JobEvent, JobView, OutputStream, RunView, Usage};
use sway_core::job::JobState;
use tokio::sync::watch;

use super::active::{Active, Progress};
use crate::job::output::{FRAME_LEN_MAX, OutputLog};

/// Number of the first event that is output.
const FIRST_FRAME: u64 = 4;

/// What is left of the output of a job that has ended.
pub(super) enum Past {
    /// All that it wrote.
    Whole(Arc<OutputLog>),
    /// The row's beginning of each stream: the file made room for newer ones.
    Beginning(Box<RunView>),
}

/// Events with their numbers, where they have one.
pub struct Events(Pin<Box<dyn Stream<Item = Numbered> + Send>>);

type Numbered = (Option<u64>, JobEvent);

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events(…)")
    }
}

impl Stream for Events {
    type Item = Numbered;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl Events {
    /// Of a job that goes on; where it follows the job, until it is dropped.
    pub(super) fn of_active(active: &Arc<Active>, after: u64, follows: bool) -> Self {
        let follower = follows.then(|| active.follow());
        let mut progress = active.progress.subscribe();
        let is_submitted = active.owner.is_some();
        let mut usage = active.usage.subscribe();
        // Who comes late hears the last sample at once.
        usage.mark_changed();
        let events = async_stream::stream! {
            let _follower = follower;
            let begun = |progress: &Progress| {
                progress.state == JobState::Running || progress.is_over()
            };
            let mut next = after.saturating_add(1);
            if is_submitted && next <= 1 {
                yield (Some(1), JobEvent::State { state: JobState::Pending });
            }
            let decided = |progress: &Progress| {
                progress.state != JobState::Pending || progress.parked
            };
            let passed = progress.wait_for(decided).await;
            let Ok((passed, unprepared)) = passed.map(|it| (it.state, it.preparing)) else {
                return;
            };
            let ended = [JobState::Pending, JobState::Rejected, JobState::Cancelled];
            if next <= 2 && !(is_submitted && (unprepared || ended.contains(&passed))) {
                yield (Some(2), JobEvent::State { state: JobState::Approved });
            }
            let Ok(now) = progress.wait_for(begun).await.map(|progress| progress.clone()) else {
                return;
            };
            if now.parked {
                // The stream breaks off; the client resumes it at the next worker.
                return;
            }
            if now.state == JobState::Running && next <= 3 {
                yield (Some(3), JobEvent::State { state: JobState::Running });
            }
            next = next.max(FIRST_FRAME);
            if let Some(output) = now.output {
                let mut frames = frames(output, next - FIRST_FRAME);
                loop {
                    let frame = tokio::select! {
                        biased;
                        sample = sampled(&mut usage) => Err(sample),
                        frame = frames.next() => Ok(frame),
                    };
                    match frame {
                        Err(sample) => yield (None, JobEvent::Usage(sample)),
                        Ok(Some((number, event))) => {
                            next = number + 1;
                            yield (Some(number), event);
                        }
                        Ok(None) => break,
                    }
                }
                // The last one comes before the output's end, and may be seen after it.
                if usage.has_changed().unwrap_or(false) {
                    yield (None, JobEvent::Usage(sampled(&mut usage).await));
                }
            }
            let ended = progress.wait_for(|progress| progress.state.is_final()).await;
            let Ok(ended) = ended.map(|progress| progress.clone()) else { return };
            yield (Some(next), JobEvent::End { state: ended.state, run: ended.run });
        };
        Self(Box::pin(events))
    }

    /// Of a job that has ended.
    pub(super) fn of_ended(job: &JobView, output: Option<Past>, after: u64) -> Self {
        let (state, run) = (job.state, job.run.clone().map(Box::new));
        let decision = job.submission.as_ref().map(|submission| submission.decision.as_ref());
        let approved = match decision {
            None => true,
            Some(decision) => decision.is_some_and(|decision| decision.approved),
        };
        let is_submitted = decision.is_some();
        let ran = run.as_ref().is_some_and(|run| run.duration_ms.is_some());
        let events = async_stream::stream! {
            let mut next = after.saturating_add(1);
            let past = [
                (1, JobState::Pending, is_submitted),
                (2, JobState::Approved, approved),
                (3, JobState::Running, ran),
            ];
            for (number, state, passed) in past {
                if passed && next <= number {
                    yield (Some(number), JobEvent::State { state });
                }
            }
            next = next.max(FIRST_FRAME);
            if let Some(output) = output {
                let mut frames = match output {
                    Past::Whole(output) => frames(output, next - FIRST_FRAME),
                    Past::Beginning(run) => {
                        let mut frames = stored(&run);
                        frames.retain(|(number, _)| *number >= next);
                        Box::pin(futures::stream::iter(frames))
                    }
                };
                while let Some((number, event)) = frames.next().await {
                    next = number + 1;
                    yield (Some(number), event);
                }
            }
            yield (Some(next), JobEvent::End { state, run });
        };
        Self(Box::pin(events))
    }
}

/// The next sample of what a job uses.
async fn sampled(usage: &mut watch::Receiver<Option<Usage>>) -> Usage {
    // The job owns the sender: while it is followed, this does not fail.
    while usage.changed().await.is_ok() {
        if let Some(sample) = *usage.borrow_and_update() {
            return sample;
        }
    }
    std::future::pending().await
}

/// The stored beginnings, with a mark after each one that did not end there.
fn stored(run: &RunView) -> Vec<(u64, JobEvent)> {
    let streams = [
        (OutputStream::Stdout, &run.stdout, run.stdout_truncated),
        (OutputStream::Stderr, &run.stderr, run.stderr_truncated),
    ];
    let mut events = Vec::new();
    for (stream, text, truncated) in streams {
        let text = text.as_deref().unwrap_or_default();
        events.extend(
            text.as_bytes()
                .chunks(FRAME_LEN_MAX)
                .map(|piece| JobEvent::Output { stream, data: piece.to_vec() }),
        );
        events.extend(truncated.then_some(JobEvent::Truncated { stream }));
    }
    (FIRST_FRAME..).zip(events).collect()
}

/// Output frames from number `from` of the file on, until the output ends.
fn frames(
    output: Arc<OutputLog>,
    from: u64,
) -> Pin<Box<dyn Stream<Item = (u64, JobEvent)> + Send>> {
    Box::pin(output.follow(from).map(|frame| {
        let event = if frame.cut {
            JobEvent::Truncated { stream: frame.stream }
        } else {
            JobEvent::Output { stream: frame.stream, data: frame.bytes.into() }
        };
        (FIRST_FRAME + frame.seq, event)
    }))
}
