//! The splitter against psql itself: psql runs a file through a proxy that notes each message it sends, and the
//! splitter has to find the same statements in the same file.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use migration_tests::server::{Engine, Server};
use ms5_common::sql::{ErrorKind, Item, Options, Script, SqlError, Statement, Stream, tokens};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

// ---------------------------------------------------------------------------------------------------- the server

/// A server without TimescaleDB on its disk: there a script that loads the library gets an error and goes on.
fn server() -> &'static Server {
    Server::shared(Engine::Plain)
}

/// A client program that goes to `port` of this machine.
fn client(program: &str, port: &str) -> Command {
    let server = server();
    let mut command = Command::new(server.bin().join(program));
    command.env_clear().env("LC_ALL", "C.UTF-8").env("PATH", "/usr/bin:/bin").env("PGCLIENTENCODING", "UTF8");
    command.env("PGUSER", server.variable("MS5_SANDBOX_SUPERUSER"));
    command.env("PGPASSWORD", server.variable("MS5_SANDBOX_SUPERUSER_PASSWORD"));
    command.env("PGSSLMODE", "disable").env("PGGSSENCMODE", "disable").env("PGCONNECT_TIMEOUT", "10");
    command.args(["-h", "127.0.0.1", "-p", port]);
    command
}

/// Runs statements directly, all of which have to succeed.
fn run(database: &str, sql: &str) {
    server().superuser(database).unwrap().batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// A new database.
fn database() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("equal{}", NEXT.fetch_add(1, Ordering::Relaxed));
    run("postgres", &format!("create database {name} template template0"));
    name
}

// ----------------------------------------------------------------------------------------------------- the proxy

/// What a client sent: the text of a Query message, or the data up to a CopyDone.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sent {
    Query(String),
    Data(Vec<u8>),
}

/// What one run of psql did.
struct Run {
    sent: Vec<Sent>,
    stdout: String,
    /// The server ended the session, so psql stopped early.
    connection_lost: bool,
}

/// Runs `psql -f file`.
fn psql(database: &str, file: &Path) -> Run {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let sent = Arc::new(Mutex::new(Vec::new()));
    let proxy = {
        let sent = Arc::clone(&sent);
        std::thread::spawn(move || {
            let (client, _) = listener.accept().unwrap();
            let upstream = TcpStream::connect(("127.0.0.1", server().port())).unwrap();
            upstream.set_nodelay(true).unwrap();
            client.set_nodelay(true).unwrap();
            let (mut from_server, mut to_client) =
                (upstream.try_clone().unwrap(), client.try_clone().unwrap());
            let back = std::thread::spawn(move || {
                let _ = io::copy(&mut from_server, &mut to_client);
                let _ = to_client.shutdown(std::net::Shutdown::Both);
            });
            let _ = record(client, &upstream, &sent);
            let _ = upstream.shutdown(std::net::Shutdown::Both);
            back.join().unwrap();
        })
    };
    let output = client("psql", &port)
        .args(["-X", "-q", "-d", database, "-f"])
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    proxy.join().unwrap();
    let sent = std::mem::take(&mut *sent.lock().unwrap());
    Run {
        sent,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        connection_lost: output.status.code() == Some(2), // EXIT_BADCONN
    }
}

fn record(client: TcpStream, mut upstream: &TcpStream, sent: &Mutex<Vec<Sent>>) -> io::Result<()> {
    let mut client = BufReader::new(client);
    let mut data = Vec::new();
    let mut started = false;
    loop {
        let mut head = vec![0; if started { 5 } else { 4 }];
        client.read_exact(&mut head)?;
        let length = u32::from_be_bytes(head[head.len() - 4..].try_into().unwrap());
        let mut body = vec![0; usize::try_from(length).unwrap() - 4];
        client.read_exact(&mut body)?;
        if started {
            match head[0] {
                b'Q' => {
                    let text = String::from_utf8(body[..body.len() - 1].to_vec()).unwrap();
                    sent.lock().unwrap().push(Sent::Query(text));
                }
                b'd' => data.extend_from_slice(&body),
                b'c' => sent.lock().unwrap().push(Sent::Data(std::mem::take(&mut data))),
                _ => {}
            }
        }
        started = true;
        // In one piece: two small ones would wait for each other's acknowledgement.
        upstream.write_all(&[head, body].concat())?;
    }
}

// ------------------------------------------------------------------------------------------------ the comparison

/// A folder for the files of a test.
fn folder() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("psql-equal-{}-{number}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn split(file: &Path) -> (Vec<Item>, Option<SqlError>) {
    let options = Options { path: file.to_str().unwrap().to_owned(), ..Options::default() };
    let script = Script::open(|path: &str| fs::File::open(path).map(BufReader::new), options).unwrap();
    let mut items = Vec::new();
    for item in script {
        match item {
            Ok(item) => items.push(item),
            Err(error) => return (items, Some(error)),
        }
    }
    (items, None)
}

