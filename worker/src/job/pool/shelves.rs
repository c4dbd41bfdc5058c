//! What waits, shape by shape, and what is to be done next: decisions and no deeds.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::demand::Demand;
use super::fit::{Fitting, Shape};
use super::{Asked, PoolBounds, Waiting};
use crate::job::Rootfs;

/// Shapes that are remembered.
const SHAPES_MAX: usize = 16;

/// Without a job for so long, containers import what their image names. Under load it would cost
/// jobs that do not need it more than it saves those that do.
const CALM: Duration = Duration::from_millis(300);

/// After a container could not be made.
const PAUSE: Duration = Duration::from_secs(60);

/// What waits for the jobs of one shape.
#[derive(Debug)]
struct Shelf {
    number: u64,
    asked: Asked,
    demand: Demand,
    ready: VecDeque<Waiting>,
    /// Being made, or importing.
    busy: usize,
    failed_at: Option<Instant>,
    /// Memory of one.
    weight_bytes: u64,
    /// Whether it was told what can't be imported.
    warned: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct State {
    shelves: Vec<Shelf>,
    /// To be removed.
    pub(super) gone: Vec<Waiting>,
    asked_at: Option<Instant>,
    /// Jobs that run.
    pub(super) running: u32,
    pub(super) closed: bool,
    numbers: u64,
}

/// What is to be done next.
pub(super) enum Step {
    Make(u64, Box<Asked>),
    Preload(u64, Box<Waiting>),
    Remove(Vec<Waiting>),
    Rest,
}

impl State {
    fn shelf(&mut self, mount: &Arc<dyn Rootfs>, shape: &Shape) -> Option<&mut Shelf> {
        let is_of = |asked: &Asked| {
            std::ptr::addr_eq(asked.mount.as_ptr(), Arc::as_ptr(mount)) && asked.shape == *shape
        };
        self.shelves.iter_mut().find(|shelf| is_of(&shelf.asked))
    }

    /// A container for a job, if one waits.
    pub(super) fn pop(
        &mut self,
        mount: &Arc<dyn Rootfs>,
        fitting: &Fitting,
        image: &str,
    ) -> Option<Waiting> {
        let now = Instant::now();
        self.asked_at = Some(now);
        self.leads(image, mount);
        let shelf = self.shelf(mount, &fitting.shape)?;
        let fits = |waiting: &Waiting| match &waiting.preloaded {
            Some(preloaded) => {
                preloaded.modules.is_disjoint(&fitting.names)
                    && !(fitting.in_working_dir && waiting.is_shadowed)
            }
            None => true,
        };
        // Those that have imported something come first.
        let ready = shelf.ready.iter().enumerate().filter(|(_, waiting)| fits(waiting));
        let at = ready.max_by_key(|(_, waiting)| waiting.preloaded.is_some()).map(|(at, _)| at);
        shelf.demand.ask(now, at.is_some());
        let waiting = shelf.ready.remove(at?)?;
        self.measure();
        if waiting.created.container.has_ended() {
            self.gone.push(waiting);
            return self.pop(mount, fitting, image);
        }
        Some(waiting)
    }

    /// The containers of an image that a name led to before go.
    fn leads(&mut self, image: &str, mount: &Arc<dyn Rootfs>) {
        for shelf in &mut self.shelves {
            if shelf.asked.image == image
                && !std::ptr::addr_eq(shelf.asked.mount.as_ptr(), Arc::as_ptr(mount))
            {
                shelf.demand.end();
            }
        }
    }

    pub(super) fn want(&mut self, asked: Asked) {
        let Some(mount) = asked.mount.upgrade() else { return };
        let now = Instant::now();
        if self.shelf(&mount, &asked.shape).is_some() {
            // The job itself has asked already, or another one like it.
            return;
        }
        if self.shelves.len() >= SHAPES_MAX {
            let idle = (0..self.shelves.len()).filter(|&at| self.shelves[at].busy == 0);
            if let Some(oldest) = idle.min_by_key(|&at| self.shelves[at].demand.asked_at()) {
                let shelf = self.shelves.swap_remove(oldest);
                self.gone.extend(shelf.ready);
            }
        }
        let mut demand = Demand::new(now, asked.stays);
        demand.ask(now, false);
        self.numbers += 1;
        self.shelves.push(Shelf {
            number: self.numbers,
            asked,
            demand,
            ready: VecDeque::new(),
            busy: 0,
            failed_at: None,
            weight_bytes: 0,
            warned: false,
        });
    }

