//! `listen.https` as written.

use std::net::SocketAddr;

use super::acme::Acme;
use super::listeners::{address, listener_name, proxy_protocol};
use crate::{
    certificate::settings::{CertificateField, ClientAuth, TlsVersion, UnknownNames},
    proxy_protocol::ProxyProtocol,
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, Span, code},
        fields::{Fields, Known, choice, is_word, items, some_text},
        tree::{At, Node},
        units::{Invalid, boolean},
    },
};

/// One element of `listen.https`.
#[derive(Debug)]
pub(crate) struct Https {
    pub(crate) name: Option<At<String>>,
    pub(crate) proxy_protocol: Option<At<ProxyProtocol>>,
    pub(crate) bind: Option<At<SocketAddr>>,
    /// The certificate of `cert_file` and `key_file`, then those of `certificates`.
    pub(crate) certificates: Vec<Certificate>,
    pub(crate) acme: Option<Acme>,
    pub(crate) unknown_names: Option<At<UnknownNames>>,
    pub(crate) min_version: Option<TlsVersion>,
    pub(crate) client_auth: Option<At<ClientAuth>>,
    pub(crate) client_ca_file: Option<At<String>>,
    pub(crate) crl_file: Option<At<String>>,
    pub(crate) client_cert_header: Option<At<CertificateField>>,
    pub(crate) ticket_keys_file: Option<At<String>>,
    pub(crate) span: Span,
}

/// A certificate with its key: an entry of `certificates`, or the two fields of `listen.https` itself.
#[derive(Debug)]
pub(crate) struct Certificate {
    pub(crate) cert_file: Option<At<String>>,
    pub(crate) key_file: Option<At<String>>,
    pub(crate) ocsp_file: Option<At<String>>,
    pub(crate) is_default: Option<At<bool>>,
    /// `None`: as the listener.
    pub(crate) client_auth: Option<At<ClientAuth>>,
    pub(crate) span: Span,
}

impl Https {
    pub(super) fn read(node: &Node, sink: &mut Diagnostics) -> Option<Self> {
        if is_word(node, "off") {
            return None;
        }
        let fields = Fields::of(node, &HTTPS, sink)?;
        fields.need("bind", "bind: 0.0.0.0:8443", sink);
        let list = fields.get("certificates");
        let has_own = ["cert_file", "key_file", "ocsp_file"].iter().any(|name| fields.get(name).is_some());
        let mut certificates = Vec::new();
        let acme = fields.get("acme");
        if has_own || (list.is_none() && acme.is_none()) {
            let own = Certificate::read(&fields, sink);
            certificates.push(Certificate { is_default: None, client_auth: None, span: node.span, ..own });
        }
        if let Some(list) = list {
            let listed = items(list, "`listen.https.certificates`", sink);
            if listed.len() > CERTIFICATES_MAX {
                let message = format!("`listen.https.certificates` has more than {CERTIFICATES_MAX} entries");
                let help = "one certificate may have many names, or a wildcard such as `*.shop.example`";
                sink.push(Diagnostic::error(code::OUT_OF_RANGE, list.span, message).help(help));
            }
            for item in listed.iter().take(CERTIFICATES_MAX) {
                let Some(fields) = Fields::of(item, &CERTIFICATE, sink) else { continue };
                certificates.push(Certificate::read(&fields, sink));
            }
            if certificates.is_empty() {
                let message = "`listen.https.certificates` has no entry";
                let help = "add `- {cert_file: tls/server.pem, key_file: tls/server.key}`";
                sink.push(Diagnostic::error(code::MISSING_FIELD, list.span, message).help(help));
            }
        }
        Some(Self {
            name: fields.value("name", sink, listener_name),
            proxy_protocol: fields.value("proxy_protocol", sink, proxy_protocol),
            bind: fields.value("bind", sink, address),
            certificates,
            acme: acme.and_then(|node| Acme::read(node, sink)),
            unknown_names: fields.value("unknown_names", sink, |text| {
                choice(text, &[("default", UnknownNames::Default), ("refuse", UnknownNames::Refuse)], &[])
            }),
            min_version: fields.plain("min_version", sink, |text| {
                choice(text, &[("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)], &[])
            }),
            client_auth: fields.value("client_auth", sink, client_auth),
            client_ca_file: fields.value("client_ca_file", sink, some_text),
            crl_file: fields.value("crl_file", sink, some_text),
            client_cert_header: fields.value("client_cert_header", sink, |text| {
                let text = if text == "false" { "off" } else { text };
                let words = [
                    ("off", CertificateField::Off),
                    ("certificate", CertificateField::Certificate),
                    ("chain", CertificateField::Chain),
                ];
                choice(text, &words, &[])
            }),
            ticket_keys_file: fields.value("ticket_keys_file", sink, some_text),
            span: node.span,
        })
    }
}

impl Certificate {
    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Self {
        for (name, example) in
            [("cert_file", "cert_file: tls/server.pem"), ("key_file", "key_file: tls/server.key")]
        {
            fields.need(name, example, sink);
        }
        Self {
            cert_file: fields.value("cert_file", sink, some_text),
            key_file: fields.value("key_file", sink, some_text),
            ocsp_file: fields.value("ocsp_file", sink, some_text),
            is_default: fields.value("default", sink, boolean),
            client_auth: fields.value("client_auth", sink, client_auth),
            span: fields.span,
        }
    }
}

fn client_auth(text: &str) -> Result<ClientAuth, Invalid> {
    // YAML reads `off` as false.
    let text = if text == "false" { "off" } else { text };
    let words =
        [("off", ClientAuth::Off), ("optional", ClientAuth::Optional), ("required", ClientAuth::Required)];
    choice(text, &words, &[])
}

/// Each certificate is read again whenever a file changes, which takes a tenth of a millisecond.
pub(crate) const CERTIFICATES_MAX: usize = 4096;

pub(crate) static HTTPS: Known = Known {
    what: "`listen.https`",
    prefix: "listen.https.",
    fields: &[
        "bind",
        "name",
        "proxy_protocol",
        "cert_file",
        "key_file",
        "ocsp_file",
        "certificates",
        "acme",
        "unknown_names",
        "min_version",
        "client_auth",
        "client_ca_file",
        "crl_file",
        "client_cert_header",
        "ticket_keys_file",
    ],
    later: &[],
};
pub(crate) static CERTIFICATE: Known = Known {
    what: "a certificate of `listen.https`",
    prefix: "certificates.",
    fields: &["cert_file", "key_file", "ocsp_file", "default", "client_auth"],
    later: &[],
};
