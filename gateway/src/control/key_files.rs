//! The keys of providers that are in files.

use std::sync::Arc;

use super::keys;
use crate::{
    auth::settings::ProviderSettings,
    config::settings::Settings,
    syntax::diagnostics::{Diagnostic, code},
    world::ProviderKeys,
};

/// Provider and its keys.
pub type NamedKeys = (Arc<str>, ProviderKeys);

/// Reads all of them.
///
/// # Errors
/// Every key file that cannot be read or holds no usable key.
pub fn read_keys(settings: &Settings) -> Result<Vec<NamedKeys>, Vec<Diagnostic>> {
    let (read, problems) = read_each(settings);
    if problems.is_empty() { Ok(read) } else { Err(problems) }
}

/// The keys that can be read, and a finding for every other key file.
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