    /// Takes back what was made or has imported; none where that failed.
    pub(super) fn put(&mut self, number: u64, waiting: Option<Waiting>) {
        let shelf = self.shelves.iter_mut().find(|shelf| shelf.number == number);
        let Some(shelf) = shelf else {
            self.gone.extend(waiting);
            return;
        };
        shelf.busy -= 1;
        match waiting {
            Some(waiting) => {
                shelf.weight_bytes = shelf.weight_bytes.max(waiting.memory_bytes);
                let missing = waiting.preloaded.as_ref().map(|preloaded| &preloaded.missing);
                if let Some(missing) = missing.filter(|it| !it.is_empty() && !shelf.warned) {
                    shelf.warned = true;
                    let image = &shelf.asked.image;
                    tracing::warn!(
                        image.name = image,
                        ?missing,
                        "SWAY_PRELOAD names what can't be imported"
                    );
                }
                shelf.ready.push_back(waiting);
            }
            None => shelf.failed_at = Some(Instant::now()),
        }
        self.measure();
    }

    /// Whether any container waits.
    pub(super) fn has_ready(&self) -> bool {
        self.shelves.iter().any(|shelf| !shelf.ready.is_empty())
    }

    pub(super) fn clear(&mut self) -> Vec<Waiting> {
        for shelf in &mut self.shelves {
            shelf.demand.end();
            self.gone.extend(shelf.ready.drain(..));
        }
        self.measure();
        std::mem::take(&mut self.gone)
    }

    fn measure(&self) {
        let ready: usize = self.shelves.iter().map(|shelf| shelf.ready.len()).sum();
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; containers are few")]
        metrics::gauge!("sway_pool_ready").set(ready as f64);
    }

    /// What is to be done next, and notes that it is being done.
    pub(super) fn next(&mut self, now: Instant, bounds: &PoolBounds, is_short: bool) -> Step {
        let stops = self.closed || is_short;
        for shelf in &mut self.shelves {
            let wanted = if stops { 0 } else { shelf.demand.wanted(now) };
            let all = std::mem::take(&mut shelf.ready).into_iter();
            let ended = |waiting: &Waiting| waiting.created.container.has_ended();
            let (ended, alive): (VecDeque<_>, VecDeque<_>) = all.partition(ended);
            shelf.ready = alive;
            self.gone.extend(ended);
            while shelf.ready.len() > wanted {
                self.gone.extend(shelf.ready.pop_front());
            }
        }
        self.shelves.retain(|shelf| {
            shelf.busy > 0 || !shelf.ready.is_empty() || !shelf.demand.is_over(now)
        });
        self.measure();
        if !self.gone.is_empty() {
            return Step::Remove(std::mem::take(&mut self.gone));
        }
        if stops {
            return Step::Rest;
        }
        let count: usize = self.shelves.iter().map(|it| it.ready.len() + it.busy).sum();
        let weight = |it: &Shelf| {
            let ready: u64 = it.ready.iter().map(|waiting| waiting.memory_bytes).sum();
            ready + it.busy as u64 * it.weight_bytes
        };
        let used_bytes: u64 = self.shelves.iter().map(weight).sum();
        // What was asked for last comes first.
        let mut order: Vec<usize> = (0..self.shelves.len()).collect();
        order.sort_by_key(|&at| std::cmp::Reverse(self.shelves[at].demand.asked_at()));
        for (rank, &at) in order.iter().enumerate() {
            let shelf = &mut self.shelves[at];
            let paused = shelf.failed_at.is_some_and(|failed| now < failed + PAUSE);
            if paused || shelf.ready.len() + shelf.busy >= shelf.demand.wanted(now) {
                continue;
            }
            if self.running > 0 && !shelf.demand.presses(now) {
                continue;
            }
            if count < bounds.containers && used_bytes + shelf.weight_bytes <= bounds.memory_bytes {
                shelf.busy += 1;
                return Step::Make(shelf.number, Box::new(shelf.asked.clone()));
            }
            let older = order[rank + 1..].iter().rev().copied();
            let mut older = older.filter(|&at| !self.shelves[at].ready.is_empty());
            let Some(least) = older.next() else { break };
            let gone = self.shelves[least].ready.pop_front();
            return Step::Remove(gone.into_iter().collect());
        }
        if self.asked_at.is_some_and(|asked| now < asked + CALM) {
            return Step::Rest;
        }
        for at in order {
            let shelf = &mut self.shelves[at];
            // What one more takes is known from the first.
            let is_known = shelf.ready.iter().any(|waiting| waiting.preloaded.is_some());
            let more = if is_known { shelf.weight_bytes } else { 0 };
            let plain = shelf.ready.iter().position(|waiting| waiting.preloaded.is_none());
            let alone = shelf.busy == 0 && used_bytes + more <= bounds.memory_bytes;
            if let (Some(plain), true) = (plain, alone && shelf.asked.shape.has_preload())
                && let Some(waiting) = shelf.ready.remove(plain)
            {
                shelf.busy += 1;
                return Step::Preload(shelf.number, Box::new(waiting));
            }
        }
        Step::Rest
    }
}
