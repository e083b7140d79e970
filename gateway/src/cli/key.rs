//! `millgate key new`: an API key, and its entry in the file that `auth.<name>.api_keys_file` names.

use std::{
    fmt::Display,
    fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};

use super::{fail, pair, print, say};
use crate::{
    auth::api_key::{NewEntry, new_key},
    clock,
};

#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make an API key and print it once
    New(New),
}

const EXAMPLE: &str = "\
A provider that accepts the key, and a request with it:
  auth: {partners: {api_keys_file: keys.yaml}}
  millgate key new acme --scope orders:read --file keys.yaml
  curl -H 'X-Api-Key: mgk_…' http://127.0.0.1:8080/orders

The file has hashes of keys. A key that was lost cannot be shown again: remove its entry, and make another one.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct New {
    /// Name of the client: the subject (`sub`) that limits, logs and services see
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Scopes, separated by spaces or given several times
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,
    /// Role; may be given several times
    #[arg(long, value_name = "ROLE")]
    role: Vec<String>,
    /// Further claim, as text; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    claim: Vec<(String, String)>,
    /// Validity from now, e.g. 90d; without it the key is valid until its entry is removed
    #[arg(long, value_name = "DURATION", value_parser = lifetime)]
    ttl: Option<Duration>,
    /// Add the entry to this file of keys, which is made if it does not exist; without it the entry is printed
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Key {
    pub fn execute(self) -> ExitCode {
        let Self::New(New { name, scope, role, claim, ttl, file }) = self;
        let scopes = scope.iter().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect();
        let expires = ttl.map(|ttl| clock::unix_now().saturating_add(ttl).as_secs());
        let entry = NewEntry { name, scopes, roles: role, claims: claim, expires };
        let key = match new_key() {
            Ok(key) => key,
            Err(reason) => return fail(reason),
        };
        // Before a file is opened or made.
        if let Err(reason) = entry.added_to("", &key) {
            return fail(reason);
        }
        match file {
            Some(file) => match add(&entry, &file, &key) {
                Ok(()) => say(format_args!(
                    "`{}` is added to {}; the key is shown this once:",
                    entry.name,
                    file.display()
                )),
                Err(reason) => return fail(reason),
            },
            None => say(format_args!(
                "Add this to the file of `api_keys_file`, below `keys:`; the key is shown this once:\n{}",
                entry.to_yaml(&key)
            )),
        }
        print(key, ExitCode::SUCCESS)
    }
}

/// Replaces the whole file, or leaves it as it is. Other `millgate key new` commands wait meanwhile.
fn add(entry: &NewEntry, path: &Path, key: &str) -> Result<(), String> {
    let of_file = |reason: &dyn Display| format!("{}: {reason}", path.display());
    let (path, file) = locked(path).map_err(|error| of_file(&error))?;
    let write = || -> io::Result<Result<(), String>> {
        let known = file.metadata()?;
        let before = fs::read_to_string(&path)?;
        let text = match entry.added_to(&before, key) {
            Ok(text) => text,
            Err(reason) => return Ok(Err(reason)),
        };
        // It is in the same folder, so that the file is replaced in one step.
        let beside = path.with_extension(format!("{}.tmp", std::process::id()));
        let mut options = fs::OpenOptions::new();
        let mut new = options.write(true).create_new(true).mode(0o600).open(&beside)?;
        let made = new
            .write_all(text.as_bytes())
            .and_then(|()| fchown(&new, Some(known.uid()), Some(known.gid())))
            .and_then(|()| new.set_permissions(known.permissions()))
            .and_then(|()| new.sync_all())
            .and_then(|()| fs::rename(&beside, &path));
        if made.is_err() {
            let _ = fs::remove_file(&beside);
        }
        made.map(Ok)
    };
    match write() {
        Ok(Ok(())) => Ok(()),
        Ok(Err(reason)) => Err(of_file(&format_args!(
            "the key cannot be added ({reason}); correct the file, or leave out `--file` and add the entry by hand"
        ))),
        Err(error) => Err(of_file(&error)),
    }
}

/// Opens the file, through links, and locks it. The file is made if it does not exist.
fn locked(path: &Path) -> io::Result<(PathBuf, fs::File)> {
    loop {
        let mut options = fs::OpenOptions::new();
        // A link to a file that does not exist yet is followed, too.
        let file = options.read(true).append(true).create(true).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        file.lock()?;
        // Another command may have replaced the file since it was opened.
        let target = fs::canonicalize(path)?;
        if fs::metadata(&target)?.ino() == file.metadata()?.ino() {
            return Ok((target, file));
        }
    }
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (TTL_MIN..=TTL_MAX).contains(&ttl) {
        Ok(ttl)
    } else {
        Err("a key is valid for 1s to 3650d".to_owned())
    }
}

const TTL_MIN: Duration = Duration::from_secs(1);
/// Ten years. A longer time is a slip of the keyboard, or means a key without an end.
const TTL_MAX: Duration = Duration::from_hours(3650 * 24);
