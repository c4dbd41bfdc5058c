//! What a run uses while it goes on, by samples of its cgroup.

use std::time::Duration;

use sway_core::api::jobs::Usage;
use tokio::sync::watch;
use tokio::time::Instant;

use super::make::Run;

/// Between two samples of CPU time; each of them is told.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// What a run used, at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Highest sample of anonymous and shared memory, without what its container had imported before
    /// the job came; the limit where it was hit.
    pub memory_peak_bytes: Option<u64>,
    /// CPU time of all its processes, user and system.
    pub cpu: Option<Duration>,
    /// Most CPUs, in thousandths, over half a second; over all of a shorter run.
    pub cpus_peak_milli: Option<u64>,
}

/// Measures a run from its start to its end.
#[derive(Debug)]
pub(crate) struct Meter<'a> {
    run: &'a Run,
    tell: &'a watch::Sender<Option<Usage>>,
    begun: Instant,
    /// CPU time of the group when the program started: what making the container took.
    before: Option<Duration>,
    /// The last sample of CPU time: when, and how much since the start.
    last: (Instant, Duration),
    /// The last sample of memory.
    memory_bytes: u64,
    used: Used,
}

impl<'a> Meter<'a> {
    /// Begins with the program's start, and with a first sample: one of a few milliseconds may have no
    /// other.
    pub(crate) fn start(
        run: &'a Run,
        begun: Instant,
        tell: &'a watch::Sender<Option<Usage>>,
    ) -> Self {
        let before = run.cgroup.cpu_time();
        let last = (begun, Duration::ZERO);
        let mut meter =
            Self { run, tell, begun, before, last, memory_bytes: 0, used: Used::default() };
        meter.sample();
        meter
    }

    /// Samples memory, and from time to time CPU.
    pub(crate) fn sample(&mut self) {
        if let Some(memory) = self.run.cgroup.memory_bytes() {
            let memory = memory.saturating_sub(self.run.preload_bytes);
            self.memory_bytes = memory;
            self.used.memory_peak_bytes = self.used.memory_peak_bytes.max(Some(memory));
        }
        if self.last.0.elapsed() >= TELL_EVERY {
            self.tell();
        }
    }

    /// What it was. Call it before the group is removed.
    pub(crate) fn end(mut self) -> Used {
        self.tell();
        self.used
    }

    /// Samples CPU time, and tells of it and of memory.
    fn tell(&mut self) {
        let now = Instant::now();
        let spent = self.run.cgroup.cpu_time().zip(self.before);
        let Some(cpu) = spent.map(|(spent, before)| spent.saturating_sub(before)) else { return };
        self.used.cpu = Some(cpu);
        let (since, then) = self.last;
        let window = now.duration_since(since);
        if window >= TELL_EVERY || since == self.begun {
            let peak = milli(cpu.saturating_sub(then), window);
            self.used.cpus_peak_milli = self.used.cpus_peak_milli.max(Some(peak));
        }
        self.last = (now, cpu);
        self.tell.send_replace(Some(Usage {
            elapsed_ms: millis(now.duration_since(self.begun)),
            memory_bytes: self.memory_bytes,
            cpu_ms: millis(cpu),
        }));
    }
}

fn milli(cpu: Duration, time: Duration) -> u64 {
    let milli = cpu.as_nanos() * 1000 / time.as_nanos().max(1);
    u64::try_from(milli).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
