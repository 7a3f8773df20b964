//! Who could restore a backup of the database, asked before a restore is wanted.

use ms5_common::check::{Finding, Report};
use ms5_common::db::client::Client;
use ms5_common::db::server_error::reasons;
use ms5_common::sql::escape_identifier;
use ms5_common::timescale;

use super::WAY_BACK;
use super::rights::Role;

/// Makes the check for the role of `--restore-user`, or the environment's own.
pub(crate) fn check(report: &mut Report<'_>, client: &mut Client, role: &Role, restore_user: Option<&str>) {
    let finding = look(client, role, restore_user).unwrap_or_else(|error| {
        Finding::warn("Who could restore a backup cannot be read").because_all(reasons(&error))
    });
    report.add(&WAY_BACK, finding);
}

fn look(client: &mut Client, role: &Role, restore_user: Option<&str>) -> Result<Finding, postgres::Error> {
    let name = restore_user.unwrap_or(&role.name);
    let attributes = client
        .query_opt("SELECT rolsuper, rolcreatedb FROM pg_catalog.pg_roles WHERE rolname = $1", &[&name])?;
    let Some(attributes) = attributes else {
        return Ok(Finding::warn(format!("There is no role {name} to restore a backup as"))
            .remedy("name one that is there: --restore-user=ROLE"));
    };
    let (superuser, creates): (bool, bool) = (attributes.get(0), attributes.get(1));
    if superuser {
        return Ok(Finding::pass(format!("The role {name} could restore a backup")));
    }
    if timescale::has_hypertables(client)? {
        return Ok(Finding::warn(format!("The role {name} could not restore a backup"))
            .because("there are hypertables, which only a superuser can load (timescaledb_pre_restore)")
            .remedy("have a superuser at hand for that: --restore-user=ROLE, its password in MS5_RESTORE_PASSWORD"));
    }
    if !creates {
        return Ok(Finding::warn(format!("The role {name} could not restore a backup"))
            .because("it may not create databases, and a restore makes a new one beside the old")
            .remedy(format!(
                "as a superuser: ALTER ROLE {} CREATEDB; or name another role: --restore-user=ROLE; or restore --in-place",
                escape_identifier(name)
            )));
    }
    Ok(Finding::pass(format!("The role {name} could restore a backup of today"))
        .because("once there are hypertables, only a superuser can"))
}
