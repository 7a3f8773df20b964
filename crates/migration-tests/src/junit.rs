//! Results as JUnit's XML, which build servers read.

use std::fmt::Write;

use serde_json::Value;

/// The file's text, of records of the type `test`.
pub(crate) fn xml(tests: &[Value], seconds: f64) -> String {
    let count = |outcome: &str| tests.iter().filter(|test| test["outcome"] == outcome).count();
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        text,
        "<testsuites name=\"migration-tests\" tests=\"{}\" failures=\"{}\" skipped=\"{}\" time=\"{seconds:.3}\">",
        tests.len(),
        count("failed"),
        count("skipped")
    );
    let mut categories: Vec<&str> = tests.iter().filter_map(|test| test["category"].as_str()).collect();
    categories.dedup();
    for category in categories {
        let of_it = || tests.iter().filter(move |test| test["category"] == category);
        let outcomes = |outcome: &str| of_it().filter(|test| test["outcome"] == outcome).count();
        let _ = writeln!(
            text,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\">",
            escaped(category),
            of_it().count(),
            outcomes("failed"),
            outcomes("skipped")
        );
        for test in of_it() {
            case(&mut text, test);
        }
        text.push_str("  </testsuite>\n");
    }
    text.push_str("</testsuites>\n");
    text
}

fn case(text: &mut String, test: &Value) {
    let word = |key: &str| escaped(test[key].as_str().unwrap_or_default());
    let lines = |key: &str| test[key].as_array().into_iter().flatten();
    let reasons: Vec<&str> = lines("reasons").filter_map(Value::as_str).collect();
    let reasons = escaped(&reasons.join("\n"));
    let _ = writeln!(
        text,
        "    <testcase classname=\"{}\" name=\"{}\" time=\"{}\">",
        word("category"),
        word("id"),
        test["seconds"].as_f64().unwrap_or_default()
    );
    match test["outcome"].as_str() {
        Some("failed") => {
            let _ = writeln!(text, "      <failure message=\"{}\">{reasons}</failure>", word("title"));
        }
        Some("skipped") => {
            let _ = writeln!(text, "      <skipped message=\"{reasons}\"/>");
        }
        _ => {}
    }
    let output: Vec<String> = lines("commands")
        .map(|command| {
            format!(
                "$ {}\n{}",
                command["line"].as_str().unwrap_or_default(),
                command["output"].as_str().unwrap_or_default()
            )
        })
        .collect();
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

    #[test]
    fn nothing_of_a_test_breaks_out() {
        let test = json!({ "category": "runner", "id": "runner.x", "title": "<\"&", "outcome": "failed", "seconds": 1.5,
                           "reasons": ["]]> \u{1b}[0m"], "commands": [{ "line": "a < b", "output": "</system-out>" }] });
        let text = xml(&[test], 2.0);
        assert!(text.contains("tests=\"1\" failures=\"1\" skipped=\"0\" time=\"2.000\""));
        assert!(text.contains("<failure message=\"&lt;&quot;&amp;\">]]&gt; \u{FFFD}[0m</failure>"));
        assert_eq!(text.matches("</system-out>").count(), 1);
    }
}
