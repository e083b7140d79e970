//! The files that a configuration names: found relative to it, checked to be readable, remembered to be watched.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use crate::config::{
    diagnostics::{Diagnostic, Diagnostics, code},
    raw::tree::At,
};

pub(crate) struct Files {
    base_dir: PathBuf,
    paths: Vec<PathBuf>,
}

impl Files {
    pub(crate) fn new(base_dir: &Path) -> Self {
        Self { base_dir: base_dir.to_owned(), paths: Vec::new() }
    }

    /// Where a file named in the configuration is. Relative names start at the configuration's own folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.base_dir.join(name)
    }

    /// The path of a file that must be readable now. Its content is the user's business, except for its length.
    pub(crate) fn readable(
        &mut self,
        name: &At<String>,
        what: &str,
        sink: &mut Diagnostics,
    ) -> Option<ReadFile> {
        let path = self.path(&name.value);
        // Remembered even when it cannot be read: it may appear later, and then a reload succeeds.
        if !self.paths.contains(&path) {
            self.paths.push(path.clone());
        }
        match read(&path) {
            Ok(bytes) => Some(ReadFile { path, bytes }),
            Err(error) => {
                let finding = Diagnostic::error(
                    code::UNREADABLE,
                    name.span,
                    format!("cannot read the {what}: {error}"),
                );
                // The name itself stands in the marked line, unless a variable holds it; then it is not ours to show.
                let is_relative = Path::new(&name.value).is_relative();
                sink.push(match self.base_dir.display().to_string() {
                    dir if is_relative && !dir.is_empty() => {
                        finding.label(format!("looked for it in `{dir}`"))
                    }
                    _ => finding,
                });
                None
            }
        }
    }

    pub(crate) fn into_paths(self) -> Vec<PathBuf> {
        self.paths
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1MiB"));
    }
    Ok(bytes)
}

pub(crate) struct ReadFile {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
}

/// A key set of a large provider or a chain of certificates is a tenth of it; past this it is the wrong file, or one
/// without an end.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_an_end_is_refused_and_one_at_the_limit_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        fs::write(&path, vec![b'x'; usize::try_from(FILE_BYTES_MAX).unwrap()]).unwrap();
        assert!(read(&path).is_ok());
        let endless = read(Path::new("/dev/zero")).unwrap_err();
        assert!(endless.to_string().contains("larger than 1MiB"), "{endless}");
    }
}
