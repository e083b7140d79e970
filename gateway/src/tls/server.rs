//! TLS of a listener: its files are read, and become one rustls configuration.
//!
//! Files whose content has not changed are not parsed again, and a listener of which nothing has changed stays as it is: its clients
//! can still resume their sessions. With files that cannot be used, a running listener keeps what it had for each of them.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    server::NoServerSessionStorage,
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{
    clients::Clients,
    error::{TlsError, UnusableTls},
    tickets::Tickets,
};
use crate::{
    bounded_file,
    certificate::{
        ListenerTls,
        issued::{AcmeState, ListenerAcme},
        names::CertifiedNames,
        served::{Served, ServedNames, Staple},
        settings::{CertificateSettings, ClientAuth, TlsSettings, TlsVersion, UnknownNames},
        staple::StapleTime,
    },
    syntax::diagnostics::Span,
};

/// A TLS listener, with what is needed to make it anew when its files change.
#[derive(Debug, Clone)]
pub struct ServerTls {
    pub listener: Arc<ListenerTls>,
    settings: TlsSettings,
    parts: Parts,
}

/// The content of the files of a listener.
#[derive(Debug, Clone)]
struct Parts {
    pairs: Vec<Pair>,
    /// What ACME has brought.
    acme: ListenerAcme,
    clients: Option<Clients>,
    /// For each way in which clients are asked for certificates.
    tickets: Vec<(ClientAuth, Tickets)>,
}

/// A certificate that was read.
#[derive(Debug, Clone)]
struct Pair {
    /// Changes with the content of the certificate or its key.
    fingerprint: u64,
    served: Served,
}

/// Reads the files of a listener, and makes its configuration with the certificates of `acme`. Where a file cannot be used, the content of `before` is taken, and the
/// fault is returned beside. `None`: `before` has no content for such a file.
pub fn server_tls(
    settings: &TlsSettings,
    before: Option<&ServerTls>,
    acme: &AcmeState,
) -> (Option<ServerTls>, Vec<UnusableTls>) {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut unusable = Vec::new();
    let Some(mut parts) = Parts::read(settings, before, &provider, &mut unusable) else {
        return (None, unusable);
    };
    parts.acme = ListenerAcme::of(settings.acme.as_ref(), acme);
    if let Some(before) = before.filter(|before| before.is_made_of(settings, &parts)) {
        // Places in the file may have moved.
        return (Some(ServerTls { settings: settings.clone(), ..before.clone() }), unusable);
    }
    match ServerTls::new(settings, parts, &provider) {
        Ok(made) => (Some(made), unusable),
        Err(error) => {
            let file = PathBuf::new();
            unusable.push(UnusableTls { error: TlsError::Setup(error), span: settings.span, file });
            (before.cloned(), unusable)
        }
    }
}

impl Parts {
    /// `None`: a file cannot be used, and `before` has no content for it.
    fn read(
        settings: &TlsSettings,
        before: Option<&ServerTls>,
        provider: &Arc<CryptoProvider>,
        unusable: &mut Vec<UnusableTls>,
    ) -> Option<Self> {
        let known = before.map(ServerTls::pairs).unwrap_or_default();
        let mut pairs = Vec::new();
        for certificate in &settings.certificates {
            let known = known.get(&(&*certificate.cert_file, &*certificate.key_file)).copied();
            match Pair::read(certificate, known, provider) {
                Ok(pair) => pairs.push(pair),
                Err(error) => {
                    let file = certificate.cert_file.clone();
                    unusable.push(UnusableTls { error, span: certificate.span, file });
                    pairs.extend(known.cloned());
                }
            }
        }
        let known = before.and_then(|before| before.parts.clients.as_ref());
        let clients = settings.clients.as_ref().map(|clients| {
            Clients::read(clients, known, provider).or_else(|error| {
                let file =
                    clients.crl_file.as_ref().filter(|_| matches!(error, TlsError::Revocations { .. }));
                let file = file.unwrap_or(&clients.ca_file).clone();
                unusable.push(UnusableTls { error, span: settings.span, file });
                known.cloned().ok_or(())
            })
        });
        let is_whole = pairs.len() == settings.certificates.len();
        let clients = clients.transpose().ok().filter(|_| is_whole)?;
        let tickets = asked(settings).into_iter().map(|client_auth| {
            let context = Clients::context(clients.as_ref(), client_auth);
            Some((client_auth, Self::read_tickets(settings, (client_auth, context), before, unusable)?))
        });
        let tickets = tickets.collect::<Option<_>>()?;
        Some(Self { pairs, acme: ListenerAcme::default(), clients, tickets })
    }

