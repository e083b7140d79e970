//! Why a data directory cannot be used, with the next step for the operator in the message.

use std::io;
use std::path::{Path, PathBuf};

use crate::store::journal::VERSION;

/// Why the data directory of an [`EmbeddedRegistry`](crate::EmbeddedRegistry) cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another process has locked the directory.
    #[error("{} is in use by another process; give each registry a directory of its own", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// A log is damaged before its end.
    #[error(
        "{} is damaged at byte {at}: {detail}; restore the directory from a copy, or give up what follows: \
         `truncate -s {at} {}`", path.display(), path.display()
    )]
    DamagedLog {
        /// The file.
        path: PathBuf,
        /// The first byte that cannot be read.
        at: usize,
        /// What is wrong there.
        detail: String,
    },
    /// A snapshot is damaged.
    #[error(
        "{} is damaged at byte {at}: {detail}; restore the directory from a copy, or move it away to begin empty",
        path.display()
    )]
    DamagedSnapshot {
        /// The file.
        path: PathBuf,
        /// The first byte that cannot be read.
        at: usize,
        /// What is wrong there.
        detail: String,
    },
    /// A file is in another format, of a later release.
    #[error("{} was written in format {found}; this release reads format {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version of its format.
        found: u64,
    },
    /// A file of the sequence is missing.
    #[error("{} is missing: the files after it cannot be read alone; restore it from a copy", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
}

impl JournalError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}
