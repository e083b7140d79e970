//! Whether a file was replaced: its time of change and its length, compared at most every [`LOOK_EVERY`].

use std::path::Path;
use std::time::{Duration, SystemTime};

/// The time of change and the length of a file; `None` if the file cannot be found.
pub(crate) type Stamp = Option<(SystemTime, u64)>;

pub(crate) fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// One read of a file's metadata each. A rotated token or certificate is commonly valid together with its successor for
/// minutes, so ten seconds lose nothing.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(10);