    fn read_tickets(
        settings: &TlsSettings,
        (client_auth, context): (ClientAuth, [u8; 32]),
        before: Option<&ServerTls>,
        unusable: &mut Vec<UnusableTls>,
    ) -> Option<Tickets> {
        let file = settings.ticket_keys_file.as_deref();
        let known = before.and_then(|before| before.parts.tickets_of(client_auth));
        Tickets::read(file, context, known).map_or_else(
            |error| {
                let file = file.unwrap_or(Path::new("")).to_owned();
                unusable.push(UnusableTls { error, span: settings.span, file });
                // The old keys would resume sessions of clients that must be verified anew.
                let clients = before.and_then(|before| before.parts.clients.as_ref());
                let is_same = Clients::context(clients, client_auth) == context;
                known.filter(|_| is_same).cloned().or_else(|| Tickets::read(None, context, None).ok())
            },
            Some,
        )
    }

    fn tickets_of(&self, client_auth: ClientAuth) -> Option<&Tickets> {
        self.tickets.iter().find(|(asked, _)| *asked == client_auth).map(|(_, tickets)| tickets)
    }
}

impl ServerTls {
    fn new(
        settings: &TlsSettings,
        parts: Parts,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, rustls::Error> {
        let certificates = settings.certificates.iter().zip(&parts.pairs);
        let mut served: Vec<Served> = certificates
            .map(|(known, pair)| Served { client_auth: known.client_auth, ..pair.served.clone() })
            .collect();
        let client_auth = settings.acme.as_ref().map(|acme| acme.client_auth).unwrap_or_default();
        served.extend(parts.acme.issued.iter().map(|issued| Served {
            key: Arc::clone(&issued.key),
            names: Arc::clone(&issued.names),
            staple: Staple::None,
            client_auth,
        }));
        let default = settings.certificates.iter().position(|certificate| certificate.is_default);
        let default = match settings.unknown_names {
            // Without a certificate from a file, the first one that was issued.
            UnknownNames::Default => default.or(Some(0)).filter(|at| *at < served.len()),
            UnknownNames::Refuse => None,
        };
        let names = Arc::new(ServedNames::with_awaited(&served, default, &parts.acme.awaited));
        let config = |(client_auth, tickets): &(ClientAuth, Tickets)| {
            let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
                .with_protocol_versions(versions(settings.min_version))?
                .with_client_cert_verifier(Clients::verifier(parts.clients.as_ref(), *client_auth))
                .with_cert_resolver(Arc::clone(&names) as _);
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            config.ticketer = Arc::clone(&tickets.producer);
            // Sessions are in tickets. A store would be a lock between the workers.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            Ok((*client_auth, Arc::new(config)))
        };
        let configs = parts.tickets.iter().map(config).collect::<Result<_, rustls::Error>>()?;
        let clients = parts.clients.as_ref().map_or(0, Clients::id);
        let listener =
            Arc::new(ListenerTls { configs, names, clients, validation: parts.acme.validation.clone() });
        Ok(Self { listener, settings: settings.clone(), parts })
    }

    /// The same listener with what ACME has brought by now. Files are not read.
    #[must_use]
    pub fn with_acme(&self, acme: &AcmeState) -> Self {
        let acme = ListenerAcme::of(self.settings.acme.as_ref(), acme);
        if acme.is_same(&self.parts.acme) {
            return self.clone();
        }
        let parts = Parts { acme, ..self.parts.clone() };
        Self::new(&self.settings, parts, &Arc::new(aws_lc_rs::default_provider())).unwrap_or_else(|error| {
            tracing::error!(%error, "TLS cannot be set up with new certificates; those from before stay in use");
            self.clone()
        })
    }

    /// The certificates by their files.
    fn pairs(&self) -> HashMap<(&Path, &Path), &Pair> {
        let certificates = self.settings.certificates.iter().zip(&self.parts.pairs);
        certificates.map(|(known, pair)| ((&*known.cert_file, &*known.key_file), pair)).collect()
    }

    /// Whether this listener was made of these settings and these files.
    fn is_made_of(&self, settings: &TlsSettings, parts: &Parts) -> bool {
        let pairs = self.parts.pairs.iter().zip(&parts.pairs);
        // The context of tickets contains that of clients.
        let contexts =
            |parts: &Parts| parts.tickets.iter().map(|(_, tickets)| tickets.context).collect::<Vec<_>>();
        without_places(&self.settings) == without_places(settings)
            && contexts(&self.parts) == contexts(parts)
            && self.parts.acme.is_same(&parts.acme)
            && self.parts.pairs.len() == parts.pairs.len()
            && pairs.into_iter().all(|(known, pair)| known.fingerprint == pair.fingerprint)
    }

    /// Whether both are the same listener: nothing was made anew.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.listener, &other.listener)
    }
}

