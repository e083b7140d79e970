//! What services that speak TLS are connected to with: made of files, kept while these are the same.
//!
//! One for each way in which services want it, not one for each service. A new one costs every connection that was made
//! with the old one, so one is only made anew when a file has other content.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use super::files::content_fingerprint;
use crate::{
    config::{
        diagnostics::{Diagnostic, code},
        settings::Settings,
    },
    tls::client_config,
    upstream::tls::{ClientTls, UpstreamTls},
};

/// By what the services ask for.
#[derive(Default)]
pub struct TlsClients(HashMap<UpstreamTls, Arc<ClientTls>>);

impl TlsClients {
    /// Those that `settings` need, as far as possible the ones that are known.
    ///
    /// # Errors
    /// Files that cannot be used, one finding for each service that names them.
    pub fn prepare(&self, settings: &Settings) -> Result<Self, Vec<Diagnostic>> {
        let mut prepared = Self::default();
        let mut problems = Vec::new();
        for service in &settings.services {
            let Some(tls) = service.tls.as_ref().filter(|tls| !prepared.0.contains_key(tls)) else {
                continue;
            };
            match self.make(tls) {
                Ok(client) => {
                    prepared.0.insert(tls.clone(), client);
                }
                Err(reason) => {
                    let message = format!("TLS with the service `{}` cannot be set up", service.name);
                    problems.push(Diagnostic::error(code::CERTIFICATE, service.span, message).label(reason));
                }
            }
        }
        if problems.is_empty() { Ok(prepared) } else { Err(problems) }
    }

    /// Adds what only declared routes need. There nobody can be told but the log, and whoever connects.
    pub fn complete(&mut self, settings: &Settings) {
        for tls in settings.services.iter().filter_map(|service| service.tls.as_ref()) {
            if !self.0.contains_key(tls) {
                let client = self.make(tls).unwrap_or_else(|reason| {
                    tracing::error!(reason, "TLS with services that declare routes cannot be set up");
                    Arc::new(ClientTls::new(Err(reason), tls, 0))
                });
                self.0.insert(tls.clone(), client);
            }
        }
    }

    pub fn get(&self, tls: &UpstreamTls) -> Option<&Arc<ClientTls>> {
        self.0.get(tls)
    }

    fn make(&self, tls: &UpstreamTls) -> Result<Arc<ClientTls>, String> {
        let files = [&tls.files.ca_file, &tls.files.cert_file, &tls.files.key_file];
        let files: Vec<PathBuf> = files.into_iter().flatten().cloned().collect();
        let fingerprint = content_fingerprint(&files);
        match self.0.get(tls).filter(|known| known.fingerprint == fingerprint) {
            Some(known) => Ok(Arc::clone(known)),
            None => Ok(Arc::new(ClientTls::new(Ok(client_config(tls)?), tls, fingerprint))),
        }
    }
}
