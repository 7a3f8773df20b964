//! Off the machine and back: a backup as one tar through any command that reads stdin or writes stdout (`--pipe-to`, `--from`).
//!
//! Nothing of a backup is believed because a command has ended with 0: a tar without its end is refused, and each file is held
//! against the backup's sums on both ways.

mod command;
mod meter;
mod receive;
mod send;
mod tar;

use std::time::Instant;

use ms5_common::backups::{Kin, Whose};
use ms5_common::config::{Settings, absolute};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::success;
use ms5_common::tool::Context;
use ms5_common::troubleshooting;
use serde_json::json;

use crate::archive::{RESERVE, free};
use crate::args::{OTHER_DATABASE, Options, own};
use crate::dump::cannot_write;
use crate::folder::partial::{self, Partial};
use crate::folder::proof::{self, Standing};
use crate::folder::{Entry, Folder, Hold, belonging, checksums, name, read_text};
use crate::words::{bytes, count};
use crate::{list, restore, sessions, verify};
use command::{NAME, Shell, Unfed};
use meter::Meter;
use receive::{Fate, Head, Passed};
use send::Parcel;
use tar::Whole;

/// `send NAME --pipe-to=COMMAND`.
pub(crate) fn send(context: &Context, options: &Options, settings: &Settings, name: &str) -> Result<Exit> {
    let shell = Shell::check(text(options.pipe_to.as_deref())?, &context.variables)?;
    let folder = Folder::open(&settings.backup_dir, Hold::Shared, options.lock_wait)?;
    let entry = folder.find(name, settings)?;
    context.recorder.start(None, None);
    ship(context, &shell, &entry)
}

/// `backup` and `rollback-point`, which send what they have made where they are told to.
pub(crate) fn made(
    context: &Context,
    options: &Options,
    settings: &Settings,
    make: impl FnOnce() -> Result<Entry>,
) -> Result<Exit> {
    let Some(text) = options.pipe_to.as_deref() else { return make().map(|_| Exit::Done) };
    // Before a row is read: what cannot be run then would be found out only when all is written.
    let shell = Shell::check(text, &context.variables)?;
    // Nobody cleans between the two.
    let _held = Folder::open(&settings.backup_dir, Hold::Shared, options.lock_wait)?;
    let entry = make()?;
    ship(context, &shell, &entry)
}

/// `fetch [NAME] --from=COMMAND`: into the folder of the backups, and no more.
pub(crate) fn fetch(
    context: &Context,
    options: &Options,
    settings: &Settings,
    name: Option<&str>,
) -> Result<Exit> {
    let folder = Folder::open(&settings.backup_dir, Hold::Shared, options.lock_wait)?;
    let (entry, whole) = bring(context, options, &folder, name, |_| Ok(()))?;
    if let Some(whole) = &whole {
        note(context, &entry.name, whole);
    }
    let outcome = if whole.is_some() { "fetched" } else { "already here" };
    context.recorder.emit("backup", list::record(&entry, outcome));
    let others = Whose::of(settings).kin(entry.whose()) == Kin::Others;
    let flag = if others { format!(" {OTHER_DATABASE}") } else { String::new() };
    log::info!("Restore it: {}{flag}", troubleshooting::restore(settings, &entry.name));
    success!("✅ Backup {outcome}: {}", entry.name);
    Ok(Exit::Done)
}

/// `restore [NAME] --from=COMMAND`: fetched, then restored like any other, and kept.
pub(crate) fn restore(
    context: &Context,
    options: &Options,
    settings: &Settings,
    name: Option<&str>,
) -> Result<Exit> {
    let folder = Folder::open(&settings.backup_dir, Hold::Shared, options.lock_wait)?;
    // Before the rows come.
    let may_come = |head: &Head| {
        let metadata = &head.metadata;
        belonging::check(&metadata.name, metadata.whose(), settings, options.other_database)
    };
    let (entry, _) = bring(context, options, &folder, name, may_come)?;
    restore::run(context, options, settings, &entry.name)
}

