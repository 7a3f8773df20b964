//! Character classes and the extent of simple tokens, as PostgreSQL's scanners define them.
//!
//! Sources: `src/backend/parser/scan.l` and `src/fe_utils/psqlscan.l` of PostgreSQL 18; the names in
//! the comments are those of the flex definitions there.

const SPACE: u8 = 1;
const IDENT_START: u8 = 2;
const DIGIT: u8 = 4;
const DOLLAR: u8 = 8;
const OPERATOR: u8 = 16;

/// The classes of each byte: one look-up is cheaper than a chain of comparisons.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0_u8;
    loop {
        classes[byte as usize] = match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => SPACE,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => IDENT_START,
            b'0'..=b'9' => DIGIT,
            b'$' => DOLLAR,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'+' | b'-' | b'*' | b'/'
            | b'%' | b'<' | b'>' | b'=' => OPERATOR,
            _ => 0,
        };
        if byte == u8::MAX {
            break classes;
        }
        byte += 1;
    }
};

const fn is(byte: u8, classes: u8) -> bool {
    CLASSES[byte as usize] & classes != 0
}

/// `space`: blank, tab, newline, carriage return, form feed, vertical tab (the last since PostgreSQL 16).
pub(super) const fn is_space(byte: u8) -> bool {
    is(byte, SPACE)
}

