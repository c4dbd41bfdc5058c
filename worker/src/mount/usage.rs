//! Which jobs used a mount, so that what one of them read is known to be its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use super::ImageMount;

/// Jobs of a mount that began.
#[derive(Debug, Default)]
pub(super) struct Usage(AtomicU64);

/// One job's use of a mount.
#[derive(Debug)]
pub struct MountUse {
    mount: Arc<ImageMount>,
    /// How many jobs began before.
    before: u64,
}

impl MountUse {
    pub(super) fn of(mount: Arc<ImageMount>) -> Self {
        let before = mount.usage.0.fetch_add(1, Ordering::SeqCst);
        Self { mount, before }
    }

    /// Whether no job used the mount before: what it reads is not in the kernel's cache.
    pub fn is_fresh(&self) -> bool {
        self.before == 0
    }

    /// The mount as its only job leaves it; none where another one came before or has come since.
    pub fn aftermath(&self) -> Option<Aftermath> {
        let aftermath = Aftermath(Arc::downgrade(&self.mount));
        aftermath.mount().map(|_| aftermath)
    }
}

/// A mount as its only job left it. Keeping it keeps no mount.
#[derive(Clone, Debug)]
pub struct Aftermath(Weak<ImageMount>);

impl Aftermath {
    /// The mount, as long as no other job has begun there.
    pub fn mount(&self) -> Option<Arc<ImageMount>> {
        let mount = self.0.upgrade()?;
        (mount.usage.0.load(Ordering::SeqCst) == 1).then_some(mount)
    }
}
