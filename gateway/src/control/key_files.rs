//! Reads the keys of providers that have them in files.

use std::sync::Arc;

use super::keys;
use crate::{
    auth::settings::ProviderSettings,
    config::settings::Settings,
    syntax::diagnostics::{Diagnostic, code},
    world::ProviderKeys,
};

/// The name of a provider, and its keys.
pub type NamedKeys = (Arc<str>, ProviderKeys);

/// Reads the key files of all providers.
///
/// # Errors
/// A finding for each key file that cannot be read or has no usable key.
pub fn read_keys(settings: &Settings) -> Result<Vec<NamedKeys>, Vec<Diagnostic>> {
    let (read, problems) = read_each(settings);
    if problems.is_empty() { Ok(read) } else { Err(problems) }
}

/// The keys of all files that can be read, and a finding for each other one.
pub(super) fn read_each(settings: &Settings) -> (Vec<NamedKeys>, Vec<Diagnostic>) {
    let mut read = Vec::new();
    let mut problems = Vec::new();
    for ProviderSettings { name, keys: source, hidden, span, .. } in &settings.auth {
        match keys::read(source) {
            Ok(Some(keys)) => {
                read.push((Arc::from(name.as_str()), ProviderKeys { source: source.clone(), keys }));
            }
            Ok(None) => {}
            Err(reason) => {
                let reason = hidden.shown(&reason);
                let message = format!("the keys of `{name}` cannot be used: {reason}");
                problems.push(Diagnostic::error(code::KEYS, *span, message));
            }
        }
    }
    (read, problems)
}