/// `verify [NAME] --from=COMMAND`: read to its end, checked, and written nowhere.
pub(crate) fn verify(context: &Context, options: &Options, name: Option<&str>) -> Result<Exit> {
    name.map_or(Ok(()), name::check_full)?;
    let shell = Shell::check(text(options.from.as_deref())?, &context.variables)?;
    context.recorder.start(None, None);
    let _work = sessions::work()?;
    let begun = Instant::now();
    log::info!("Verifying the backup that comes from {}", shell.called());
    let mut meter = Meter::new("reading");
    let passed = shell.drain(name, |from| {
        receive::read(from, &mut meter, |head| is_asked_for(head, name).map(|()| Fate::Checked))
    })?;
    drop(meter);
    let Some(Passed { head, proof, whole }) = passed else { return Err(lost()) };
    if let Standing::Damaged(why) = proof {
        return Err(Error::new(Exit::Failed, format!("{}: {}: {why}", head.metadata.name, proof::FILE))
            .because("the backup itself fits its checksums")
            .hint(format!(
                "fetch leaves that file out; prove the backup anew then: {} verify NAME --deep",
                own()
            )));
    }
    tell(&head.metadata.name, &whole, begun);
    note(context, &head.metadata.name, &whole);
    let proven = match proof {
        Standing::Proven(proof) => Some(proof.verified_at),
        _ => None,
    };
    let rows = head.metadata.rows();
    log::info!("{}: checksums fit, {} rows", head.metadata.name, count(rows.unwrap_or_default()));
    context.recorder.emit(
        "backup",
        json!({
            "name": head.metadata.name,
            "outcome": "intact",
            "backup_type": head.metadata.kind,
            "environment": head.metadata.environment,
            "database": head.metadata.whose().database,
            "created_at": head.metadata.created_at,
            "path": null,
            "bytes": head.size(),
            "tables": list::tables(&head.metadata),
            "rows": rows,
            "verified_at": proven,
            "recipients": head.metadata.recipients(),
            "damage": [],
        }),
    );
    success!("✅ Backup verified: {}", head.metadata.name);
    Ok(Exit::Done)
}

/// Sends a backup.
fn ship(context: &Context, shell: &Shell<'_>, entry: &Entry) -> Result<Exit> {
    let parcel = Parcel::of(entry)?;
    let _work = sessions::work()?;
    let begun = Instant::now();
    log::info!("Sending backup: {} to {} ({})", entry.name, shell.called(), bytes(parcel.size()));
    let mut meter = Meter::new("sending");
    let sent = shell.feed(parcel.name(), parcel.length(), |out| parcel.write(out, &mut meter));
    drop(meter);
    let whole = sent.map_err(|why| match why {
        Unfed::Ours(error) => error,
        Unfed::Theirs(error) => error
            .because(format!(
                "the backup {} is whole here; do not rely on what the far end has of it",
                entry.name
            ))
            .hint(format!("send it again: {own} send {} --pipe-to=COMMAND", entry.name, own = own())),
    })?;
    tell(&entry.name, &whole, begun);
    note(context, &entry.name, &whole);
    context.recorder.emit("backup", list::record(entry, "sent"));
    log::info!("Check it at the far end: {own} verify {} --from=COMMAND", entry.name, own = own());
    success!("✅ Backup sent: {}", entry.name);
    Ok(Exit::Done)
}

/// The tar's sum, as sha256sum prints it at the far end.
fn tell(name: &str, whole: &Whole, begun: Instant) {
    log::info!("{}  {name}.tar", whole.sha256);
    log::info!("{} bytes ({}) in {} ms", whole.bytes, bytes(whole.bytes), begun.elapsed().as_millis());
}

/// The same as a record.
fn note(context: &Context, name: &str, whole: &Whole) {
    context.recorder.emit(
        "file",
        json!({ "backup": name, "file": format!("{name}.tar"), "bytes": whole.bytes, "sha256": whole.sha256 }),
    );
}

