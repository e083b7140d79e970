//! The names, methods and numbers of a configuration that admission and header editing need.

use std::sync::Arc;

use crate::{
    admission::{AdmissionLimits, HeaderBounds, Oddities},
    auth::settings::CredentialSource,
    config::settings::Settings,
    message::{
        ConfiguredNames, GuardedNames,
        names::{CLIENT_CERT, CLIENT_CERT_CHAIN},
    },
    policy::of_route::Asked,
};

/// Names of fields to which providers, routes and policies give a meaning.
pub(super) fn configured(settings: &Settings) -> ConfiguredNames {
    let forwarded = settings.auth.iter().flat_map(|provider| &provider.forward);
    let tokens = settings.auth.iter().flat_map(|provider| &provider.from);
    let conditions = settings.routes.iter().flat_map(|route| &route.headers);
    let mut asked = Asked::default();
    for route in &settings.routes {
        route.policies.ask(&mut asked);
    }
    ConfiguredNames {
        identity: forwarded.map(|(_, name)| name.clone()).collect(),
        tokens: tokens
            .filter_map(|source| match source {
                CredentialSource::Header(name) => Some(name.clone()),
                CredentialSource::Bearer
                | CredentialSource::Cookie(_)
                | CredentialSource::Query(_)
                | CredentialSource::Subprotocol(_) => None,
            })
            .collect(),
        decides: conditions.map(|condition| condition.name.clone()).chain(asked.fields).collect(),
        untrusted: untrusted(settings),
    }
}

/// The untrusted fields. Where services get the client's certificate from the gateway, no list may let in that of a client (RFC 9440 §4).
fn untrusted(settings: &Settings) -> Vec<String> {
    let mut names = settings.listen.untrusted_headers.clone();
    if settings.listen.https.iter().any(|https| https.tls.clients.is_some()) {
        names.extend([&CLIENT_CERT, &CLIENT_CERT_CHAIN].map(ToString::to_string));
    }
    names
}

pub(super) fn admission_limits(settings: &Settings, names: Arc<GuardedNames>) -> AdmissionLimits {
    let allowed = settings.routes.iter().filter_map(|route| route.policies.allow_in_path);
    AdmissionLimits::compile(
        HeaderBounds { bytes_max: settings.listen.max_header_bytes, lines_max: settings.listen.max_headers },
        settings.routes.iter().flat_map(|route| &route.methods),
        allowed.fold(Oddities::default(), Oddities::with),
        names,
    )
}
