//! `restore`: a new database beside the old one, compared row by row, and the names swapped last.

pub(crate) mod deep {
    use super::*;
    pub(crate) fn run(_: &ms5_common::tool::Context, _: &crate::args::Options, _: &ms5_common::config::Settings, _: &crate::folder::Folder, _: crate::folder::Entry) -> ms5_common::error::Result<ms5_common::exit::Exit> {
        Ok(ms5_common::exit::Exit::Bug)
    }
}
