//! This machine: disk, memory, processors, name, system.

use std::path::Path;

use sysinfo::{CpuRefreshKind, Disks, RefreshKind, System};

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

/// The system and its release, such as `Debian GNU/Linux 13`, as /etc/os-release says.
#[must_use]
pub fn system() -> String {
    let name = System::name().unwrap_or_else(|| std::env::consts::OS.to_owned());
    [Some(name), System::os_version()].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// The kernel, such as `6.12.43`; None where the system does not tell.
#[must_use]
pub fn kernel() -> Option<String> {
    System::kernel_version()
}

/// The model of the processors, or at least their kind (`aarch64`), where the system does not tell more.
#[must_use]
pub fn processor() -> String {
    let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()));
    let brand = system.cpus().first().map(|cpu| cpu.brand().split_whitespace().collect::<Vec<_>>().join(" "));
    brand.filter(|brand| !brand.is_empty()).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_says_what_it_is() {
        assert_ne!(system().to_lowercase(), "linux", "the distribution is more than the kind of system");
        assert!(kernel().is_some_and(|kernel| kernel.starts_with(|letter: char| letter.is_ascii_digit())));
        assert!(!processor().is_empty() && !processor().contains("  "));
    }
}
