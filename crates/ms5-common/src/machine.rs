//! This machine: disk, memory, processors, name.

use std::path::Path;

use sysinfo::{Disks, System};

/// A mebibyte and a gibibyte, in bytes.
pub const MIB: u64 = 1 << 20;
/// See [`MIB`].
pub const GIB: u64 = 1 << 30;

/// The free bytes of each file system, asked for once.
pub struct FreeSpace(Disks);

impl FreeSpace {
    /// Asks the system.
    #[must_use]
    pub fn look() -> Self {
        Self(Disks::new_with_refreshed_list())
    }

    /// What an ordinary user can still write under a folder, which need not be there yet; None where the system does not
    /// tell.
    #[must_use]
    pub fn under(&self, folder: &Path) -> Option<u64> {
        let folder = crate::config::absolute(folder);
        let folder = folder.ancestors().find_map(|above| above.canonicalize().ok()).unwrap_or(folder);
        // The disk with the longest mount point above the folder is the one that holds it.
        (self.0.iter().filter(|disk| folder.starts_with(disk.mount_point())))
            .max_by_key(|disk| disk.mount_point().as_os_str().len())
            .map(sysinfo::Disk::available_space)
    }
}

/// Memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All of it, or what a container may use of it.
    pub total: u64,
    /// What can be had without swapping.
    pub available: u64,
}

/// How much memory there is.
#[must_use]
pub fn memory() -> Memory {
    let mut system = System::new();
    system.refresh_memory();
    let (total, available) = (system.total_memory(), system.available_memory());
    match system.cgroup_limits() {
        Some(limits) if limits.total_memory < total => {
            Memory { total: limits.total_memory, available: limits.free_memory.min(available) }
        }
        _ => Memory { total, available },
    }
}

/// How many processors this process may use.
#[must_use]
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// How many processes wanted a processor, on average of the last minute.
#[must_use]
pub fn load() -> f64 {
    System::load_average().one
}

/// The machine's name.
#[must_use]
pub fn host_name() -> String {
    System::host_name().unwrap_or_else(|| "unknown".to_owned())
}
