//! The server: version, distance, settings, workers, its data folder.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use ms5_common::check::{Finding, Report};
use ms5_common::config::Settings;
use ms5_common::db::client::Client;
use ms5_common::db::server_error::{gave_up, reasons};
use ms5_common::machine::{self, FreeSpace, GIB, MIB};

use super::machine::disk;
use super::{DISK_DATA, MAINTENANCE, ROUND_TRIP, SHARED_BUFFERS, VERSION, WAL, WORK_MEM, WORKERS};
use crate::args::Limits;

/// The oldest PostgreSQL that the tools are tested with.
const OLDEST: i32 = 15;

/// How long the server may add up the size of the database.
const SIZE_LIMIT: Duration = Duration::from_secs(10);

/// What the server says of itself, asked once.
pub(crate) struct Facts {
    /// `server_version_num / 10000`.
    pub(crate) major: i32,
    /// `server_version`.
    pub(crate) version: String,
    /// The database's size in bytes; None where the role may not know, or it takes too long.
    size: Option<u64>,
    /// It takes too long.
    size_is_slow: bool,
    /// How many databases take connections.
    databases: u64,
    /// Settings in their base unit; those that the role may not see are not in it.
    settings: BTreeMap<String, (String, Option<String>)>,
    /// Whether the server is on this machine.
    pub(crate) local: bool,
}

impl Facts {
    /// Asks.
    ///
    /// # Errors
    /// The client's.
    pub(crate) fn ask(client: &mut Client, settings: &Settings) -> Result<Self, postgres::Error> {
        let row = client.query_typed_one(
            "SELECT current_setting('server_version_num')::int / 10000, current_setting('server_version'),
                    (SELECT array_agg(name) FROM pg_settings WHERE source IS NOT NULL),
                    (SELECT array_agg(setting) FROM pg_settings WHERE source IS NOT NULL),
                    (SELECT array_agg(unit) FROM pg_settings WHERE source IS NOT NULL),
                    (SELECT count(*) FROM pg_catalog.pg_database WHERE datallowconn AND NOT datistemplate)",
            &[],
        )?;
        let (names, values): (Vec<String>, Vec<Option<String>>) = (row.get(2), row.get(3));
        let units: Vec<Option<String>> = row.get(4);
        let (size, size_is_slow) = match size(client) {
            Err(error) if gave_up(&error) => (None, true),
            size => (size?, false),
        };
        let known = names.into_iter().zip(values).zip(units);
        Ok(Self {
            major: row.get(0),
            version: row.get(1),
            size,
            size_is_slow,
            databases: u64::try_from(row.get::<_, i64>(5)).unwrap_or_default(),
            settings: known.filter_map(|((name, value), unit)| Some((name, (value?, unit)))).collect(),
            local: is_local(settings),
        })
    }

    /// A setting as the server has it; None where it has none, or hides it.
    pub(crate) fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(|(value, _)| value.as_str())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.setting(name)?.parse().ok()
    }

    /// The room of the lock table; None where the role may not know.
    pub(super) fn lock_room(&self) -> Option<LockRoom> {
        let backends = self.number("max_connections")? + self.number("max_prepared_transactions")?;
        Some(LockRoom { each: self.number("max_locks_per_transaction")?, backends })
    }

    /// A setting that is a size, in bytes.
    fn bytes(&self, name: &str) -> Option<u64> {
        let (value, unit) = self.settings.get(name)?;
        let factor = match unit.as_deref() {
            Some("8kB") => 8 << 10,
            Some("kB") => 1 << 10,
            Some("MB") => MIB,
            _ => 1,
        };
        Some(value.parse::<u64>().ok()?.saturating_mul(factor))
    }
}

/// The size of the database, which the server adds up file by file: of a large one whose folders nobody has read today, for
/// more than the second that other looks have. It locks nothing, so nobody waits.
fn size(client: &mut Client) -> Result<Option<u64>, postgres::Error> {
    let mut transaction = client.transaction("READ ONLY")?;
    transaction.batch_execute(&format!("SET LOCAL statement_timeout = '{}s'", SIZE_LIMIT.as_secs()))?;
    let row = transaction.query_typed_one(
        "SELECT CASE WHEN has_database_privilege(current_database(), 'CONNECT') THEN pg_database_size(current_database()) END",
        &[],
    )?;
    Ok(row.get::<_, Option<i64>>(0).and_then(|size| u64::try_from(size).ok()))
}

