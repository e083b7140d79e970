//! `acme` of a TLS listener: the terms must be accepted, each name has one certificate, and the challenge needs its listener.

use std::collections::HashMap;

use base64::{
    Engine as _,
    engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD},
};

use super::files::Files;
use crate::{
    certificate::{
        acme::{AcmeAuthority, ChallengeKind, ExternalAccountSettings, Storage, Wanted},
        names::CertifiedNames,
        settings::{AcmeSettings, ClientAuth},
    },
    config::raw::acme::{Acme, PRODUCTION},
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, Span, code},
        tree::At,
    },
};

/// `None`: something is missing or wrong, which is reported. `of_files`: the names in certificates from files, with their places.
pub(super) fn resolve(
    raw: &Acme,
    client_auth: ClientAuth,
    of_files: &[(CertifiedNames, Span)],
    files: &mut Files,
    sink: &mut Diagnostics,
) -> Option<AcmeSettings> {
    if !cfg!(feature = "acme") {
        sink.push(
            Diagnostic::error(code::NOT_SUPPORTED, raw.span, "this build of millgate has no ACME client")
                .label("no certificate could be ordered")
                .help("build it with the feature `acme`, or name the files of a certificate"),
        );
        return None;
    }
    let are_accepted = are_terms_accepted(raw, sink);
    report_twice(raw, of_files, sink);
    let directory = raw.directory.as_ref().map_or(PRODUCTION, |at| &at.value).to_owned();
    let ca_file =
        raw.ca_file.as_ref().map(|name| files.readable(name, "authorities of the ACME directory", sink));
    let external_account = raw.external_account.as_ref().map(|account| {
        let file = files.readable(account.hmac_key_file.as_ref()?, "key of the external account", sink)?;
        check_key(account.hmac_key_file.as_ref()?, &file.bytes, sink);
        Some(ExternalAccountSettings { key_id: account.key_id.clone()?, hmac_key_file: file.path })
    });
    let storage = match (&raw.folder, &raw.consul) {
        (Some(folder), None) => Storage::Folder(files.path(&folder.value)),
        (None, Some(prefix)) => Storage::Consul(prefix.value.clone()),
        _ => return None,
    };
    let certificates: Vec<Wanted> = raw
        .hosts
        .iter()
        .map(|names| Wanted::new(&directory, names.iter().map(|name| name.value.as_str().into()).collect()))
        .collect();
    let authority = AcmeAuthority {
        directory,
        email: raw.email.as_ref().map(|email| email.value.clone()),
        challenge: raw.challenge.as_ref().map(|at| at.value).unwrap_or_default(),
        storage,
        ca_file: match ca_file {
            Some(file) => Some(file?.path),
            None => None,
        },
        external_account: match external_account {
            Some(account) => Some(account?),
            None => None,
        },
    };
    let is_whole = are_accepted && !certificates.is_empty();
    Some(AcmeSettings { authority, certificates, client_auth, span: raw.span }).filter(|_| is_whole)
}

fn are_terms_accepted(raw: &Acme, sink: &mut Diagnostics) -> bool {
    match &raw.terms_accepted {
        Some(At { value: true, .. }) => true,
        Some(At { span, .. }) => {
            sink.push(
                Diagnostic::error(code::CONFLICT, *span, "the terms of the authority are not accepted")
                    .label("it makes no account without them (RFC 8555 §7.3)")
                    .help("read them (the directory names their address) and write `terms_accepted: true`, or remove `acme`"),
            );
            false
        }
        None => false,
    }
}

/// Reports names that would have two certificates.
fn report_twice(raw: &Acme, of_files: &[(CertifiedNames, Span)], sink: &mut Diagnostics) {
    let mut seen: HashMap<&str, Span> = HashMap::new();
    for name in raw.hosts.iter().flatten() {
        let of_file =
            of_files.iter().find(|(names, _)| names.exact.iter().any(|exact| **exact == *name.value));
        let (message, other, help) = match (seen.insert(&name.value, name.span), of_file) {
            (Some(first), _) => ("is in two certificates", first, "remove one of them"),
            (None, Some((_, span))) => (
                "has a certificate from a file already",
                *span,
                "remove the name here, or the file; a wildcard in a file may cover it until its own certificate is issued",
            ),
            (None, None) => continue,
        };
        sink.push(
            Diagnostic::error(code::CONFLICT, name.span, format!("`{}` {message}", name.value))
                .label("clients get one certificate for a name")
                .related(other, "the other one")
                .help(help),
        );
    }
}

fn check_key(name: &At<String>, bytes: &[u8], sink: &mut Diagnostics) {
    let text = bytes.trim_ascii();
    let decoded = URL_SAFE_NO_PAD.decode(text).or_else(|_| URL_SAFE.decode(text));
    if decoded.is_ok_and(|key| !key.is_empty()) {
        return;
    }
    sink.push(
        Diagnostic::error(
            code::BAD_VALUE,
            name.span,
            "the key of the external account is not URL-safe Base64",
        )
        .label("the authority gives it in this form (RFC 8555 §7.3.4)")
        .help("write it into the file as the authority shows it, on one line"),
    );
}

/// Reports challenges that no listener could answer.
pub(super) fn report_unanswerable(raw: &Acme, has_cleartext: bool, sink: &mut Diagnostics) {
    if let Some(At { value: ChallengeKind::Http01, span }) = &raw.challenge
        && !has_cleartext
    {
        sink.push(
            Diagnostic::error(code::CONFLICT, *span, "`http-01` needs a listener in cleartext")
                .label("the authority asks at port 80")
                .help("add `listen: {http: \"0.0.0.0:80\"}`, which may redirect to https, or write `challenge: tls-alpn-01`"),
        );
    }
}
