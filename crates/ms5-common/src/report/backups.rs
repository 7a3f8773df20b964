//! Backups, their files and the rollback points.

use super::html::{Markup, el};
use super::outcome::badge_in;
use super::story::Story;
use super::table::{Row, code, figures, table, words};
use super::words::{bytes_in, count_in, moment_in, text, text_in};

/// The part.
pub(super) fn part(story: &Story<'_>) -> Markup {
    let backups = story
        .kind("backup")
        .into_iter()
        .map(|record| {
            Row::of(
                record,
                text(record, "name"),
                vec![
                    [
                        text_in(record, "name"),
                        el("span", &[("class", "under")], el("code", &[], text_in(record, "path"))),
                    ]
                    .into(),
                    badge_in(record, "outcome"),
                    text_in(record, "backup_type"),
                    moment_in(record, "created_at"),
                    bytes_in(record, "bytes"),
                    count_in(record, "tables"),
                    count_in(record, "rows"),
                    moment_in(record, "verified_at"),
                ],
            )
        })
        .collect();
    let files = story
        .kind("file")
        .into_iter()
        .map(|record| {
            let key = format!("{}/{}", text(record, "backup"), text(record, "file"));
            Row::of(
                record,
                &key,
                vec![
                    el("code", &[], text_in(record, "file")),
                    text_in(record, "backup"),
                    bytes_in(record, "bytes"),
                    el("code", &[("class", "digest")], text_in(record, "sha256")),
                ],
            )
        })
        .collect();
    let points = story
        .kind("rollback_point")
        .into_iter()
        .map(|record| {
            Row::of(
                record,
                text(record, "name"),
                vec![text_in(record, "name"), el("code", &[], text_in(record, "path"))],
            )
        })
        .collect();
    let columns = [
        words("Backup, folder"),
        words("Outcome"),
        words("Type"),
        words("Made at"),
        figures("Size"),
        figures("Tables"),
        figures("Rows"),
        words("Proven at"),
    ];
    [
        table("Rollback points: the way back", &[words("Point"), code("Folder")], points),
        table("Backups", &columns, backups),
        table("Files of backups", &[code("File"), words("Backup"), figures("Size"), code("sha256")], files),
    ]
    .into()
}