fn statements(items: &[Item]) -> impl Iterator<Item = &Statement> {
    items.iter().filter_map(|item| match item {
        Item::Statement(statement) => Some(statement),
        _ => None,
    })
}

/// psql sends `;` and bare comments too; the server answers with nothing, and the splitter leaves them out.
fn is_blank(text: &str) -> bool {
    tokens(text, true).all(|token| token.is_symbol(";"))
}

/// What both agree on.
#[derive(Debug)]
struct Agreed {
    statements: usize,
    /// The error that the splitter stopped with. psql may have sent more then; where a quote is open at the end of
    /// the file it sends exactly that.
    error: Option<SqlError>,
    connection_lost: bool,
}

/// Runs a file through both; a description of the first difference is the error.
fn compare(database: &str, file: &Path) -> Result<Agreed, String> {
    let (items, error) = split(file);
    let Run { sent, connection_lost, .. } = psql(database, file);
    let mut ours = statements(&items);
    let (sent, miscounts) = up_to_miscount(sent);
    let mut sent =
        sent.into_iter().filter(|sent| !matches!(sent, Sent::Query(text) if is_blank(text))).peekable();
    let mut count = 0;
    let bytes = fs::read(file).unwrap();
    let several_files = items.iter().any(|item| matches!(item, Item::IncludeStart { .. }));
    while let Some(message) = sent.next() {
        let Sent::Query(theirs) = message else {
            return Err(format!("data without a statement: {message:?}"));
        };
        let Some(statement) = ours.next() else {
            return match error {
                None => Err(format!("psql sends more: {theirs:?}")),
                Some(SqlError { kind: ErrorKind::Unterminated, .. }) if sent.peek().is_some() => {
                    Err(format!("psql sends more than {theirs:?}; our error: {error:?}"))
                }
                error => Ok(Agreed { statements: count, error, connection_lost }),
            };
        };
        let ending = if statement.terminated { ";" } else { "" };
        if theirs != format!("{}{ending}", statement.text) {
            return Err(format!("psql: {theirs:?}\nours: {:?} at {}", statement.text, statement.start));
        }
        if !several_files {
            check_positions(statement, &bytes)?;
        }
        let mut data = statement.copy_data.iter();
        while let Some(Sent::Data(theirs)) = sent.next_if(|sent| matches!(sent, Sent::Data(_))) {
            let data = data.next().ok_or_else(|| format!("no data expected: {}", statement.text))?;
            let start = usize::try_from(data.offset).unwrap();
            let ours = &bytes[start..start + usize::try_from(data.length).unwrap()];
            // psql before 18 sends the end marker along.
            let theirs = [&b"\\.\n"[..], b"\\.\r\n"]
                .iter()
                .find_map(|end| theirs.strip_suffix(*end))
                .unwrap_or(&theirs);
            if ours != theirs || data.lines != ours.iter().filter(|&&byte| byte == b'\n').count() as u64 {
                return Err(format!("data differs: {}\npsql: {theirs:?}\nours: {ours:?}", statement.text));
            }
        }
        count += 1;
    }
    match (ours.next(), error) {
        (Some(statement), _) if !connection_lost && !miscounts => {
            Err(format!("psql does not send {:?}", statement.text))
        }
        (_, error) => Ok(Agreed { statements: count, error, connection_lost }),
    }
}

/// What psql sends up to where it loses count of COPY FROM STDIN, and whether it does.
///
/// psql 15.20 to 18.6 forget to clear the first words of a COPY when the next statement begins, so if that has no word
/// outside of parentheses (`;`, `(select 1);`) they take it for a COPY again and swallow the lines behind it.
fn up_to_miscount(sent: Vec<Sent>) -> (Vec<Sent>, bool) {
    let mut stale = false;
    for (index, message) in sent.iter().enumerate() {
        let Sent::Query(text) = message else { continue };
        let (mut depth, mut words) = (0, Vec::new());
        for token in tokens(text, true) {
            match token.text {
                "(" => depth += 1,
                ")" => depth -= i32::from(depth > 0),
                ";" if depth == 0 => {
                    if stale && words.is_empty() {
                        return (sent[..index].to_vec(), true);
                    }
                    let is_copy = words.first().is_some_and(|word: &String| word == "copy");
                    stale = is_copy || stale && words.is_empty();
                    words.clear();
                }
                word if depth == 0 && token.is_word(&word.to_ascii_lowercase()) => {
                    words.push(word.to_ascii_lowercase());
                }
                _ => {}
            }
        }
    }
    (sent, false)
}