/// The room of the lock table, which all transactions of a server share: `max_locks_per_transaction` times as many as may
/// be open (PostgreSQL's documentation, "Lock Management").
#[derive(Debug, Clone, Copy)]
pub(super) struct LockRoom {
    pub(super) each: u64,
    pub(super) backends: u64,
}

impl LockRoom {
    pub(super) fn all(self) -> u64 {
        self.each.saturating_mul(self.backends)
    }

    /// Whether so many fit, and the `max_locks_per_transaction` with which they do.
    pub(super) fn for_locks(self, locks: u64) -> (bool, u64) {
        (locks <= self.all(), locks.div_ceil(self.backends.max(1)))
    }
}

/// Whether the server is on this machine, as far as its name tells.
pub(super) fn is_local(settings: &Settings) -> bool {
    let connection = &settings.connection;
    let loopback = connection.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    connection.is_socket() || connection.host == "localhost" || loopback
}

/// Version and distance.
pub(crate) fn check_way(report: &mut Report<'_>, facts: &Facts, client: &mut Client, limits: Limits) {
    let line = format!("PostgreSQL {}", facts.version);
    report.add(
        &VERSION,
        if facts.major < OLDEST {
            Finding::warn(format!("{line} is older than {OLDEST}: the tools are not tested with it"))
                .remedy(format!("upgrade PostgreSQL to {OLDEST} or newer first"))
        } else {
            Finding::pass(line)
        },
    );
    report.add(&ROUND_TRIP, round_trip(client, limits.round_trip));
}

fn round_trip(client: &mut Client, limit: Duration) -> Finding {
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let began = Instant::now();
        if let Err(error) = client.batch_execute("") {
            return Finding::fail("The session does not answer").because_all(reasons(&error));
        }
        best = best.min(began.elapsed());
    }
    let line = format!("Round trip to the server: {:.1} ms", best.as_secs_f64() * 1000.0);
    if best > limit {
        return Finding::warn(format!("{line}, more than {} ms: it is far away", limit.as_millis()))
            .remedy("run the tools on a machine near the server");
    }
    Finding::pass(line)
}

/// Settings and disk beside this machine and the database's size.
pub(crate) fn check_settings(report: &mut Report<'_>, facts: &Facts, space: &FreeSpace, limits: Limits) {
    report.add(&WORKERS, workers(facts));
    report.add(&DISK_DATA, data_folder(facts, space, limits));
    let memory = facts.local.then(|| machine::memory().total);
    report.add(&SHARED_BUFFERS, shared_buffers(facts.bytes("shared_buffers"), memory));
    let work_mem = facts.bytes("work_mem").map_or_else(|| "not told".to_owned(), text);
    report.add(
        &WORK_MEM,
        Finding::info(format!("work_mem: {work_mem} for each sort or hash of each session"))
            .because("large reports are faster with more: SET work_mem in their sessions, not for all"),
    );
    report.add(&MAINTENANCE, maintenance(facts.bytes("maintenance_work_mem"), facts.size));
    report.add(
        &WAL,
        if facts.size_is_slow {
            Finding::warn(format!("The size of the database is not known after {} s", SIZE_LIMIT.as_secs()))
                .because("max_wal_size, maintenance_work_mem and the room for a second copy are not held against it")
                .remedy("run it again: files that were read once are found faster")
        } else {
            wal(facts.bytes("max_wal_size"), facts.size)
        },
    );
}

/// TimescaleDB's documented formula for what all databases of a server need.
fn workers(facts: &Facts) -> Finding {
    let Some(have) = facts.number("max_worker_processes") else {
        return Finding::skipped("the server does not tell max_worker_processes");
    };
    let background = facts.number("timescaledb.max_background_workers").unwrap_or(16);
    let parallel = facts.number("max_parallel_workers").unwrap_or(8);
    let wanted = 1 + background + parallel;
    let line = format!("max_worker_processes: {have}");
    if facts.setting("timescaledb.max_background_workers").is_some() && background <= facts.databases {
        return Finding::warn(format!(
            "timescaledb.max_background_workers: {background}, for {} databases: where all have TimescaleDB, no worker is \
             left for their jobs",
            facts.databases
        ))
        .because("each database with TimescaleDB keeps one worker as its scheduler")
        .remedy(format!(
            "ALTER SYSTEM SET timescaledb.max_background_workers = {}; then restart the server",
            facts.databases + 8
        ));
    }
    if have < wanted {
        return Finding::warn(format!("{line}, less than {wanted}: background jobs may never run"))
            .wanted(wanted.to_string())
            .because(format!(
                "1 + timescaledb.max_background_workers ({background}) + max_parallel_workers ({parallel})"
            ))
            .remedy(format!("ALTER SYSTEM SET max_worker_processes = {wanted}; then restart the server"));
    }
    Finding::pass(line).wanted(wanted.to_string())
}

