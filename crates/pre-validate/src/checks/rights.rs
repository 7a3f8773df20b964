//! What the role may do, tried where it can be tried, beside what the files need.

use std::collections::BTreeMap;

use ms5_common::check::{Finding, Report};
use ms5_common::config::Settings;
use ms5_common::db::client::Client;
use ms5_common::db::server_error::{gave_up, reasons};
use ms5_common::db::session;
use ms5_common::effects::{self, LockMode};
use ms5_common::exit::Exit;
use ms5_common::migrations::Migration;

use super::{CREATE, OWNER, STATEMENTS};

/// What the role is.
pub(crate) struct Role {
    pub(crate) name: String,
    pub(crate) superuser: bool,
    create_database: bool,
    create_role: bool,
    /// Seconds until the password expires; None where it does not.
    pub(crate) password_ends: Option<f64>,
}

impl Role {
    /// Asks.
    ///
    /// # Errors
    /// The client's.
    pub(crate) fn ask(client: &mut Client) -> Result<Self, postgres::Error> {
        let row = client.query_typed_one(
            "SELECT rolname::text, rolsuper, rolcreatedb, rolcreaterole,
                    CASE WHEN isfinite(rolvaliduntil) THEN extract(epoch FROM rolvaliduntil - now())::float8 END
             FROM pg_catalog.pg_roles WHERE rolname = current_user",
            &[],
        )?;
        Ok(Self {
            name: row.get(0),
            superuser: row.get(1),
            create_database: row.get(2),
            create_role: row.get(3),
            password_ends: row.get(4),
        })
    }
}

/// More than ordinary rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Superuser,
    CreateDatabase,
    CreateRole,
}

/// Statements by their first words. Whether CREATE EXTENSION needs a superuser is the extension's matter.
const NEEDS: &[(&[&str], Needs)] = &[
    (&["alter", "system"], Needs::Superuser),
    (&["create", "tablespace"], Needs::Superuser),
    (&["drop", "tablespace"], Needs::Superuser),
    (&["create", "event", "trigger"], Needs::Superuser),
    (&["create", "access", "method"], Needs::Superuser),
    (&["create", "foreign", "data", "wrapper"], Needs::Superuser),
    (&["create", "database"], Needs::CreateDatabase),
    (&["create", "role"], Needs::CreateRole),
    (&["create", "user"], Needs::CreateRole),
    (&["create", "group"], Needs::CreateRole),
];

/// Makes the checks. `files` is None where they could not be read.
pub(crate) fn check(
    report: &mut Report<'_>,
    client: &mut Client,
    settings: &Settings,
    role: &Role,
    files: Option<&[Migration]>,
) {
    report.add(&CREATE, create(client, settings, role));
    let Some(files) = files else {
        let why = || Finding::skipped("the files cannot be read");
        report.add(&OWNER, why());
        report.add(&STATEMENTS, why());
        return;
    };
    report.add(&OWNER, owners(client, role, files));
    report.add(&STATEMENTS, statements(role, files));
}

/// Makes a schema and tables, and rolls back.
fn create(client: &mut Client, settings: &Settings, role: &Role) -> Finding {
    match session::read_only(client) {
        Ok(None) => {}
        Ok(Some(refused)) => return Finding::failed(&refused.with_exit(Exit::Failed)),
        Err(error) => {
            return Finding::fail("Whether the database takes writes cannot be asked")
                .because_all(reasons(&error));
        }
    }
    let tried = client.batch_execute(
        "BEGIN; CREATE SCHEMA ms5_probe; CREATE TABLE ms5_probe.probe (id int);
         CREATE TABLE public.ms5_probe (id int)",
    );
    let rolled_back = client.batch_execute("ROLLBACK");
    let database = &settings.connection.dbname;
    match tried.and(rolled_back) {
        Ok(()) => Finding::pass("Database permissions validated"),
        Err(error) if gave_up(&error) => {
            Finding::warn("Database permissions: somebody held a lock, so they were not tried")
                .because_all(reasons(&error))
                .remedy("run it again")
        }
        Err(error) => Finding::fail(format!("The role {} may not create what the migrations create", role.name))
            .because_all(reasons(&error))
            .remedy(format!(
                "as the owner or a superuser: GRANT CREATE ON DATABASE {database} TO {role}; GRANT CREATE, USAGE ON SCHEMA public TO {role};",
                role = role.name
            )),
    }
}

