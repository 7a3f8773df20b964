//! The spec's "Troubleshooting" commands with this environment's container, role and database filled in.

use crate::backups::{self, Full, Whose};
use crate::called::called;
use crate::clock::{self, OffsetDateTime};
use crate::config::{Settings, absolute};

/// The tool that brings backups back.
const BACKUP_MANAGER: &str = "backup-manager";

/// Case 3, "Database Connection Failed".
#[must_use]
pub fn connection_failed(settings: &Settings) -> Vec<String> {
    let defaults = settings.environment.defaults();
    vec![
        "check the database's state: docker ps | grep postgres".to_owned(),
        format!("check its log: docker logs {}", defaults.container),
        format!("restart it: docker compose -f docker-compose.{}.yml restart postgres", defaults.name),
    ]
}

/// Case 1, "TimescaleDB Extension Not Found".
#[must_use]
pub fn extension_missing(settings: &Settings) -> Vec<String> {
    let psql = format!(
        "docker exec {} psql -U {} -d {}",
        settings.environment.defaults().container,
        settings.connection.user,
        settings.connection.dbname
    );
    vec![
        "install TimescaleDB for this PostgreSQL version on the server (or use the image timescale/timescaledb), add \
         timescaledb to shared_preload_libraries and restart it"
            .to_owned(),
        format!("check it: {psql} -c \"SELECT * FROM pg_extension WHERE extname = 'timescaledb';\""),
        format!("create it: {psql} -c \"CREATE EXTENSION IF NOT EXISTS timescaledb;\""),
    ]
}

/// Case 2, "Migration Already Applied": how to look at the ledger.
#[must_use]
pub fn show_ledger(settings: &Settings) -> String {
    psql(settings, "SELECT * FROM migration_log ORDER BY applied_at DESC;")
}

/// Case 2: how to execute what is applied once more.
#[must_use]
pub fn execute_again(settings: &Settings) -> String {
    format!("{} --environment={} --force", called("migration-runner"), settings.environment.defaults().name)
}

/// Case 4, "Backup Restoration Failed".
#[must_use]
pub fn restore_failed(settings: &Settings, backup: &str) -> Vec<String> {
    vec![
        format!("verify the backup: {}", with_backups(settings, &format!("verify {backup}"))),
        "check the disk's space: df -h".to_owned(),
        format!("check the role: {}", psql(settings, "SELECT current_user, session_user;")),
    ]
}

/// A query, as the spec has it run: the password stays in its variable.
fn psql(settings: &Settings, query: &str) -> String {
    let connection = &settings.connection;
    format!(
        "PGPASSWORD=\"${{{}}}\" psql -h {} -p {} -U {} -d {} -c \"{query}\"",
        settings.environment.defaults().password_variable,
        connection.host,
        connection.port,
        connection.user,
        connection.dbname
    )
}

/// How to restore the newest full backup of this database that holds what was there at a moment, or that there is none: one that
/// was taken later may lack what has been lost since. `restored` is the backup of the last restore, and when that was.
#[must_use]
pub fn go_back(
    settings: &Settings,
    moment: OffsetDateTime,
    system_identifier: &str,
    restored: Option<&(String, OffsetDateTime)>,
) -> String {
    // A backup says its time in whole seconds.
    let second = moment.unix_timestamp();
    let holds =
        |full: &Full| full.created.unix_timestamp() < second && full.leads_to(system_identifier, restored);
    match backups::fulls(settings).into_iter().find(holds) {
        Some(full) => format!(
            "{} brings the database back as it was at {}; what was written since is not in it",
            restore(settings, &full.name),
            full.created_at
        ),
        None => format!(
            "no full backup of {} in {} is from before {}",
            Whose::of(settings),
            absolute(&settings.backup_dir).display(),
            clock::record_time_of(moment)
        ),
    }
}

/// The command that puts a backup into the place of a database that holds data.
#[must_use]
pub fn restore(settings: &Settings, backup: &str) -> String {
    with_backups(settings, &format!("restore {backup} --force"))
}

/// A command of backup-manager, for this environment whatever the variable of whoever types it says.
#[must_use]
pub fn with_backups(settings: &Settings, words: &str) -> String {
    format!("{} {words} --environment={}", called(BACKUP_MANAGER), settings.environment.defaults().name)
}
