//! The pages of `--html` and of migration-tests in a real browser: wide and narrow, light, dark and for print, without script and
//! network; and every figure on them is the one of the records.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use migration_tests::lab::Lab;
use migration_tests::program::{Program, Ran, TempDir, bin_dir, project_root};
use migration_tests::server::{Engine, Server};
use ms5_common::report;
use serde_json::{Value, json};

#[path = "report/suite.rs"]
mod suite;

/// What a browser sees of some pages.
fn look(pages: &[&Path]) -> Vec<Value> {
    let mut script = Program::at(&project_root().join("scripts/browser.sh")).arg("look").args(pages);
    for name in ["HOME", "XDG_CACHE_HOME", "MS5_SANDBOX_HOME", "MS5_SCREENSHOTS", "NODE_EXTRA_CA_CERTS"] {
        if let Some(value) = std::env::var_os(name) {
            script = script.env(name, value);
        }
    }
    let seen: Value = serde_json::from_str(&script.run().expect(0).stdout()).unwrap();
    seen.as_array().unwrap().clone()
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// What holds of every page.
fn is_sound(page: &Value) {
    let file = &page["file"];
    assert_eq!(page["requests"], json!([]), "{file}: nothing is loaded");
    assert_eq!(page["complaints"], json!([]), "{file}");
    assert_eq!((&page["scripts"], &page["lang"]), (&json!(0), &json!("en")), "{file}");
    let headings: Vec<u64> =
        page["headings"].as_array().unwrap().iter().map(|level| level.as_u64().unwrap()).collect();
    assert_eq!(headings.iter().filter(|level| **level == 1).count(), 1, "{file}: {headings:?}");
    assert_eq!(headings[0], 1);
    assert!(headings.windows(2).all(|pair| pair[1] <= pair[0] + 1), "{file}: {headings:?}");
    for chart in page["charts"].as_array().unwrap() {
        assert_eq!(chart["role"], "img", "{file}: {chart}");
        assert!(!chart["name"].as_str().unwrap().is_empty(), "{file}: {chart}");
        assert!(chart["about"].as_str().unwrap().len() > 20, "{file}: {chart}");
    }
    for table in page["tables"].as_array().unwrap() {
        assert!(!table["caption"].as_str().unwrap().is_empty(), "{file}: {table}");
        assert!(table["columns"].as_u64().unwrap() > 1 && table["named"] == true, "{file}: {table}");
    }
    let mut ids = texts(&page["ids"]);
    for link in texts(&page["links"]) {
        assert!(ids.contains(&link.strip_prefix('#').unwrap()), "{file}: {link} leads nowhere");
    }
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "{file}: each id is one element's");
    let views = page["views"].as_array().unwrap();
    assert_eq!(views.len(), 10, "{file}");
    for view in views {
        let what = format!("{file} {} open: {}", view["name"], view["open"]);
        assert!(view["content"].as_u64() <= view["wide"].as_u64(), "{what}: wider than the window: {view}");
        assert_eq!(view["beyond"], json!([]), "{what}");
        assert_eq!(view["crowded"], json!([]), "{what}");
        assert_eq!(view["faint"], json!([]), "{what}");
        assert!(view["contrast"].as_f64().unwrap() >= 4.5, "{what}");
        assert!(view["letters"].as_u64().unwrap() > 300, "{what}: hardly any text");
        if view["name"] == "print" {
            assert_eq!(view["folded"], json!(0), "{what}: paper cannot be unfolded");
        }
    }
}

/// What cannot be seen stands on a page as what can.
fn visible(text: &str) -> String {
    text.replace('\u{1b}', "\u{241b}").replace('\u{202e}', "\\u{202e}")
}

/// The figures of a page by record and field, as often as they stand there.
struct Figures<'a>(BTreeMap<(&'a str, &'a str), &'a Value>);

