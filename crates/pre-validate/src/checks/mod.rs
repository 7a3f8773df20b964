//! What is looked at, in this order; each module has the checks of one subject.

pub(crate) mod activity;
pub(crate) mod container;
pub(crate) mod conversion;
pub(crate) mod files;
pub(crate) mod fingerprint;
pub(crate) mod inventory;
pub(crate) mod locks;
pub(crate) mod machine;
pub(crate) mod network;
pub(crate) mod rights;
pub(crate) mod security;
pub(crate) mod server;
pub(crate) mod timescale;
pub(crate) mod way_back;

use ms5_common::check::Check;

pub(crate) const DISK_ROOT: Check =
    Check::new("disk-root", "free space of the root file system", "10 GB (--min-disk)");
pub(crate) const DISK_HOME: Check =
    Check::new("disk-home", "free space under MS5_HOME", "10 GB (--min-disk)");
pub(crate) const MEMORY: Check = Check::new(
    "memory",
    "this machine's memory",
    "4 GB in all (--min-memory); 2 GB available (--min-available), else WARN",
);
pub(crate) const CPU: Check =
    Check::new("cpu", "processors and load", "a load of the last minute not above the processors, else WARN");
pub(crate) const NAME: Check = Check::new("name", "the host's name", "an address within --network-timeout");
pub(crate) const PORT: Check = Check::new("port", "the server's port", "an answer within --network-timeout");
pub(crate) const CONNECTION: Check = Check::new("connection", "the log-in to the database", "a session");
pub(crate) const VERSION: Check =
    Check::new("server-version", "PostgreSQL's version", "15 or newer, else WARN");
pub(crate) const ROUND_TRIP: Check =
    Check::new("round-trip", "the way to the server and back", "10 ms (--max-round-trip), else WARN");
pub(crate) const CREATE: Check = Check::new(
    "create",
    "whether the role may create a schema and a table, tried and rolled back",
    "CREATE on the database and on schema public",
);
pub(crate) const OWNER: Check = Check::new(
    "owner",
    "the tables that the files alter, as far as their text tells",
    "the role owns each, or is in the role that does",
);
pub(crate) const STATEMENTS: Check = Check::new(
    "statements",
    "statements that want more than ordinary rights",
    "the role has them (superuser, CREATEDB, CREATEROLE)",
);
pub(crate) const WAY_BACK: Check = Check::new(
    "way-back",
    "whether the role, or --restore-user, could restore a backup",
    "CREATEDB; where there are hypertables, a superuser; else WARN",
);
pub(crate) const EXTENSION: Check = Check::new(
    "extension",
    "the extension timescaledb",
    "installed, or there for the runner to create; INFO where it is not created yet",
);
pub(crate) const PRELOAD: Check =
    Check::new("preload", "whether the server preloads timescaledb", "it stands in shared_preload_libraries");
pub(crate) const MATRIX: Check = Check::new(
    "matrix",
    "whether TimescaleDB's version is made for PostgreSQL's",
    "2.11 or newer; a pair that is supported, else WARN",
);
pub(crate) const LICENCE: Check =
    Check::new("licence", "timescaledb.license", "nothing: what it lacks is said");
pub(crate) const RESTORING: Check =
    Check::new("restoring", "timescaledb.restoring", "off: a restore that was left hides rows");
pub(crate) const HYPERTABLE: Check =
    Check::new("hypertable", "a hypertable made, filled and rolled back", "it works; busy is WARN").slow();
pub(crate) const WORKERS: Check = Check::new(
    "workers",
    "max_worker_processes and timescaledb.max_background_workers",
    "1 + timescaledb.max_background_workers + max_parallel_workers; more background workers than databases, else WARN",
);
pub(crate) const DISK_DATA: Check = Check::new(
    "disk-data",
    "free space of the server's data folder, where it is on this machine and may be known",
    "10 GB (--min-disk), and as much as the database has, else WARN",
);
pub(crate) const SHARED_BUFFERS: Check = Check::new(
    "shared-buffers",
    "shared_buffers",
    "an eighth of the memory or more, else WARN; INFO where the server's memory is not known",
);
pub(crate) const WORK_MEM: Check = Check::new("work-mem", "work_mem", "nothing: it is said");
pub(crate) const MAINTENANCE: Check = Check::new(
    "maintenance-work-mem",
    "maintenance_work_mem, for index builds",
    "256 MB where the database has more than 1 GB, else WARN",
);
pub(crate) const WAL: Check =
    Check::new("max-wal-size", "max_wal_size", "a tenth of the database or more, else WARN");
