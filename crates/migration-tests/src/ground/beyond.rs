//! Statements that reach beyond the database that they run in: what every test executes must not change a server that is shared.
//!
//! Decided on tokens: the first words of a statement, of those in a DO block, and of the text that such a block executes. What a function
//! does when it is called is not seen.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::migrations;
use ms5_common::sql::{Item, Options, Script, Statement, Token, TokenKind, tokens};

/// What is everybody's on a server.
const SHARED: [&str; 6] = ["role", "user", "group", "database", "tablespace", "subscription"];
/// How many places are named.
const NAMED: usize = 10;

/// Refuses migration files and SQL of the field that reach beyond their database.
///
/// # Errors
/// [`Exit::Config`] with file, line and statement.
pub(super) fn refuse(migrations: &Path, field: &[PathBuf]) -> Result<()> {
    let mut found = Vec::new();
    // What cannot be read is executed by nobody, and is named by the tests.
    for migration in migrations::read_folder(migrations, true, &[]).unwrap_or_default() {
        let reach = |statement: &Statement| {
            let path = migration.path_of(statement.file).display();
            Some(format!("{path}:{}: {}", statement.head(), of_statement(statement)?))
        };
        found.extend(migration.statements().filter_map(reach));
    }
    for file in field {
        found.extend(of_field(file));
    }
    if found.is_empty() {
        return Ok(());
    }
    found.truncate(NAMED);
    Err(Error::new(Exit::Config, "the files that tests execute reach beyond the database of a test")
        .because_all(found)
        .because("roles, settings of the server and other databases are everybody's there")
        .because("nothing was touched")
        .hint("test a server that nobody else uses: where none is named, a private one is started")
        .hint("if this one may be changed: migration-tests --beyond-database"))
}

/// The same in a file for psql, which would also follow what leads out of it.
fn of_field(file: &Path) -> Vec<String> {
    let path = file.display().to_string();
    let open = |path: &str| -> io::Result<_> { Ok(BufReader::new(File::open(path)?)) };
    let options = Options { path: path.clone(), in_transaction: true, ..Options::default() };
    let script = match Script::open(open, options) {
        Ok(script) => script,
        Err(error) => return vec![error.to_string()],
    };
    let mut found = Vec::new();
    for item in script {
        match item {
            Ok(Item::Statement(statement)) => {
                let reach = of_statement(&statement);
                found.extend(reach.map(|what| format!("{path}:{}: {what}", statement.head())));
            }
            Ok(_) => {}
            // What stands behind it is not seen.
            Err(error) => found.push(error.to_string()),
        }
    }
    found
}

/// What a statement reaches for.
fn of_statement(statement: &Statement) -> Option<String> {
    statement.facts().find_map(|facts| {
        let all: Vec<Token<'_>> = facts.tokens().collect();
        of_tokens(&all).or_else(|| {
            // A function that is made is called by nobody yet.
            let is_code = facts.begins_with(&["do"]);
            let mut bodies = all.iter().filter(|_| is_code).filter_map(Token::string_value);
            bodies.find_map(|body| of_code(&body))
        })
    })
}

/// The same of statements in code, and of what code executes.
fn of_code(code: &str) -> Option<String> {
    let all: Vec<Token<'_>> = tokens(code, true).collect();
    let begins = |place: usize| place == 0 || all.get(place - 1).is_some_and(is_before_statement);
    (0..all.len()).filter(|place| begins(*place)).find_map(|place| {
        let rest = all.get(place..)?;
        let end = rest.iter().position(|token| token.is_symbol(";")).unwrap_or(rest.len());
        let one = rest.get(..end)?;
        of_tokens(one).or_else(|| {
            let executed = one.first().is_some_and(|first| first.is_word("execute"));
            one.iter().filter(|_| executed).filter_map(Token::string_value).find_map(|text| of_code(&text))
        })
    })
}

/// May a statement begin behind this token?
fn is_before_statement(token: &Token<'_>) -> bool {
    token.is_symbol(";")
        || token.is_symbol(">>")
        || ["begin", "then", "else", "loop"].iter().any(|word| token.is_word(word))
}

