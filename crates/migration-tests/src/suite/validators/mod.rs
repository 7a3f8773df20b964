//! pre-validate and post-validate: that they pass what is well, and find what is not. Each tampering is one that happens.
//!
//! What breaks a check stands in tables ([`pre`], [`post`]), with the check, the object and the verdict that must come of it. A
//! test holds them against docs/checks.md: what none of them breaks is named with its reason.

mod post;
mod pre;

use std::collections::BTreeSet;
use std::fs;

use ms5_common::expected::{self, Expected};
use serde_json::Value;

use super::{Start, Test};
use crate::case::{Case, Done, Ran, Stop, must};

pub(super) const TESTS: &[Test] = &[
    Test {
        id: "validators.pre-passes",
        title: "pre-validate passes the database in the field, and leaves nothing in it",
        start: Start::Field,
        run: pre::passes,
    },
    Test {
        id: "validators.pre-machine",
        title: "This machine has the disk and the memory that pre-validate asks for",
        start: Start::Field,
        run: pre::machine,
    },
    Test {
        id: "validators.pre-limits",
        title: "pre-validate finds too little disk and memory, a way too long, and no way at all",
        start: Start::Empty,
        run: pre::limits,
    },
    Test {
        id: "validators.pre-rights",
        title: "pre-validate finds that the role may not create a schema",
        start: Start::Empty,
        run: pre::rights,
    },
    Test {
        id: "validators.pre-transaction",
        title: "pre-validate warns of a transaction that is left open",
        start: Start::Empty,
        run: pre::transaction,
    },
    Test {
        id: "validators.pre-files",
        title: "pre-validate refuses a broken file, a missing number, and names both",
        start: Start::Empty,
        run: pre::files,
    },
    Test {
        id: "validators.pre-database",
        title: "pre-validate finds what stands in the way in the database and in the folder of the backups",
        start: Start::Empty,
        run: pre::database,
    },
    Test {
        id: "validators.pre-extension",
        title: "pre-validate tells an extension that is there from one that is only available",
        start: Start::Empty,
        run: pre::extension,
    },
    Test {
        id: "validators.post-passes",
        title: "post-validate passes the migrated database, and leaves nothing in it",
        start: Start::Migrated,
        run: post::passes,
    },
    Test {
        id: "validators.post-unmigrated",
        title: "post-validate does not pass a database that nobody has migrated",
        start: Start::Empty,
        run: post::unmigrated,
    },
    Test {
        id: "validators.post-ledger",
        title: "post-validate finds a failure, a changed file, a stranger and a paused job in the ledger",
        start: Start::Migrated,
        run: post::ledger,
    },
    Test {
        id: "validators.post-schemas",
        title: "post-validate finds a promised schema that is gone",
        start: Start::Migrated,
        run: post::schemas,
    },
    Test {
        id: "validators.post-objects",
        title: "post-validate finds promised tables, columns, functions, triggers and views that are gone or switched off",
        start: Start::Migrated,
        run: post::objects,
    },
    Test {
        id: "validators.post-hypertables",
        title: "post-validate finds a hypertable that is a plain table again, one with another interval, and lost policies",
        start: Start::Migrated,
        run: post::hypertables,
    },
    Test {
        id: "validators.post-lost",
        title: "post-validate finds a row and an index that are gone since pre-validate has noted them",
        start: Start::Migrated,
        run: post::lost,
    },
    Test {
        id: "validators.post-health",
        title: "post-validate finds a slow query, dead rows and a transaction that is left open",
        start: Start::Migrated,
        run: post::health,
    },
    Test {
        id: "validators.post-rolled-back",
        title: "post-validate finds what was changed in a database after it was rolled back",
        start: Start::Empty,
        run: post::rolled_back,
    },
];

/// Limits that any machine keeps: what is tested is the database.
const SMALL: &str = "--min-disk=1 --min-memory=1 --min-available=1";

/// What a validator must find.
struct Finds {
    check: &'static str,
    verdict: &'static str,
    /// Empty where the check names none.
    object: String,
}

