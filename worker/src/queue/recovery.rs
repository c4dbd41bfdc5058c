//! What a queue sets right by itself: runs of a process that died, and records that are old.

use sway_core::job::JobState;

use super::execution::count_run;
use super::{Inner, QueueError, read_output};
use crate::db::{RunEnd, STORED_OUTPUT_LEN_MAX};

impl Inner {
    /// Closes what an earlier process left open.
    pub(super) async fn close_interrupted(&self) -> Result<(), QueueError> {
        for (run_id, state) in self.db.open_runs().await? {
            if state != JobState::Running {
                // Its process never started: the job runs again, as another run.
                self.db.forget_run(run_id).await?;
                let removed = self.outputs.remove(vec![run_id]).await;
                removed.map_err(|source| QueueError::Output { run: run_id, source })?;
                continue;
            }
            let (stdout, stderr) = match self.outputs.open(run_id)? {
                Some(output) => read_output(&output, STORED_OUTPUT_LEN_MAX, run_id).await?,
                None => Default::default(),
            };
            let failed = RunEnd::failed("the worker died while the job was running".to_owned());
            let end = RunEnd { stdout, stderr, ..failed };
            let run = self.db.end_run(run_id, end).await?;
            count_run(&run);
            tracing::warn!(run.id = run_id, job.id = run.job_id, "run was interrupted");
        }
        Ok(())
    }

    /// Lets go of the oldest runs, and of outputs beyond what is kept.
    pub(super) async fn prune(&self) -> Result<(), QueueError> {
        let gone = self.db.prune(self.config.keep_runs).await?;
        self.outputs.remove(gone).await.map_err(QueueError::Outputs)?;
        let open = self.db.open_runs().await?.into_iter().map(|(run_id, _)| run_id).collect();
        let excess = self.outputs.excess(open).await.map_err(QueueError::Outputs)?;
        if !excess.is_empty() {
            tracing::info!(runs = excess.len(), "the oldest outputs are dropped");
            // The rows first: at no time does a part look like the whole.
            self.db.drop_outputs(excess.clone()).await?;
            self.outputs.remove(excess).await.map_err(QueueError::Outputs)?;
        }
        Ok(())
    }
}
