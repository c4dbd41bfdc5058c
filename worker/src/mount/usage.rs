//! Which jobs used a mount, so that what one of them read is known to be its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use super::ImageMount;

/// Counts of a mount.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// Jobs that began.
    entered: AtomicU64,
    /// Those that ended.
    left: AtomicU64,
}

/// One job's use of a mount. It ends when this is dropped.
#[derive(Debug)]
pub struct MountUse {
    mount: Arc<ImageMount>,
    /// How many jobs began before.
    before: u64,
    /// Whether none of those was still there.
    alone: bool,
}

impl MountUse {
    pub(super) fn of(mount: Arc<ImageMount>) -> Self {
        let before = mount.usage.entered.fetch_add(1, Ordering::SeqCst);
        let alone = mount.usage.left.load(Ordering::SeqCst) == before;
        Self { mount, before, alone }
    }

    /// The mount.
    pub fn mount(&self) -> &Arc<ImageMount> {
        &self.mount
    }

    /// Whether no job used the mount before: what it reads is not in the kernel's cache.
    pub fn is_fresh(&self) -> bool {
        self.before == 0
    }

    /// The mount as its only job leaves it; none where there was another.
    pub fn aftermath(&self) -> Option<Aftermath> {
        let is_only = self.is_fresh() && self.is_exclusive();
        is_only.then(|| Aftermath(Arc::downgrade(&self.mount)))
    }

    /// Whether no other job has used the mount at the same time so far.
    pub fn is_exclusive(&self) -> bool {
        self.alone && self.mount.usage.entered.load(Ordering::SeqCst) == self.before + 1
    }
}

/// A mount as its first job left it. Keeping it keeps no mount.
#[derive(Clone, Debug)]
pub struct Aftermath(Weak<ImageMount>);

impl Aftermath {
    /// The mount, as long as no other job has begun there.
    pub fn mount(&self) -> Option<Arc<ImageMount>> {
        let mount = self.0.upgrade()?;
        (mount.usage.entered.load(Ordering::SeqCst) == 1).then_some(mount)
    }
}

impl Drop for MountUse {
    fn drop(&mut self) {
        self.mount.usage.left.fetch_add(1, Ordering::SeqCst);
    }
}
