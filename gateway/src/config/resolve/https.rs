//! TLS of a listener: its files are read, and certificates that would never be presented are reported.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
};

use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::{acme, files::Files, listeners::TlsListener};
use crate::{
    auth::settings::{KeySource, ProviderSettings},
    certificate::{
        names::CertifiedNames,
        settings::{CertificateSettings, ClientAuth, ClientSettings, TlsSettings, UnknownNames},
        staple::StapleTime,
    },
    clock,
    config::{
        raw::https::{Certificate, Https},
        settings::{HttpsSettings, ListenSettings},
    },
    printable::printable,
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, Span, code},
        tree::At,
    },
};

pub(super) fn resolve_https(
    raw: &Https,
    TlsListener { name, proxy_protocol }: TlsListener,
    files: &mut Files,
    sink: &mut Diagnostics,
) -> Option<HttpsSettings> {
    let default = default_of(&raw.certificates, sink);
    let unknown_names = raw.unknown_names.as_ref().map(|at| at.value).unwrap_or_default();
    let marked = raw.certificates.get(default).and_then(|certificate| certificate.is_default.as_ref());
    if let (Some(marked), UnknownNames::Refuse) = (marked, unknown_names) {
        let message = "`default` has no effect with `unknown_names: refuse`";
        let label = "a client without a known name gets no certificate";
        let help = "remove one of the two";
        sink.push(Diagnostic::warning(code::NO_EFFECT, marked.span, message).label(label).help(help));
    }
    let asked = raw.client_auth.as_ref().map(|at| at.value);
    let asked =
        asked.unwrap_or(if raw.client_ca_file.is_some() { ClientAuth::Required } else { ClientAuth::Off });
    let (mut certificates, mut found, mut of_files) = (Vec::new(), Vec::new(), Vec::new());
    for (at, certificate) in raw.certificates.iter().enumerate() {
        let cert =
            certificate.cert_file.as_ref().and_then(|name| files.certificate(name, "certificate", sink));
        let key =
            certificate.key_file.as_ref().and_then(|name| files.readable(name, "certificate's key", sink));
        let (Some(cert), Some(key)) = (cert, key) else { continue };
        let client_auth = certificate.client_auth.as_ref().map_or(asked, |at| at.value);
        let is_default = at == default && unknown_names == UnknownNames::Default;
        let span = certificate.cert_file.as_ref().map_or(certificate.span, |name| name.span);
        let names = CertifiedNames::of_pem(&cert.bytes);
        of_files.extend(names.clone().map(|names| (names, span)));
        if raw.certificates.len() > 1 || unknown_names == UnknownNames::Refuse {
            found.extend(names.map(|names| FoundNames { names, is_default, client_auth, span }));
        }
        let ocsp = certificate.ocsp_file.as_ref().map(|name| response(name, &cert.bytes, files, sink));
        certificates.push(CertificateSettings {
            cert_file: cert.path,
            key_file: key.path,
            ocsp_file: ocsp,
            is_default,
            client_auth,
            span: certificate.span,
        });
    }
    report_hidden(&found, sink);
    let issued = raw.acme.as_ref().map(|acme| acme::resolve(acme, asked, &of_files, files, sink));
    let is_whole = certificates.len() == raw.certificates.len() && !matches!(issued, Some(None));
    let clients = clients(raw, asked, files, sink);
    let tickets = raw.ticket_keys_file.as_ref();
    let tickets = tickets.and_then(|name| files.readable(name, "keys of session tickets", sink));
    let tls = TlsSettings {
        certificates,
        acme: issued.flatten(),
        unknown_names,
        min_version: raw.min_version.unwrap_or_default(),
        clients,
        ticket_keys_file: tickets.map(|file| file.path),
        span: raw.span,
    };
    let bind = raw.bind.as_ref()?.value;
    Some(HttpsSettings { name, proxy_protocol, bind, tls }).filter(|_| is_whole)
}

/// The file of an OCSP response. One that may not be stapled is a warning: clients then ask themselves.
fn response(name: &At<String>, certificate: &[u8], files: &mut Files, sink: &mut Diagnostics) -> PathBuf {
    let (path, read) = files.maybe(&name.value);
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate).filter_map(Result::ok).collect();
    let reason = match read {
        Err(error) => error.to_string(),
        Ok(bytes) => match StapleTime::read(&bytes, &chain) {
            Ok(time) if time.contains(clock::unix_now()) => return path,
            Ok(_) => "it is out of date".to_owned(),
            Err(reason) => reason.to_owned(),
        },
    };
    let message = format!("this OCSP response is not stapled: {reason}");
    sink.push(
        Diagnostic::warning(code::NOT_STAPLED, name.span, message)
            .label("clients ask the responder themselves, or do without")
            .help("let a job write a new one, as `openssl ocsp -respout` does; it is read again when it changes"),
    );
    path
}