impl<'a> Figures<'a> {
    fn of(page: &'a Value) -> Self {
        let mut found = BTreeMap::new();
        for record in page["records"].as_array().unwrap() {
            let key = (record["record"].as_str().unwrap(), record["key"].as_str().unwrap());
            assert!(found.insert(key, &record["fields"]).is_none(), "{key:?} stands there twice");
        }
        Self(found)
    }

    fn number(&self, kind: &str) -> usize {
        self.0.keys().filter(|(known, _)| *known == kind).count()
    }

    /// Holds the fields of a record to what the page says.
    fn equal(&self, kind: &str, key: &str, record: &Value, fields: &[&str]) {
        let key = &*visible(key);
        let shown = self.0.get(&(kind, key)).unwrap_or_else(|| panic!("no {kind} {key} on the page"));
        for field in fields {
            let wanted = match &record[*field] {
                Value::Null => {
                    assert!(shown.get(*field).is_none(), "{kind} {key}: {field} is not known: {shown}");
                    continue;
                }
                Value::String(text) => text.clone(),
                value => value.to_string(),
            };
            assert_eq!(shown[*field]["value"], json!(visible(&wanted)), "{kind} {key}: {field}");
            assert!(
                !shown[*field]["text"].as_str().unwrap().is_empty() || wanted.is_empty(),
                "{kind} {key}: {field}"
            );
        }
    }
}

fn of_kind<'a>(records: &'a [Value], kind: &str) -> Vec<&'a Value> {
    records.iter().filter(|record| record["type"] == kind).collect()
}

