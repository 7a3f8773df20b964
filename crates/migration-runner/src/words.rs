//! Long texts, shortened for a line.

/// The beginning of a statement, on one line.
pub(crate) fn first_words(text: &str) -> String {
    // Only a prefix is looked at: a statement may be megabytes long.
    let prefix: String = text.trim().chars().take(200).collect();
    let mut line: String =
        prefix.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(100).collect();
    if line.len() < text.trim().len() {
        line.push_str(" ...");
    }
    line
}
