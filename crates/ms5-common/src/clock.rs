//! Wall-clock time as the tools print it: local time in log lines and log file names, UTC in records.

use std::sync::OnceLock;

pub use time::OffsetDateTime;
use time::UtcOffset;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

const LINE: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
const STAMP: &[BorrowedFormatItem<'_>] = format_description!("[year][month][day]_[hour][minute][second]");
const RECORD: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

static LOCAL: OnceLock<UtcOffset> = OnceLock::new();

/// Reads the local offset. Called once at the start of a tool: later, with threads running, the answer is
/// refused for want of a thread-safe C library call.
pub fn remember_local_offset() {
    LOCAL.get_or_init(|| UtcOffset::current_local_offset().unwrap_or(UtcOffset::UTC));
}

fn local_now() -> OffsetDateTime {
    OffsetDateTime::now_utc().to_offset(LOCAL.get().copied().unwrap_or(UtcOffset::UTC))
}

/// `2024-01-15 10:30:00`, local time: the stamp of a log line.
#[must_use]
pub fn line_time() -> String {
    local_now().format(LINE).unwrap_or_default()
}

/// `20240115_103000`, local time: the stamp of a log file's name.
#[must_use]
pub fn file_stamp() -> String {
    local_now().format(STAMP).unwrap_or_default()
}

/// `2024-01-15T10:30:00.000Z`, UTC: the time in a record.
#[must_use]
pub fn record_time() -> String {
    record_time_of(OffsetDateTime::now_utc())
}

/// The same for another moment.
#[must_use]
pub fn record_time_of(moment: OffsetDateTime) -> String {
    moment.to_offset(UtcOffset::UTC).format(RECORD).unwrap_or_default()
}

/// Reads what [`record_time`] (or any RFC 3339 writer) wrote.
#[must_use]
pub fn parse_record_time(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_time_can_be_read_back() {
        let parsed = parse_record_time(&record_time()).unwrap();
        assert!((OffsetDateTime::now_utc() - parsed).whole_seconds() < 5);
    }
}
