//! Reading files whose size and kind are not known, such as a configuration and the files that it names. A device has
//! no end, and a pipe may never begin, so only regular files of a bounded size are read.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

/// Reads a regular file.
///
/// # Errors
/// The file cannot be read, is not a regular file, or is larger than [`BYTES_MAX`].
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Checked before the file is opened, because opening a pipe waits for a writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    read_any(path)
}

/// As [`read`], but accepts a file of any kind, because the command line may name a pipe.
pub(crate) fn read_any(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 4MiB"));
    }
    Ok(bytes)
}

/// A hash over the contents of all `files`. For a file that cannot be read, the kind of the error is hashed.
pub(crate) fn content_fingerprint(files: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        hash_file(file, &mut hasher);
    }
    hasher.finish()
}

/// As [`content_fingerprint`], with `text` as the content of the first file: the text that was loaded, even if the
/// file has changed since.
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

/// The largest file in bytes. A thousand routes with every key set have less than 1 MiB; the key set of a large
/// provider or a chain of certificates has a fraction of that. A larger file is the wrong file.
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