/// The same of the tokens of one statement.
fn of_tokens(all: &[Token<'_>]) -> Option<String> {
    let word = |place: usize| {
        let token = all.get(place).filter(|token| token.kind == TokenKind::Word)?;
        Some(token.text.to_ascii_lowercase())
    };
    let (first, second) = (word(0)?, word(1).unwrap_or_default());
    let shared = |word: &str| SHARED.contains(&word);
    match first.as_str() {
        "create" | "alter" | "drop" if shared(&second) => {
            let is_mapping = second == "user" && word(2).as_deref() == Some("mapping");
            (!is_mapping).then(|| format!("{first} {second}").to_ascii_uppercase())
        }
        "alter" if second == "system" => Some("ALTER SYSTEM".to_owned()),
        "drop" | "reassign" if second == "owned" => Some(format!("{first} {second}").to_ascii_uppercase()),
        "comment" => {
            let object = word(2).filter(|object| shared(object))?;
            Some(format!("COMMENT ON {}", object.to_ascii_uppercase()))
        }
        "grant" | "revoke" => {
            let verb = first.to_ascii_uppercase();
            let Some(on) = all.iter().position(|token| token.is_word("on")) else {
                return Some(format!("{verb} of a role"));
            };
            let object = word(on + 1)
                .filter(|object| ["database", "tablespace", "parameter"].contains(&object.as_str()))?;
            Some(format!("{verb} ... ON {}", object.to_ascii_uppercase()))
        }
        "copy" => all
            .windows(2)
            .any(|pair| (pair[0].is_word("to") || pair[0].is_word("from")) && pair[1].is_word("program"))
            .then(|| "COPY ... PROGRAM".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sql: &str) -> Option<String> {
        let folder = std::env::temp_dir().join(format!("ms5-beyond-{}-{}", std::process::id(), sql.len()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("one.sql");
        std::fs::write(&file, sql).unwrap();
        let mut found = of_field(&file);
        std::fs::remove_dir_all(folder).unwrap();
        found.pop().map(|line| line.split_once("one.sql:").unwrap().1.to_owned())
    }

    #[test]
    fn what_is_everybodys_is_named_with_its_place() {
        for (sql, says) in [
            ("SELECT 1;\n  alter user x SET work_mem = 1;", "2:3: ALTER USER"),
            ("/* ALTER */ DROP DATABASE x;", "1:13: DROP DATABASE"),
            ("REVOKE ALL ON DATABASE a FROM b;", "1:1: REVOKE ... ON DATABASE"),
            ("GRANT a TO b;", "1:1: GRANT of a role"),
            ("COMMENT ON ROLE a IS 'x';", "1:1: COMMENT ON ROLE"),
            ("REASSIGN OWNED BY a TO b;", "1:1: REASSIGN OWNED"),
            ("COPY a FROM PROGRAM 'x';", "1:1: COPY ... PROGRAM"),
            ("DO $$ BEGIN IF a THEN CREATE ROLE b; END IF; END $$;", "1:1: CREATE ROLE"),
            ("DO $$ BEGIN EXECUTE format('DROP ROLE %I', 'b'); END $$;", "1:1: DROP ROLE"),
        ] {
            assert_eq!(of(sql).as_deref(), Some(says), "{sql}");
        }
    }

    #[test]
    fn what_is_of_one_database_is_not() {
        for sql in [
            "CREATE USER MAPPING FOR a SERVER b;",
            "GRANT SELECT ON a TO b;",
            "INSERT INTO a VALUES ('DROP ROLE x');",
            "ALTER DEFAULT PRIVILEGES FOR ROLE a GRANT SELECT ON TABLES TO b;",
            "COPY a (program) FROM stdin;\nALTER SYSTEM\n\\.\n",
            "DO $$ BEGIN RAISE NOTICE 'CREATE ROLE b'; EXECUTE 'GRANT SELECT ON a TO b'; END $$;",
            "CREATE OR REPLACE FUNCTION f() RETURNS void LANGUAGE plpgsql AS 'BEGIN ALTER SYSTEM SET a = 1; END';",
            "COMMENT ON COLUMN a.role IS 'x';",
        ] {
            assert_eq!(of(sql), None, "{sql}");
        }
    }

    #[test]
    fn the_files_that_are_shipped_stay_in_their_database() {
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let field = super::super::template::field_files(&project.join("tests/fixtures/field"));
        assert!(!field.is_empty());
        refuse(&project.join("migrations"), &field).unwrap();
    }
}
