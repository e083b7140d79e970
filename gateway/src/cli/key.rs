//! `millgate key new`: an API key, and its entry in the file that `auth.<name>.api_keys_file` names.

use std::{
    fmt::Display,
    fs, io,
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
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
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

/// Replaces the file whole, or leaves it as it is.
fn add(entry: &NewEntry, path: &Path, key: &str) -> Result<(), String> {
    let of_file = |reason: &dyn Display| format!("{}: {reason}", path.display());
    let before = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        before => before.map_err(|error| of_file(&error))?,
    };
    let text = entry.added_to(&before, key).map_err(|reason| {
        of_file(&format_args!(
            "the key cannot be added ({reason}); correct the file, or leave out `--file` and add the entry by hand"
        ))
    })?;
    // In the same folder, so that the file is replaced in one step.
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    let write = || {
        fs::write(&beside, text)?;
        if let Ok(known) = fs::metadata(path) {
            fs::set_permissions(&beside, known.permissions())?;
        }
        fs::rename(&beside, path)
    };
    write().map_err(|error| of_file(&error))
}
