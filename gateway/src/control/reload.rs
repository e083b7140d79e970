//! Reading the configuration again: all of it or nothing.
//!
//! Everything that can fail is made before anything is changed, and a refused configuration leaves the running one as it is,
//! except for renewed files ([`super::files_in_use`]). Sockets, threads and the log's file belong to the process: their new
//! values take effect at the next start, which the log reports.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use millgate_registry::Client;

use super::{
    Background, Controller,
    event::{Event, Inbox},
    files::FileWatch,
    key_files,
    keys::KeyFetch,
    registry::client_config,
};
use crate::{
    clock, compile,
    config::settings::{AccessLogFormat, Settings},
    syntax::diagnostics::{Diagnostic, Report, Span, code},
};

/// A reload with new services waits this long for the registry's first answer about them, so that a new route does not begin with
/// 503.
const FIRST_WORD: Duration = Duration::from_secs(3);

impl Controller {
    /// Reloads, unless the configuration was read after the time `asked`: a file that is replaced together with a SIGHUP is read
    /// once.
    pub(super) async fn reload_once(
        &mut self,
        asked: Instant,
        inbox: &mut Inbox,
        background: &mut Background,
    ) -> Result<(), String> {
        match &self.read_again {
            Some((read_at, result)) if *read_at > asked => result.clone(),
            _ => self.reload(inbox, background).await,
        }
    }

    /// Reloads. The error is the report of a refused configuration.
    pub(super) async fn reload(
        &mut self,
        inbox: &mut Inbox,
        background: &mut Background,
    ) -> Result<(), String> {
        let source = self.origin.source().to_string();
        let read_at = clock::now();
        // Before the files are read: a change from here on is an event of the watch.
        background.files.learn();
        let result = match self.try_reload(inbox, background).await {
            Ok(waiting) => {
                let (routes, services) = (self.settings.routes.len(), self.settings.services.len());
                tracing::info!(config = %source, routes, services, "configuration reloaded");
                let summary = format!("{source}: routes: {routes}, services: {services}");
                self.status.record_accepted(summary, waiting);
                Ok(())
            }
            Err(report) => {
                tracing::error!(config = %source, "configuration refused, the running one stays:\n{report}");
                self.watch_for_repair(&report, background);
                self.status.record_refused(&report);
                self.read_files_in_use(&report);
                Err(report.to_string())
            }
        };
        self.read_again = Some((read_at, result.clone()));
        result
    }

    /// Takes a new value of the Consul key with the configuration, and reloads.
    pub(super) async fn learn_key(
        &mut self,
        value: Option<bytes::Bytes>,
        inbox: &mut Inbox,
        background: &mut Background,
    ) {
        self.status.key_deleted.store(value.is_none(), Ordering::Relaxed);
        let Some(value) = value else {
            tracing::warn!(config = %self.origin.source(), "the key was deleted; the running configuration stays");
            self.status.note("config_key_deleted", String::new());
            return;
        };
        self.origin.learn(value);
        // The report is in the log and in the status; no caller waits for it.
        let _ = self.reload(inbox, background).await;
    }

