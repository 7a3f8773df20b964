//! psql's backslash commands: which are carried out, which are passed over, which are refused.
//!
//! Sources: `HandleSlashCmds` and `exec_command` in `src/bin/psql/command.c` (PostgreSQL 18). This module reads a
//! command with its arguments and says what it means; the splitter does it.

use super::conditional::Conditionals;
use super::error::{ErrorKind, Problem};
use super::slash::{ArgumentKind, Arguments};
use super::variables::parse_bool;

/// Where the text of `\echo` and its kin goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// `\echo`: standard output.
    Out,
    /// `\qecho`: where query results go.
    QueryOut,
    /// `\warn`: standard error.
    Err,
}

/// A command that was read, its arguments evaluated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// The value is None in a skipped branch.
    If(Option<bool>),
    /// The value is None where psql does not evaluate it.
    Elif(Option<bool>),
    Else,
    EndIf,
    Set {
        name: String,
        value: String,
    },
    Unset {
        name: String,
    },
    Echo {
        stream: Stream,
        text: String,
    },
    Include {
        path: String,
        relative: bool,
    },
    Quit,
    Restrict {
        key: String,
    },
    Unrestrict {
        key: String,
    },
    /// Known, and without any effect on what is sent.
    Ignored,
    /// Stands in a skipped branch.
    Skipped,
}

/// What psql 9.2 to 18 know, for telling "not supported" from "unknown"; with the arguments they read in a
/// skipped branch. `\d...` and `\lo_...` are known by their beginning.
const WHOLE_LINE: [&str; 11] = ["!", "?", "ef", "ev", "h", "help", "sf", "sf+", "sv", "sv+", "unrestrict"];
const FILE_OR_PIPE: [&str; 6] = ["g", "gx", "o", "out", "w", "write"];
const DISPLAY_ONLY: [&str; 12] =
    ["a", "C", "f", "H", "html", "pset", "t", "T", "timing", "x", "errverbose", "copyright"];
const UNSUPPORTED: [&str; 47] = [
    "bind",
    "bind_named",
    "c",
    "cd",
    "close",
    "close_prepared",
    "connect",
    "conninfo",
    "crosstabview",
    "e",
    "edit",
    "endpipeline",
    "flush",
    "flushrequest",
    "gdesc",
    "getenv",
    "getresults",
    "gexec",
    "gset",
    "l",
    "l+",
    "l+x",
    "list",
    "list+",
    "list+x",
    "listx",
    "listx+",
    "lx",
    "lx+",
    "p",
    "parse",
    "password",
    "print",
    "prompt",
    "r",
    "reset",
    "s",
    "sendpipeline",
    "setenv",
    "startpipeline",
    "syncpipeline",
    "watch",
    "z",
    "zS",
    "zSx",
    "zx",
    "zxS",
];

/// Reads the command that begins behind a backslash, up to where SQL goes on.
///
/// `restricted`: between `\restrict` and `\unrestrict`.
pub(super) fn read(
    arguments: &mut Arguments<'_>,
    conditionals: &Conditionals,
    restricted: bool,
) -> Result<(String, Command), Problem> {
    let name = arguments.name()?;
    if restricted && name != "unrestrict" {
        return Err(Problem::new(
            ErrorKind::Restricted,
            format!("\\{name}: backslash commands are restricted; only \\unrestrict is allowed"),
        ));
    }
    let command = evaluate(&name, arguments, conditionals)?;
    arguments.finish()?;
    Ok((name, command))
}

