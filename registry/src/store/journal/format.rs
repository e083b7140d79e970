//! The content of the files: a frame that names format and version, then frames of rows, one row per line. A snapshot ends
//! with the count of its rows.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::warn;

use crate::store::journal::VERSION;
use crate::store::journal::error::JournalError;
use crate::store::journal::frame::{self, Next};

/// A row of a file: table, key, and the value unless the row was removed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) table: &'a str,
    pub(crate) key: &'a RawValue,
    pub(crate) value: Option<&'a RawValue>,
}

#[derive(Serialize, Deserialize)]
struct Header<'a> {
    format: &'a str,
    version: u64,
}

/// A file without rows.
pub(crate) fn header() -> Result<Vec<u8>, JournalError> {
    let header = serde_json::to_vec(&Header { format: FORMAT, version: VERSION });
    let header = header.map_err(|error| JournalError::Io { path: PathBuf::new(), source: error.into() })?;
    let mut bytes = Vec::new();
    frame::write(&mut bytes, &header);
    Ok(bytes)
}

/// Writes a whole snapshot; `header` is what [`header`] made.
pub(crate) fn write_snapshot(
    file: &mut File,
    header: Vec<u8>,
    rows: &BTreeMap<(String, String), Box<RawValue>>,
) -> io::Result<()> {
    let mut out = header;
    let mut payload = Vec::new();
    for ((table, key), row) in rows {
        let table = serde_json::to_string(table)?;
        payload.extend_from_slice(format!("[{table},{key},{row}]\n").as_bytes());
        if payload.len() >= SNAPSHOT_FRAME_BYTES {
            frame::write(&mut out, &payload);
            file.write_all(&out)?;
            out.clear();
            payload.clear();
        }
    }
    if !payload.is_empty() {
        frame::write(&mut out, &payload);
    }
    frame::write(&mut out, format!("[{END:?},{}]\n", rows.len()).as_bytes());
    file.write_all(&out)
}

pub(crate) fn read_snapshot(
    path: &Path,
    take: &mut dyn FnMut(Row<'_>) -> Result<(), String>,
) -> Result<(), JournalError> {
    let bytes = fs::read(path).map_err(JournalError::io(path))?;
    let damaged = |at, detail: &str| JournalError::DamagedSnapshot {
        path: path.to_owned(),
        at,
        detail: detail.to_owned(),
    };
    let (mut rows, mut announced) = (0, None);
    let mut take = |line: &[u8]| {
        if let Ok((END, count)) = serde_json::from_slice::<(&str, u64)>(line) {
            announced = Some(count);
            return Ok(());
        }
        rows += 1;
        read_row(line).and_then(&mut *take)
    };
    match read_lines(path, &bytes, &damaged, &mut take)? {
        (at, Next::End) if announced != Some(rows) => Err(damaged(at, "its end is missing")),
        (_, Next::End) => Ok(()),
        (at, _) => Err(damaged(at, "a checksum does not match")),
    }
}

/// Returns the number of good bytes. `last`: the log is the last one, so its end may be unfinished, and is
/// cut off then.
pub(crate) fn read_log(
    path: &Path,
    last: bool,
    take: &mut dyn FnMut(Row<'_>) -> Result<(), String>,
) -> Result<usize, JournalError> {
    let bytes = fs::read(path).map_err(JournalError::io(path))?;
    let damaged =
        |at, detail: &str| JournalError::DamagedLog { path: path.to_owned(), at, detail: detail.to_owned() };
    let mut take = |line: &[u8]| read_row(line).and_then(&mut *take);
    match read_lines(path, &bytes, &damaged, &mut take)? {
        (at, Next::End) => Ok(at),
        (at, Next::Torn) if last => {
            cut(path, at, bytes.len() - at)?;
            Ok(at)
        }
        (at, Next::Torn) => Err(damaged(at, "it ends within a record, and later logs exist")),
        (at, _) => Err(damaged(at, "a checksum does not match, and good records follow")),
    }
}

/// Hands every line after the header to `take`. Returns the end of the complete frames, and what follows them.
fn read_lines<'a>(
    path: &Path,
    bytes: &'a [u8],
    damaged: &dyn Fn(usize, &str) -> JournalError,
    take: &mut dyn FnMut(&[u8]) -> Result<(), String>,
) -> Result<(usize, Next<'a>), JournalError> {
    let mut at = 0;
    loop {
        match frame::read(bytes, at) {
            Next::Frame { payload, end } => {
                if at == 0 {
                    check_header(path, payload)?;
                } else {
                    let lines = payload.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                    for line in lines {
                        take(line).map_err(|detail| damaged(at, &detail))?;
                    }
                }
                at = end;
            }
            stop => return Ok((at, stop)),
        }
    }
}

fn cut(path: &Path, at: usize, bytes: usize) -> Result<(), JournalError> {
    warn!(
        file = %path.display(),
        "the last {bytes} bytes are an unfinished record, which no answer has shown; they are cut off at byte {at}"
    );
    let file = OpenOptions::new().write(true).open(path).map_err(JournalError::io(path))?;
    let cut = file.set_len(u64::try_from(at).unwrap_or(u64::MAX)).and_then(|()| file.sync_all());
    cut.map_err(JournalError::io(path))
}

fn check_header(path: &Path, payload: &[u8]) -> Result<(), JournalError> {
    match serde_json::from_slice::<Header<'_>>(payload) {
        Ok(Header { format: FORMAT, version: VERSION }) => Ok(()),
        Ok(Header { format: FORMAT, version: found }) => {
            Err(JournalError::Version { path: path.to_owned(), found })
        }
        _ => Err(JournalError::DamagedSnapshot {
            path: path.to_owned(),
            at: 0,
            detail: "it is no file of a registry".to_owned(),
        }),
    }
}

fn read_row(line: &[u8]) -> Result<Row<'_>, String> {
    let parts: Vec<&RawValue> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let (table, key, value) = match parts[..] {
        [table, key] => (table, key, None),
        [table, key, value] => (table, key, Some(value)),
        _ => return Err("a row has two or three parts".to_owned()),
    };
    let table = serde_json::from_str(table.get()).map_err(|error| error.to_string())?;
    Ok(Row { table, key, value })
}

const FORMAT: &str = "millgate-registry";
/// No table has this name.
const END: &str = "end";
/// Large enough that the cost of frames does not matter, small enough that a frame takes little memory.
const SNAPSHOT_FRAME_BYTES: usize = 256 * 1024;
