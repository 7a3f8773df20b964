//! Room on the file system that is written to.

use std::io;
use std::path::Path;

/// How often the free space is looked at, in bytes written.
pub(crate) const LOOK: u64 = 64 << 20;
/// What is left to others on the file system.
pub(crate) const RESERVE: u64 = 32 << 20;

/// Leaves others what they need of a file system; asked for every [`LOOK`] bytes that are written.
///
/// # Errors
/// That it is as good as full.
pub(crate) fn room(path: &Path) -> io::Result<()> {
    if free(path).is_some_and(|free| free < RESERVE) {
        return Err(io::Error::new(io::ErrorKind::StorageFull, "less than 32 MiB are left"));
    }
    Ok(())
}

/// What an ordinary user can still write there.
pub(crate) fn free(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|above| above.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
