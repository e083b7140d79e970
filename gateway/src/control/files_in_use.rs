//! Files of the running configuration that are read again although a new configuration was refused: the keys of providers, the
//! certificates and keys of `listen.https`, and the certificates of TLS with services.
//!
//! A key that was revoked must not stay valid, and a certificate must not expire, because of a mistake in another file. If a file
//! cannot be used, what was read before stays in use, and the log has the reason.

use std::{collections::HashSet, path::PathBuf, sync::Arc};

use super::{Controller, config_state::words, key_files};
use crate::{
    compile,
    printable::printable,
    syntax::diagnostics::{Diagnostic, Report},
    tls::server::server_tls,
};

/// The result of reading the files.
#[derive(Default)]
struct Found {
    is_any_new: bool,
    problems: Vec<Diagnostic>,
    /// Certificates that are not in use, because they or their keys cannot be used.
    unusable: HashSet<PathBuf>,
}

impl Controller {
    /// `report`: of the refused configuration. A problem that is in it is not logged again, nor one that was there at the last
    /// refusal.
    pub(super) fn read_files_in_use(&mut self, report: &Report) {
        let mut found = Found::default();
        self.read_keys(&mut found);
        self.read_certificates(&mut found);
        self.read_tls_of_services(&mut found);
        let reported: Vec<_> = report.diagnostics.iter().map(words).collect();
        for problem in self.status.record_unusable(found.problems.iter().map(words).collect()) {
            if !reported.contains(&problem) {
                let problem = printable(&problem);
                tracing::error!("{problem}; the content that was read before stays in use");
            }
        }
        if found.is_any_new {
            let text =
                "files of the configuration in use were read again, though a new configuration was refused";
            self.status.note("files_read_again", text.to_owned());
            self.status.certificates.read_except(&self.settings, &found.unusable);
            self.look_at_certificates();
            self.publish();
        }
    }

    fn read_keys(&mut self, found: &mut Found) {
        let (keys, problems) = key_files::read_each(&self.settings);
        found.problems.extend(problems);
        for (provider, keys) in keys {
            if self.world.learn_keys(Arc::clone(&provider), keys) {
                tracing::info!(%provider, "the keys of this provider were read again, though the configuration was refused");
                found.is_any_new = true;
            }
        }
    }

    fn read_certificates(&mut self, found: &mut Found) {
        for https in &self.settings.listen.https {
            let acme = self.world.acme.state();
            let Some(known) = self.world.tls.get_mut(&https.name) else { continue };
            let (tls, unusable) = server_tls(&https.tls, Some(known), acme);
            found.problems.extend(unusable.iter().map(compile::unusable_file));
            found.unusable.extend(unusable.into_iter().map(|unusable| unusable.file));
            if let Some(tls) = tls.filter(|tls| !tls.is_same(known)) {
                tracing::info!(
                    listener = %https.name,
                    "certificates of `listen.https` were read again, though the configuration was refused"
                );
                *known = tls;
                found.is_any_new = true;
            }
        }
    }

    fn read_tls_of_services(&mut self, found: &mut Found) {
        let (clients, unusable) = self.world.tls_clients.read_again(&self.settings);
        for unusable in unusable {
            found.unusable.extend(unusable.cert_file);
            found.problems.push(unusable.finding);
        }
        if clients.generation() != self.world.tls_clients.generation() {
            tracing::info!(
                "files of TLS with services were read again, though the configuration was refused"
            );
            found.is_any_new = true;
        }
        self.world.tls_clients = clients;
    }
}