fn in_schema(records: &[Value]) {
    let text = fs::read_to_string(project_root().join("docs/records.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&text).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for record in records {
        let errors: Vec<String> = validator.iter_errors(record).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{record}\n{}", errors.join("\n"));
    }
}

/// Every figure of a chain's records, on its page.
fn holds_the_story(page: &Value, records: &[Value]) {
    let figures = Figures::of(page);
    for migration in of_kind(records, "migration") {
        let file = migration["file"].as_str().unwrap();
        figures.equal(
            "migration",
            file,
            migration,
            &["name", "file", "checksum", "outcome", "began", "milliseconds", "statements"],
        );
        for lock in migration["locks"].as_array().unwrap() {
            let key = format!("{file} {}", lock["on"].as_str().unwrap());
            figures.equal("lock", &key, lock, &["on", "lock", "statements", "rewrites"]);
        }
    }
    let mut place = BTreeMap::new();
    for check in of_kind(records, "check") {
        let run = check["run_id"].as_str().unwrap();
        let number = place.entry(run).or_insert(0);
        figures.equal(
            "check",
            &format!("{run} {number}"),
            check,
            &["id", "verdict", "object", "seen", "wanted"],
        );
        *number += 1;
    }
    let name = |record: &Value| {
        format!("{}.{}", record["schema"].as_str().unwrap(), record["table"].as_str().unwrap())
    };
    for table in of_kind(records, "table") {
        figures.equal("rows", &name(table), table, &["rows", "hash"]);
    }
    for rows in of_kind(records, "rows") {
        figures.equal("rows", &name(rows), rows, &["after", "added", "verdict"]);
    }
    for verdict in of_kind(records, "verdict") {
        figures.equal("verdict", verdict["run_id"].as_str().unwrap(), verdict, &["seconds", "exit"]);
    }
    let hypertables: BTreeMap<String, &Value> =
        of_kind(records, "hypertable").into_iter().map(|record| (name(record), record)).collect();
    assert_eq!(figures.number("hypertable"), hypertables.len());
    for (name, record) in hypertables {
        let chunks = record["chunks"].as_array().unwrap();
        let of_page = json!({
            "chunks": chunks.len(),
            "bytes": chunks.iter().map(|chunk| chunk["bytes"].as_u64().unwrap()).sum::<u64>(),
            "time_column": record["time_column"], "rows_estimate": record["rows_estimate"],
        });
        figures.equal("hypertable", &name, &of_page, &["chunks", "bytes", "time_column", "rows_estimate"]);
        for (number, chunk) in chunks.iter().enumerate() {
            figures.equal(
                "chunk",
                &format!("{name} {number}"),
                chunk,
                &["begin", "end", "bytes", "compressed"],
            );
        }
    }
}

/// Every figure of the records of migration-tests, on their page.
fn holds_the_tests(page: &Value, records: &[Value]) {
    let figures = Figures::of(page);
    assert_eq!(figures.number("test"), of_kind(records, "test").len());
    for test in of_kind(records, "test") {
        let id = test["id"].as_str().unwrap();
        figures.equal("test", id, test, &["outcome", "title", "seconds", "began", "lane"]);
        for (place, command) in test["commands"].as_array().unwrap().iter().enumerate() {
            figures.equal("command", &format!("{id} {place}"), command, &["line", "exit", "seconds"]);
        }
    }
    for measure in of_kind(records, "measure") {
        let key = format!("{} {}", measure["test"].as_str().unwrap(), measure["name"].as_str().unwrap());
        let mut fields = vec!["name", "value"];
        let same_test =
            of_kind(records, "measure").into_iter().filter(|other| other["test"] == measure["test"]);
        // Where nothing of a test is compared, there is no column for what is usual.
        if same_test.into_iter().any(|other| other["compared"] != 0) {
            fields.extend(["usual", "threshold", "compared"]);
        }
        figures.equal("measure", &key, measure, &fields);
    }
    let counts = &of_kind(records, "verdict")[0]["counts"];
    figures.equal("counts", "tests", counts, &["passed", "warned", "failed", "skipped"]);
    for installation in of_kind(records, "installation") {
        let run = installation["run_id"].as_str().unwrap();
        figures.equal("installation", run, installation, &["server", "timescaledb", "license", "jobs"]);
        let machine = &installation["machine"];
        let fields = ["host", "os", "kernel", "processor", "processors", "memory_bytes"];
        figures.equal("installation", run, machine, &fields);
        for tool in installation["tools"].as_array().unwrap() {
            figures.equal("tool", tool["tool"].as_str().unwrap(), tool, &["tool", "version", "path"]);
        }
    }
}

const FIELD: [&str; 3] = ["schema.sql", "reference.sql", "data.sql"];

/// The field's database, not yet migrated.
fn field() -> Lab<'static> {
    let lab = Lab::new(Server::shared(Engine::Pg17), &[]);
    let files: Vec<PathBuf> =
        FIELD.iter().map(|file| project_root().join("tests/fixtures/field").join(file)).collect();
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let _ = lab.database.psql_files(&[], &files).expect(0);
    lab
}

fn sh(lab: &Lab<'_>, line: &str) -> Ran {
    let path = format!("{}:/usr/bin:/bin", bin_dir().unwrap().display());
    let folder = project_root().join("migrations");
    Program::at(Path::new("/bin/sh"))
        .envs(&lab.database.variables())
        .env("MS5_HOME", lab.home())
        .env("PATH", path)
        .current_dir(lab.home())
        .args(["-c", &format!("export MS5_MIGRATIONS_DIR='{}'; {line}", folder.display())])
        .run()
}

