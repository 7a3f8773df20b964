//! The old runner's system checks: disk and memory of this machine. They warn and never stop a run, since the
//! server's own disk may be elsewhere; pre-validate judges.

use std::path::Path;

use sysinfo::{Disks, System};

const GIB: u64 = 1 << 30;
/// The spec's minimum of free disk.
const MIN_DISK: u64 = 10 * GIB;
/// The spec's minimum of total memory.
const MIN_MEMORY: u64 = 4 * GIB;

/// Logs what there is, as WARN where it is below the spec's minimum.
pub(crate) fn check(home: &Path) {
    let home = ms5_common::config::absolute(home);
    let disks = Disks::new_with_refreshed_list();
    // The disk with the longest mount point above the folder is the one that holds it.
    let free = disks
        .iter()
        .filter(|disk| home.starts_with(disk.mount_point()))
        .max_by_key(|disk| disk.mount_point().as_os_str().len())
        .map(sysinfo::Disk::available_space);
    match free {
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
    let mut system = System::new();
    system.refresh_memory();
    let (total, available) = (system.total_memory(), system.available_memory());
    let text = format!("Memory: {} MB in all, {} MB available", total / 1024 / 1024, available / 1024 / 1024);
    if total < MIN_MEMORY {
        log::warn!("{text}, less than {} GB in all", MIN_MEMORY / GIB)
    } else {
        log::info!("{text}")
    }
}