/// A tampering, and what must be found of it.
struct Broken {
    check: &'static str,
    verdict: &'static str,
    /// Breaks it and gives the object that is to be named; None where the installation has nothing of the kind.
    make: fn(&Case<'_>, &Expected) -> Result<Option<String>, Stop>,
}

/// Breaks all of them; what there is nothing of is said.
fn broken(case: &mut Case<'_>, expected: &Expected, all: &[Broken]) -> Result<Vec<Finds>, Stop> {
    let (mut wanted, mut left) = (Vec::new(), Vec::new());
    for Broken { check, verdict, make } in all {
        match make(case, expected)? {
            Some(object) => wanted.push(Finds { check, verdict, object }),
            None => left.push(*check),
        }
    }
    if !left.is_empty() {
        case.notes
            .push(format!("there is nothing of the kind, so it was not broken here: {}", left.join(", ")));
    }
    Ok(wanted)
}

/// Runs a validator: each must be found, and it must end with this code.
fn finds(
    case: &mut Case<'_>,
    tool: &str,
    words: &str,
    variables: &[(&str, &str)],
    wanted: &[Finds],
    code: i32,
) -> Result<Ran, Stop> {
    let ran = case.tool_with(tool, &format!("{words} --json"), variables)?;
    for Finds { check, verdict, object } in wanted {
        let checks: Vec<Value> =
            ran.records("check").into_iter().filter(|record| record["id"] == *check).collect();
        let fits = |record: &Value| {
            record["verdict"] == *verdict && record["object"].as_str().unwrap_or_default() == object
        };
        if !checks.iter().any(fits) {
            let seen: Vec<String> = checks
                .iter()
                .take(5)
                .map(|record| format!("{} {}", record["verdict"], record["object"]))
                .collect();
            return Err(ran.wrong(&format!(
                "does not say {verdict} of the check {check} on {object:?}, but {}",
                if seen.is_empty() { "nothing".to_owned() } else { seen.join(", ") }
            )));
        }
    }
    ran.exits(code)
}

/// The same for one check.
fn find(
    case: &mut Case<'_>,
    (tool, words): (&str, &str),
    (check, verdict, object): (&'static str, &'static str, &str),
    code: i32,
) -> Done {
    finds(case, tool, words, &[], &[Finds { check, verdict, object: object.to_owned() }], code).map(drop)
}

/// What the migrations promise.
pub(super) fn promised(case: &Case<'_>) -> Result<Expected, Stop> {
    let file = case.ground.migrations.join("expected.json");
    let text = fs::read_to_string(&file)
        .map_err(|_| Stop::Skipped(format!("nothing is promised: there is no {}", file.display())))?;
    Ok(expected::parse(&text, &file.display().to_string())?)
}

/// A database before a validator looks at it.
struct Before {
    objects: ms5_common::catalog::Inventory,
    state: Vec<String>,
}

impl Before {
    fn take(case: &Case<'_>) -> Result<Self, Stop> {
        Ok(Self { objects: case.inventory()?, state: case.state()? })
    }

    /// That every object, every row and every sequence is as it was.
    fn is_kept(&self, case: &Case<'_>) -> Done {
        let differences = self.objects.compare(&case.inventory()?);
        must(differences.is_empty(), || {
            format!("{} objects are not as they were, such as {}", differences.len(), differences[0])
        })?;
        super::backup::same_state(case, &self.state)
    }
}

/// That a run says something of each check that its tool has, by its own list.
fn makes_all(case: &mut Case<'_>, tool: &str, ran: &Ran) -> Done {
    let list = case.tool(tool, "--list-checks")?.exits(0)?;
    let made: BTreeSet<String> =
        ran.records("check").iter().filter_map(|check| Some(check["id"].as_str()?.to_owned())).collect();
    let rows = list.stdout.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let ids: Vec<&str> = rows.filter(|id| !id.is_empty()).collect();
    must(!ids.is_empty(), || format!("{tool} --list-checks shows none"))?;
    match ids.iter().find(|id| !made.contains(**id)) {
        Some(missing) => Err(ran.wrong(&format!("says nothing of the check {missing}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    /// What no test breaks, and why.
    const NOT_BROKEN: &[(&str, &str)] = &[
        ("cpu", "the load is the machine's"),
        ("server-version", "a server of another version"),
        ("owner", "a table of another role, which only a superuser makes"),
        ("preload", "a setting of the server"),
        ("matrix", "another version of TimescaleDB"),
        ("licence", "nothing is wanted of it"),
        ("restoring", "only a superuser leaves a restore open"),
        ("hypertable", "a lock on the catalog, for which everybody would wait"),
        ("workers", "a setting of the server"),
        ("disk-data", "the server's disk"),
        ("shared-buffers", "a setting of the server"),
        ("work-mem", "nothing is wanted of it"),
        ("maintenance-work-mem", "a database of more than 1 GB"),
        ("max-wal-size", "a database of a size"),
        ("activity", "nothing is wanted of it"),
        ("superuser", "which role it is"),
        ("same-role", "which role it is"),
        ("password", "a role of another kind"),
        ("tls", "where the server is"),
        ("hba", "a file of the server"),
        ("container", "a container of the machine"),
        ("inventory", "a catalog that cannot be read; that it is taken is tested"),
        ("refresh-policies", "a job that runs; the aggregate itself is broken"),
        ("jobs", "a job that fails by its schedule"),
        ("compression", "settings that cannot be changed while chunks are compressed"),
        ("timescaledb-functions", "functions of the extension"),
        ("chunk-exclusion", "the server's planner"),
        ("compression-savings", "never a fault"),
        ("size", "never a fault"),
        ("connections", "others would find none left"),
        ("jobs-due", "an hour"),
        ("disk-io", "never a fault"),
        ("wal-rate", "never a fault"),
    ];

    #[test]
    fn every_check_is_broken_by_a_test_or_has_its_reason() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/checks.md");
        let page = std::fs::read_to_string(page).unwrap();
        let (_, tables) = page.split_once("## pre-validate").unwrap();
        let ids = tables.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
        let ids: BTreeSet<&str> = ids.filter(|id| *id != "id").collect();
        let mut covered: BTreeSet<&str> =
            super::pre::CHECKS.iter().chain(super::post::CHECKS).copied().collect();
        covered.extend(super::post::TABLES.iter().flat_map(|table| table.iter().map(|broken| broken.check)));
        covered.extend(super::pre::TABLE.iter().map(|broken| broken.check));
        let left: BTreeSet<&str> = NOT_BROKEN.iter().map(|(id, _)| *id).collect();
        let all: BTreeSet<&str> = covered.union(&left).copied().collect();
        assert_eq!(all, ids);
        assert_eq!(covered.intersection(&left).count(), 0, "both broken and not");
    }
}