fn records(file: &Path) -> Vec<Value> {
    fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_story_of_a_chain_is_a_page_for_an_auditor() {
    let lab = field();
    let chain = "pre-validate --json --min-disk=1 --min-memory=1 | migration-runner --gate=- --json --prove |
                 post-validate --against=- --html=migration.html --report=story.jsonl";
    let _ = sh(&lab, chain).expect(0);
    let story = records(&lab.home().join("story.jsonl"));
    in_schema(&story);
    assert_eq!(of_kind(&story, "rows").len(), 5, "each hypertable to be is compared");
    assert_eq!(of_kind(&story, "hypertable").len(), 10, "seen by the runner and by post-validate");
    assert!(
        of_kind(&story, "hypertable").iter().all(|table| !table["chunks"].as_array().unwrap().is_empty())
    );
    let page = lab.home().join("migration.html");
    assert_eq!(fs::metadata(&page).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(
        fs::read_to_string(&page).unwrap() == report::page(&story),
        "the page is the records' and nothing else's"
    );

    // What was lost and changed since is the first thing to be read.
    lab.database
        .superuser()
        .unwrap()
        .batch_execute(
            "DELETE FROM factory_telemetry.oee_calculations WHERE id = (SELECT min(id) FROM factory_telemetry.oee_calculations);
             DROP INDEX factory_telemetry.idx_users_department",
        )
        .unwrap();
    let _ =
        sh(&lab, "post-validate --against=story.jsonl --html=failed.html --report=failed.jsonl").expect(1);
    let failed = lab.home().join("failed.html");
    let failed_story = records(&lab.home().join("failed.jsonl"));

    let seen = look(&[&page, &failed]);
    seen.iter().for_each(is_sound);
    holds_the_story(&seen[0], &story);
    let verdict = seen[0]["verdict"].as_str().unwrap();
    for text in ["Passed", "9 files applied", "in 5 tables: every one is there as it was."] {
        assert!(verdict.contains(text), "{verdict}");
    }
    assert!(seen[0]["title"].as_str().unwrap().contains(&lab.database.name), "{}", seen[0]["title"]);
    let rows: u64 = of_kind(&story, "table").iter().map(|table| table["rows"].as_u64().unwrap()).sum();
    assert!(verdict.replace(',', "").contains(&format!("{rows} rows")), "{verdict}");

    let verdict = seen[1]["verdict"].as_str().unwrap();
    for text in ["Failed", "In 1 table rows are lost or are not what they were."] {
        assert!(verdict.contains(text), "{verdict}");
    }
    let items = texts(&seen[1]["items"]);
    assert!(
        items[0].contains("failed") && items.iter().any(|item| item.contains("idx_users_department")),
        "{items:?}"
    );
    let figures = Figures::of(&seen[1]);
    let lost =
        of_kind(&failed_story, "rows").into_iter().rev().find(|rows| rows["verdict"] == "different").unwrap();
    figures.equal("rows", "factory_telemetry.oee_calculations", lost, &["after", "verdict"]);
}

#[test]
fn a_file_that_cannot_be_written_is_said_before_anything_is_touched() {
    let lab = Lab::new(Server::shared(Engine::Pg17), &[("001_a.sql", "CREATE TABLE a (id int);")]);
    let _ =
        lab.run("--html=nowhere/run.html").expect(3).shows(&["cannot write the page", "nothing was touched"]);
    let _ = lab
        .run("--html=run.html --report=run.html")
        .expect(2)
        .shows(&["--report and --html name the same file"]);
    assert_eq!(lab.ask("SELECT to_regclass('a') IS NULL AND to_regclass('migration_log') IS NULL"), "true");
    // Half a page is never taken for a whole one.
    fs::write(lab.home().join("run.html"), "of yesterday").unwrap();
    lab.write("001_a.sql", b"SELECT nonsense;");
    let _ = lab.run("--html=run.html").expect(1);
    let page = fs::read_to_string(lab.home().join("run.html")).unwrap();
    assert!(
        page.contains("Failed") && page.contains("SQLSTATE 42703") && page.ends_with("</html>\n"),
        "{}",
        page.len()
    );
    let left: Vec<_> = fs::read_dir(lab.home()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".part")), "{left:?}");
    // A look at a plan is a page as well.
    lab.write("001_a.sql", b"CREATE TABLE a (id int);");
    for (flags, words) in [
        ("--plan", "A plan was made: nothing was changed."),
        ("--dry-run", "A dry run"),
        ("--status", "nothing was changed"),
    ] {
        let _ = lab.run(&format!("{flags} --html=look.html")).expect(0);
        let page = fs::read_to_string(lab.home().join("look.html")).unwrap();
        assert!(page.contains(words), "{flags}: {page}");
    }
}