fn evaluate(
    name: &str,
    arguments: &mut Arguments<'_>,
    conditionals: &Conditionals,
) -> Result<Command, Problem> {
    match name {
        "if" => return Ok(Command::If(boolean(name, arguments, conditionals.active())?)),
        "elif" => return Ok(Command::Elif(boolean(name, arguments, conditionals.evaluates_elif())?)),
        "else" => return Ok(Command::Else),
        "endif" => return Ok(Command::EndIf),
        _ => {}
    }
    if !conditionals.active() {
        return skip(name, arguments);
    }
    Ok(match name {
        "set" => match arguments.next(ArgumentKind::Normal, false)? {
            Some(variable) => Command::Set { name: variable.text, value: all(arguments)?.concat() },
            None => Command::Ignored, // lists the variables
        },
        "unset" => Command::Unset { name: required(name, arguments, ArgumentKind::Normal, false)? },
        "echo" => echo(Stream::Out, arguments)?,
        "qecho" => echo(Stream::QueryOut, arguments)?,
        "warn" => echo(Stream::Err, arguments)?,
        "i" | "include" | "ir" | "include_relative" => Command::Include {
            path: required(name, arguments, ArgumentKind::Normal, true)?,
            relative: name.starts_with("ir") || name == "include_relative",
        },
        "q" | "quit" => Command::Quit,
        "restrict" => Command::Restrict { key: required(name, arguments, ArgumentKind::Normal, true)? },
        "unrestrict" => {
            Command::Unrestrict { key: required(name, arguments, ArgumentKind::WholeLine, true)? }
        }
        "encoding" => match arguments.next(ArgumentKind::Normal, false)? {
            Some(encoding) if !is_utf8(&encoding.text) => {
                return Err(Problem::new(
                    ErrorKind::UnsupportedCommand,
                    format!("\\encoding {}: only UTF8 is supported", encoding.text),
                )
                .hint("convert the file to UTF-8 and remove the line"));
            }
            _ => Command::Ignored,
        },
        _ if DISPLAY_ONLY.contains(&name) => {
            all(arguments)?;
            Command::Ignored
        }
        "." => {
            return Err(Problem::new(ErrorKind::UnknownCommand, "\\. stands outside of COPY data")
                .hint("the COPY ... FROM STDIN before it is missing, or its data ended earlier"));
        }
        _ if is_known(name) => {
            return Err(unsupported(name));
        }
        _ => return Err(Problem::new(ErrorKind::UnknownCommand, format!("invalid command \\{name}"))),
    })
}

/// Reads past a command in a skipped branch: psql reads as much of the line as the command would.
fn skip(name: &str, arguments: &mut Arguments<'_>) -> Result<Command, Problem> {
    arguments.active = false;
    if WHOLE_LINE.contains(&name) || name.eq_ignore_ascii_case("copy") {
        arguments.next(ArgumentKind::WholeLine, false)?;
    } else if FILE_OR_PIPE.contains(&name) {
        arguments.next(ArgumentKind::FilePipe, false)?;
    } else if name == "q" || name == "quit" || is_known(name) {
        all(arguments)?;
    } else {
        return Err(Problem::new(ErrorKind::UnknownCommand, format!("invalid command \\{name}")));
    }
    Ok(Command::Skipped)
}

fn is_known(name: &str) -> bool {
    const CARRIED_OUT: [&str; 13] = [
        "set",
        "unset",
        "echo",
        "qecho",
        "warn",
        "i",
        "include",
        "ir",
        "include_relative",
        "restrict",
        "encoding",
        "q",
        "quit",
    ];
    [&CARRIED_OUT[..], &WHOLE_LINE, &FILE_OR_PIPE, &DISPLAY_ONLY, &UNSUPPORTED]
        .iter()
        .any(|names| names.contains(&name))
        || name.eq_ignore_ascii_case("copy")
        || name.starts_with('d')
        || name.starts_with("lo_")
}

fn unsupported(name: &str) -> Problem {
    let problem = Problem::new(ErrorKind::UnsupportedCommand, format!("\\{name} is not supported"));
    match name {
        "copy" => problem.hint("use COPY ... FROM STDIN with the data in the file"),
        "c" | "connect" => problem.hint("a migration runs in one database, as one role"),
        "g" | "gx" => problem.hint("end the statement with a semicolon"),
        "gset" | "gexec" | "gdesc" | "crosstabview" | "watch" => {
            problem.hint("what it does depends on results; use a DO block")
        }
        "!" | "setenv" | "getenv" | "cd" => {
            problem.hint("a migration does not reach outside of the database")
        }
        _ => problem.hint("remove the line"),
    }
}

fn all(arguments: &mut Arguments<'_>) -> Result<Vec<String>, Problem> {
    let mut all = Vec::new();
    while let Some(argument) = arguments.next(ArgumentKind::Normal, false)? {
        all.push(argument.text);
    }
    Ok(all)
}

fn required(
    name: &str,
    arguments: &mut Arguments<'_>,
    kind: ArgumentKind,
    semicolons: bool,
) -> Result<String, Problem> {
    match arguments.next(kind, semicolons)? {
        Some(argument) if !argument.text.is_empty() => Ok(argument.text),
        _ => Err(Problem::new(ErrorKind::Arguments, format!("\\{name}: missing required argument"))),
    }
}