/// What clients are verified against. `asked` is how clients are asked that get a certificate without a word of its own: a file of
/// authorities alone requires a certificate of every client.
fn clients(
    raw: &Https,
    asked: ClientAuth,
    files: &mut Files,
    sink: &mut Diagnostics,
) -> Option<ClientSettings> {
    let ca_file = raw.client_ca_file.as_ref();
    let ca_file = ca_file.and_then(|name| files.readable(name, "authorities of clients", sink));
    let crl_file = raw.crl_file.as_ref().and_then(|name| files.revocations(name, sink));
    let own = raw.certificates.iter().filter_map(|certificate| certificate.client_auth.as_ref());
    let mut asking = raw.client_auth.iter().chain(own).filter(|at| at.value != ClientAuth::Off);
    let first = asking.next();
    if asked == ClientAuth::Off && first.is_none() {
        let fields = [
            ("client_ca_file", raw.client_ca_file.as_ref().map(|at| at.span)),
            ("crl_file", raw.crl_file.as_ref().map(|at| at.span)),
            ("client_cert_header", raw.client_cert_header.as_ref().map(|at| at.span)),
        ];
        for (name, span) in fields.into_iter().filter_map(|(name, span)| Some((name, span?))) {
            let message = format!("`listen.https.{name}` has no effect without `client_auth`");
            sink.push(
                Diagnostic::warning(code::NO_EFFECT, span, message)
                    .label("clients are not asked for certificates")
                    .help("add `client_ca_file: clients.pem`, or remove it"),
            );
        }
        return None;
    }
    if let (None, Some(asked)) = (&raw.client_ca_file, first) {
        sink.push(
            Diagnostic::error(code::MISSING_FIELD, asked.span, "`client_auth` needs `listen.https.client_ca_file`")
                .label("no authority says which certificates are good")
                .help("add `client_ca_file: clients.pem` to `listen.https`, a PEM file with the authorities of clients"),
        );
    }
    Some(ClientSettings {
        ca_file: ca_file?.path,
        crl_file: crl_file.map(|file| file.path),
        field: raw.client_cert_header.as_ref().map(|at| at.value).unwrap_or_default(),
    })
}

/// Reports providers of client certificates where no listener asks for any.
pub(super) fn report_unasked(auth: &[ProviderSettings], listen: &ListenSettings, sink: &mut Diagnostics) {
    if listen.https.iter().any(|https| https.tls.clients.is_some()) || sink.has_errors() {
        return;
    }
    for provider in auth.iter().filter(|provider| provider.keys == KeySource::Listener) {
        let message = format!("no listener asks for the certificates that `{}` accepts", provider.name);
        sink.push(
            Diagnostic::error(code::CONFLICT, provider.span, message)
                .label("no client could show one")
                .help("add `client_auth: optional` and `client_ca_file: clients.pem` to `listen.https`"),
        );
    }
}

/// The index of the default certificate: the one that is marked, otherwise the first.
fn default_of(certificates: &[Certificate], sink: &mut Diagnostics) -> usize {
    let is_marked = |certificate: &Certificate| certificate.is_default.as_ref().is_some_and(|at| at.value);
    let mut marked = certificates.iter().enumerate().filter(|(_, certificate)| is_marked(certificate));
    let Some((at, first)) = marked.next() else { return 0 };
    if let (Some(first), Some((_, Certificate { is_default: Some(second), .. }))) =
        (&first.is_default, marked.next())
    {
        let message = "two certificates are the default";
        sink.push(
            Diagnostic::error(code::CONFLICT, second.span, message)
                .label("a client without a known name gets one certificate")
                .related(first.span, "the other one")
                .help("remove one of them; another kind of key for the same names needs no `default`"),
        );
    }
    at
}

/// A certificate whose names were read.
struct FoundNames {
    names: CertifiedNames,
    is_default: bool,
    client_auth: ClientAuth,
    span: Span,
}

/// Reports certificates that another one hides, those that no name leads to, and those for one name that ask clients in two ways.
fn report_hidden(found: &[FoundNames], sink: &mut Diagnostics) {
    let (mut first, mut first_of_kind) = (HashMap::new(), HashMap::new());
    let mut reported = HashSet::new();
    for (at, one) in found.iter().enumerate() {
        if one.names.is_empty() && !one.is_default {
            sink.push(
                Diagnostic::warning(code::NO_EFFECT, one.span, "this certificate has no DNS name")
                    .label("no name of a client leads to it")
                    .help("use one with the names of its hosts (subjectAltName), or make it the `default`"),
            );
        }
        for name in one.names.shown() {
            let twin = *first.entry(name.clone()).or_insert(at);
            let other = *first_of_kind.entry((name.clone(), one.names.key)).or_insert(at);
            if twin != at && found[twin].client_auth != one.client_auth && reported.insert((twin, at)) {
                let message =
                    format!("certificates for `{}` ask clients in different ways", printable(&name));
                sink.push(
                    Diagnostic::error(code::CONFLICT, one.span, message)
                        .label(
                            "the key of a client decides which certificate it gets, not what it must prove",
                        )
                        .related(found[twin].span, "the other one")
                        .help("give both the same `client_auth`"),
                );
            } else if other != at && reported.insert((other, at)) {
                let message = format!("two certificates are for `{}`", printable(&name));
                let kind = one.names.key.word();
                sink.push(
                    Diagnostic::warning(code::HIDDEN_CERTIFICATE, one.span, message)
                        .label("clients that ask for this name get the other one")
                        .related(found[other].span, "the first of them is presented")
                        .help(format!(
                            "remove one of them, or that name; both have a key of the kind {kind}"
                        )),
                );
            }
        }
    }
}
