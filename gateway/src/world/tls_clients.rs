//! TLS clients for connections to services. They are made from files, and kept while the content of the files stays the same.
//!
//! Services with the same TLS settings share a client. A new client ends the use of every connection that was made
//! with the old one, so a client is replaced only when the content of a file has changed.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
};

use crate::{
    bounded_file::content_fingerprint,
    config::settings::Settings,
    syntax::diagnostics::{Diagnostic, code},
    tls::client_config,
    upstream::tls::{ClientTls, UpstreamTls},
};

/// TLS clients by the TLS settings of services.
#[derive(Default)]
pub struct TlsClients {
    known: HashMap<UpstreamTls, Arc<ClientTls>>,
    generation: u64,
}

impl TlsClients {
    /// Makes the clients that `settings` need. Known clients are kept, also those that only tags may still need.
    ///
    /// # Errors
    /// Files cannot be used: one finding for each set of TLS settings.
    pub fn prepare(&self, settings: &Settings) -> Result<Self, Vec<Diagnostic>> {
        let known = self.known.iter().filter(|(_, client)| client.is_usable());
        let known = known.map(|(tls, client)| (tls.clone(), Arc::clone(client))).collect();
        let mut prepared = Self { known, generation: self.generation };
        let mut problems = Vec::new();
        let mut seen = HashSet::new();
        let of_declared = settings.auto_routes.iter().flat_map(|auto| &auto.services);
        for service in settings.services.iter().chain(of_declared) {
            let Some(tls) = service.tls.as_ref().filter(|tls| seen.insert(*tls)) else {
                continue;
            };
            match self.make(tls) {
                Ok(client) => {
                    let is_known = prepared.known.get(tls).is_some_and(|known| Arc::ptr_eq(known, &client));
                    if !is_known {
                        prepared.generation = self.generation + 1;
                        prepared.known.insert(tls.clone(), client);
                    }
                }
                Err(reason) => {
                    let message = format!("TLS with the service `{}` cannot be set up", service.name);
                    problems.push(Diagnostic::error(code::CERTIFICATE, service.span, message).label(reason));
                }
            }
        }
        if problems.is_empty() { Ok(prepared) } else { Err(problems) }
    }

    /// Adds the clients that only tags need, and removes clients that are no longer needed. A client that cannot be made is
    /// logged, and each connect with it fails.
    pub fn complete(&mut self, settings: &Settings) {
        let of_tags = settings.services.iter().filter_map(|service| service.subset.as_ref());
        let of_tags = of_tags.flat_map(|subset| &subset.by_tag).filter_map(|rule| rule.tls.as_ref());
        let of_services = settings.services.iter().filter_map(|service| service.tls.as_ref());
        let asked_for: HashSet<&UpstreamTls> = of_services.chain(of_tags).collect();
        self.known.retain(|tls, _| asked_for.contains(tls));
        for tls in asked_for {
            if !self.known.contains_key(tls) {
                let client = self.make(tls).unwrap_or_else(|reason| {
                    tracing::error!(reason, "TLS with services that declare routes cannot be set up");
                    Arc::new(ClientTls::new(Err(reason), tls, 0))
                });
                self.known.insert(tls.clone(), client);
                self.generation += 1;
            }
        }
    }

    /// Changes whenever a client changes.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The client for these settings.
    pub fn get(&self, tls: &UpstreamTls) -> Option<&Arc<ClientTls>> {
        self.known.get(tls)
    }

    fn make(&self, tls: &UpstreamTls) -> Result<Arc<ClientTls>, String> {
        let files = [&tls.files.ca_file, &tls.files.cert_file, &tls.files.key_file];
        let files: Vec<PathBuf> = files.into_iter().flatten().cloned().collect();
        let fingerprint = content_fingerprint(&files);
        match self.known.get(tls).filter(|known| known.fingerprint == fingerprint) {
            Some(known) => Ok(Arc::clone(known)),
            None => Ok(Arc::new(ClientTls::new(Ok(client_config(tls)?), tls, fingerprint))),
        }
    }
}
