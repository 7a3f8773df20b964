//! Results as JUnit's XML, which build servers read.

use std::fmt::Write as _;

use serde_json::Value;

/// How JUnit counts a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    Passed,
    Failed,
    Skipped,
}

/// The file's text, of records of the type `test` in the suite's order; `strict` counts as --strict does. Where the run itself was
/// not what it should be, `trouble` says so: an error of its own, since tests that were never made cannot fail.
pub(crate) fn xml(tests: &[Value], seconds: f64, strict: bool, trouble: Option<&str>) -> String {
    let counted = |test: &Value| match test["outcome"].as_str() {
        Some("failed") => Counted::Failed,
        Some("warned" | "skipped") if strict => Counted::Failed,
        Some("skipped") => Counted::Skipped,
        _ => Counted::Passed,
    };
    let count =
        |tests: &[&Value], wanted: Counted| tests.iter().filter(|test| counted(test) == wanted).count();
    let all: Vec<&Value> = tests.iter().collect();
    let errors = usize::from(trouble.is_some());
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        text,
        "<testsuites name=\"migration-tests\" tests=\"{}\" failures=\"{}\" skipped=\"{}\" errors=\"{errors}\" time=\"{seconds:.3}\">",
        all.len() + errors,
        count(&all, Counted::Failed),
        count(&all, Counted::Skipped)
    );
    let mut categories: Vec<&str> = Vec::new();
    for category in tests.iter().filter_map(|test| test["category"].as_str()) {
        if !categories.contains(&category) {
            categories.push(category);
        }
    }
    for category in categories {
        let of_it: Vec<&Value> = tests.iter().filter(|test| test["category"] == category).collect();
        let took: f64 = of_it.iter().filter_map(|test| test["seconds"].as_f64()).sum();
        let _ = writeln!(
            text,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\" errors=\"0\" time=\"{took:.3}\">",
            escaped(category),
            of_it.len(),
            count(&of_it, Counted::Failed),
            count(&of_it, Counted::Skipped)
        );
        for test in of_it {
            case(&mut text, test, counted(test));
        }
        text.push_str("  </testsuite>\n");
    }
    if let Some(trouble) = trouble {
        let trouble = escaped(trouble);
        let _ = writeln!(
            text,
            "  <testsuite name=\"run\" tests=\"1\" failures=\"0\" skipped=\"0\" errors=\"1\" time=\"{seconds:.3}\">\n    \
             <testcase classname=\"run\" name=\"run.whole\" time=\"{seconds:.3}\">\n      \
             <error message=\"{}\">{trouble}</error>\n    </testcase>\n  </testsuite>",
            trouble.lines().next().unwrap_or_default()
        );
    }
    text.push_str("</testsuites>\n");
    text
}

fn case(text: &mut String, test: &Value, counted: Counted) {
    let word = |key: &str| escaped(test[key].as_str().unwrap_or_default());
    let lines = |key: &str| test[key].as_array().into_iter().flatten();
    let reasons: Vec<&str> = lines("reasons").filter_map(Value::as_str).collect();
    let whole = escaped(&reasons.join("\n"));
    let _ = writeln!(
        text,
        "    <testcase classname=\"{}\" name=\"{}\" time=\"{}\">",
        word("category"),
        word("id"),
        test["seconds"].as_f64().unwrap_or_default()
    );
    match counted {
        Counted::Failed => {
            let kind = word("outcome");
            let _ = writeln!(
                text,
                "      <failure type=\"{kind}\" message=\"{}\">{whole}</failure>",
                word("title")
            );
        }
        Counted::Skipped => {
            let _ = writeln!(text, "      <skipped message=\"{whole}\"/>");
        }
        Counted::Passed => {}
    }
    // JUnit knows no warning: why it is one stands before what was printed.
    let word = if test["outcome"] == "passed" { "note" } else { "warning" };
    let warnings = reasons.iter().filter(|_| counted == Counted::Passed).map(|why| format!("{word}: {why}"));
    let printed = lines("commands").map(|command| {
        format!(
            "$ {}\n{}",
            command["line"].as_str().unwrap_or_default(),
            command["output"].as_str().unwrap_or_default()
        )
    });
    let output: Vec<String> = warnings.chain(printed).collect();
    if !output.is_empty() {
        let _ = writeln!(text, "      <system-out>{}</system-out>", escaped(&output.join("\n")));
    }
    text.push_str("    </testcase>\n");
}

/// Text in XML, which cannot hold control characters in any form.
fn escaped(text: &str) -> String {
    let mut all = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => all.push_str("&lt;"),
            '>' => all.push_str("&gt;"),
            '&' => all.push_str("&amp;"),
            '"' => all.push_str("&quot;"),
            '\n' | '\t' => all.push(letter),
            letter if letter.is_control() || ('\u{FFFE}'..='\u{FFFF}').contains(&letter) => {
                all.push('\u{FFFD}')
            }
            letter => all.push(letter),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn test(id: &str, outcome: &str) -> Value {
        json!({ "category": "runner", "id": id, "title": "t", "outcome": outcome, "seconds": 1.5, "reasons": ["why"], "commands": [] })
    }

    #[test]
    fn nothing_of_a_test_breaks_out() {
        let test = json!({ "category": "runner", "id": "runner.x", "title": "<\"&", "outcome": "failed", "seconds": 1.5,
                           "reasons": ["]]> \u{1b}[0m"], "commands": [{ "line": "a < b", "output": "</system-out>" }] });
        let text = xml(&[test], 2.0, false, None);
        assert!(text.contains("tests=\"1\" failures=\"1\" skipped=\"0\" errors=\"0\" time=\"2.000\""));
        assert!(
            text.contains(
                "<failure type=\"failed\" message=\"&lt;&quot;&amp;\">]]&gt; \u{FFFD}[0m</failure>"
            )
        );
        assert_eq!(text.matches("</system-out>").count(), 1);
    }

    #[test]
    fn it_counts_as_the_exit_code_does() {
        let all = [test("a", "passed"), test("b", "warned"), test("c", "skipped")];
        let text = xml(&all, 5.0, false, None);
        assert!(
            text.contains("tests=\"3\" failures=\"0\" skipped=\"1\" errors=\"0\" time=\"5.000\""),
            "{text}"
        );
        assert!(
            text.contains("<testsuite name=\"runner\"")
                && text.contains("skipped=\"1\" errors=\"0\" time=\"4.500\"")
        );
        assert!(text.contains("<system-out>warning: why</system-out>"), "{text}");
        let strict = xml(&all, 5.0, true, None);
        assert!(strict.contains("tests=\"3\" failures=\"2\" skipped=\"0\" errors=\"0\""), "{strict}");
        assert_eq!(strict.matches("<failure type=\"warned\" message=\"t\">why</failure>").count(), 1);
        let stopped = xml(&all[..1], 5.0, false, Some("stopped by a signal\nat once"));
        assert!(stopped.contains("tests=\"2\" failures=\"0\" skipped=\"0\" errors=\"1\""), "{stopped}");
        assert!(stopped.contains("<error message=\"stopped by a signal\">"), "{stopped}");
    }
}