    /// Returns the keys of `routes.yaml` whose new values take effect at the next restart.
    async fn try_reload(
        &mut self,
        inbox: &mut Inbox,
        background: &mut Background,
    ) -> Result<Vec<&'static str>, Report> {
        let mut loaded = self.origin.load()?;
        let waiting = needs_restart(&self.started, &loaded.settings);
        if waiting.contains(&HTTP) || waiting.contains(&HTTPS) {
            // Redirects are those of the listeners that are open now, and lead to them.
            loaded.settings.listen.redirects.clone_from(&self.settings.listen.redirects);
        }
        let loaded = loaded;
        let refuse = |diagnostics| loaded.refuse(diagnostics);
        let previous = self.publisher.load();
        let table = compile::table(&loaded.settings, Some(&previous.table), &self.budget).map_err(refuse)?;
        let keys = key_files::read_keys(&loaded.settings).map_err(refuse)?;
        let tls = compile::tls(&loaded.settings, &self.world.tls, self.world.acme.state()).map_err(refuse)?;
        self.check_registry(&loaded.settings).map_err(|found| refuse(vec![found]))?;
        let tls_clients = self.world.tls_clients.prepare(&loaded.settings).map_err(refuse)?;
        let new_keys = self.fetch_new_keys(&loaded.settings, inbox, background).await.map_err(refuse)?;
        if self.status.record_warnings(&loaded.warnings) && !loaded.warnings.is_empty() {
            tracing::warn!(config = %self.origin.source(), "configuration accepted with warnings:\n{}", loaded.report());
        }
        // From here on nothing can fail.
        if !waiting.is_empty() {
            tracing::warn!(keys = waiting.join(", "), "these changes take effect at the next restart");
        }
        self.files = self.origin.watched_files(&loaded.secrets_and_files);
        self.origin.accepted(&loaded);
        self.watch(self.files.clone(), &loaded.source.text, background);
        let (settings, table) = self.with_declared(loaded.settings, table);
        let old = std::mem::replace(&mut self.settings, settings);
        self.world.keep_for(&old, &self.settings);
        self.use_new_keys(new_keys, background);
        for (provider, keys) in keys {
            self.world.learn_keys(provider, keys);
        }
        self.world.tls_clients = tls_clients;
        // The certificate of a listener that is gone from the file stays: its sockets are open until the process ends.
        self.world.tls.extend(tls);
        self.budget.set_max(self.settings.rate_keys_max);
        self.status.set_drain(&self.settings.drain);
        self.status.certificates.read(&self.settings);
        self.status.certificates.learn(&self.settings, self.world.acme.state());
        self.look_at_certificates();
        if old.consul != self.settings.consul {
            self.use_registry(background);
        }
        self.follow(background);
        self.follow_acme(background);
        self.wait_for_first_word(inbox, background).await;
        self.publish_table(Arc::new(table));
        Ok(waiting)
    }

    /// If the connection to the registry changes: whether a client can be made for it.
    fn check_registry(&self, new: &Settings) -> Result<(), Diagnostic> {
        let changed = new.consul.as_ref().filter(|_| new.consul != self.settings.consul);
        let Some(consul) = changed else { return Ok(()) };
        let made = Client::new(client_config(consul)).map(drop);
        made.map_err(|error| {
            let message = format!("the registry could not be asked any more: {error}");
            Diagnostic::error(code::UNREADABLE, Span::default(), message)
        })
    }

    /// Waits until every service is known, so that the new table does not begin with 503. Events about other things wait for the
    /// loop; a drain ends the wait.
    async fn wait_for_first_word(&mut self, inbox: &mut Inbox, background: &mut Background) {
        let deadline = tokio::time::Instant::now() + FIRST_WORD;
        while !self.world.knows_all(&self.settings) {
            match tokio::time::timeout_at(deadline, inbox.arrival()).await {
                Ok(Some(event @ (Event::Service { .. } | Event::Resolved { .. } | Event::Keys { .. }))) => {
                    self.learn(event, background);
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

    /// Starts the tasks that the settings need and that do not run, and ends those that they no longer need.
    pub(super) fn follow(&self, background: &mut Background) {
        background.discovery.follow(&self.settings, &self.world);
        self.record_watches(background);
        self.follow_catalog(background);
        let auth = &self.settings.auth;
        let fetches = &mut background.fetches;
        fetches.retain(|name, fetch| auth.iter().any(|auth| *auth.name == **name && fetch.serves(auth)));
        for auth in auth {
            if let Some(desk) = self.world.desk_of(auth)
                && !fetches.contains_key(auth.name.as_str())
            {
                let fetch = KeyFetch::start(auth, Arc::clone(desk), self.http.clone(), self.events.clone());
                fetches.insert(auth.name.as_str().into(), fetch);
            }
        }
    }

    /// Also watches files that only the refused configuration names: one of them may be what is missing.
    fn watch_for_repair(&self, report: &Report, background: &mut Background) {
        let named = report.files.iter().filter(|file| !self.files.contains(file));
        let files = self.files.iter().chain(named).cloned().collect();
        self.watch(files, &report.source.text, background);
    }

    /// Watches `files`; `text` is what was read from the source.
    fn watch(&self, files: Vec<PathBuf>, text: &str, background: &mut Background) {
        if files != background.files.files() {
            let known = self.origin.fingerprint(&files, text);
            background.files = FileWatch::start(files, known, self.events.clone());
        }
    }
}

const HTTP: &str = "listen.http";
const HTTPS: &str = "listen.https";

/// The keys of `routes.yaml` whose values differ from those at the start and take effect at the next one.
fn needs_restart(started: &Settings, new: &Settings) -> Vec<&'static str> {
    let tls = |settings: &Settings| -> Vec<_> {
        let all = settings.listen.https.iter();
        all.map(|https| (Arc::clone(&https.name), https.bind, https.proxy_protocol)).collect()
    };
    let log_begins = |settings: &Settings| settings.access_log.format != AccessLogFormat::Off;
    let keys = [
        (HTTP, started.listen.http != new.listen.http),
        (HTTPS, tls(started) != tls(new)),
        ("listen.admin", started.listen.admin != new.listen.admin),
        ("listen.max_connections", started.listen.max_connections != new.listen.max_connections),
        ("limits.files", started.files_max != new.files_max),
        ("workers", started.workers != new.workers),
        ("access_log.file", started.access_log.file != new.access_log.file),
        // The thread that writes the log exists only if the process started with a log. Switching the log off needs no restart.
        ("access_log.format", !log_begins(started) && log_begins(new)),
    ];
    keys.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::load;

    fn settings(text: &str) -> Settings {
        let text = format!("version: 1\nroutes:\n  - {{path: /a, service: a}}\n{text}");
        load::parse("routes.yaml", &text, Path::new(""), &|_| None).unwrap_or_else(|e| panic!("{e}")).settings
    }

    #[test]
    fn what_belongs_to_the_process_waits_for_the_next_one() {
        let started = settings("workers: 2\nlisten: {http: \"127.0.0.1:1\"}\naccess_log: {format: json}\n");
        let cases: [(&str, &[&str]); 6] = [
            (
                "workers: 2\nlisten: {http: \"127.0.0.1:1\", idle_timeout: 7s}\naccess_log: {format: json}\n",
                &[],
            ),
            ("workers: 2\nlisten: {http: \"127.0.0.1:1\"}\naccess_log: {format: \"off\"}\n", &[]),
            ("workers: 3\nlisten: {http: \"127.0.0.1:1\"}\n", &["workers"]),
            ("workers: 2\nlisten: {http: \"127.0.0.1:2\"}\n", &["listen.http"]),
            (
                "workers: 2\nlisten: {http: \"127.0.0.1:1\", max_connections: 5, admin: \"127.0.0.1:9\"}\n",
                &["listen.admin", "listen.max_connections"],
            ),
            (
                "workers: 2\nlisten: {http: \"127.0.0.1:1\"}\naccess_log: {file: access.log}\n",
                &["access_log.file"],
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(needs_restart(&started, &settings(text)), expected, "{text}");
        }
        let silent = settings("access_log: {format: \"off\"}\n");
        assert_eq!(needs_restart(&silent, &settings("access_log: {format: json}\n")), ["access_log.format"]);
    }
}