/// Relations that the files alter and that are there, owned by somebody else.
fn owners(client: &mut Client, role: &Role, files: &[Migration]) -> Finding {
    let (mut altered, mut hidden) = (BTreeMap::new(), false);
    for migration in files {
        for statement in migration.statements() {
            let effects = effects::effects(statement);
            hidden |= effects.opaque.is_some();
            for lock in effects.locks.into_iter().filter(|lock| lock.mode >= LockMode::ShareUpdateExclusive) {
                altered.entry(lock.on).or_insert_with(|| migration.file.clone());
            }
        }
    }
    let names: Vec<&String> = altered.keys().collect();
    // Where blocks of code hide what they alter, everything beside it in the same schemas is asked for too.
    let rows = client.query(
        "WITH named AS (SELECT n, to_regclass(n) AS oid FROM unnest($1::text[]) n),
              near AS (SELECT DISTINCT relnamespace FROM pg_catalog.pg_class JOIN named USING (oid))
         SELECT c.oid::regclass::text, pg_catalog.pg_get_userbyid(c.relowner)::text,
                (SELECT min(n) FROM named WHERE named.oid = c.oid)
         FROM pg_catalog.pg_class c
         WHERE c.relkind IN ('r', 'p', 'v', 'm') AND NOT pg_catalog.pg_has_role(c.relowner, 'USAGE')
           AND (c.oid IN (SELECT oid FROM named)
                OR $2 AND c.relnamespace IN (SELECT relnamespace FROM near)
                   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e'))
         ORDER BY 3 NULLS LAST, 1",
        &[&names, &hidden],
    );
    let rows = match rows {
        Ok(rows) => rows,
        Err(error) => {
            return Finding::warn("The owners of the tables cannot be read").because_all(reasons(&error));
        }
    };
    let foreign = |row: &postgres::Row| {
        let (table, owner): (String, String) = (row.get(0), row.get(1));
        let file = row.get::<_, Option<String>>(2).and_then(|name| altered.get(&name));
        match file {
            Some(file) => format!("{table} belongs to {owner}; {file} alters it"),
            None => format!("{table} belongs to {owner}; a block of code may alter it"),
        }
    };
    let sure = rows.iter().any(|row| row.get::<_, Option<&str>>(2).is_some());
    let remedy = format!(
        "as a superuser: ALTER TABLE NAME OWNER TO {role}; or GRANT OWNER TO {role};",
        role = role.name
    );
    let lines = rows.iter().map(foreign).collect::<Vec<_>>();
    match (lines.is_empty(), sure) {
        (true, _) => Finding::pass(format!("The role {} owns every table that the files name", role.name)),
        (false, true) => Finding::fail(format!("The role {} does not own what the files alter", role.name))
            .because_all(lines)
            .remedy(remedy),
        (false, false) => Finding::warn("Tables beside those that the files name belong to others")
            .because_all(lines)
            .remedy(remedy),
    }
}

fn statements(role: &Role, files: &[Migration]) -> Finding {
    let mut missing = Vec::new();
    for migration in files {
        for statement in migration.statements() {
            let needs = statement.facts().find_map(|facts| {
                let words = facts.first_words(4);
                NEEDS.iter().find(|(first, _)| {
                    words.iter().map(AsRef::as_ref).take(first.len()).eq(first.iter().copied())
                })
            });
            let Some((words, needs)) = needs else { continue };
            let (has, name) = match needs {
                Needs::Superuser => (role.superuser, "a superuser"),
                Needs::CreateDatabase => (role.superuser || role.create_database, "CREATEDB"),
                Needs::CreateRole => (role.superuser || role.create_role, "CREATEROLE"),
            };
            if !has {
                let place = statement.head();
                missing.push(format!(
                    "{}:{place} {} needs {name}",
                    migration.file,
                    words.join(" ").to_uppercase()
                ));
            }
        }
    }
    if missing.is_empty() {
        return Finding::pass("No statement wants more rights than the role has");
    }
    Finding::fail(format!("The role {} may not do what the files do", role.name))
        .because_all(missing)
        .remedy("run these statements as a superuser beforehand and take them out of the files, or give the role the right")
}
