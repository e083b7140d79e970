//! Members of key sets that cannot verify anything: logged once for each set that comes into use.
//!
//! An issuer may publish keys that are not for signatures, which is an `info` line. Any other member may be the reason why good
//! tokens get 401: a warning, and an event. At most [`NAMED_MAX`] members of a set are named.

use std::{collections::HashMap, sync::Arc};

use crate::{
    auth::{
        Keys,
        jwt::{Skipped, Unusable},
    },
    config::settings::Settings,
    control::status::Status,
    printable::printable,
    world::World,
};

/// The sets that were logged, by provider.
#[derive(Debug, Default)]
pub struct LeftOut(HashMap<Arc<str>, Arc<Keys>>);

impl LeftOut {
    /// Logs the unusable members of each set that is new since the last call.
    pub(in crate::control) fn tell(&mut self, settings: &Settings, world: &World, status: &Status) {
        self.0.retain(|name, _| settings.auth.iter().any(|auth| auth.name == **name));
        for auth in &settings.auth {
            let Some(set) = world.keys_of(auth) else { continue };
            let before = self.0.insert(auth.name.as_str().into(), Arc::clone(set));
            let is_known = before.is_some_and(|before| before.skipped() == set.skipped());
            if is_known || set.skipped().is_empty() {
                continue;
            }
            let (keys, left_out) = (set.len(), named(set.skipped()));
            if set.skipped().iter().all(|skipped| skipped.why == Unusable::NotForSignatures) {
                tracing::info!(
                    provider = auth.name,
                    keys,
                    left_out,
                    "keys that are not for signatures are left out"
                );
            } else {
                tracing::warn!(provider = auth.name, keys, left_out, "keys that cannot be used are left out");
                status.note("keys_left_out", format!("{}: {left_out}", auth.name));
            }
        }
    }
}

/// `rsa-1` (RSA, RSA-OAEP): not for signatures; …
fn named(all: &[Skipped]) -> String {
    let mut texts: Vec<String> =
        all.iter().take(NAMED_MAX).map(|key| printable(&key.to_string()).into_owned()).collect();
    if all.len() > NAMED_MAX {
        texts.push(format!("and {} more", all.len() - NAMED_MAX));
    }
    texts.join("; ")
}

/// Issuers have two to ten keys.
const NAMED_MAX: usize = 10;
