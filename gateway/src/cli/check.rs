//! `millgate check`: all errors and warnings of a configuration, with their places.

use std::{process::ExitCode, sync::Arc};

use clap::Args;
use millgate_registry::{HttpClient, HttpOptions};

use super::{ConfigArg, fail, load, print, say_report};
use crate::{
    auth::jwt,
    certificate::issued::AcmeState,
    clock,
    compile::{self, TlsListeners},
    config::{
        load::Loaded,
        settings::{AccessLogFormat, AccessLogSettings},
        source::ConfigSource,
    },
    control::{key_files, keys},
    policy::rate_limit::KeyBudget,
    syntax::diagnostics::{Diagnostic, Report, Source, Span, code},
    world::tls_clients::TlsClients,
};

/// The help text about JSON. Scripts rely on it: fields may be added, but none changes or goes away.
const JSON: &str = "\
JSON, one object on one line of standard output, with the same exit code:
  file         the file as it was named; empty when none was found
  errors       how many findings have severity `error`
  warnings     how many have severity `warning`
  diagnostics  the findings in the order of the file, each with
    severity   `error` or `warning`
    code       stable: E… or W… and three digits
    message    what is wrong, one sentence
    at         {line, column, length}: from 1, in characters; 0 = the whole file
    label      what stands beside the marked text; may be empty
    help       what to do, or null
    related    other places that belong to it: [{at, label}]

Exit codes: 0 no errors (warnings are printed), 1 errors, or warnings with --strict, 2 wrong usage.";

#[derive(Debug, Args)]
#[command(after_help = JSON)]
pub struct Check {
    #[command(flatten)]
    config: ConfigArg,
    /// Print the findings as JSON (described below)
    #[arg(long)]
    json: bool,
    /// Exit with 1 for warnings, too
    #[arg(long)]
    strict: bool,
    /// Ask the issuers, too: a provider whose keys cannot be fetched is an error
    #[arg(long)]
    online: bool,
}

impl Check {
    pub fn execute(&self) -> ExitCode {
        let report = match self.config.source() {
            Ok(source) if self.online => check_online(&source),
            Ok(source) => check(&source),
            Err(reason) if self.json => nowhere(reason),
            Err(reason) => return fail(reason),
        };
        let failed = report.errors() > 0 || (self.strict && !report.diagnostics.is_empty());
        let code = if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        if self.json {
            return print(report.to_json(), code);
        }
        if report.diagnostics.is_empty() {
            return print(format_args!("{}: ok", report.source.name), code);
        }
        say_report(&report);
        code
    }
}

/// A script that wants JSON gets it also when the file cannot be read.
fn nowhere(reason: String) -> Report {
    let finding = Diagnostic::error(code::UNREADABLE, Span::default(), reason);
    Report::new(Source::default(), vec![finding])
}

/// Loads and compiles everything that `run` would, and collects the findings.
pub fn check(source: &ConfigSource) -> Report {
    match load(source) {
        Ok(loaded) => findings(&loaded),
        Err(report) => report,
    }
}

/// As [`findings`], and fetches the keys of each provider once.
fn check_online(source: &ConfigSource) -> Report {
    let loaded = match load(source) {
        Ok(loaded) => loaded,
        Err(report) => return report,
    };
    let mut report = findings(&loaded);
    match unanswered(&loaded) {
        Ok(found) => report.diagnostics.extend(found),
        Err(reason) => {
            report.diagnostics.push(Diagnostic::error(code::KEYS, Span::default(), reason));
        }
    }
    loaded.refuse(report.diagnostics)
}

fn unanswered(loaded: &Loaded) -> Result<Vec<Diagnostic>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let http = HttpClient::new(&HttpOptions::default()).map_err(|error| error.to_string())?;
    let fetches = loaded.settings.auth.iter().map(|auth| {
        let (http, auth) = (http.clone(), auth.clone());
        runtime.spawn(async move { keys::try_fetch(&auth, &http).await })
    });
    let fetches: Vec<_> = fetches.collect();
    let mut found = Vec::new();
    for (auth, fetch) in loaded.settings.auth.iter().zip(fetches) {
        if let Ok(Some(Err(reason))) = runtime.block_on(fetch) {
            found.push(keys::unanswered(auth, &reason).help("correct the source, or start the issuer"));
        }
    }
    // A look-up of a name may hang; the process does not wait for it.
    runtime.shutdown_background();
    Ok(found)
}

/// The findings of compiling, with those of loading.
pub fn findings(loaded: &Loaded) -> Report {
    jwt::install_crypto_provider();
    let budget = Arc::new(KeyBudget::new(loaded.settings.rate_keys_max, clock::now()));
    let mut found = Vec::new();
    found.extend(compile::table(&loaded.settings, None, &budget).err().into_iter().flatten());
    found.extend(key_files::read_keys(&loaded.settings).err().into_iter().flatten());
    found.extend(
        compile::tls(&loaded.settings, &TlsListeners::new(), &AcmeState::default())
            .err()
            .into_iter()
            .flatten(),
    );
    found.extend(log_without_a_folder(&loaded.settings.access_log));
    found.extend(TlsClients::default().prepare(&loaded.settings).err().into_iter().flatten());
    found.extend(loaded.warnings.iter().cloned());
    loaded.refuse(found)
}

/// `run` opens the file before anything else, and makes no folders. Whether this user may write there is not tried, because the
/// user of `run` may be another one.
fn log_without_a_folder(log: &AccessLogSettings) -> Option<Diagnostic> {
    let path = log.file.as_ref().filter(|_| log.format != AccessLogFormat::Off)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let (message, help) = if path.is_dir() {
        ("`access_log.file` is a folder", "name a file in it")
    } else if folder.is_some_and(|folder| !folder.is_dir()) {
        (
            "the folder of `access_log.file` is not there",
            "make it, writable for the user that runs the gateway: no folders are made at the start",
        )
    } else {
        return None;
    };
    Some(
        Diagnostic::error(code::LOG_FILE, log.file_span, message)
            .label("the gateway would not start")
            .help(help),
    )
}
