//! Small files in the state directory for a later start. Each is written whole or not at all, and only its owner can read it.
//! Calls block on the disk and belong on the control plane.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use serde::de::DeserializeOwned;

/// The content of a file; `None` if it cannot be read, which is logged unless the file is absent.
pub(super) fn read(path: &Path) -> Option<Vec<u8>> {
    fs::read(path)
        .inspect_err(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(file = %path.display(), %error, "what was kept for this start cannot be read");
            }
        })
        .ok()
}

/// As [`read`], for a JSON record. A file that cannot be parsed is logged and counts as absent: it is a cache.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&read(path)?)
        .inspect_err(|error| {
            tracing::warn!(file = %path.display(), %error, "what was kept for this start is damaged, and is not used");
        })
        .ok()
}

/// Replaces the content, unless it is the same. `false`: it could not be written, which is logged. The caller may try again; the
/// gateway works without the file.
pub(super) fn write(path: &Path, bytes: &[u8]) -> bool {
    try_write(path, bytes)
        .inspect_err(|error| {
            tracing::warn!(file = %path.display(), %error, "this could not be kept for the next start");
        })
        .is_ok()
}

fn try_write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|known| known == bytes) {
        return Ok(());
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    // Another gateway may have the same folder.
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
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
            assert!(write(&path, text.as_bytes()));
            assert_eq!(read(&path).as_deref(), Some(text.as_bytes()));
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert_eq!(read_json::<Vec<u8>>(&path), None, "it is no JSON");
        assert!(write(&path, b"[1]"));
        assert_eq!(read_json(&path), Some(vec![1_u8]));
        assert!(!write(&path.join("below"), b"a file is no folder"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
