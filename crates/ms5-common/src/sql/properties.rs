//! What holds for every text, tried on many.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::{Item, Options, Splitter, SqlError, Statement, Step, tokens};

/// Splits a file that is pushed in these pieces.
fn split<'a>(pieces: impl IntoIterator<Item = &'a str>) -> Result<Vec<Item>, SqlError> {
    let mut splitter = Splitter::new(Options::default());
    let mut pieces = pieces.into_iter();
    let mut items = Vec::new();
    loop {
        match splitter.step()? {
            Step::Item(item) => items.push(item),
            Step::NeedInput(_) => match pieces.next() {
                Some(piece) => splitter.push(piece),
                None => splitter.end_input(),
            },
            Step::Include { .. } => return Err(splitter.read_error("not here")),
            Step::Done => return Ok(items),
        }
    }
}

fn statements(items: Vec<Item>) -> Vec<Statement> {
    items
        .into_iter()
        .filter_map(|item| if let Item::Statement(found) = item { Some(found) } else { None })
        .collect()
}

/// Text made of what matters to a scanner.
fn nasty() -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "'",
        "''",
        "\"",
        "$$",
        "$a$",
        "$é$",
        "$",
        "/*",
        "*/",
        "--",
        "\n",
        "\r\n",
        "\r",
        ";",
        "(",
        ")",
        "\\",
        "\\;",
        "\\:",
        "\\\\",
        ":",
        "::",
        ":a",
        ":'a'",
        ":\"a\"",
        ":{?a}",
        "e'",
        "E'",
        "U&'",
        "u&\"",
        "b'",
        "x'",
        "n'",
        "1e",
        "1.",
        "..",
        "a",
        "é",
        "\u{1F600}",
        "_",
        " ",
        "\t",
        "+",
        "-",
        "@",
        "\0",
        "\u{feff}",
        "\\.",
        "\\.\n",
        "copy t from stdin;\n",
        "copy a from stdin \\; copy b from stdin;",
        "\\set a ",
        "\\set a 'x;'\n",
        "\\set a ':a '''\n",
        "\\if 1\n",
        "\\if 0\n",
        "\\elif 1\n",
        "\\else\n",
        "\\endif\n",
        "\\q\n",
        "\\i x\n",
        "\\echo ",
        "\\restrict k\n",
        "\\unrestrict k\n",
        "create function f() ",
        "begin ",
        "case ",
        "end ",
        "set standard_conforming_strings = off;\n",
        "select 1",
    ];
    prop::collection::vec(prop::sample::select(PIECES), 0..60).prop_map(|pieces| pieces.concat())
}

/// A statement that is whole in itself, without a semicolon at its end, as it is when it is sent.
fn whole_statement() -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "1",
        "a",
        "é",
        "'x;'",
        "'a''b;'",
        "E'\\';'",
        "e'\\\\'",
        "U&'\\0061;'",
        "U&\"a;\"",
        "\"q;\"\"\"",
        "$$;'$$",
        "$tag$ ; $x$ $$ $tag$",
        "$é$;$é$",
        "(;)",
        "((a;b))",
        "/* ; */",
        "/* /* ; */ ' */",
        "-- ;'\n",
        "@-- ;\n",
        "+ /*;*/",
        "1/*x*/+2",
        "a--b;\n",
        "::",
        ":=",
        "[1:2]",
        "B'1;'",
        "X'f;'",
        "N';'",
        "1e'\\'",
        "'\n\n;'",
        "case",
        "end",
        "begin",
    ];
    prop_oneof![
        4 => prop::collection::vec(prop::sample::select(PIECES), 0..10)
            .prop_map(|pieces| format!("select {} x", pieces.join(" "))),
        1 => Just("create function f() returns int begin atomic select 1; select case when a then 1 end; end".to_owned()),
        1 => Just("create rule r as on insert to t do (insert into a values (1); delete from b)".to_owned()),
        1 => Just("do $do$ begin perform $$;$$; end $do$".to_owned()),
    ]
}

