//! Disk, memory and processors of this machine.

use std::path::Path;

use ms5_common::check::{Finding, Report};
use ms5_common::machine::{self, FreeSpace, GIB, MIB};

use super::{CPU, DISK_HOME, DISK_ROOT, MEMORY};
use crate::args::Limits;

/// Makes the checks.
pub(crate) fn check(report: &mut Report<'_>, space: &FreeSpace, home: &Path, limits: Limits) {
    report.add(&DISK_ROOT, disk("Root filesystem space", space, Path::new("/"), limits.disk));
    let home = ms5_common::config::absolute(home);
    report.add(&DISK_HOME, disk(&format!("Space under {}", home.display()), space, &home, limits.disk));
    report.add(&MEMORY, memory(machine::memory(), limits));
    report.add(&CPU, processors(machine::processors(), machine::load()));
}

/// A folder's file system beside a limit.
pub(super) fn disk(what: &str, space: &FreeSpace, folder: &Path, limit: u64) -> Finding {
    let wanted = format!("{} GB free", limit / GIB);
    match space.under(folder) {
        None => Finding::warn(format!("{what}: cannot be read"))
            .wanted(wanted)
            .remedy(format!("look yourself: df -h {}", folder.display())),
        Some(free) if free < limit => {
            Finding::fail(format!("{what}: {}GB available, less than {}GB", free / GIB, limit / GIB))
                .wanted(wanted)
                .remedy("make room, or say how much is enough with --min-disk=GB")
        }
        Some(free) => Finding::pass(format!("{what}: {}GB available", free / GIB)).wanted(wanted),
    }
    .on(folder.display().to_string())
}

fn memory(memory: machine::Memory, limits: Limits) -> Finding {
    let line = format!("Total memory: {}MB, Available: {}MB", memory.total / MIB, memory.available / MIB);
    // A machine that is sold with 4 GB shows a little less: the kernel keeps some of it.
    let enough = limits.memory - limits.memory / 10;
    if memory.total < enough {
        return Finding::fail(format!("{line}, less than {}GB in all", limits.memory / GIB))
            .remedy("run it on a larger machine, or say how much is enough with --min-memory=GB");
    }
    if memory.available < limits.available {
        return Finding::warn(format!("{line}, less than {}GB available", limits.available / GIB))
            .remedy("end what is not needed during the migration");
    }
    Finding::pass(line)
}

fn processors(count: usize, load: f64) -> Finding {
    let line = format!("CPU cores available: {count}");
    let busy = u32::try_from(count).is_ok_and(|count| load > f64::from(count));
    if busy {
        return Finding::warn(format!("{line}, load {load:.2}: more work than processors"))
            .remedy("wait for a quieter hour, or end what is not needed");
    }
    Finding::pass(line).because(format!("load of the last minute: {load:.2}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ms5_common::check::Verdict;

    use super::*;

    const LIMITS: Limits = Limits {
        disk: 10 * GIB,
        memory: 4 * GIB,
        available: 2 * GIB,
        round_trip: Duration::from_millis(10),
        network: Duration::from_secs(5),
        transaction: Duration::from_secs(300),
    };

    #[test]
    fn memory_is_judged_by_its_limits() {
        let of = |total, available| memory(machine::Memory { total, available }, LIMITS).verdict();
        assert_eq!(of(8 * GIB, 4 * GIB), Verdict::Pass);
        assert_eq!(of(4 * GIB - 200 * MIB, 3 * GIB), Verdict::Pass);
        assert_eq!(of(8 * GIB, GIB), Verdict::Warn);
        assert_eq!(of(3 * GIB, 3 * GIB), Verdict::Fail);
    }

    #[test]
    fn more_work_than_processors_is_a_warning() {
        assert_eq!(processors(2, 1.9).verdict(), Verdict::Pass);
        assert_eq!(processors(2, 2.1).verdict(), Verdict::Warn);
    }
}
