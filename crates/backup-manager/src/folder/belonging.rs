//! Whose a backup is, before it is brought back: backups of several environments lie in one folder.

use ms5_common::backups::{Kin, Whose};
use ms5_common::config::Settings;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;

use super::Entry;
use crate::args::{OTHER_DATABASE, own};

/// How many of others' backups an error names.
const NAMED: usize = 10;

/// Refuses to bring a backup of another database into this one, unless that is what is `wanted`.
///
/// # Errors
/// [`Exit::Config`] with whose it is.
pub(crate) fn check(name: &str, whose: Whose<'_>, settings: &Settings, wanted: bool) -> Result<()> {
    let ours = Whose::of(settings);
    match ours.kin(whose) {
        Kin::Ours | Kin::Unknown => Ok(()),
        Kin::Others if wanted => {
            log::warn!("{name} is a backup of {whose}; it replaces {ours}, as {OTHER_DATABASE} says");
            Ok(())
        }
        Kin::Others => Err(Error::new(Exit::Config, format!("{name} is a backup of another database"))
            .because(format!("it is of {whose}, and this is {ours}"))
            .because("nothing was touched")
            .hint(format!("look at --environment and DB_NAME; {} list shows whose the backups are", own()))
            .hint(format!("to bring it into {ours} nevertheless: {OTHER_DATABASE}"))),
    }
}

/// That a name has backups, and none of this database.
pub(super) fn only_of_others<'a>(
    name: &str,
    ours: Whose<'_>,
    others: impl Iterator<Item = &'a Entry>,
) -> Error {
    let others: Vec<String> = others.map(|entry| format!("{} is of {}", entry.name, entry.whose())).collect();
    let left = others.len().saturating_sub(NAMED);
    let more = (left > 0).then(|| format!("and {left} older ones"));
    Error::new(Exit::Config, format!("there is no backup {name:?} of {ours}"))
        .because_all(others.into_iter().take(NAMED).chain(more))
        .because("nothing was touched")
        .hint("look at --environment and DB_NAME; or give a backup's full name")
}

/// Says that nobody knows whose a backup is that was chosen by its time.
pub(super) fn warn_of_unknown(entry: &Entry, ours: Whose<'_>) {
    if ours.kin(entry.whose()) == Kin::Unknown {
        log::warn!(
            "{} does not say of which environment and database it is; it is taken for one of {ours}",
            entry.name
        );
    }
}
