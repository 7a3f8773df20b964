//! Sends one statement as a message of its own, with the rows of the file behind it where it is a COPY.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use ms5_common::db::client::Client;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::interrupt;
use ms5_common::migrations::Migration;
use ms5_common::sql::{CopyData, Statement};
use sha2::{Digest, Sha256};

use crate::failure::{self, Failure};
use crate::sessions::Session;

/// Sends a statement and waits for its end. A signal cancels it on the server.
pub(super) fn send(
    session: &mut Session,
    migration: &Migration,
    statement: &Statement,
) -> std::result::Result<(), Failure> {
    let _under_signals = interrupt::cancellable(&session.canceller);
    if interrupt::requested().is_some() {
        return Err(Error::new(Exit::Failed, format!("Migration {} was stopped", migration.title)).into());
    }
    match statement.copy_data.first() {
        None => session.client.batch_execute(&statement.text),
        Some(data) => copy_in(&mut session.client, migration, statement, *data)?,
    }
    .map_err(|error| failure::of_statement(migration, statement, &error))
}

/// Streams the rows that stand in the file behind a COPY ... FROM STDIN.
fn copy_in(
    client: &mut Client,
    migration: &Migration,
    statement: &Statement,
    data: CopyData,
) -> Result<std::result::Result<(), postgres::Error>> {
    let path = migration.path_of(statement.file);
    let unreadable = |error: io::Error| {
        Error::new(Exit::Failed, format!("Migration {} failed: cannot read the COPY data", migration.title))
            .because(format!("{} from line {}: {error}", path.display(), data.first_line))
    };
    let mut file = File::open(path).map_err(unreadable)?;
    file.seek(SeekFrom::Start(data.offset)).map_err(unreadable)?;
    let mut rows = file.take(data.length);
    let mut writer = match client.copy_in(&statement.text) {
        Ok(writer) => writer,
        Err(error) => return Ok(Err(error)),
    };
    let mut buffer = vec![0; 256 * 1024];
    let mut sent = 0;
    let mut hash = Sha256::new();
    loop {
        let length = rows.read(&mut buffer).map_err(unreadable)?;
        if length == 0 {
            break;
        }
        sent += u64::try_from(length).unwrap_or(u64::MAX);
        hash.update(&buffer[..length]);
        if let Err(error) = writer.send(&buffer[..length]) {
            return Ok(Err(error));
        }
    }
    if sent != data.length {
        return Err(unreadable(io::Error::other("the file was shortened while it ran")));
    }
    if hash.finalize()[..] != data.sha256 {
        return Err(unreadable(io::Error::other("the file was changed while it ran")));
    }
    Ok(writer.finish().map(|_| ()))
}
