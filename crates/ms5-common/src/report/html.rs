//! HTML that holds nothing of a record but escaped text: what is not escaped can only be a literal of ours.

/// A piece of HTML.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Markup(String);

/// Attributes of an element; their values are escaped.
pub(super) type Attributes<'a> = &'a [(&'static str, &'a str)];

impl Markup {
    /// What is ours as it stands.
    pub(super) fn ours(text: &'static str) -> Self {
        Self(text.to_owned())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

impl From<&str> for Markup {
    fn from(text: &str) -> Self {
        let mut safe = String::with_capacity(text.len());
        text.chars().for_each(|letter| escape(letter, &mut safe));
        Self(safe)
    }
}

impl From<String> for Markup {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<Vec<Self>> for Markup {
    fn from(parts: Vec<Self>) -> Self {
        parts.into_iter().collect()
    }
}

impl<const N: usize> From<[Self; N]> for Markup {
    fn from(parts: [Self; N]) -> Self {
        parts.into_iter().collect()
    }
}

impl FromIterator<Self> for Markup {
    fn from_iter<T: IntoIterator<Item = Self>>(parts: T) -> Self {
        parts.into_iter().fold(Self::default(), |mut all, part| {
            all.0.push_str(&part.0);
            all
        })
    }
}

/// An element with its content.
pub(super) fn el(name: &'static str, attributes: Attributes<'_>, content: impl Into<Markup>) -> Markup {
    let mut html = opened(name, attributes);
    html.0.push_str(&content.into().0);
    html.0.push_str("</");
    html.0.push_str(name);
    html.0.push('>');
    html
}

/// An element that has no content and no end.
pub(super) fn opened(name: &'static str, attributes: Attributes<'_>) -> Markup {
    let mut html = format!("<{name}");
    for (attribute, value) in attributes {
        html.push(' ');
        html.push_str(attribute);
        html.push_str("=\"");
        html.push_str(&Markup::from(*value).0);
        html.push('"');
    }
    html.push('>');
    Markup(html)
}

/// A letter as text. What a reader cannot see is made visible: control characters, and those that turn the direction of writing,
/// by which a name can look like another one.
fn escape(letter: char, safe: &mut String) {
    match letter {
        '&' => safe.push_str("&amp;"),
        '<' => safe.push_str("&lt;"),
        '>' => safe.push_str("&gt;"),
        '"' => safe.push_str("&quot;"),
        '\'' => safe.push_str("&#39;"),
        '\n' | '\t' => safe.push(letter),
        '\u{0}'..='\u{1f}' => safe.extend(char::from_u32(u32::from(letter) + 0x2400)),
        '\u{7f}' => safe.push('\u{2421}'),
        '\u{80}'..='\u{9f}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{2069}'
        | '\u{feff}' => {
            safe.extend(letter.escape_unicode());
        }
        _ => safe.push(letter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_is_html() {
        let hostile = "</td><script>alert(1)</script>&amp;\" onload='x'";
        let html = el("td", &[("title", hostile)], hostile).into_string();
        assert_eq!(html.matches('<').count(), 2, "{html}");
        assert_eq!(html.matches('"').count(), 2, "{html}");
        assert!(html.contains("&amp;amp;") && html.contains("&lt;script&gt;"), "{html}");
    }

    #[test]
    fn what_cannot_be_seen_is_shown() {
        let text = Markup::from("a\u{1b}[31m\u{202e}b\r\n\u{feff}").into_string();
        assert_eq!(text, "a\u{241b}[31m\\u{202e}b\u{240d}\n\\u{feff}");
    }
}