#[test]
fn the_report_of_the_tests_has_failures_first_and_every_figure() {
    let records = suite::records();
    in_schema(&records);
    let folder = TempDir::new("report").unwrap();
    let page = folder.path().join("tests.html");
    fs::write(&page, report::page(&records)).unwrap();
    let hostile = folder.path().join("hostile.html");
    let hostile_records = suite::hostile();
    in_schema(&hostile_records);
    fs::write(&hostile, report::page(&hostile_records)).unwrap();
    let empty = folder.path().join("empty.html");
    fs::write(&empty, report::page(&suite::empty())).unwrap();

    let seen = look(&[&page, &hostile, &empty]);
    seen.iter().for_each(is_sound);
    for (page, records) in seen.iter().zip([&records, &hostile_records]) {
        holds_the_tests(page, records);
    }
    // Every command's output stands there, and the tests that did not pass stand first.
    let text = seen[0]["text"].as_str().unwrap();
    for test in of_kind(&records, "test") {
        for part in test["commands"].as_array().unwrap() {
            assert!(text.contains(part["output"].as_str().unwrap().trim()), "{part}");
        }
        for reason in test["reasons"].as_array().unwrap() {
            assert!(text.contains(reason.as_str().unwrap()), "{reason}");
        }
    }
    let order: Vec<&str> = texts(&seen[0]["order"]);
    let outcome = |id: &str| {
        of_kind(&records, "test").into_iter().find(|test| test["id"] == id).unwrap()["outcome"].clone()
    };
    let ranks: Vec<usize> = order
        .iter()
        .map(|id| {
            ["failed", "warned", "skipped", "passed"].iter().position(|word| outcome(id) == *word).unwrap()
        })
        .collect();
    assert!(ranks.is_sorted(), "{order:?}");
    assert!(
        seen[1]["text"].as_str().unwrap().contains("<script>alert(1)</script>"),
        "hostile names are text"
    );
}

/// migration-tests on the shared server, by a role that may not restore hypertables, in a home with what an installation has. The
/// server has a database of every environment: so `--yes`.
fn suite_in(home: &Path, words: &str) -> Program {
    let server = Server::shared(Engine::Pg17);
    for folder in ["scripts", "migrations", "tests"] {
        if !home.join(folder).exists() {
            std::os::unix::fs::symlink(project_root().join(folder), home.join(folder)).unwrap();
        }
    }
    let mut program = Program::at(&bin_dir().unwrap().join("migration-tests"))
        .env("MS5_HOME", home)
        .env("PATH", format!("{}:{}", server.bin().display(), std::env::var("PATH").unwrap()))
        .current_dir(home)
        .arg("--yes")
        .args(words.split_whitespace());
    for name in ["DB_HOST", "DB_PORT", "DB_USER", "POSTGRES_PASSWORD_TEST"] {
        program = program.env(name, server.variable(name));
    }
    program
}