/// The place of the first character of each line of the statement must hold that character in the file.
fn check_positions(statement: &Statement, bytes: &[u8]) -> Result<(), String> {
    let lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    let starts = std::iter::once(0).chain(statement.text.match_indices('\n').map(|(at, _)| at + 1));
    for start in starts {
        let Some(letter) = statement.text[start..].chars().next().filter(|letter| *letter != '\n') else {
            continue;
        };
        let pos = statement.pos_at(start);
        let in_file =
            std::str::from_utf8(&bytes[usize::try_from(pos.offset).unwrap()..]).unwrap().chars().next();
        let line = std::str::from_utf8(lines[pos.line as usize - 1]).unwrap();
        let line = if pos.line == 1 { line.trim_start_matches('\u{feff}') } else { line };
        let in_line = line.chars().nth(pos.column as usize - 1);
        let variable = matches!(in_file, Some(':' | '\\'));
        if !variable && (in_file != Some(letter) || in_line != Some(letter)) {
            return Err(format!(
                "{pos}: {letter:?} is {in_file:?} / {in_line:?} in the file: {:?}",
                statement.text
            ));
        }
    }
    Ok(())
}

fn compare_text(database: &str, text: &str) -> Result<Agreed, String> {
    let folder = folder();
    let file = folder.join("case.sql");
    fs::write(&file, text).unwrap();
    let result = compare(database, &file).map_err(|difference| format!("{difference}\nfile: {text:?}"));
    fs::remove_dir_all(folder).unwrap();
    result
}

// ---------------------------------------------------------------------------------------------------- the corpora

/// All SQL files below a folder.
fn files_below(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root.into()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "sql") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

#[test]
fn installed_sql() {
    let database = database();
    let folder = folder();
    let mut differences = Vec::new();
    let (mut files, mut count) = (0, 0);
    // Of the server with TimescaleDB, whose scripts are the largest and the oddest.
    let share = Server::shared(Engine::Pg17).bin().join("../../../../share/postgresql");
    for path in files_below(&share) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        // The line that keeps psql from running an extension's script.
        let text: String = text
            .split_inclusive('\n')
            .filter(|line| !(line.starts_with("\\echo") && line.contains("\\quit")))
            .collect();
        let file = folder.join("file.sql");
        fs::write(&file, text).unwrap();
        match compare(&database, &file) {
            Ok(Agreed { connection_lost: true, .. }) => {
                differences.push(format!("{}: it ends the session, so nothing is known", path.display()));
            }
            Ok(Agreed { statements, error: None, .. }) => count += statements,
            Ok(Agreed { error, .. }) => differences.push(format!("{}: {error:?}", path.display())),
            Err(difference) => differences.push(format!("{}: {difference}", path.display())),
        }
        files += 1;
    }
    fs::remove_dir_all(folder).unwrap();
    eprintln!("{files} files, {count} statements, {} differences", differences.len());
    assert!(files > 100 && count > 5000, "{files} files, {count} statements");
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

