//! The files that a configuration names: found relative to it, checked to be readable, remembered to be watched.

use std::path::{Path, PathBuf};

use crate::{
    bounded_file,
    config::{
        diagnostics::{Diagnostic, Diagnostics, code},
        raw::tree::At,
    },
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
        match bounded_file::read(&path) {
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

pub(crate) struct ReadFile {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
}
