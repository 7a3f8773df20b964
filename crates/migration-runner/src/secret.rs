//! What must not be shown or kept of a statement: the values of variables, and passwords.

use ms5_common::sql::{Statement, Token, TokenKind, tokens};

/// The beginning of a statement, on one line: each variable's value as `:...`, and nothing from a password on.
pub(crate) fn first_words(statement: &Statement) -> String {
    shortened(&statement.without_values(), statement.standard_conforming_strings)
}

/// The same of a text that is not a file's.
pub(crate) fn first_words_of(text: &str) -> String {
    shortened(text, true)
}

fn shortened(text: &str, standard_strings: bool) -> String {
    let shown = password(text, standard_strings).map_or(text, |at| text.get(..at).unwrap_or_default());
    // Only a prefix is looked at: a statement may be megabytes long.
    let prefix: String = shown.trim().chars().take(200).collect();
    let mut line: String =
        prefix.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(100).collect();
    if line.len() < text.trim().len() {
        line.push_str(" ...");
    }
    line
}

/// Whether a statement seems to hold a password.
pub(crate) fn holds_password(statement: &Statement) -> bool {
    password(&statement.text, statement.standard_conforming_strings).is_some()
}

/// Where a password begins, as far as one can tell: at the word, or at the string that holds it.
fn password(text: &str, standard_strings: bool) -> Option<usize> {
    let mut connection = false;
    tokens(text, standard_strings)
        .find(|token| {
            // CREATE SUBSCRIPTION ... CONNECTION 'postgresql://role:password@host/'
            let connects =
                std::mem::replace(&mut connection, token.is_word("connection")) && is_string(token);
            connects || token.is_word("password") || in_string(token, standard_strings)
        })
        .map(|token| token.range.start)
}

/// Whether a string holds one: code, a connection string, or what code puts together. Prose that only speaks of passwords has
/// another word behind it.
fn in_string(token: &Token<'_>, standard_strings: bool) -> bool {
    let Some(text) = token.string_value() else { return false };
    let mut before: Option<Token<'_>> = None;
    let mut found = false;
    for token in tokens(&text, standard_strings) {
        let is_value = !matches!(token.kind, TokenKind::Word | TokenKind::Identifier);
        found |= is_value && before.is_some_and(|before| before.is_word("password"));
        if found || in_string(&token, standard_strings) {
            return true;
        }
        before = Some(token);
    }
    before.is_some_and(|last| last.is_word("password"))
}

fn is_string(token: &Token<'_>) -> bool {
    matches!(
        token.kind,
        TokenKind::String | TokenKind::EscapeString | TokenKind::UnicodeString | TokenKind::DollarString
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_a_password_on_is_shown() {
        for (text, shown) in [
            ("ALTER ROLE a PASSWORD 'x'", "ALTER ROLE a ..."),
            (
                "CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'u', password 'x')",
                "CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'u', ...",
            ),
            (
                "CREATE SUBSCRIPTION s CONNECTION 'host=h password=x' PUBLICATION p",
                "CREATE SUBSCRIPTION s CONNECTION ...",
            ),
            (
                "CREATE SUBSCRIPTION s CONNECTION 'postgresql://a:x@h/d' PUBLICATION p",
                "CREATE SUBSCRIPTION s CONNECTION ...",
            ),
            ("DO $$ BEGIN EXECUTE 'ALTER ROLE a PASSWORD ''x'''; END $$", "DO ..."),
            ("DO $$ BEGIN EXECUTE format('ALTER ROLE a PASSWORD %L', 'x'); END $$", "DO ..."),
            ("DO $$ BEGIN EXECUTE 'ALTER ROLE a PASSWORD ' || quote_literal('x'); END $$", "DO ..."),
            ("SELECT dblink_connect('c', 'host=h password=x')", "SELECT dblink_connect('c', ..."),
            ("SELECT 1,\n  2", "SELECT 1, 2 ..."),
            (
                "SELECT 'the password that was', password_hash",
                "SELECT 'the password that was', password_hash",
            ),
        ] {
            assert_eq!(first_words_of(text), shown, "{text}");
        }
    }
}
