//! Who may do what, as far as it can be seen from here.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use ms5_common::check::{Finding, Report};
use ms5_common::config::{self, Environment, Settings};
use ms5_common::db::client::Client;
use ms5_common::db::server_error::reasons;
use postgres::error::SqlState;

use super::rights::Role;
use super::server::Facts;
use super::{ACCOUNTS, BACKUPS, HBA, PASSWORD, SAME_ROLE, SUPERUSER, TLS};

/// A password that expires sooner is named.
const SOON: f64 = 14.0 * 86_400.0;

/// Names that everybody tries first.
const COMMON: &[&str] =
    &["admin", "administrator", "root", "test", "demo", "guest", "user", "operator", "default"];

/// Makes the checks.
pub(crate) fn check(
    report: &mut Report<'_>,
    client: &mut Client,
    settings: &Settings,
    facts: &Facts,
    role: &Role,
    tls: bool,
    quick: bool,
) {
    report.add(
        &SUPERUSER,
        if role.superuser {
            Finding::warn(format!("The role {} is a superuser: a slip has no bounds", role.name))
                .remedy("migrate with the role that owns the schema; a superuser is needed to restore hypertables only")
        } else {
            Finding::pass(format!("The role {} is no superuser", role.name))
        },
    );
    report.add(&SAME_ROLE, same_role(settings, &role.name));
    report.add(&PASSWORD, password(role));
    report.add(&TLS, encryption(settings, facts, tls));
    report.add(&HBA, host_rules(client));
    report.add(&BACKUPS, backups(settings));
    report.add(&ACCOUNTS, if quick { Finding::skipped("--quick") } else { accounts(client) });
}

fn same_role(settings: &Settings, role: &str) -> Finding {
    let other = Environment::ALL
        .into_iter()
        .find(|other| *other != settings.environment && other.defaults().user == role);
    match other {
        Some(other) => Finding::warn(format!("The role {role} is the one of {}", other.defaults().name))
            .remedy("use a role of its own for each environment"),
        None => Finding::pass(format!("The role {role} is of no other environment")),
    }
}

fn password(role: &Role) -> Finding {
    match role.password_ends {
        None => Finding::pass("The role's password does not expire"),
        Some(seconds) if seconds < SOON => {
            Finding::warn(format!("The role's password expires in {:.1} days", seconds / 86_400.0))
                .remedy(format!("set a new one before the migration: \\password {}", role.name))
        }
        Some(seconds) => {
            Finding::pass(format!("The role's password expires in {:.0} days", seconds / 86_400.0))
        }
    }
}

fn encryption(settings: &Settings, facts: &Facts, tls: bool) -> Finding {
    match (tls, facts.local) {
        (true, _) => Finding::pass("The connection is encrypted"),
        (false, true) => Finding::pass("The connection is not encrypted and stays on this machine"),
        (false, false) => {
            Finding::warn(format!("The connection to {} is not encrypted", settings.connection.host))
                .remedy("switch on ssl on the server and set PGSSLMODE=verify-full with PGSSLROOTCERT")
        }
    }
}

fn host_rules(client: &mut Client) -> Finding {
    let rows = client.query_typed(
        "SELECT line_number, type, auth_method, coalesce(address, '') FROM pg_catalog.pg_hba_file_rules
         WHERE error IS NULL AND type <> 'local'
           AND (auth_method = 'trust' AND coalesce(address, '') NOT IN ('127.0.0.1', '::1', 'localhost', 'samehost')
                OR address IN ('0.0.0.0', '::', 'all') AND coalesce(netmask, '0.0.0.0') IN ('0.0.0.0', '::'))
         ORDER BY line_number",
        &[],
    );
    let rows = match rows {
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            return Finding::skipped("the role may not read pg_hba_file_rules");
        }
        Err(error) => return Finding::warn("pg_hba.conf cannot be read").because_all(reasons(&error)),
        Ok(rows) => rows,
    };
    if rows.is_empty() {
        return Finding::pass("pg_hba.conf lets nobody in without a password, and not the whole internet");
    }
    let lines = rows.iter().map(|row| {
        let (number, kind, method, address): (i32, &str, &str, &str) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        format!("line {number}: {kind} {address} {method}")
    });
    Finding::warn("pg_hba.conf lets in more than it should")
        .because_all(lines.collect::<Vec<_>>())
        .remedy("name the networks of the plant instead, with scram-sha-256; then SELECT pg_reload_conf();")
}

fn backups(settings: &Settings) -> Finding {
    let folder = config::absolute(&settings.backup_dir);
    let Ok(metadata) = fs::metadata(&folder) else {
        return Finding::skipped(format!("{} is not there yet", folder.display()));
    };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Finding::warn(format!("{} is open to others (mode {mode:03o})", folder.display()))
            .remedy(format!("chmod 700 {}", folder.display()));
    }
    Finding::pass(format!("{} is its owner's only", folder.display()))
}

/// Tables of users, by their name and a column that a log-in has; no factory's schema is known here.
fn accounts(client: &mut Client) -> Finding {
    let tables = client.query_typed(
        "SELECT c.oid::regclass::text, quote_ident(a.attname)
         FROM pg_catalog.pg_class c
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
         JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
         WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^(pg_|_timescaledb_)' AND n.nspname <> 'information_schema'
           AND c.relname IN ('users', 'user', 'accounts', 'account', 'app_users')
           AND a.attname IN ('username', 'user_name', 'login', 'name') AND t.typcategory = 'S' AND NOT a.attisdropped
           AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')",
        &[],
    );
    let mut found = Vec::new();
    let looked = tables.and_then(|tables| {
        for row in &tables {
            let (table, column): (&str, &str) = (row.get(0), row.get(1));
            let names = client.query(
                &format!(
                    "SELECT DISTINCT {column}::text FROM {table} WHERE lower({column}) = ANY ($1) ORDER BY 1"
                ),
                &[&COMMON],
            )?;
            found.extend(names.iter().map(|name| format!("{table}: {}", name.get::<_, &str>(0))));
        }
        Ok(tables.len())
    });
    match looked {
        Err(error) => Finding::warn("The tables of users cannot be read").because_all(reasons(&error)),
        Ok(0) => Finding::pass("There is no table of users"),
        Ok(_) if found.is_empty() => Finding::pass("No table of users has a name that everybody tries first"),
        Ok(_) => Finding::warn("There are accounts with names that everybody tries first")
            .because_all(found)
            .remedy("rename them, or make sure that their passwords are not the ones they came with"),
    }
}