#[test]
fn a_real_run_of_the_tests_is_a_page_with_every_figure_of_its_records() {
    let home = TempDir::new("real-report").unwrap();
    let home = home.path();
    let _ = suite_in(home, "--filter=performance.queries").run().expect(0);
    // Three such runs are enough to compare with; one was slower by far and does not count.
    let measures = home.join("logs/tests/measures_test.jsonl");
    let line = fs::read_to_string(&measures).unwrap();
    let run: Value = serde_json::from_str(line.trim()).unwrap();
    let mut slow = run.clone();
    slow["measures"].as_object_mut().unwrap().values_mut().for_each(|value| *value = json!(4711.25));
    fs::write(&measures, format!("{run}\n{run}\n{run}\n{slow}\n")).unwrap();
    let filter = "environment,runner.help,runner.dry-run,runner.broken-file,validators.pre,backup.create,integration.gate,integration.restore,\
                  performance.queries";
    let words = format!("--parallel --jobs=3 --report=real.jsonl --html=real.html --filter={filter}");
    let _ = suite_in(home, &words).run().expect(0);

    let records = records(&home.join("real.jsonl"));
    in_schema(&records);
    let page = home.join("real.html");
    assert!(fs::read_to_string(&page).unwrap() == report::page(&records), "the page is the records'");
    let seen = look(&[&page]);
    is_sound(&seen[0]);
    holds_the_tests(&seen[0], &records);
    let verdict = seen[0]["verdict"].as_str().unwrap();
    let skipped = of_kind(&records, "test").into_iter().filter(|test| test["outcome"] == "skipped").count();
    assert!(skipped >= 1 && verdict.contains("could not be made here"), "{verdict}");
    let installation = of_kind(&records, "installation")[0];
    let licence = Server::shared(Engine::Pg17)
        .superuser("template1")
        .unwrap()
        .query_one("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'", &[]);
    assert_eq!(
        licence.unwrap().get::<_, i64>(0),
        0,
        "a normal server: the extension is only in databases that use it"
    );
    assert!(["apache", "timescale"].contains(&installation["license"].as_str().unwrap()), "{installation}");
    assert!(!seen[0]["text"].as_str().unwrap().contains("Database postgres"));
    let measures = of_kind(&records, "measure");
    assert!(!measures.is_empty());
    for measure in measures {
        assert_eq!(
            (&measure["compared"], &measure["before"][3]["regressed"]),
            (&json!(3), &json!(true)),
            "{measure}"
        );
    }
    // Side by side they end in any order; on the page they stand in the suite's.
    let order: Vec<usize> = {
        let of =
            |id: &str| of_kind(&records, "test").into_iter().find(|test| test["id"] == id).unwrap().clone();
        let passed = texts(&seen[0]["order"]).into_iter().map(of).filter(|test| test["outcome"] == "passed");
        passed.map(|test| usize::try_from(test["order"].as_u64().unwrap()).unwrap()).collect()
    };
    assert!(order.len() > 8 && order.is_sorted(), "{order:?}");
}

#[test]
fn a_build_server_hears_of_a_signal_of_strictness_and_of_nothing_proven() {
    let home = TempDir::new("junit").unwrap();
    let home = home.path();
    let junit = home.join("junit.xml");
    let read = || fs::read_to_string(&junit).unwrap();
    fs::write(&junit, "of yesterday").unwrap();
    let _ = suite_in(home, "--junit=junit.xml --filter=integration.restore").run().expect(1);
    assert!(read().contains("tests=\"2\" failures=\"0\" skipped=\"1\" errors=\"1\""), "{}", read());
    assert!(read().contains("proved nothing"), "{}", read());
    let words = "--strict --junit=junit.xml --filter=integration.restore,integration.gate";
    let _ = suite_in(home, words).run().expect(1);
    assert!(read().contains("tests=\"2\" failures=\"1\" skipped=\"0\" errors=\"0\""), "{}", read());
    assert_eq!(fs::metadata(&junit).unwrap().permissions().mode() & 0o777, 0o600);
    let _ = suite_in(home, "--junit=junit.xml --filter=runner.help").env("DB_PORT", "1").run().expect(4);
    assert!(read().contains("<error message=") && read().contains("0 of 1 tests were made"), "{}", read());

    fs::write(&junit, "of yesterday").unwrap();
    let mut running = suite_in(home, "--junit=junit.xml --filter=runner.help,integration").start();
    while !fs::read_dir(home.join("logs/tests")).unwrap().any(|log| {
        fs::read_to_string(log.unwrap().path()).is_ok_and(|text| {
            text.contains("Starting MS5.0") && text.contains("✅ runner.help") && !text.contains("tests in ")
        })
    }) {
        assert!(running.runs(), "it ended before it could be stopped");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(read(), "of yesterday", "half a file is never taken for a whole one");
    running.signal("INT");
    let _ = running.wait().expect(130);
    assert!(read().contains("name=\"runner.help\"") && read().contains("stopped by a signal"), "{}", read());
    let left: Vec<_> = fs::read_dir(home).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".part")), "{left:?}");
}
