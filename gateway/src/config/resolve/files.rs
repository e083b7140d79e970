//! The files that a configuration names: their paths are relative to it, they are checked to be readable, and listed
//! to be watched.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use crate::{
    bounded_file, clock,
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, Span, code},
        tree::At,
    },
    tls::validity::{Standing, Validity},
};

/// The files that one configuration names.
pub(crate) struct Files {
    base_dir: PathBuf,
    paths: Vec<PathBuf>,
}

impl Files {
    /// A list without files. Relative names start at `base_dir`.
    pub(crate) fn new(base_dir: &Path) -> Self {
        Self { base_dir: base_dir.to_owned(), paths: Vec::new() }
    }

    /// The path of a file that the configuration names. Relative names start at the configuration's own folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.base_dir.join(name)
    }

    /// Reads a file that must be readable now and not too long. Its content is not checked here. `None`: the error is
    /// reported.
    pub(crate) fn readable(
        &mut self,
        name: &At<String>,
        what: &str,
        sink: &mut Diagnostics,
    ) -> Option<ReadFile> {
        let path = self.path(&name.value);
        // It is listed even if it cannot be read: it may appear later, and then a reload succeeds.
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
                // The marked line contains the name, unless it comes from a variable, whose value is not shown.
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

    /// Reads a file that may be missing. It is watched in any case.
    pub(crate) fn maybe(&mut self, name: &str) -> (PathBuf, io::Result<Vec<u8>>) {
        let path = self.path(name);
        if !self.paths.contains(&path) {
            self.paths.push(path.clone());
        }
        let read = bounded_file::read(&path);
        (path, read)
    }

    /// Reads a certificate as [`Files::readable`] does, and warns if peers refuse it, or soon will, because of its
    /// validity.
    pub(crate) fn certificate(
        &mut self,
        name: &At<String>,
        what: &str,
        sink: &mut Diagnostics,
    ) -> Option<ReadFile> {
        let file = self.readable(name, what, sink)?;
        if let Some(validity) = Validity::of_pem(&file.bytes) {
            sink.extend(out_of_time(&validity, clock::unix_now(), what, name.span));
        }
        Some(file)
    }

    /// Reads lists of revoked certificates as [`Files::readable`] does, and warns if no client is accepted, or soon will be, because
    /// they are out of date.
    pub(crate) fn revocations(&mut self, name: &At<String>, sink: &mut Diagnostics) -> Option<ReadFile> {
        let file = self.readable(name, REVOCATIONS, sink)?;
        if let Some(validity) = Validity::of_crls(&file.bytes) {
            sink.extend(out_of_time(&validity, clock::unix_now(), REVOCATIONS, name.span));
        }
        Some(file)
    }

    /// The paths of all named files, to be watched.
    pub(crate) fn into_paths(self) -> Vec<PathBuf> {
        self.paths
    }
}

fn out_of_time(validity: &Validity, now: Duration, what: &str, span: Span) -> Option<Diagnostic> {
    let day = |time: Duration| {
        let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + time).to_string();
        text.split('T').next().unwrap_or_default().to_owned()
    };
    let renew = if what == REVOCATIONS {
        "put a new one into this file; it is read again when it changes"
    } else {
        "put a new one and its key into these files; they are read again when they change"
    };
    let (message, label, help) = match validity.standing(now) {
        Standing::Good => return None,
        Standing::Expired => (
            format!("the {what} expired on {}", day(validity.not_after)),
            "it is refused by everyone who checks it",
            renew,
        ),
        Standing::ExpiresSoon => (
            format!("the {what} expires on {}", day(validity.not_after)),
            "it is refused from then on by everyone who checks it",
            renew,
        ),
        Standing::NotYetValid => (
            format!("the {what} is not valid before {}", day(validity.not_before)),
            "it is refused until then by everyone who checks it",
            "look whether the clock of this machine is right, or put one that is valid now into this file",
        ),
    };
    Some(Diagnostic::warning(code::CERTIFICATE_TIME, span, message).label(label).help(help))
}

const REVOCATIONS: &str = "list of revoked certificates";

/// A file that has been read.
pub(crate) struct ReadFile {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
}
