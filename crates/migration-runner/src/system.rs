//! The old runner's system checks: disk and memory of this machine. They warn and never stop a run, since the
//! server's own disk may be elsewhere; pre-validate judges.

use std::path::Path;

use ms5_common::machine::{self, FreeSpace, GIB, MIB};

/// The spec's minimum of free disk.
const MIN_DISK: u64 = 10 * GIB;
/// The spec's minimum of total memory.
const MIN_MEMORY: u64 = 4 * GIB;

/// Logs what there is, as WARN where it is below the spec's minimum.
pub(crate) fn check(home: &Path) {
    let home = ms5_common::config::absolute(home);
    match FreeSpace::look().under(&home) {
        Some(free) if free < MIN_DISK => {
            log::warn!(
                "Disk space: {} GB free under {}, less than {} GB",
                free / GIB,
                home.display(),
                MIN_DISK / GIB
            );
        }
        Some(free) => log::info!("Disk space: {} GB free under {}", free / GIB, home.display()),
        None => log::warn!("Disk space: cannot be read for {}", home.display()),
    }
    let memory = machine::memory();
    let text = format!("Memory: {} MB in all, {} MB available", memory.total / MIB, memory.available / MIB);
    if memory.total < MIN_MEMORY {
        log::warn!("{text}, less than {} GB in all", MIN_MEMORY / GIB)
    } else {
        log::info!("{text}")
    }
}
