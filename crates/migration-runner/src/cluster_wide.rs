//! Statements that change the whole server and not one database: what they do in a scratch database they do to everybody.

use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::migrations::Migration;
use ms5_common::sql::{Statement, Token, tokens};

/// What a server has once for all of its databases.
const SHARED: [&str; 6] = ["role", "user", "group", "database", "tablespace", "subscription"];

/// Refuses files that hold one, wherever it stands: also in blocks of code and in strings that these execute.
///
/// # Errors
/// [`Exit::Config`], with every place.
pub(crate) fn refuse(migrations: &[&Migration]) -> Result<()> {
    let mut places = Vec::new();
    for migration in migrations {
        for statement in migration.statements() {
            places.extend(find(statement).map(|(at, what)| {
                let path = migration.path_of(statement.file).display();
                format!("{path}:{}: {what}", statement.pos_at(at))
            }));
        }
    }
    if places.is_empty() {
        return Ok(());
    }
    Err(Error::new(Exit::Config, "--adopt cannot prove files that change the whole server")
        .because_all(places)
        .because("in the scratch database it would change roles, databases or settings of this server all the same")
        .because("nothing was touched")
        .hint(
            "give such statements a file of their own, and run that one (--force where it does not say -- ms5: idempotent)",
        ))
}

/// The first one of a statement: its offset in the text, and what it is.
fn find(statement: &Statement) -> Option<(usize, String)> {
    let standard_strings = statement.standard_conforming_strings;
    statement.parts().find_map(|(offset, text)| {
        let all: Vec<Token<'_>> = tokens(text, standard_strings).collect();
        let whole = all.first().and_then(|first| Some((offset + first.range.start, begins(&all)?)));
        whole.or_else(|| {
            all.iter().find_map(|token| {
                let what = within(&token.string_value()?, standard_strings)?;
                Some((offset + token.range.start, what))
            })
        })
    })
}

/// The first one in a string: of code, or of SQL that code executes.
fn within(text: &str, standard_strings: bool) -> Option<String> {
    let all: Vec<Token<'_>> = tokens(text, standard_strings).collect();
    all.iter().enumerate().find_map(|(index, token)| {
        let is_start = index.checked_sub(1).and_then(|before| all.get(before)).is_none_or(|before| {
            before.is_symbol(";") || ["begin", "then", "else", "loop"].iter().any(|word| before.is_word(word))
        });
        let here = if is_start { begins(all.get(index..)?) } else { None };
        here.or_else(|| within(&token.string_value()?, standard_strings))
    })
}

/// What the statement is that begins with these tokens.
fn begins(tokens: &[Token<'_>]) -> Option<String> {
    let is = |index: usize, words: &[&str]| {
        tokens.get(index).is_some_and(|token| words.iter().any(|word| token.is_word(word)))
    };
    let named = |last: usize| {
        let words = tokens.get(..=last).unwrap_or_default().iter().map(|token| token.text.to_uppercase());
        words.collect::<Vec<_>>().join(" ")
    };
    if is(0, &["create", "alter", "drop"]) && is(1, &SHARED) && !is(2, &["mapping"])
        || is(0, &["alter"]) && is(1, &["system"])
        || is(0, &["drop", "reassign"]) && is(1, &["owned"])
    {
        return Some(named(1));
    }
    if !is(0, &["grant", "revoke"]) {
        return None;
    }
    let mut all = tokens.iter().take_while(|token| !token.is_symbol(";"));
    match all.find(|token| ["on", "to", "from"].iter().any(|word| token.is_word(word)))? {
        on if on.is_word("on") => {
            let object = all.next().filter(|object| {
                ["database", "tablespace", "parameter"].iter().any(|word| object.is_word(word))
            });
            object.map(|object| format!("{} ... ON {}", named(0), object.text.to_uppercase()))
        }
        _ => Some(format!("{} of a role", named(0))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ms5_common::migrations::read_folder;

    use super::*;

    #[test]
    fn what_is_the_whole_server_s() {
        for (text, what) in [
            ("CREATE ROLE a", Some("CREATE ROLE")),
            ("alter user a SET work_mem = '1MB'", Some("ALTER USER")),
            ("DROP DATABASE a", Some("DROP DATABASE")),
            ("ALTER SYSTEM SET work_mem = '1MB'", Some("ALTER SYSTEM")),
            ("REASSIGN OWNED BY a TO b", Some("REASSIGN OWNED")),
            ("GRANT a TO b", Some("GRANT of a role")),
            ("REVOKE ADMIN OPTION FOR a FROM b", Some("REVOKE of a role")),
            ("GRANT CONNECT ON DATABASE a TO b", Some("GRANT ... ON DATABASE")),
            ("DO $$ BEGIN IF true THEN CREATE ROLE a; END IF; END $$", Some("CREATE ROLE")),
            ("DO $$ BEGIN EXECUTE format('GRANT %I TO b', 'a'); END $$", Some("GRANT of a role")),
            ("GRANT SELECT, INSERT ON a TO b", None),
            ("REVOKE ALL ON SCHEMA a FROM b", None),
            ("CREATE USER MAPPING FOR a SERVER s", None),
            ("CREATE TABLE role (a int)", None),
            ("DO $$ BEGIN EXECUTE format('GRANT %s ON %I TO %s', 'a', 'b', 'c'); END $$", None),
            ("SELECT 'to create role a is not for here'", None),
        ] {
            let all: Vec<Token<'_>> = tokens(text, true).collect();
            let found =
                begins(&all).or_else(|| all.iter().find_map(|token| within(&token.string_value()?, true)));
            assert_eq!(found.as_deref(), what, "{text}");
        }
    }

    #[test]
    fn the_migrations_that_come_along_can_be_adopted() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations");
        let migrations = read_folder(&folder, false, &[]).unwrap();
        assert!(migrations.len() >= 9);
        refuse(&migrations.iter().collect::<Vec<_>>()).unwrap();
    }
}