pub(crate) const LOCKS: Check = Check::new(
    "locks",
    "the locks on the chunks that each table to be converted will have, beside max_locks_per_transaction",
    "room for twice as many, and no lonely rows far away in time, else WARN",
);
pub(crate) const CONVERSION: Check = Check::new(
    "conversion",
    "what keeps a table to be converted from becoming a hypertable, and no file names: rows without a time, unique indexes without it, \
     foreign keys to it, publications, rules, inheritance and the like",
    "none; what excludes compression, or cannot be found within a second, is WARN",
);
pub(crate) const ACTIVITY: Check =
    Check::new("activity", "transactions a second, over one second", "nothing: a hint at hours of low use")
        .slow();
pub(crate) const LONGEST: Check = Check::new(
    "longest-transaction",
    "the oldest open transaction",
    "5 minutes at most (--max-transaction), else WARN: locks are waited for behind it",
);
pub(crate) const SUPERUSER: Check =
    Check::new("superuser", "whether the role is a superuser", "no, else WARN");
pub(crate) const SAME_ROLE: Check = Check::new(
    "same-role",
    "whether the role is the one of another environment",
    "a role for each environment, else WARN",
);
pub(crate) const PASSWORD: Check =
    Check::new("password", "when the role's password expires", "not within 14 days, else WARN");
pub(crate) const TLS: Check = Check::new("tls", "encryption on the way to a remote host", "TLS, else WARN");
pub(crate) const HBA: Check = Check::new(
    "hba",
    "pg_hba_file_rules, where they may be read",
    "no trust and no whole internet, else WARN",
);
pub(crate) const BACKUPS: Check =
    Check::new("backup-folder", "who may read the folder of the backups", "its owner only, else WARN");
pub(crate) const ACCOUNTS: Check =
    Check::new("accounts", "tables of users with names that everybody tries first", "none, else WARN").slow();
pub(crate) const CONTAINER: Check = Check::new(
    "container",
    "the environment's Docker container, where Docker is here",
    "running and healthy, else WARN",
);
pub(crate) const FILES: Check = Check::new(
    "files",
    "every migration file: there, readable, not empty, SQL, numbers in order",
    "all of them can be run",
);
pub(crate) const DEPENDENCIES: Check =
    Check::new("dependencies", "tables that a file alters before any creates them", "none, else WARN");

pub(crate) const INVENTORY: Check = Check::new(
    "inventory",
    "every object of the database, noted for post-validate --against",
    "it can be listed, else WARN",
)
.slow();
pub(crate) const FINGERPRINT: Check = Check::new(
    "fingerprint",
    "the rows of the tables to be converted, counted and hashed by day for post-validate --against",
    "up to a highest key below which no row can still appear, else WARN",
)
.slow();

/// Every check, in the order in which they are made.
pub(crate) const ALL: &[Check] = &[
    DISK_ROOT,
    DISK_HOME,
    MEMORY,
    CPU,
    NAME,
    PORT,
    CONNECTION,
    VERSION,
    ROUND_TRIP,
    CREATE,
    OWNER,
    STATEMENTS,
    WAY_BACK,
    EXTENSION,
    PRELOAD,
    MATRIX,
    LICENCE,
    RESTORING,
    HYPERTABLE,
    WORKERS,
    DISK_DATA,
    SHARED_BUFFERS,
    WORK_MEM,
    MAINTENANCE,
    WAL,
    LOCKS,
    CONVERSION,
    ACTIVITY,
    LONGEST,
    SUPERUSER,
    SAME_ROLE,
    PASSWORD,
    TLS,
    HBA,
    BACKUPS,
    ACCOUNTS,
    CONTAINER,
    FILES,
    DEPENDENCIES,
    INVENTORY,
    FINGERPRINT,
];