proptest! {
    // The same cases each time: a build fails for what was changed, and for nothing else.
    #![proptest_config(ProptestConfig { cases: 2000, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in any::<String>(), nasty in nasty()) {
        let _ = split([text.as_str()]);
        let _ = split([nasty.as_str()]);
        for token in tokens(&nasty, true).chain(tokens(&nasty, false)) {
            let _ = (token.name(), token.string_value());
        }
    }

    #[test]
    fn the_pieces_of_a_file_do_not_matter(text in nasty(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20)) {
        let whole = split([text.as_str()]);
        prop_assert_eq!(&split(text.split_inclusive('\n')), &whole);
        let boundary = |at: usize| (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap_or_default();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| boundary(cut.index(text.len() + 1))).collect();
        ends.push(text.len());
        ends.sort_unstable();
        let mut start = 0;
        let pieces = ends.into_iter().map(|end| &text[std::mem::replace(&mut start, end)..end]);
        prop_assert_eq!(&split(pieces), &whole);
    }

    #[test]
    fn statements_come_back_one_by_one(written in prop::collection::vec(whole_statement(), 0..20), ends in prop::collection::vec(0_usize..4, 20)) {
        let mut file = String::new();
        for (statement, end) in written.iter().zip(&ends) {
            file.push_str(statement);
            file.push_str(["; ", ";\n", ";\n\n-- c ' \"\n\t", "; -- $$ ;\n"][*end]);
        }
        let found = statements(split([file.as_str()]).unwrap());
        // psql drops empty lines outside of quotes; there are none here.
        prop_assert_eq!(found.iter().map(|it| it.text.as_str()).collect::<Vec<_>>(), written);
        for statement in &found {
            let start = usize::try_from(statement.start.offset).unwrap();
            let end = usize::try_from(statement.end_offset).unwrap();
            prop_assert_eq!(&file[start..end - 1], &statement.text);
            let before = &file[..start];
            prop_assert_eq!(statement.start.line as usize, 1 + before.matches('\n').count());
            let column = 1 + before.rsplit('\n').next().unwrap_or_default().chars().count();
            prop_assert_eq!(statement.start.column as usize, column);
        }
    }

    #[test]
    fn splitting_keeps_all_tokens(written in prop::collection::vec(whole_statement(), 0..10)) {
        let file = written.join(" ;\n");
        let found = statements(split([file.as_str()]).unwrap());
        let joined = found.iter().map(|it| it.text.as_str()).collect::<Vec<_>>().join("\n;");
        let kinds = |text: &str| tokens(text, true).map(|token| (token.kind, token.text.to_owned())).collect::<Vec<_>>();
        prop_assert_eq!(kinds(&file), kinds(&joined));
    }

    #[test]
    fn tokens_cover_the_text_in_order(text in nasty()) {
        let mut last = 0;
        for token in tokens(&text, true) {
            prop_assert!(token.range.start >= last && token.range.end > token.range.start);
            prop_assert_eq!(&text[token.range.clone()], token.text);
            last = token.range.end;
        }
    }

    #[test]
    fn copy_data_is_given_back_exactly(lines in prop::collection::vec("[^\n\0]{0,12}", 0..20), crlf in any::<bool>()) {
        let end = if crlf { "\r\n" } else { "\n" };
        let is_marker = |line: &String| matches!(line.as_str(), "\\." | "\\.\r");
        let data: String = lines.iter().filter(|line| !is_marker(line)).map(|line| format!("{line}{end}")).collect();
        let file = format!("copy t from stdin;{end}{data}\\.{end}select 1;");
        let found = statements(split([file.as_str()]).unwrap());
        prop_assert_eq!(found.len(), 2);
        let [range] = found[0].copy_data.as_slice() else { panic!("one block") };
        let start = usize::try_from(range.offset).unwrap();
        prop_assert_eq!(&file[start..start + usize::try_from(range.length).unwrap()], &data);
        prop_assert_eq!(usize::try_from(range.lines).unwrap(), data.matches('\n').count());
    }
}
