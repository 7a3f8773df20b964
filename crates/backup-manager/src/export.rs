//! `export`: an incremental backup as one that holds all by itself, for psql, for rollback.sh, for another machine. Members are
//! copied as they are packed.

use std::time::Instant;

use ms5_common::config::{Settings, absolute};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::success;
use ms5_common::tool::Context;

use crate::archive::{Archive, Reader, Written};
use crate::args::Options;
use crate::dump::cannot_write;
use crate::folder::metadata::{Kind, Member, Metadata, More};
use crate::folder::partial::{self, Partial};
use crate::folder::{Entry, Folder, Hold, name, write_index};
use crate::sessions::{self, stopped};
use crate::words::bytes;
use crate::{list, verify};

/// What stands before the name of a file that holds all but what is in the store.
pub(crate) const BASE: &str = "base.";

/// What stands behind the name of what was exported.
pub(crate) const ENDING: &str = "_export";

/// The name of a file that holds all.
pub(crate) fn whole_name(file: &str) -> &str {
    file.strip_prefix(BASE).unwrap_or(file)
}

/// The whole command.
pub(crate) fn run(context: &Context, options: &Options, settings: &Settings, name: &str) -> Result<Exit> {
    let begun = Instant::now();
    let _work = sessions::work()?;
    let folder = Folder::open(&settings.backup_dir, Hold::Shared, options.lock_wait)?;
    partial::sweep(&folder);
    let entry = folder.find(name, settings)?;
    context.recorder.start(None, None);
    let damage = verify::whole(&entry)?;
    if !damage.is_empty() {
        return Err(verify::damaged(&entry, damage));
    }
    let Ok(metadata @ Metadata { more: Some(more), .. }) = &entry.metadata else {
        return Err(alone_already(&entry));
    };
    if more.pieces.is_none() {
        return Err(alone_already(&entry));
    }
    let plain = format!("{}{ENDING}", name::without_stamp(&entry.name).unwrap_or(&entry.name));
    name::check(&plain)?;
    let partial = Partial::create(&folder, &plain)?;
    log::info!("Exporting backup: {} as {}", entry.name, partial.name());
    let exported = write(&entry, metadata, more, &partial)?;
    let made = Entry::read(partial.name().to_owned(), partial.path().to_owned());
    let damage = verify::sums(&made)?;
    if !damage.is_empty() {
        return Err(Error::new(Exit::Failed, "the export cannot be read back as it was written")
            .because_all(damage)
            .because("nothing of it is kept")
            .hint("check the disk under --backup-dir"));
    }
    let path = partial.publish(&folder).map_err(|error| cannot_write(&error))?;
    let made = Entry::read(exported.name, path);
    context.recorder.emit("backup", list::record(&made, "created"));
    log::info!("Location: {}, {}", absolute(&made.path).display(), bytes(made.size));
    success!("✅ Backup exported: {} ({} ms)", made.name, begun.elapsed().as_millis());
    Ok(Exit::Done)
}

fn alone_already(entry: &Entry) -> Error {
    Error::new(Exit::Config, format!("{} is not incremental: it holds all by itself", entry.name))
        .because("nothing was touched")
        .hint("use it as it is")
}

/// Writes the files, and what they say of themselves.
fn write(entry: &Entry, metadata: &Metadata, more: &More, partial: &Partial) -> Result<Metadata> {
    let reader = entry.reader().map_err(|error| {
        Error::new(Exit::Config, format!("cannot open the backup {}", entry.name)).because(error)
    })?;
    let kind = Kind::of(&metadata.kind);
    let mut whole = Metadata { name: partial.name().to_owned(), files: Vec::new(), ..metadata.clone() };
    let mut said = More { sizes: Vec::new(), members: Vec::new(), pieces: None, ..more.clone() };
    for (place, (file, _)) in metadata.files.iter().enumerate() {
        let members = in_order(kind, place, metadata.files.len(), &more.members);
        let path = partial.path().join(whole_name(file));
        let Written { members, sha256, bytes, .. } = if members.is_empty() {
            crate::archive::small(&path, None, &entry.text(file).map_err(|error| cannot_write(&error))?)
                .map_err(|error| cannot_write(&error))?
        } else {
            copy(&reader, &members, &path)?
        };
        said.members.extend(members.into_iter().map(|member| Member { file: place, ..member }));
        said.sizes.push(bytes);
        whole.files.push((whole_name(file).to_owned(), sha256));
    }
    whole.more = Some(said);
    write_index(partial.path(), &whole).map_err(|error| cannot_write(&error))?;
    Ok(whole)
}

fn copy(reader: &Reader, members: &[&Member], path: &std::path::Path) -> Result<Written> {
    let archive = Archive::create(path, None, None).map_err(|error| cannot_write(&error))?;
    for member in members {
        stopped()?;
        archive.append_stored(reader, member).map_err(|error| cannot_write(&error))?;
    }
    archive.finish().map_err(|error| cannot_write(&error))
}

/// The members of the file at that place, those of its tables that lie in the store where rows stand.
fn in_order(kind: Option<Kind>, place: usize, files: usize, members: &[Member]) -> Vec<&Member> {
    let mut own: Vec<&Member> = members.iter().filter(|member| member.file == place).collect();
    own.sort_by_key(|member| member.offset);
    // Of CSV each table has a file of its own.
    let of_it =
        |member: &&Member| member.file >= files && (kind == Some(Kind::Full) || member.table == Some(place));
    let mut stored: Vec<&Member> = members.iter().filter(of_it).collect();
    stored.sort_by_key(|member| (member.table, member.file, member.offset));
    let Some(stage) = stored.first().map(|member| member.stage) else { return own };
    let at = own.iter().position(|member| member.stage > stage).unwrap_or(own.len());
    own.splice(at..at, stored);
    own
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::metadata::Stage;

    #[test]
    fn rows_stand_behind_what_they_need_and_before_what_needs_them() {
        let member = |file, stage, table, offset| Member {
            file,
            stage,
            table,
            range: None,
            offset,
            length: 1,
            raw: 1,
            rows: 0,
            hash: 0,
        };
        let full = [
            member(0, Stage::Begin, None, 0),
            member(0, Stage::Catalog, Some(0), 1),
            member(0, Stage::Table, Some(2), 2),
            member(0, Stage::Check, None, 3),
            member(2, Stage::Table, Some(3), 0),
            member(1, Stage::Table, Some(1), 4),
            member(1, Stage::Table, Some(1), 0),
        ];
        let shape = |kind, place, files, members: &[Member]| -> Vec<(usize, u64)> {
            in_order(Some(kind), place, files, members)
                .iter()
                .map(|member| (member.file, member.offset))
                .collect()
        };
        assert_eq!(shape(Kind::Full, 0, 1, &full), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 4), (2, 0), (0, 3)]);
        let csv = [
            member(0, Stage::Header, None, 0),
            member(1, Stage::Header, None, 0),
            member(1, Stage::Csv, Some(1), 9),
            member(3, Stage::Csv, Some(1), 0),
            member(4, Stage::Csv, Some(0), 0),
        ];
        assert_eq!(shape(Kind::Hypertables, 0, 3, &csv), [(0, 0), (4, 0)]);
        assert_eq!(shape(Kind::Hypertables, 1, 3, &csv), [(1, 0), (1, 9), (3, 0)]);
        assert_eq!(shape(Kind::Hypertables, 2, 3, &csv), []);
    }
}