/// Fetches a backup into the folder; its entry, and the tar, unless it is there already.
fn bring(
    context: &Context,
    options: &Options,
    folder: &Folder,
    name: Option<&str>,
    may_come: impl Fn(&Head) -> Result<()>,
) -> Result<(Entry, Option<Whole>)> {
    name.map_or(Ok(()), name::check_full)?;
    let shell = Shell::check(text(options.from.as_deref())?, &context.variables)?;
    let _work = sessions::work()?;
    partial::sweep(folder);
    let begun = Instant::now();
    log::info!("Fetching a backup from {}", shell.called());
    let mut meter = Meter::new("fetching");
    let (mut there, mut partial) = (None, None);
    let passed = shell.drain(name, |from| {
        receive::read(from, &mut meter, |head| {
            is_asked_for(head, name)?;
            may_come(head)?;
            there = already_here(folder, head)?;
            if there.is_some() {
                return Ok(Fate::Unneeded);
            }
            log::info!(
                "Backup: {} of {} ({})",
                head.metadata.name,
                head.metadata.created_at,
                bytes(head.size())
            );
            enough_space(folder, head)?;
            let made = partial.insert(Partial::receive(folder, &head.metadata.name)?);
            Ok(Fate::Kept(made.path().to_owned()))
        })
    })?;
    drop(meter);
    if let Some(entry) = there {
        return sound(entry).map(|entry| (entry, None));
    }
    let (Some(Passed { head, proof, whole }), Some(partial)) = (passed, partial) else { return Err(lost()) };
    tell(&head.metadata.name, &whole, begun);
    if let Standing::Damaged(why) = proof {
        log::warn!("{}: {why}; the backup fits its checksums and is kept without it", proof::FILE);
    }
    log::info!("Reading the backup back");
    let entry = Entry::read(partial.name().to_owned(), partial.path().to_owned());
    let damage = verify::whole(&entry)?;
    if !damage.is_empty() {
        return Err(Error::new(Exit::Failed, "the backup cannot be read back as it came")
            .because_all(damage)
            .because("nothing of it is kept")
            .hint("check the disk under --backup-dir"));
    }
    let path = partial.publish(folder).map_err(|error| cannot_write(&error))?;
    Ok((Entry::read(head.metadata.name, path), Some(whole)))
}

/// That the backup which comes is the one that was named.
fn is_asked_for(head: &Head, name: Option<&str>) -> Result<()> {
    let comes = head.metadata.name.as_str();
    match name {
        Some(asked) if comes != asked && name::without_stamp(comes) != Some(asked) => {
            Err(Error::new(Exit::Config, format!("the backup {comes} comes, and {asked} was asked for"))
                .because("nothing of it is kept")
                .hint(format!("look at the command ({NAME} is {asked} in it), or give no name")))
        }
        _ => Ok(()),
    }
}

/// The backup of that name that is here, where it is the same.
fn already_here(folder: &Folder, head: &Head) -> Result<Option<Entry>> {
    let name = &head.metadata.name;
    let path = folder.path().join(name);
    if !path.exists() {
        return Ok(None);
    }
    if read_text(&path.join(checksums::FILE)).ok().as_ref() == Some(&head.sums) {
        return Ok(Some(Entry::read(name.clone(), path)));
    }
    Err(Error::new(Exit::Config, format!("there is another {name} in {}", folder.path().display()))
        .because("its checksums are not those of the one that comes")
        .because("nothing was touched")
        .hint("move it away, or fetch into another folder: --backup-dir=DIR"))
}

/// The backup that is here already, where it is as it should be.
fn sound(entry: Entry) -> Result<Entry> {
    log::info!("{} is here already, with the same checksums: nothing is fetched", entry.name);
    let damage = verify::whole(&entry)?;
    if damage.is_empty() {
        return Ok(entry);
    }
    Err(Error::new(Exit::Config, format!("{} is here already, and is damaged", entry.name))
        .because_all(damage)
        .because("nothing was touched")
        .hint(format!("move {} away, and fetch it again", absolute(&entry.path).display())))
}

fn enough_space(folder: &Folder, head: &Head) -> Result<()> {
    let wanted = head.size().saturating_add(RESERVE);
    match free(folder.path()) {
        Some(free) if free < wanted => {
            Err(Error::new(Exit::Config, format!("there is too little space in {}", folder.path().display()))
                .because(format!(
                    "{} has {}, and {} are free",
                    head.metadata.name,
                    bytes(head.size()),
                    bytes(free)
                ))
                .because("nothing was touched")
                .hint(format!("make room ({} clean), or fetch into another folder: --backup-dir=DIR", own())))
        }
        _ => Ok(()),
    }
}

/// A command that `args` has asked for.
fn text(command: Option<&str>) -> Result<&str> {
    command.ok_or_else(|| Error::new(Exit::Bug, "a command that must be given is not"))
}

fn lost() -> Error {
    Error::new(Exit::Bug, "a backup has come and is not there")
}
