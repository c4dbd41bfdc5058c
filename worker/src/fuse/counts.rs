//! How many requests of each kind the kernel sent: what a hot run must have none of.

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::Counter;

/// The kinds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// A name in a directory.
    Lookup,
    /// The kernel drops an inode; of several in one message, each counts.
    Forget,
    /// Attributes.
    Getattr,
    /// The target of a symbolic link.
    Readlink,
    /// A file is opened; once.
    Open,
    /// A directory is opened; once.
    Opendir,
    /// Content.
    Read,
    /// Entries.
    Readdir,
    /// Entries with their attributes.
    Readdirplus,
    /// Figures of the filesystem.
    Statfs,
    /// An extended attribute.
    Getxattr,
    /// Names of extended attributes.
    Listxattr,
    /// The next data or hole.
    Lseek,
    /// A device command.
    Ioctl,
    /// A file is closed; once.
    Flush,
    /// An open file has no user any more.
    Release,
    /// An open directory has no user any more.
    Releasedir,
    /// A file is synced.
    Fsync,
    /// A directory is synced.
    Fsyncdir,
    /// A permission.
    Access,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Lookup,
        Self::Forget,
        Self::Getattr,
        Self::Readlink,
        Self::Open,
        Self::Opendir,
        Self::Read,
        Self::Readdir,
        Self::Readdirplus,
        Self::Statfs,
        Self::Getxattr,
        Self::Listxattr,
        Self::Lseek,
        Self::Ioctl,
        Self::Flush,
        Self::Release,
        Self::Releasedir,
        Self::Fsync,
        Self::Fsyncdir,
        Self::Access,
    ];

    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Forget => "forget",
            Self::Getattr => "getattr",
            Self::Readlink => "readlink",
            Self::Open => "open",
            Self::Opendir => "opendir",
            Self::Read => "read",
            Self::Readdir => "readdir",
            Self::Readdirplus => "readdirplus",
            Self::Statfs => "statfs",
            Self::Getxattr => "getxattr",
            Self::Listxattr => "listxattr",
            Self::Lseek => "lseek",
            Self::Ioctl => "ioctl",
            Self::Flush => "flush",
            Self::Release => "release",
            Self::Releasedir => "releasedir",
            Self::Fsync => "fsync",
            Self::Fsyncdir => "fsyncdir",
            Self::Access => "access",
        }
    }
}

/// Requests of one mount by kind; all mounts together are the metric `sway_fuse_requests_total`.
/// Interruptions are not among them: the library answers those itself.
#[derive(Debug)]
pub struct RequestCounts {
    own: [AtomicU64; Operation::ALL.len()],
    metrics: [Counter; Operation::ALL.len()],
}

impl std::fmt::Display for RequestCounts {
    /// Kinds that came, such as `lookup=3 read=1`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut separator = "";
        for operation in Operation::ALL {
            let count = self.of(operation);
            if count > 0 {
                write!(f, "{separator}{}={count}", operation.as_str())?;
                separator = " ";
            }
        }
        Ok(())
    }
}

impl Default for RequestCounts {
    fn default() -> Self {
        let metric = |operation: Operation| metrics::counter!("sway_fuse_requests_total", "op" => operation.as_str());
        Self { own: Default::default(), metrics: Operation::ALL.map(metric) }
    }
}

impl RequestCounts {
    /// Counts a request.
    pub(super) fn count(&self, operation: Operation) {
        self.own[operation as usize].fetch_add(1, Ordering::Relaxed);
        self.metrics[operation as usize].increment(1);
    }

    /// How many of one kind came.
    pub fn of(&self, operation: Operation) -> u64 {
        self.own[operation as usize].load(Ordering::Relaxed)
    }

    /// How many came.
    pub fn total(&self) -> u64 {
        self.own.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_place_of_its_own() {
        let counts = RequestCounts::default();
        for (at, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, at);
            counts.count(operation);
        }
        assert!(Operation::ALL.iter().all(|operation| counts.of(*operation) == 1));
        assert_eq!(counts.total(), 20);
    }
}
