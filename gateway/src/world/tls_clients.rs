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

/// Files of a service that cannot be used.
pub struct UnusableFiles {
    pub finding: Diagnostic,
    /// The certificate that the gateway would present to the service.
    pub cert_file: Option<PathBuf>,
}

/// TLS clients by the TLS settings of services.
#[derive(Default)]
pub struct TlsClients {
    known: HashMap<UpstreamTls, Arc<ClientTls>>,
    generation: u64,
}

impl TlsClients {
    /// Makes the clients that `settings` need. Known clients are kept, also those that only tags may still need.
    /// See [`TlsClients::read_again`].
    ///
    /// # Errors
    /// Files cannot be used: one finding for each set of TLS settings.
    pub fn prepare(&self, settings: &Settings) -> Result<Self, Vec<Diagnostic>> {
        let (prepared, unusable) = self.read_again(settings);
        let problems: Vec<_> = unusable.into_iter().map(|unusable| unusable.finding).collect();
        if problems.is_empty() { Ok(prepared) } else { Err(problems) }
    }

    /// The clients that `settings` need, and the known ones that only tags need. A client whose files are the same stays. So does
    /// one whose new files cannot be used: those are returned beside.
    pub fn read_again(&self, settings: &Settings) -> (Self, Vec<UnusableFiles>) {
        let known = self.known.iter().filter(|(_, client)| client.is_usable());
        let known = known.map(|(tls, client)| (tls.clone(), Arc::clone(client))).collect();
        let mut prepared = Self { known, generation: self.generation };
        let mut unusable = Vec::new();
        let mut seen = HashSet::new();
        let of_declared = settings.auto_routes.iter().flat_map(|auto| &auto.services);
        for service in settings.services.iter().chain(of_declared) {
            let Some(tls) = service.tls.as_ref().filter(|tls| seen.insert(*tls)) else {
                continue;
            };
            match self.make(tls) {
                Ok(client) => prepared.take(tls, client, self.generation + 1),
                Err(reason) => {
                    let message = format!("TLS with the service `{}` cannot be set up", service.name);
                    let finding = Diagnostic::error(code::CERTIFICATE, service.span, message).label(reason);
                    unusable.push(UnusableFiles { finding, cert_file: tls.files.cert_file.clone() });
                }
            }
        }
        // What only tags need has the files of a service of the file, which has the finding if they cannot be used.
        for tls in self.known.keys().filter(|tls| !seen.contains(tls)) {
            if let Ok(client) = self.make(tls) {
                prepared.take(tls, client, self.generation + 1);
            }
        }
        (prepared, unusable)
    }

    fn take(&mut self, tls: &UpstreamTls, client: Arc<ClientTls>, generation: u64) {
        if !self.known.get(tls).is_some_and(|known| Arc::ptr_eq(known, &client)) {
            self.generation = generation;
            self.known.insert(tls.clone(), client);
        }
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use millgate_registry::TlsOptions;

    use super::*;
    use crate::config::load;

    #[test]
    fn a_file_that_only_a_tag_needs_is_read_again_and_a_broken_one_changes_nothing() {
        crate::auth::jwt::install_crypto_provider();
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        let authority = || rcgen::generate_simple_self_signed(["ca.test".to_owned()]).unwrap().cert.pem();
        std::fs::write(&ca, authority()).unwrap();
        let files = TlsOptions { ca_file: Some(ca.clone()), ..TlsOptions::default() };
        let tls = UpstreamTls { files, insecure: false };
        let text = "version: 1\nroutes: [{path: /, service: web}]\n";
        let settings = load::parse("routes.yaml", text, Path::new(""), &|_| None).unwrap().settings;
        let mut clients = TlsClients::default();
        clients.known.insert(tls.clone(), clients.make(&tls).unwrap());
        let read_again = |clients: &TlsClients| clients.read_again(&settings).0;
        assert_eq!(read_again(&clients).generation(), clients.generation());
        std::fs::write(&ca, authority()).unwrap();
        let renewed = read_again(&clients);
        assert!(renewed.generation() > clients.generation());
        assert!(!Arc::ptr_eq(renewed.get(&tls).unwrap(), clients.get(&tls).unwrap()));
        std::fs::write(&ca, "not a certificate").unwrap();
        assert!(Arc::ptr_eq(read_again(&renewed).get(&tls).unwrap(), renewed.get(&tls).unwrap()));
    }
}
