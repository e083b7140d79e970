//! A reload that gives a provider another source of keys: the new set is fetched before the switch.
//!
//! Until the reload is done, the old set verifies tokens. If a provider has good keys and its new source does not answer within
//! [`WAIT_MAX`], or fails [`TRIES`] times, the reload is refused with the reason, as for a key file that cannot be read. A
//! provider without keys is switched all the same, with a warning.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{
    Background, Controller,
    event::{Event, Inbox},
    keys::{self, KeyFetch},
};
use crate::{
    auth::{desk::KeyDesk, settings::KeySource},
    clock,
    config::settings::Settings,
    syntax::diagnostics::Diagnostic,
    world::ProviderKeys,
};

/// Fetches that a reload has begun, by provider, with their results.
#[derive(Default)]
pub(super) struct NewKeys {
    fetches: HashMap<Arc<str>, KeyFetch>,
    desks: HashMap<Arc<str>, Arc<KeyDesk>>,
    keys: HashMap<Arc<str>, ProviderKeys>,
    failures: HashMap<Arc<str>, u32>,
}

impl NewKeys {
    fn wants(&self, provider: &str, source: &KeySource) -> bool {
        self.fetches.get(provider).is_some_and(|fetch| fetch.is_from(source))
    }

    fn is_complete(&self) -> bool {
        let is_known = |provider: &Arc<str>| {
            self.keys.contains_key(provider) || self.failures.get(provider) >= Some(&TRIES)
        };
        self.fetches.keys().all(is_known)
    }
}

impl Controller {
    /// Fetches the keys of each provider of `new` whose source is not the one in use.
    pub(super) async fn fetch_new_keys(
        &mut self,
        new: &Settings,
        inbox: &mut Inbox,
        background: &mut Background,
    ) -> Result<NewKeys, Vec<Diagnostic>> {
        let mut fresh = NewKeys::default();
        for auth in
            new.auth.iter().filter(|auth| auth.keys.is_fetched() && self.world.desk_of(auth).is_none())
        {
            let (name, desk) = (Arc::<str>::from(auth.name.as_str()), Arc::<KeyDesk>::default());
            let fetch = KeyFetch::start(auth, Arc::clone(&desk), self.http.clone(), self.events.clone());
            fresh.fetches.insert(Arc::clone(&name), fetch);
            fresh.desks.insert(name, desk);
        }
        self.wait_for_keys(&mut fresh, inbox, background).await;
        let mut problems = Vec::new();
        for auth in new.auth.iter().filter(|auth| fresh.fetches.contains_key(auth.name.as_str())) {
            if fresh.keys.contains_key(auth.name.as_str()) {
                continue;
            }
            let error = fresh.desks.get(auth.name.as_str()).and_then(|desk| desk.report().error);
            let error = error.unwrap_or_else(|| format!("no answer within {}s", WAIT_MAX.as_secs()));
            if self.has_good_keys(&auth.name) {
                let problem = keys::unanswered(auth, &error).label("the provider keeps the keys that it has");
                problems.push(problem.help("correct the source, or send SIGHUP when it answers"));
            } else {
                tracing::warn!(
                    provider = auth.name,
                    error,
                    "a new provider has no keys yet: its tokens get 503"
                );
                self.status.note("keys_unavailable", format!("{}: {error}", auth.name));
            }
        }
        if problems.is_empty() { Ok(fresh) } else { Err(problems) }
    }

    /// Puts the new sources into use: the reload is accepted, and `self.settings` are the new ones.
    pub(super) fn use_new_keys(&mut self, new: NewKeys, background: &mut Background) {
        self.world.open_desks(&self.settings, &new.desks);
        background.fetches.extend(new.fetches);
        for (provider, keys) in new.keys {
            self.kept_keys.save(&provider, &keys.source, &keys.keys, clock::unix_now());
            self.world.learn_keys(provider, keys);
        }
    }

    /// Waits for the fetches. Events about other things are set aside for the loop; a drain ends the wait.
    async fn wait_for_keys(&mut self, fresh: &mut NewKeys, inbox: &mut Inbox, background: &mut Background) {
        let deadline = tokio::time::Instant::now() + WAIT_MAX;
        while !fresh.is_complete() {
            match tokio::time::timeout_at(deadline, inbox.arrival()).await {
                Ok(Some(Event::Keys { provider, source, keys, fetched }))
                    if fresh.wants(&provider, &source) =>
                {
                    background.fetched.push(fetched);
                    match keys {
                        Some(keys) => _ = fresh.keys.insert(provider, ProviderKeys { source, keys }),
                        None => *fresh.failures.entry(provider).or_default() += 1,
                    }
                }
                Ok(Some(Event::Hint(hint))) => self.status.take_hint(hint),
                Ok(Some(event)) => {
                    if inbox.set_aside(event) {
                        return;
                    }
                }
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Whether the source in use has given the provider keys.
    fn has_good_keys(&self, provider: &str) -> bool {
        let known = self.settings.auth.iter().find(|auth| auth.name == provider);
        known.is_some_and(|auth| self.world.keys_of(auth).is_some())
    }
}

/// A working issuer answers within a second, also at the second try.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// The tries are a second apart.
const TRIES: u32 = 2;