fn data_folder(facts: &Facts, space: &FreeSpace, limits: Limits) -> Finding {
    if !facts.local {
        return Finding::skipped("the server is on another machine");
    }
    let Some(folder) = facts.setting("data_directory") else {
        return Finding::skipped("the role may not see data_directory (pg_read_all_settings)");
    };
    let folder = Path::new(folder);
    if !folder.exists() {
        return Finding::skipped(format!("{} is not on this machine", folder.display()));
    }
    let enough = disk(&format!("Space of the data folder {}", folder.display()), space, folder, limits.disk);
    match (space.under(folder), facts.size) {
        (Some(free), Some(used)) if free >= limits.disk && free < used => Finding::warn(format!(
            "Space of the data folder {}: {}GB available, less than the database has ({})",
            folder.display(),
            free / GIB,
            text(used)
        ))
        .remedy("a table that becomes a hypertable is there twice until the COMMIT: make room"),
        _ => enough,
    }
}

fn shared_buffers(have: Option<u64>, memory: Option<u64>) -> Finding {
    let Some(have) = have else { return Finding::skipped("the server does not tell it") };
    let line = format!("shared_buffers: {}", text(have));
    match memory {
        None => Finding::info(format!("{line}; a quarter of the server's memory is usual")),
        Some(memory) if have < memory / 8 => {
            let quarter = memory / 4 / MIB;
            Finding::warn(format!("{line}, little beside {} of memory", text(memory)))
                .remedy(format!("ALTER SYSTEM SET shared_buffers = '{quarter}MB'; then restart the server"))
        }
        Some(_) => Finding::pass(line),
    }
}

fn maintenance(have: Option<u64>, database: Option<u64>) -> Finding {
    let Some(have) = have else { return Finding::skipped("the server does not tell it") };
    let line = format!("maintenance_work_mem: {}", text(have));
    if have < 256 * MIB && database.is_some_and(|database| database > GIB) {
        return Finding::warn(format!("{line}: indexes are built slowly"))
            .remedy("run the migration with --maintenance-work-mem=1GB");
    }
    Finding::pass(line)
}

fn wal(have: Option<u64>, database: Option<u64>) -> Finding {
    let (Some(have), Some(database)) = (have, database) else {
        return Finding::skipped("the server does not tell it");
    };
    let line = format!("max_wal_size: {}, database: {}", text(have), text(database));
    if have < database / 10 {
        return Finding::warn(format!("{line}: checkpoints will come in quick succession"))
            .remedy("ALTER SYSTEM SET max_wal_size = '8GB'; SELECT pg_reload_conf();");
    }
    Finding::pass(line)
}

/// Bytes for people.
fn text(bytes: u64) -> String {
    if bytes >= 10 * GIB {
        format!("{} GB", bytes / GIB)
    } else if bytes >= MIB {
        format!("{} MB", bytes / MIB)
    } else {
        format!("{} kB", bytes >> 10)
    }
}

#[cfg(test)]
mod tests {
    use ms5_common::check::Verdict;

    use super::*;

    #[test]
    fn settings_are_judged_beside_memory_and_size() {
        assert_eq!(shared_buffers(Some(128 * MIB), Some(16 * GIB)).verdict(), Verdict::Warn);
        assert_eq!(shared_buffers(Some(4 * GIB), Some(16 * GIB)).verdict(), Verdict::Pass);
        assert_eq!(shared_buffers(Some(128 * MIB), None).verdict(), Verdict::Info);
        assert_eq!(maintenance(Some(64 * MIB), Some(2 * GIB)).verdict(), Verdict::Warn);
        assert_eq!(maintenance(Some(64 * MIB), Some(MIB)).verdict(), Verdict::Pass);
        assert_eq!(wal(Some(GIB), Some(11 * GIB)).verdict(), Verdict::Warn);
        assert_eq!(wal(Some(GIB), Some(GIB)).verdict(), Verdict::Pass);
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!([text(64 << 10), text(64 * MIB), text(12 * GIB)], ["64 kB", "64 MB", "12 GB"]);
    }
}
