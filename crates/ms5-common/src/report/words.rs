//! Numbers as people read them. The exact value always stands beside them, in the page's `data` elements.

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::html::{Markup, el};
use crate::clock;

const WHEN: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");

/// `840 ms`, `12.3 s`, `3 min 05 s`, `2 h 04 min`, `3 d 07 h`.
pub(super) fn duration(seconds: f64) -> String {
    if seconds < 0.9995 {
        return format!("{:.0} ms", seconds * 1000.0);
    }
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    // Rounded before it is taken apart: what is cut off a part is missing from the whole.
    let whole = seconds.round();
    if whole < 3600.0 {
        let minutes = (whole / 60.0).floor();
        return format!("{minutes:.0} min {:02.0} s", whole - minutes * 60.0);
    }
    let minutes = (seconds / 60.0).round();
    let hours = (minutes / 60.0).floor();
    if hours < 48.0 {
        return format!("{hours:.0} h {:02.0} min", minutes - hours * 60.0);
    }
    let hours = (seconds / 3600.0).round();
    let days = (hours / 24.0).floor();
    format!("{days:.0} d {:02.0} h", hours - days * 24.0)
}

/// `812 B`, `1.4 MiB`.
pub(super) fn bytes(bytes: f64) -> String {
    let mut rest = bytes;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if rest < 1023.5 {
            return if unit == "B" { format!("{rest:.0} B") } else { format!("{rest:.1} {unit}") };
        }
        rest /= 1024.0;
    }
    format!("{rest:.1} TiB")
}

/// `1,234,567`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 file`, `2 files`.
pub(super) fn many(number: u64, one: &str) -> String {
    format!("{} {one}{}", count(number), if number == 1 { "" } else { "s" })
}

/// The number of things in a list.
pub(super) fn len<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}

/// The sum, or the greatest number there is.
pub(super) fn total(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0, u64::saturating_add)
}

/// A number of things as a place in a drawing.
pub(super) fn float(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::MAX, f64::from)
}

/// A measured value with its unit: `12.3 s`, `418 MB/s`.
pub(super) fn measured(value: f64, unit: &str) -> String {
    match unit {
        "s" => duration(value),
        "ms" if value < 9.95 => format!("{value:.1} ms"),
        "ms" => duration(value / 1000.0),
        // Nothing is that fast; it is not to fill a line either.
        _ if value >= 1e7 => format!("{value:.1e} {unit}"),
        _ if value >= 100.0 => format!("{value:.0} {unit}"),
        _ => format!("{value:.1} {unit}"),
    }
}

/// When a record was written.
pub(super) fn time_of(record: &Value) -> Option<OffsetDateTime> {
    record["time"].as_str().and_then(clock::parse_record_time)
}

/// `2024-01-15 10:30:00 UTC`.
pub(super) fn when(time: OffsetDateTime) -> String {
    time.to_offset(time::UtcOffset::UTC).format(WHEN).unwrap_or_default()
}

/// A day and a time of that day, between which a line may break, and nowhere else.
pub(super) fn moment(time: &str) -> Markup {
    let (day, rest) = time.split_once(['T', ' ']).unwrap_or((time, ""));
    let piece = |text: &str| el("span", &[("class", "piece")], text);
    if rest.is_empty() { piece(day) } else { [piece(day), " ".into(), piece(rest)].into() }
}

/// A name of several parts, `schema.table`, between which a line may break before it does so anywhere else.
pub(super) fn parted(name: &str) -> Markup {
    name.split_inclusive('.').map(|part| el("span", &[("class", "piece")], part)).collect()
}

/// A moment in a field.
pub(super) fn moment_in(record: &Value, name: &str) -> Markup {
    match record[name].as_str() {
        Some(time) => figure(name, &record[name], moment(time)),
        None => field(record, name, |_| None),
    }
}

/// A value of a record, as it stands there, under a text for people. Tests hold the one to the other.
pub(super) fn figure(field: &str, value: &Value, text: impl Into<Markup>) -> Markup {
    let exact = match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    el("data", &[("data-field", field), ("value", &exact)], text)
}

/// A field of a record as a figure; a dash where it is missing or null.
pub(super) fn field(record: &Value, name: &str, show: impl FnOnce(&Value) -> Option<String>) -> Markup {
    match &record[name] {
        Value::Null => "–".into(),
        value => figure(name, value, show(value).unwrap_or_else(|| value.to_string())),
    }
}

/// Seconds in a field.
pub(super) fn seconds_in(record: &Value, name: &str) -> Markup {
    field(record, name, |value| value.as_f64().map(duration))
}

/// Bytes in a field.
pub(super) fn bytes_in(record: &Value, name: &str) -> Markup {
    field(record, name, |value| value.as_f64().map(bytes))
}

/// A whole number in a field.
pub(super) fn count_in(record: &Value, name: &str) -> Markup {
    field(record, name, |value| value.as_u64().map(count))
}

/// Text in a field.
pub(super) fn text_in(record: &Value, name: &str) -> Markup {
    field(record, name, |value| value.as_str().map(str::to_owned))
}

/// Text in a field, or nothing.
pub(super) fn text<'a>(record: &'a Value, name: &str) -> &'a str {
    record[name].as_str().unwrap_or_default()
}

/// The texts of a list.
pub(super) fn texts<'a>(record: &'a Value, name: &str) -> Vec<&'a str> {
    record[name].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The members of a list.
pub(super) fn list<'a>(record: &'a Value, name: &str) -> &'a [Value] {
    record[name].as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_people_read_them() {
        for (seconds, text) in [
            (0.0, "0 ms"),
            (0.25, "250 ms"),
            (0.9999, "1.0 s"),
            (12.34, "12.3 s"),
            (59.94, "59.9 s"),
            (59.96, "1 min 00 s"),
            (119.6, "2 min 00 s"),
            (185.0, "3 min 05 s"),
            (3599.4, "59 min 59 s"),
            (3599.6, "1 h 00 min"),
            (7199.9, "2 h 00 min"),
            (7440.0, "2 h 04 min"),
            (284_400.0, "3 d 07 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!((bytes(812.0), bytes(1_468_006.0)), ("812 B".to_owned(), "1.4 MiB".to_owned()));
        assert_eq!(
            (count(7), count(1_234_567), many(1, "file"), many(0, "file")),
            ("7".to_owned(), "1,234,567".to_owned(), "1 file".to_owned(), "0 files".to_owned())
        );
    }
}