impl Pair {
    fn read(
        settings: &CertificateSettings,
        known: Option<&Self>,
        provider: &CryptoProvider,
    ) -> Result<Self, TlsError> {
        let CertificateSettings { cert_file, key_file, ocsp_file, .. } = settings;
        let unreadable = |reason: String| TlsError::Certificate { path: cert_file.clone(), reason };
        let cert = bounded_file::read(cert_file).map_err(|error| unreadable(error.to_string()))?;
        let unusable = |reason: String| TlsError::Key { path: key_file.clone(), reason };
        let key = bounded_file::read(key_file).map_err(|error| unusable(error.to_string()))?;
        // Without a response, clients ask themselves: a missing one is no reason not to serve.
        let ocsp = ocsp_file.as_deref().map(|file| bounded_file::read(file).unwrap_or_default());
        let fingerprint = fingerprint(&[&cert, &key, ocsp.as_deref().unwrap_or_default()]);
        if let Some(known) = known.filter(|known| known.fingerprint == fingerprint) {
            return Ok(known.clone());
        }
        let chain = chain_of(&cert).map_err(unreadable)?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| unusable(error.to_string()))?;
        let leaf = chain.first().and_then(|leaf| CertifiedNames::of_certificate(leaf));
        let names = leaf.ok_or_else(|| unreadable("the first certificate cannot be read".to_owned()))?;
        let key = CertifiedKey::from_der(chain, key, provider);
        let key = key.map_err(|error| mismatch(cert_file, key_file, &error))?;
        let staple = ocsp.map_or(Staple::None, |response| staple(&key, response));
        let served =
            Served { key: Arc::new(key), names: Arc::new(names), staple, client_auth: ClientAuth::Off };
        Ok(Self { fingerprint, served })
    }
}

/// The ways in which clients of a listener are asked for certificates, each once.
fn asked(settings: &TlsSettings) -> Vec<ClientAuth> {
    let mut asked: Vec<_> = settings.certificates.iter().map(|certificate| certificate.client_auth).collect();
    asked.extend(settings.acme.iter().map(|acme| acme.client_auth));
    asked.sort_unstable();
    asked.dedup();
    asked
}

fn staple(key: &CertifiedKey, response: Vec<u8>) -> Staple {
    match StapleTime::read(&response, &key.cert) {
        Ok(time) => Staple::Usable(Arc::new(CertifiedKey { ocsp: Some(response), ..key.clone() }), time),
        Err(_) => Staple::Unusable,
    }
}

fn mismatch(cert: &Path, key: &Path, error: &rustls::Error) -> TlsError {
    TlsError::Mismatch { cert: cert.to_owned(), key: key.to_owned(), reason: error.to_string() }
}

fn chain_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    if chain.is_empty() { Err("no certificate in it".to_owned()) } else { Ok(chain) }
}

fn versions(lowest: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    match lowest {
        TlsVersion::Tls12 => &BOTH,
        TlsVersion::Tls13 => BOTH.get(..1).unwrap_or_default(),
    }
}

fn fingerprint(contents: &[&[u8]]) -> u64 {
    let mut hasher = DefaultHasher::new();
    contents.hash(&mut hasher);
    hasher.finish()
}

