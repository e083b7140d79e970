//! Small files in the state directory that a later start reads: written whole or not at all, and readable by their
//! owner only. Calls block on the disk and belong on the control plane.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

/// What was kept; `None` if there is nothing that can be read, which is said unless the file is absent.
pub(super) fn read(path: &Path) -> Option<Vec<u8>> {
    fs::read(path)
        .inspect_err(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(file = %path.display(), %error, "what was kept for this start cannot be read");
            }
        })
        .ok()
}

/// Replaces what is kept, unless it is the same. A failure is said: the gateway does without.
pub(super) fn write(path: &Path, bytes: &[u8]) {
    if let Err(error) = try_write(path, bytes) {
        tracing::warn!(file = %path.display(), %error, "this could not be kept for the next start");
    }
}

fn try_write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|known| known == bytes) {
        return Ok(());
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let beside = path.with_extension("tmp");
    let mut file = private(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    // The rename itself is durable only when the directory is.
    File::open(dir)?.sync_all()
}

fn private(path: &Path) -> io::Result<File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again_and_only_by_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/kept.json");
        assert_eq!(read(&path), None);
        for text in ["one", "two", "two"] {
            write(&path, text.as_bytes());
            assert_eq!(read(&path).as_deref(), Some(text.as_bytes()));
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