fn boolean(name: &str, arguments: &mut Arguments<'_>, evaluated: bool) -> Result<Option<bool>, Problem> {
    arguments.active = evaluated;
    let expression = all(arguments)?.join(" ");
    if !evaluated {
        return Ok(None);
    }
    // psql reports the wrong word and goes on with false.
    parse_bool(&expression).map(Some).ok_or_else(|| {
        Problem::new(
            ErrorKind::Arguments,
            format!("unrecognized value \"{expression}\" for \"\\{name} expression\": Boolean expected"),
        )
    })
}

fn echo(stream: Stream, arguments: &mut Arguments<'_>) -> Result<Command, Problem> {
    let mut words = Vec::new();
    let mut newline = true;
    while let Some(argument) = arguments.next(ArgumentKind::Normal, false)? {
        if words.is_empty() && newline && !argument.quoted && argument.text == "-n" {
            newline = false;
        } else {
            words.push(argument.text);
        }
    }
    let mut text = words.join(" ");
    if newline {
        text.push('\n');
    }
    Ok(Command::Echo { stream, text })
}

/// The names PostgreSQL takes for UTF8: letters and digits count, case does not.
pub(super) fn is_utf8(encoding: &str) -> bool {
    let name: String = encoding
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|letter| letter.to_ascii_lowercase())
        .collect();
    matches!(name.as_str(), "utf8" | "unicode")
}

#[cfg(test)]
mod tests {
    use super::super::slash::Input;
    use super::super::variables::Variables;
    use super::*;

    fn run(line: &str) -> Result<Command, Problem> {
        let variables = Variables::new(&[]);
        let mut input = Input { line: line.to_owned(), ..Input::default() };
        let mut arguments = Arguments { input: &mut input, variables: &variables, active: true };
        read(&mut arguments, &Conditionals::default(), false).map(|(_, command)| command)
    }

    #[test]
    fn commands() {
        let echo = |text: &str| Ok(Command::Echo { stream: Stream::Out, text: text.to_owned() });
        assert_eq!(run("echo a  'b c'"), echo("a b c\n"));
        assert_eq!(run("echo -n a -n"), echo("a -n"));
        assert_eq!(run("echo '-n' a"), echo("-n a\n"));
        assert_eq!(run("echo"), echo("\n"));
        assert_eq!(run("warn x"), Ok(Command::Echo { stream: Stream::Err, text: "x\n".to_owned() }));
        assert_eq!(run("set a b 'c d'"), Ok(Command::Set { name: "a".to_owned(), value: "bc d".to_owned() }));
        assert_eq!(run("set a"), Ok(Command::Set { name: "a".to_owned(), value: String::new() }));
        assert_eq!(run("set"), Ok(Command::Ignored));
        assert_eq!(run("i 'a b.sql';"), Ok(Command::Include { path: "a b.sql".to_owned(), relative: false }));
        assert_eq!(run("include_relative a"), Ok(Command::Include { path: "a".to_owned(), relative: true }));
        assert_eq!(run("q"), Ok(Command::Quit));
        assert_eq!(run("timing off"), Ok(Command::Ignored));
        assert_eq!(run("pset format unaligned"), Ok(Command::Ignored));
        assert_eq!(run("encoding 'utf-8'"), Ok(Command::Ignored));
        assert_eq!(run("if yes"), Ok(Command::If(Some(true))));
        assert_eq!(run("unrestrict aB1 "), Ok(Command::Unrestrict { key: "aB1".to_owned() }));
    }

    #[test]
    fn refusals_name_the_command() {
        for (line, kind) in [
            ("gexec", ErrorKind::UnsupportedCommand),
            ("COPY t from 'x'", ErrorKind::UnsupportedCommand),
            ("! ls", ErrorKind::UnsupportedCommand),
            ("dt+ public.*", ErrorKind::UnsupportedCommand),
            ("o /dev/null", ErrorKind::UnsupportedCommand),
            ("encoding LATIN1", ErrorKind::UnsupportedCommand),
            ("foo", ErrorKind::UnknownCommand),
            ("", ErrorKind::UnknownCommand),
            (".", ErrorKind::UnknownCommand),
            ("i", ErrorKind::Arguments),
            ("unset", ErrorKind::Arguments),
            ("if perhaps", ErrorKind::Arguments),
            ("if", ErrorKind::Arguments),
            ("echo `date`", ErrorKind::UnsupportedCommand),
        ] {
            assert_eq!(run(line).map_err(|problem| problem.kind), Err(kind), "{line}");
        }
    }
}