/// `newline`: either `\n` or `\r`.
pub(super) const fn is_newline(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

/// `ident_start`, also `dolq_start`: a letter, an underscore, any byte above 127.
pub(super) const fn is_ident_start(byte: u8) -> bool {
    is(byte, IDENT_START)
}

/// `ident_cont`: `ident_start`, a digit, a dollar sign.
pub(super) const fn is_ident_cont(byte: u8) -> bool {
    is(byte, IDENT_START | DIGIT | DOLLAR)
}

/// `variable_char`, also `dolq_cont`: `ident_start` or a digit.
pub(super) const fn is_variable_char(byte: u8) -> bool {
    is(byte, IDENT_START | DIGIT)
}

/// `op_chars`: what an operator may be made of.
pub(super) const fn is_operator_char(byte: u8) -> bool {
    is(byte, OPERATOR)
}

/// The index of the first `needle`.
pub(super) fn find(text: &[u8], needle: u8) -> Option<usize> {
    // A whole chunk is compared without a branch, which compiles to vector instructions.
    let has_needle = |chunk: &[u8; 32]| chunk.iter().fold(false, |found, &byte| found | (byte == needle));
    let (chunks, _) = text.as_chunks();
    let skipped = 32 * chunks.iter().position(has_needle).unwrap_or(chunks.len());
    text.get(skipped..)?.iter().position(|&byte| byte == needle).map(|at| skipped + at)
}

/// The index of the first `needle` at or after `from`, or the end of `text`.
pub(super) fn find_from(text: &[u8], from: usize, needle: u8) -> usize {
    text.get(from..).and_then(|rest| find(rest, needle)).map_or(text.len(), |at| from + at)
}

/// The end of the run of bytes from `from` on that satisfy `accept`.
pub(super) fn run_end(text: &[u8], from: usize, accept: impl Fn(u8) -> bool) -> usize {
    text.get(from..)
        .and_then(|rest| rest.iter().position(|&byte| !accept(byte)))
        .map_or(text.len(), |length| from + length)
}

/// The end of a `--` comment: the next newline, or the end of `text`.
pub(super) fn line_comment_end(text: &[u8], from: usize) -> usize {
    run_end(text, from, |byte| !is_newline(byte))
}

/// Does `text` hold `first` and `second` at `at`?
pub(super) fn is_pair(text: &[u8], at: usize, first: u8, second: u8) -> bool {
    text.get(at) == Some(&first) && text.get(at + 1) == Some(&second)
}

/// The end of whitespace and `--` comments from `from` on (`whitespace*`).
pub(super) fn blank_end(text: &[u8], mut from: usize) -> usize {
    loop {
        from = run_end(text, from, is_space);
        if is_pair(text, from, b'-', b'-') {
            from = line_comment_end(text, from + 2);
        } else {
            return from;
        }
    }
}

/// What `\$({dolq_start}{dolq_cont}*)?\$` matches at `at` (`dolqdelim`): the end of the delimiter.
pub(super) fn dollar_delimiter_end(text: &[u8], at: usize) -> Option<usize> {
    let mut end = at + 1;
    if text.get(end).is_some_and(|&byte| is_ident_start(byte)) {
        end = run_end(text, end, is_variable_char);
    }
    (text.get(end) == Some(&b'$')).then_some(end + 1)
}

/// The end of the number that begins at `at` with a digit, or with a dot before a digit.
///
/// The longest match of all number rules, `integer_junk`, `numeric_junk`, `real_junk`, `numericfail`
/// and `realfail` included. It matters to quotes: in `1e'x'` the `e` belongs to the number, so the
/// string is not an escape string, and in `1$a$` a dollar quote begins, but not in `1a$a$`.
pub(super) fn number_end(text: &[u8], at: usize) -> usize {
    // Most numbers are nothing but digits, and perhaps a dot and more digits.
    let mut end = run_end(text, at, |byte| is(byte, DIGIT));
    if text.get(end) == Some(&b'.') && text.get(end + 1) != Some(&b'.') {
        end = run_end(text, end + 1, |byte| is(byte, DIGIT));
    }
    if !text.get(end).is_some_and(|&byte| is_ident_start(byte) || byte == b'.') {
        return end;
    }
    let integer = if text.get(at) == Some(&b'.') { at } else { digits_end(text, at) };
    if text.get(integer) != Some(&b'.') {
        return exponent_end(text, integer).max(junk_end(text, at));
    }
    if integer > at && text.get(integer + 1) == Some(&b'.') {
        return integer; // numericfail: "1..10" is 1, "..", 10
    }
    let fraction = digits_end(text, integer + 1);
    exponent_end(text, fraction).max(junk_end(text, integer + 1))
}

/// `decinteger`: digits with single underscores between them, here perhaps none.
fn digits_end(text: &[u8], mut at: usize) -> usize {
    loop {
        let end = run_end(text, at, |byte| is(byte, DIGIT));
        if end == at || text.get(end) != Some(&b'_') || !text.get(end + 1).is_some_and(u8::is_ascii_digit) {
            return end;
        }
        at = end + 1;
    }
}

/// Digits and the identifier that begins at once behind them, if one does: the `_junk` rules. An underscore may
/// begin it as well as stand between digits, so `1_0$a` is all junk.
fn junk_end(text: &[u8], at: usize) -> usize {
    let digits = run_end(text, at, |byte| is(byte, DIGIT));
    match text.get(digits) {
        Some(&byte) if is_ident_start(byte) => run_end(text, digits, is_ident_cont),
        _ => digits,
    }
}

/// An exponent with a sign, as far as it goes (`real`, `realfail`, `real_junk`); without a sign it is like junk.
fn exponent_end(text: &[u8], at: usize) -> usize {
    let signed = matches!(text.get(at), Some(b'e' | b'E')) && matches!(text.get(at + 1), Some(b'+' | b'-'));
    match text.get(at + 2) {
        Some(b'0'..=b'9') if signed => digits_end(text, at + 2).max(junk_end(text, at + 2)),
        _ if signed => at + 2,
        _ => at,
    }
}

/// The end of the operator that begins at `at`, which must not begin a comment.
///
/// Rule `operator` of scan.l: cut before `/*` and `--`, and trailing `+` and `-` given back unless
/// the operator holds one of `~ ! @ # ^ & | ` ? %`.
pub(super) fn operator_end(text: &[u8], at: usize) -> usize {
    let mut end = run_end(text, at, is_operator_char);
    if let Some(cut) = (at + 1..end).find(|&i| is_pair(text, i, b'/', b'*') || is_pair(text, i, b'-', b'-')) {
        end = cut;
    }
    let is_sign = |i: usize| matches!(text.get(i), Some(b'+' | b'-'));
    if end > at + 1 && is_sign(end - 1) {
        let keeps_sign = text.get(at..end).is_some_and(|operator| {
            operator.iter().any(|byte| {
                matches!(byte, b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'%')
            })
        });
        if !keeps_sign {
            while end > at + 1 && is_sign(end - 1) {
                end -= 1;
            }
        }
    }
    end
}

/// The position behind the opening quote of a string's next part, if the string that ended before
/// `at` goes on (`quotecontinue`: whitespace with at least one newline, then a quote).
pub(super) fn quote_continues(text: &[u8], mut at: usize) -> Option<usize> {
    let mut newline = false;
    loop {
        match text.get(at)? {
            b'\'' => return newline.then_some(at + 1),
            b'-' if text.get(at + 1) == Some(&b'-') => at = line_comment_end(text, at + 2),
            &byte if is_space(byte) => {
                newline |= is_newline(byte);
                at += 1;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> &str {
        &text[..number_end(text.as_bytes(), 0)]
    }

    #[test]
    fn numbers_take_what_the_longest_rule_takes() {
        for (text, expected) in [
            ("1", "1"),
            ("1_000 ", "1_000"),
            ("1__0", "1__0"),
            ("1_0$a$", "1_0$a$"),
            ("1_0.5_0e+5_0$a$", "1_0.5_0e+5_0$a$"),
            ("1.5_0$a$", "1.5_0$a$"),
            ("1e5+1", "1e5"),
            ("1..10", "1"),
            ("1.", "1."),
            ("1.5.3", "1.5"),
            (".5e3x", ".5e3x"),
            ("1e'x'", "1e"),
            ("1.e'x'", "1.e"),
            ("1e+'x'", "1e+"),
            ("1e+x'x'", "1e+"),
            ("1e-5x'x'", "1e-5x"),
            ("0x1F'", "0x1F"),
            ("0x'1F'", "0x"),
            ("1a$x$", "1a$x$"),
            ("1$x$", "1"),
            ("1::int", "1"),
            ("5-3", "5"),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }

    #[test]
    fn bytes_are_found_in_and_behind_whole_chunks() {
        for length in 0..100 {
            let mut text = vec![b'a'; length];
            assert_eq!(find(&text, b'b'), None);
            for at in 0..length {
                text[at] = b'b';
                assert_eq!(find(&text, b'b'), Some(at));
                assert_eq!(find_from(&text, at + 1, b'b'), length);
                text[at] = b'a';
            }
        }
    }

    #[test]
    fn operators_stop_before_comments_and_give_signs_back() {
        for (text, expected) in [
            ("+-", "+"),
            ("=-1", "="),
            ("@-", "@-"),
            ("@--c", "@"),
            ("+/*c*/", "+"),
            ("?-|", "?-|"),
            ("*", "*"),
            ("<>-", "<>"),
            ("//*", "/"),
        ] {
            assert_eq!(&text[..operator_end(text.as_bytes(), 0)], expected, "{text}");
        }
    }

    #[test]
    fn a_string_goes_on_only_behind_a_newline() {
        assert_eq!(quote_continues(b" \n 'b'", 0), Some(4));
        assert_eq!(quote_continues(b" -- c\n'b'", 0), Some(7));
        assert_eq!(quote_continues(b"\r'b'", 0), Some(2));
        assert_eq!(quote_continues(b" 'b'", 0), None);
        assert_eq!(quote_continues(b" -- c", 0), None);
        assert_eq!(quote_continues(b"\n x", 0), None);
        assert_eq!(quote_continues(b"\n", 0), None);
    }

    #[test]
    fn dollar_delimiters() {
        assert_eq!(dollar_delimiter_end(b"$$", 0), Some(2));
        assert_eq!(dollar_delimiter_end(b"$a1_$", 0), Some(5));
        assert_eq!(dollar_delimiter_end("$ä$".as_bytes(), 0), Some(4));
        assert_eq!(dollar_delimiter_end(b"$1$", 0), None);
        assert_eq!(dollar_delimiter_end(b"$a", 0), None);
    }
}
