//! Why a data directory cannot be used, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::store::journal::VERSION;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is in use by another process; give each registry a directory of its own", directory.display())]
    InUse { directory: PathBuf },
    #[error(
        "{} is damaged at byte {at}: {detail}; restore the directory from a copy, or give up what follows: \
         `truncate -s {at} {}`", path.display(), path.display()
    )]
    DamagedLog { path: PathBuf, at: usize, detail: String },
    #[error(
        "{} is damaged at byte {at}: {detail}; restore the directory from a copy, or move it away to begin empty",
        path.display()
    )]
    DamagedSnapshot { path: PathBuf, at: usize, detail: String },
    #[error("{} was written in format {found}; this release reads format {VERSION}", path.display())]
    Version { path: PathBuf, found: u64 },
    #[error("{} is missing: the files after it cannot be read alone; restore it from a copy", path.display())]
    Missing { path: PathBuf },
}

impl JournalError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}