#[test]
fn a_dump_with_nasty_contents() {
    let database = database();
    run(
        &database,
        r#"
        create schema "odd;schema"; create table "odd;schema"."it's" ("a;b" text, "c""d" bytea, e text[]);
        insert into "odd;schema"."it's" values
            ('\.', '\x5c2e', '{"\\.",";"}'), (E'\\.\n\\.', null, null), (E'a\tb\\N', '\x00', '{null}'),
            ('', '', '{}'), (E'line\r\nend', null, null), ('--', null, null), ('$$ '' " /*', null, null), (E'\\', null, null);
        create table copy (stdin text); insert into copy values ('from stdin;'), (E'\\.');
        create function f(a text default 'x;''y') returns text language sql as $f$ select $$;$$ || a; -- ; $f$;
        create function g() returns int language plpgsql as $$ begin perform '$f$'; return 1; end $$;
        create function h(a int) returns int begin atomic select case when a > 0 then 1 else 2 end; select a; end;
        create function i() returns text language sql as 'select ''a\;''::text; select $f$b$f$::text';
        create table t (a int, b text default E'\\;'';'); create table log (a int);
        create rule r as on insert to t do also (insert into log values (1); insert into log values (2));
        create view v as select ':a'::text as x, b::text as ":b", (array[1,2])[1:2] as "[1:2]" from t;
        comment on table t is E'a;\n-- b\n/* c '' \\'; create type e as enum ('a;', 'b''', '\');
        create procedure p() language plpgsql as $_$ begin execute $x$ select ';' $x$; end $_$;
        "#,
    );
    let folder = folder();
    let port = server().port().to_string();
    for (name, arguments) in [
        ("plain", &[][..]),
        ("inserts", &["--inserts", "--quote-all-identifiers"]),
        (
            "column-inserts",
            &["--column-inserts", "--disable-dollar-quoting", "--clean", "--if-exists", "--create"],
        ),
    ] {
        let file = folder.join(format!("{name}.sql"));
        let output = client("pg_dump", &port)
            .args(["-d", &database, "-f", file.to_str().unwrap()])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // \connect is refused here; the rest of the file is as it was.
        let text = fs::read_to_string(&file).unwrap();
        let text: String = text
            .split_inclusive('\n')
            .filter(|line| !line.starts_with("\\connect") && !line.contains("DATABASE"))
            .collect();
        fs::write(&file, text).unwrap();
        let target = self::database();
        let agreed = compare(&target, &file).unwrap();
        assert!(agreed.statements > 30 && agreed.error.is_none(), "{name}: {agreed:?}");
    }
    fs::remove_dir_all(folder).unwrap();
}

// ----------------------------------------------------------------------------------------------------- hand-made

#[test]
fn hand_made_cases() {
    let database = database();
    run(&database, "create table t (a text); create table u (a text)");
    let cases = [
        "",
        ";",
        ";;;",
        "select 1",
        "select 1;",
        "select 1; select 2;",
        "\n\n  select 1\n\n  ,2\n;\n\n",
        "select 1 -- c\n, 2 -- d;\n;-- e\n-- f\nselect 3 -- g",
        "-- a\n/* b */ -- c\n/* d */ select 1; /* e */",
        "/* a\n\n b */\n\n;\n/* only */",
        "select 'a\n\n\nb';",
        "select '\n\n';\n",
        "select $$\n\n;$$;",
        "select \"a\n\n;\";",
        "select 1\\; select 2;\nselect 3\\;select 4",
        "select 1 \\; \\; ;",
        "\\;",
        "select (1;\nselect 2;\n);",
        "select 1);",
        "select ((1);\nselect 2",
        "select E'a'\n'b\\';c'; select 2;",
        "select e'a\\'\n;\\\\'; select 1;",
        "select e'a\\\n'; select 1;",
        "select e'a\\\n\\'; select 1;'; select 2",
        "select 'a'--c\n'b';",
        "select 'a'\r'b;';",
        "select e'a'\r'b\\';';",
        "select e'a'--c\r'b\\';';",
        "select e'a' --c\r 'b\\';';",
        "select e'a' 'b\\';';",
        "select u&'\\0041\\';",
        "select u&'a' uescape '!';",
        "select u&\"a;\"; select u&x; select u& 'a;';",
        "select n'a\\'; select N'b;';",
        "select b'a''b;'; select x'a';",
        "select 1e'\\'; select 1.e'\\'; select .5e'\\'; select 1e+'\\'; select 1e+e'\\'';';",
        "select 0x'a;'; select 0b'1;'; select 1_0'a;';",
        "select 1$a$;$a$; select 1a$a$; select a$a$; select $1$a$;$a$; select $1a$a$;",
        "select $a$ $b$ ; $a $a$; select $a$b$a$; select $$ $a$; $$;",
        "select $ä$ ; $ä$; select $é1_$;$é1_$; select $1$; select $a; select $",
        "select $a$\n$a\n$;\n$a$;",
        "select @-- ;\n1; select a--b;\n; select 1/*x*/+2; select 1+/*;*/2; select - -1; select +-/*;*/1;",
        "select */*;*/ 1; select //*;*/ 1; select /*/;*/ 1; select /**/ 1; select /***;***/ 1; select /*/*;*/;*/ 1;",
        "select /* ' */ 1; select /* -- */ 1; select -- /* \n 1;",
        "create function f() returns int begin atomic select 1; select 2; end; select 3;",
        "create or replace function f() returns int\nbegin atomic\n select 1;\n\n select case when true then 1 end;\nend;\nselect 3;",
        "create procedure f() begin atomic insert into t values (1); end; select 3;",
        "create function f(a int default case when true then 1 end) returns int begin atomic select 1; end; select 2;",
        "create function f(begin int) returns int return 1; select 2;",
        "CREATE /* c */ FUNCTION \"x\"() RETURNS int BEGIN ATOMIC ; END; select 2;",
        "create function f() returns int as 'begin'; select 1; select 2;",
        "create trigger begin before insert on t execute function f(); select 2;",
        "create or replace rule r as on insert to t do also (insert into u values (1); insert into u values (2);); select 1;",
        "create or drop function begin; select 1;",
        "create function begin atomic case end; end; end; select 1;",
        "create function f() \\; begin; select 1;",
        "create function f() begin \\; select 1; end; select 2;",
        "copy t from stdin;\na\nb;\n'c\n\\.\nselect 1;",
        "copy t from stdin; select 1; copy u from stdin; select 2;\na\n\\.\nb\n\\.\nselect 3;",
        "copy t from stdin \\; copy u from stdin;\na\n\\.\nb\n\\.\nselect 3;",
        "copy t from stdin;\r\na\r\n\\.\r\nselect 1;\r\n",
        "copy t from stdin with (format csv);\n\"a\nb\"\n\\.\nselect 1;",
        "COPY public.t (a) FROM stdin WITH (FORMAT text, NULL 'x;');\n\\N\n\\.\n\n\nselect 1;",
        "copy nonexistent from stdin;\n'a\n\\.\nselect 1;",
        "copy t from stdin;\n\\.\ncopy (select 1) to stdout; copy t to stdout; select 2;",
        "copy t from stdin /* c */;\n \\.\n\\. \n\\.x\n\\.\nselect 2;",
        "copy t from stdin; -- c\na\n\\.\nselect 1",
        "begin; copy t from stdin;\na\n\\.\nselect 1; rollback;",
        "set standard_conforming_strings = off;\nselect 'a\\';b';\nselect 'c' 'd\\\\';\nset standard_conforming_strings to on;\nselect '\\';",
        "set standard_conforming_strings = off; select '\\';\nselect '\\';';",
        "begin;\nset local standard_conforming_strings = off;\nselect '\\';';\ncommit;\nselect '\\';",
        "begin;\nset standard_conforming_strings = off;\nselect '\\';';\nrollback;\nselect '\\';",
        "set local standard_conforming_strings = off;\nselect '\\';",
        "set standard_conforming_strings = off;\nreset all;\nselect '\\';",
        "set standard_conforming_strings = off;\nselect n'\\';'; select e'\\';'; select u&'\\'; select b'\\';",
        "select set_config('standard_conforming_strings', 'off', false);\nselect '\\';';",
        "\\set a 1\nselect :a, :'a', :\"a\", :{?a}, :{?b}, :b, :'b', :\"b\", ::a, x[1:a], ':a', \":a\", $$:a$$, a:=:a;",
        "\\set a 'select 1; select'\n:a 2; :a",
        "\\set a ''\n:a select 1 :a ;",
        "\\set a '-- c'\nselect 1 :a ; select 2;\n, 3;",
        "\\set a '/* c'\nselect 1 :a ; */ select 2;",
        "\\set a 'x''y'\nselect :'a', :\"a\";\n\\set b 'back\\\\slash'\nselect :'b', :\"b\", x:'b';",
        "\\set a ':b'\n\\set b ':a 1'\nselect :a;",
        "\\set a ':a 1'\nselect :a;\n\\set c ':d'\n\\set d ':c'\nselect :c, :d;",
        "\\set q ''''\nselect :q;:q;\nselect :q :a :q;",
        "\\set e 'e''a'\nselect :e\\';'; select 1;",
        "\\set nl 'a\\n;b'\nselect ':nl', :nl c;",
        "\\set cmd '\\\\echo hi'\nselect 1 :cmd there \\\\ , 2;",
        "\\set semi ;\nselect 1:semi select 2:semi",
        "\\set _ä ö\nselect :_ä, :'_ä', :ä_;",
        "\\set x\nselect :x, :'x', :{?x};\n\\unset x\nselect :x, :'x', :{?x};",
        "\\set a b 'c d' \"e f\" :undefined\nselect :'a';",
        "\\set o 'off\\041\\x42\\t'\nselect :'o';",
        "select 1 \\echo a b \\\\ , 2;\nselect\n\\echo x\n3;\nselect 4\n\n\\echo y\n\n;",
        "select :'x y', :\"x y\", :'x, :\"y, : z, :{?z, :{z};'\";",
        "select a ? b, a ?| b, a @> b, a #>> b, a <-> b, !!a, a ~~* b, |/ a, `a;`;",
        "\\if true\nselect 1;\n\\else\nselect 2;\n\\endif\nselect 3;",
        "\\if false\nselect 1;\n\\elif yes\nselect 2;\n\\elif true\nselect 22;\n\\else\nselect 3;\n\\endif\nselect 4;",
        "\\if 0\nselect 1;\n\\if 1\nselect 2;\n\\else\nselect 3;\n\\endif\n\\else\nselect 4;\n\\endif",
        "select 1\n\\if 0\n, 2;\n(;\n\\else\n, 3\n\\endif\n, 4;\nselect 5;",
        "select (1\n\\if 0\n)))\n\\endif\n;);\nselect 5;",
        "create function f() \\if 0 \\\\ begin \\else \\\\ returns int \\endif \\\\ return 1;\nselect 5;",
        "\\if 0\n'\n\\endif\n'\n\\endif\nselect 1;",
        "\\if 0 \\echo x \\else \\\\ select 1; \\endif \\\\ select 2;",
        "\\if 0\n\\q\n\\! echo \\endif\n\\g |cat \\endif\n\\copy t from x \\endif\n\\dt *.*\n\\endif\nselect 1;",
        "\\if :{?x}\nselect 1;\n\\endif\n\\set x f\n\\if :{?x}\n\\if :x\nselect 2;\n\\else\nselect 3;\n\\endif\n\\endif",
        "\\if 0\nselect :a; \\set a 1\n\\endif\nselect :a;",
        "select 1;\n\\q\nselect 2;",
        "select 1 \\q select 2;",
        "select 1 -- \\q\n, 2; select '\\q'; select /* \\q */ \"\\q\";",
        "\u{feff}select 1;\n\u{feff}select 2;",
        "select 1;\r\nselect\r\n\r\n2\r\n;\r\n\r\n-- c\r\nselect '\r\n';\r\n",
        "select 1;\rselect 2; -- c\rselect 3;\r",
        "\\timing off\n\\pset pager off\n\\t\n\\a\n\\x\n\\f ,\nselect 1;",
        "\\restrict aB1\nselect 1;\n\\unrestrict aB1\n\\echo x\nselect 2;",
        "select\u{a0}1; select 'é;', \"é;\", é$x$, $é$;$é$;",
        "select 1 \u{1F600}; select '\u{1F600};';",
        "do $$ begin raise notice ';'; end $$; do language plpgsql 'begin end;';",
        "select 1;select 2;/* c */select 3;-- d\nselect 4;",
        "insert into t values ('a;b'), ('c''d;'), (E'e\\';');\nupdate t set a = ';';\n",
    ];
    let differences: Vec<_> = cases
        .iter()
        .filter_map(|text| match compare_text(&database, text) {
            Ok(Agreed { error: None | Some(SqlError { kind: ErrorKind::Unterminated, .. }), .. }) => None,
            other => Some(format!("{text:?}: {other:?}")),
        })
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

#[test]
fn includes() {
    let database = database();
    let folder = folder();
    fs::create_dir_all(folder.join("sub")).unwrap();
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    write("sub/a.sql", "select 'a';\n\\ir b.sql\nselect 'a again'\n");
    write("sub/b.sql", "\\set v 5\nselect 'b';\n\\ir ../c.sql \n\\q\nselect 'not sent';\n");
    write("c.sql", "select (:v) -- the end of this file ends the statement");
    write(
        "main.sql",
        &format!(
            "select 1\n\\ir sub/a.sql\n, 2;\n\\i {}/sub/../c.sql \\\\ select 3;\n\\include_relative c.sql\nselect :v;",
            folder.display()
        ),
    );
    compare(&database, &folder.join("main.sql")).unwrap();
    let (items, error) = split(&folder.join("main.sql"));
    assert_eq!(error, None);
    let texts: Vec<_> =
        statements(&items).map(|statement| (statement.file.0, statement.text.as_str())).collect();
    assert_eq!(
        texts,
        [
            (1, "select 'a'"),
            (2, "select 'b'"),
            (3, "select (5) -- the end of this file ends the statement"),
            (1, "select 'a again'"),
            (0, "select 1\n, 2"),
            (4, "select (5) -- the end of this file ends the statement"),
            (0, "select 3"),
            (5, "select (5) -- the end of this file ends the statement"),
            (0, "select 5"),
        ]
    );
    fs::remove_dir_all(folder).unwrap();
}

// ----------------------------------------------------------------------------------------------------- generated

/// Pieces that are whole in themselves, if nothing before them is glued on.
const PIECES: &[&str] = &[
    "select",
    "1",
    "a",
    "_b1",
    "é",
    "ÄÖ",
    "'x'",
    "''",
    "''''",
    "'a;b'",
    "'\\'",
    "E'\\';'",
    "e'\\\\'",
    "e'a\\\\\\'b;'",
    "U&'\\0061;'",
    "u&'\\'",
    "U&\"a;\"",
    "u&",
    "\"q;\"\"\"",
    "\"\"",
    "$$;$$",
    "$$'$$",
    "$tag$ ; $other$ $tag$",
    "$é$;'$é$",
    "$_1$$$;$_1$",
    "a$b$",
    "1a$x$",
    "$1",
    "$1a",
    "$",
    "(;)",
    "((a;b))",
    "(')', \";)\")",
    "[1:2]",
    "[a:b]",
    "/* ; */",
    "/* /* ; */ ; */",
    "/*;*//*;*/",
    "/*'*/",
    "/**/",
    "-- c;\n",
    "--\n",
    "--'\n",
    "@",
    "@-- x;\n",
    "+/*;*/",
    "1/*x*/+2",
    "a--b;\n",
    "<>",
    "->>",
    "?|",
    "*",
    "/",
    "-",
    "+-",
    "@-",
    "::",
    ":=",
    "=>",
    "..",
    ".",
    ",",
    ":",
    ":v",
    ":'v'",
    ":\"v\"",
    ":{?v}",
    ":w",
    ":'w'",
    ":\"w\"",
    ":{?w}",
    "::v",
    ":s",
    ":'s'",
    ":\"s\"",
    ":c",
    ":q",
    ":n",
    ":u1",
    ":'u1'",
    ":{?u1}",
    ":12",
    "\\;",
    "\\:",
    "\\:v",
    "B'1;'",
    "x'f;'",
    "N';'",
    "n'\\'",
    "1e",
    "1.5e3",
    "1.e",
    ".5",
    "1e+",
    "0x1F",
    "1..2",
    "12_3",
    "'\n;'",
    "'a\n\n\nb'",
    "'a'\n'b;'",
    "e'a'\n'b;'",
    "'a' -- c;\n 'b'",
    "\"a\n\n;\"",
    "$$\n\n;\n$$",
    "/*\n\n;\n*/",
    "case",
    "end",
    "begin",
    "atomic",
    "create",
    "function",
    "or",
    "replace",
    "copy",
    "from",
    "table",
    "\n\n",
    "\t",
    "\r\n",
    "\u{c}",
    "%",
    "^",
    "~",
    "`",
    "{",
    "}",
    "é'x;'",
    "b",
    "e",
    "n",
    "x",
    "u",
    "U",
];

/// What stands between two pieces; nothing glues them together.
const GLUE: &[&str] = &["", " ", " ", "\n", "  ", "\r\n", "\n\n"];

/// Whole parts of a file, each with its line ends.
const PARTS: &[&str] = &[
    "create function f() returns int begin atomic select 1; select case when a then 1 else 2 end; end;",
    "create or replace procedure p(a int) begin atomic insert into t values (a);\n\n update t set a = 1; end;\n",
    "create function g(case int, begin int) returns int return case when 1 > 0 then 1 end;",
    "CREATE OR REPLACE FUNCTION h()\nRETURNS text LANGUAGE sql AS $body$\nselect $$;$$;\n\n-- ;\n$body$;\n",
    "create rule r as on insert to t do also (insert into u values (1); insert into u values (2));\n",
    // A statement with a word in it behind each COPY: see the difference in `Scanner::end_statement`.
    "copy t from stdin;\na;b\n'\n\\N\n\n\\.\nselect 0;\n",
    "copy t (a) from stdin with (format csv); select 1;\n\"a;\n\n\"\n\\.\nselect 0;\n",
    "copy t from stdin; copy u from stdin; select 2\n'\n\\.\n$$\n\\.\nselect 0;\n",
    "copy t from stdin \\; copy u from stdin;\n/*\n\\.\n\"\n\\.\nselect 0;\n",
    "copy nowhere from stdin;\n'\n\\.\nselect 0;\n",
    "copy (select 1) to stdout;\n",
    "\\set v 1\n",
    "\\set v 'a b'\n",
    "\\set v\n",
    "\\unset v\n",
    "\\set w 'it''s;'\n",
    "\\set w 'back\\\\slash'\n",
    "\\set s ';'\n",
    "\\set s 'select 1; select 2'\n",
    "\\set c '/* '\n",
    "\\set c '-- '\n",
    "\\set c ' */'\n",
    "\\set q ''''\n",
    "\\set q '\"'\n",
    "\\set q '$$'\n",
    "\\unset q\n",
    "\\unset c\n",
    "\\set n 'a\\nb'\n",
    "\\set n '''a''\\n''b;''' \n",
    "\\set n ':v :n'\n",
    "\\echo a :v 'b ;' \\\\ ",
    "\\echo ;\n",
    "\\t\n",
    "\\pset null x\n",
    "\\if true\n",
    "\\if :{?v}\n",
    "\\if 0\n",
    "\\elif yes\n",
    "\\elif :{?w}\n",
    "\\else\n",
    "\\endif\n",
    "\\endif\n",
    ";",
    ";\n",
    "\n",
    "\r\n",
    "-- c\n",
    "/* c */\n",
    // Each a message of its own: psql goes on behind one that the server refused, where a run has ended.
    ";\nset standard_conforming_strings = off;\n",
    ";\nSET standard_conforming_strings TO 'on';\n",
    ";\nreset standard_conforming_strings;\n",
];

fn statement() -> impl Strategy<Value = String> {
    let piece = (prop::sample::select(PIECES), prop::sample::select(GLUE));
    (prop::collection::vec(piece, 0..12), prop::sample::select(&[";", ";\n", ";\r\n", "\n;\n", " "][..]))
        .prop_map(|(pieces, end)| {
            pieces.into_iter().flat_map(|(piece, glue)| [piece, glue]).chain([end]).collect()
        })
}

fn file() -> impl Strategy<Value = Vec<String>> {
    let part = prop_oneof![
        3 => statement(),
        2 => prop::sample::select(PARTS).prop_map(str::to_owned),
    ];
    prop::collection::vec(part, 1..40).prop_map(balance)
}

/// Keeps `\if` blocks whole: what does not match is left out, what is open at the end is closed. No block is open
/// where COPY data stands, as psql reads that data as SQL in a skipped branch.
fn balance(parts: Vec<String>) -> Vec<String> {
    let mut blocks: Vec<bool> = Vec::new();
    let mut balanced = Vec::new();
    for part in parts {
        let keep = match part.trim_end() {
            line if line.starts_with("\\if") => {
                blocks.push(false);
                true
            }
            line if line.starts_with("\\elif") => blocks.last() == Some(&false),
            "\\else" => match blocks.last_mut() {
                Some(seen @ false) => {
                    *seen = true;
                    true
                }
                _ => false,
            },
            "\\endif" => blocks.pop().is_some(),
            line => blocks.is_empty() || !line.contains("stdin"),
        };
        if keep {
            balanced.push(part);
        }
    }
    balanced.extend(blocks.iter().map(|_| "\\endif\n".to_owned()));
    balanced
}

fn cases() -> u32 {
    std::env::var("PSQL_EQUAL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(150)
}

/// The same cases each time, or a difference that nobody has brought in would fail a build; new ones where more are asked for.
fn seed() -> RngSeed {
    if std::env::var_os("PSQL_EQUAL_CASES").is_some() { RngSeed::Random } else { RngSeed::Fixed(1) }
}

/// One database for all generated cases.
fn generated_database() -> &'static str {
    static DATABASE: OnceLock<String> = OnceLock::new();
    DATABASE.get_or_init(|| {
        let database = database();
        run(&database, "create table t (a text); create table u (a text)");
        database
    })
}

static STATEMENTS: AtomicU32 = AtomicU32::new(0);
static ERRORS: AtomicU32 = AtomicU32::new(0);

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), rng_seed: seed(), max_shrink_iters: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn generated_files(parts in file()) {
        let text = parts.concat();
        match compare_text(generated_database(), &text) {
            // A quote that was opened by chance may swallow anything. An error that psql does not know is a refusal,
            // and what was found before it is equal.
            Ok(Agreed { statements, error, .. }) => {
                if let (Some(error), Ok(_)) = (&error, std::env::var("PSQL_EQUAL_VERBOSE")) {
                    eprintln!("{:?}", error.kind);
                }
                STATEMENTS.fetch_add(u32::try_from(statements).unwrap(), Ordering::Relaxed);
                ERRORS.fetch_add(u32::from(error.is_some()), Ordering::Relaxed);
            }
            Err(difference) => return Err(TestCaseError::fail(difference)),
        }
    }

    #[test]
    fn generated_echoes(words in prop::collection::vec(echo_words(), 1..30)) {
        let text: String = ["\\set v 'a b'\n\\set w 'it''s'\n\\set e ''\n\\set b 'x\\\\y'\n".to_owned()]
            .into_iter()
            .chain(words.iter().map(|words| format!("\\echo {words}\n")))
            .collect();
        let folder = folder();
        let file = folder.join("echo.sql");
        fs::write(&file, &text).unwrap();
        let (items, error) = split(&file);
        let theirs = psql(generated_database(), &file).stdout;
        fs::remove_dir_all(folder).unwrap();
        let ours: String = items
            .iter()
            .filter_map(|item| match item {
                Item::Echo { stream: Stream::Out, text, .. } => Some(text.as_str()),
                _ => None,
            })
            .collect();
        // psql goes on after what is an error here.
        prop_assert!(if error.is_some() { theirs.starts_with(&ours) } else { theirs == ours }, "{text}\n{ours}\n{theirs}");
    }
}

fn echo_words() -> impl Strategy<Value = String> {
    const WORDS: &[&str] = &[
        "a",
        "-n",
        "'b c'",
        "'it''s'",
        "'\\n\\t\\\\\\'\\101\\x41\\q'",
        "\"d e\"",
        "\"\"",
        "''",
        ":v",
        ":'v'",
        ":\"v\"",
        ":{?v}",
        ":w",
        ":'w'",
        ":\"w\"",
        ":e",
        ":'e'",
        ":b",
        ":'b'",
        ":u",
        ":'u'",
        ":{?u}",
        ":",
        "::v",
        ":{?",
        ":{",
        ";",
        ";;",
        "|",
        "é",
        "$$",
        "/*",
        "--",
        "(",
        "a;b",
        "'a'b\"c\"",
        "\\echo",
        "\\\\",
    ];
    prop::collection::vec(
        (prop::sample::select(WORDS), prop::sample::select(&["", " ", " ", "\t"][..])),
        0..8,
    )
    .prop_map(|words| words.into_iter().flat_map(|(word, glue)| [word, glue]).collect())
}
