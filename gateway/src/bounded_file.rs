//! Reading a configuration and the files that it names, of any kind: a device has no end, and a pipe may never begin.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

/// All of a regular file of at most [`BYTES_MAX`].
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Before it is opened: opening a pipe waits for a writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    read_any(path)
}

/// As [`read`], from a file of any kind: the command line may name a pipe.
pub(crate) fn read_any(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 4MiB"));
    }
    Ok(bytes)
}

/// A hash of all contents; a file that cannot be read is part of it, too.
pub(crate) fn content_fingerprint(files: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        hash_file(file, &mut hasher);
    }
    hasher.finish()
}

/// The same, with `text` as the content of the first file: what was really read from it.
pub(crate) fn loaded_fingerprint(files: &[PathBuf], text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hash_bytes(text.as_bytes(), &mut hasher);
    for file in files.iter().skip(1) {
        hash_file(file, &mut hasher);
    }
    hasher.finish()
}

fn hash_file(file: &Path, hasher: &mut DefaultHasher) {
    match read(file) {
        Ok(bytes) => hash_bytes(&bytes, hasher),
        Err(error) => error.kind().hash(hasher),
    }
}

fn hash_bytes(bytes: &[u8], hasher: &mut DefaultHasher) {
    bytes.hash(hasher);
}

/// A thousand routes with every key set are below 1 MiB, a key set of a large provider or a chain of certificates is a
/// fraction of that; past this it is the wrong file.
pub(crate) const BYTES_MAX: u64 = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_refused_before_it_is_opened_and_what_is_too_large_before_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let largest = usize::try_from(BYTES_MAX).unwrap();
        fs::write(&path, vec![b'x'; largest]).unwrap();
        assert_eq!(read(&path).unwrap().len(), largest);
        fs::write(&path, vec![b'x'; largest + 1]).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        for other in [Path::new("/dev/zero"), dir.path()] {
            assert_eq!(read(other).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{}", other.display());
        }
    }
}
