//! What a trace brings, so that it is not guessed too.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use sway_core::chunk::PAGE_LEN;
use sway_core::manifest::{Ino, Manifest, PageSource};

use crate::start::{PageKey, Plan};

/// A trace that was laid over the image: its pages come, or have come.
#[derive(Debug)]
pub(super) struct Brought {
    plan: Arc<Plan>,
    /// Made when it is asked for: most traces miss nothing.
    pages: OnceLock<HashSet<PageKey>>,
}

impl Brought {
    pub(super) fn by(plan: Arc<Plan>) -> Self {
        Self { plan, pages: OnceLock::new() }
    }

    /// Whether it brings this page of a file.
    pub(super) fn has(&self, manifest: &Manifest, ino: Ino, page: u32) -> bool {
        matches!(
            manifest.page(ino, page),
            Some(PageSource::Chunk { chunk, page }) if self.pages().contains(&PageKey { chunk, page })
        )
    }

    /// Chunks that it brings as a whole.
    pub(super) fn chunks(&self, manifest: &Manifest) -> Vec<u32> {
        let mut pages: HashMap<u32, u32> = HashMap::new();
        for page in self.pages() {
            *pages.entry(page.chunk).or_default() += 1;
        }
        let len = |chunk: u32| manifest.chunks()[chunk as usize].len.div_ceil(PAGE_LEN);
        pages.retain(|chunk, count| *count >= len(*chunk));
        pages.into_keys().collect()
    }

    fn pages(&self) -> &HashSet<PageKey> {
        self.pages.get_or_init(|| self.plan.expected().into_iter().map(|(key, _)| key).collect())
    }
}
