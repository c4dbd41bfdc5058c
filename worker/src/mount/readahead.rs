//! Holding the kernel's read-ahead of a mount at nothing.
//!
//! It is a setting of the whole mount, and several starts and recordings share one: the first hold
//! lowers it, the last one that goes sets it back.

use std::sync::{Arc, Mutex, PoisonError};

use super::{ImageMount, READAHEAD_KIB};

/// How many hold it.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<usize>);

/// As long as this lives, the kernel reads single pages of the mount.
#[derive(Debug)]
pub struct ReadaheadHold(Arc<ImageMount>);

impl ReadaheadHold {
    pub(super) fn of(mount: Arc<ImageMount>) -> Self {
        let mut holds = mount.holds.0.lock().unwrap_or_else(PoisonError::into_inner);
        *holds += 1;
        if *holds == 1 {
            mount.set_readahead(0);
        }
        drop(holds);
        Self(mount)
    }
}

impl Drop for ReadaheadHold {
    fn drop(&mut self) {
        // Under the lock, so that nobody lowers it in between.
        let mut holds = self.0.holds.0.lock().unwrap_or_else(PoisonError::into_inner);
        *holds -= 1;
        if *holds == 0 {
            self.0.set_readahead(READAHEAD_KIB);
        }
    }
}
