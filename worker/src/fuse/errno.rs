//! What the kernel is told when a rootfs does not answer: the one table.

use fuser::Errno;

use crate::fetch::FetchError;
use crate::rootfs::RootfsError;

/// The number for an error.
#[deny(clippy::wildcard_enum_match_arm)]
pub(super) fn errno(error: &RootfsError) -> Errno {
    match error {
        // The kernel asks for numbers that it was given, so this one is out of date.
        RootfsError::NoInode(_) => Errno::from_i32(libc::ESTALE),
        RootfsError::NoEntry => Errno::ENOENT,
        RootfsError::NameTooLong => Errno::ENAMETOOLONG,
        RootfsError::NotADirectory => Errno::ENOTDIR,
        RootfsError::IsADirectory => Errno::EISDIR,
        RootfsError::NotALink | RootfsError::NotAFile => Errno::EINVAL,
        RootfsError::NoAttribute => Errno::from_i32(libc::ENODATA),
        RootfsError::TooSmall => Errno::ERANGE,
        RootfsError::NoData => Errno::ENXIO,
        RootfsError::Unreadable(
            FetchError::Missing { .. }
            | FetchError::Refused { .. }
            | FetchError::Corrupt { .. }
            | FetchError::Deadline { .. }
            | FetchError::Abandoned { .. },
        ) => Errno::EIO,
    }
}