/// The settings without their places in the file, which do not change what a listener does.
fn without_places(settings: &TlsSettings) -> TlsSettings {
    let mut settings = settings.clone();
    settings.span = Span::default();
    for certificate in &mut settings.certificates {
        certificate.span = Span::default();
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Settings with these pairs of files; the first is the default.
    fn settings(pairs: &[(&Path, &Path)]) -> TlsSettings {
        let certificates = pairs.iter().enumerate().map(|(at, (cert, key))| CertificateSettings {
            cert_file: cert.to_path_buf(),
            key_file: key.to_path_buf(),
            ocsp_file: None,
            is_default: at == 0,
            client_auth: ClientAuth::Off,
            span: Span::default(),
        });
        TlsSettings {
            certificates: certificates.collect(),
            unknown_names: UnknownNames::Default,
            acme: None,
            min_version: TlsVersion::Tls12,
            clients: None,
            ticket_keys_file: None,
            span: Span::default(),
        }
    }

    fn fault(cert: &Path, key: &Path) -> String {
        let (made, unusable) = server_tls(&settings(&[(cert, key)]), None, &AcmeState::default());
        assert!(made.is_none());
        unusable[0].error.to_string()
    }

    #[test]
    fn a_pair_that_fits_is_served_with_both_protocols_and_without_early_data() {
        let dir = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let cert = write(&dir, "cert.pem", &made.cert.pem());
        let key = write(&dir, "key.pem", &made.signing_key.serialize_pem());
        let (tls, unusable) = server_tls(&settings(&[(&cert, &key)]), None, &AcmeState::default());
        let tls = tls.unwrap();
        let config = tls.listener.only_config().unwrap();
        assert!(unusable.is_empty());
        assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
        // RFC 8446 §8: early data can be replayed.
        assert_eq!(config.max_early_data_size, 0);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let one = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let cert = write(&dir, "cert.pem", &one.cert.pem());
        let key = write(&dir, "key.pem", &other.signing_key.serialize_pem());
        let error = fault(&cert, &key);
        assert!(error.contains("key.pem does not fit") && error.contains("cert.pem"), "{error}");
    }

    #[test]
    fn a_missing_file_and_an_empty_one_say_what_was_expected() {
        let dir = tempfile::tempdir().unwrap();
        let empty = write(&dir, "empty.pem", "");
        let error = fault(&dir.path().join("none.pem"), &empty);
        assert!(error.contains("none.pem") && error.contains("PEM"), "{error}");
        assert!(fault(&empty, &empty).contains("no certificate in it"));
    }

    #[test]
    fn a_broken_pair_keeps_its_old_certificate_and_does_not_hold_up_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let pair = |name: &str| {
            let made = rcgen::generate_simple_self_signed([format!("{name}.example")]).unwrap();
            let cert = write(&dir, &format!("{name}.pem"), &made.cert.pem());
            (cert, write(&dir, &format!("{name}.key"), &made.signing_key.serialize_pem()))
        };
        let (a, b) = (pair("a"), pair("b"));
        let settings = settings(&[(&a.0, &a.1), (&b.0, &b.1)]);
        let first = server_tls(&settings, None, &AcmeState::default()).0.unwrap();
        let same = server_tls(&settings, Some(&first), &AcmeState::default()).0.unwrap();
        assert!(same.is_same(&first), "sessions can be resumed");
        pair("a");
        write(&dir, "b.key", "no key");
        let (second, unusable) = server_tls(&settings, Some(&first), &AcmeState::default());
        let second = second.unwrap();
        let keys = |tls: &ServerTls| {
            tls.parts.pairs.iter().map(|pair| Arc::clone(&pair.served.key)).collect::<Vec<_>>()
        };
        let (before, after) = (keys(&first), keys(&second));
        assert!(!Arc::ptr_eq(&before[0], &after[0]) && Arc::ptr_eq(&before[1], &after[1]));
        assert_eq!(unusable.iter().map(|one| &one.file).collect::<Vec<_>>(), [&b.0]);
        // What stays is in use until the file can be used again.
        assert!(server_tls(&settings, Some(&second), &AcmeState::default()).0.unwrap().is_same(&second));
    }
}
