//! The spec's "Troubleshooting" commands with this environment's container, role and database filled in.

use crate::config::Settings;

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
    let connection = &settings.connection;
    format!(
        "PGPASSWORD=\"${{{}}}\" psql -h {} -p {} -U {} -d {} -c \"SELECT * FROM migration_log ORDER BY applied_at DESC;\"",
        settings.environment.defaults().password_variable,
        connection.host,
        connection.port,
        connection.user,
        connection.dbname
    )
}

/// How to restore the backup that the flow takes before a migration.
#[must_use]
pub fn go_back(settings: &Settings) -> String {
    format!(
        "scripts/backup-rollback-manager.sh restore pre_migration --environment={}",
        settings.environment.defaults().name
    )
}
