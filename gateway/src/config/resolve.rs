//! From the file as written to effective [`Settings`]: defaults are applied, policies merged, names replaced by
//! indexes.
//!
//! The merge rule is: built-in default < `defaults` < each policy in `use`, left to right < the route. Scalars
//! replace, maps merge by key, lists replace. Resolving goes on after an error, so that all errors are found; its
//! result is then incomplete, and the caller drops it.

mod acme;
pub(super) mod defaults;
pub(super) mod files;
mod https;
mod listen;
mod listeners;
mod no_effect;
mod route;
mod service;

use std::collections::HashSet;

use self::{defaults::Defaults, files::Files, listeners::Listeners, route::Routes, service::Services};
use super::{
    raw::{
        AccessLog, File, Named,
        limits::{Limits, Share},
    },
    settings::{AccessLogSettings, AutoRoutesSettings, DrainSettings, EndpointSource, Settings},
};
use crate::{
    policy::concurrency::ShareSettings,
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, code},
        environment::Environment,
        tree::At,
    },
};

pub(super) fn resolve(
    file: &File,
    files: &mut Files,
    env: Environment<'_>,
    sink: &mut Diagnostics,
) -> Settings {
    let mut defaults = Defaults::new();
    defaults.shares = shares(&file.limits, defaults.shares);
    let mut read_file = |name: &At<String>, what: &str, sink: &mut Diagnostics| {
        files.readable(name, what, sink).map(|file| (file.path, file.bytes))
    };
    let auth = file.auth.iter().map(|provider| provider.value.resolve(&provider.name, &mut read_file, sink));
    let auth: Vec<_> = auth.collect();
    let tls = service::resolve_tls(&file.services, files, sink);
    let mut services = Services::new(&file.services, &tls, &defaults);
    let listeners = Listeners::resolve(&file.listen, &defaults, sink);
    let mut routes = Routes::new(file, &listeners);
    for route in &file.routes {
        routes.add(route, &mut services, sink);
    }
    routes.name_the_rest();
    let auto_routes = file.consul.auto_routes.as_ref().map(|auto| {
        let silent = "`auto_routes` does not say who may use the routes that services declare";
        let template = routes.without_place(&auto.rules, silent, auto.rules.span, sink);
        let (service, services) = service::resolve_all(&file.services, &tls, auto.rules.span, &defaults);
        AutoRoutesSettings {
            forms: auto.forms.clone(),
            allow: auto.allow.clone(),
            trusts_fully: auto.trusts_fully,
            template,
            services,
            service,
        }
    });
    // After an error, an entry that looks unused may be used in a part that could not be read.
    if !sink.has_errors() {
        warn_all_unused(file, &routes, &services, sink);
        no_effect::report_strips(file, sink);
        if file.limits.per_client.is_none() {
            listeners::advise_client_share(&file.listen, sink);
        }
    }
    let routes = routes.settings;
    let services = services.settings;
    let needs_consul = auto_routes.is_some()
        || file.listen.https.iter().flat_map(|https| &https.acme).any(|acme| acme.consul.is_some())
        || services.iter().any(|service| matches!(service.source, EndpointSource::Consul(_)));
    if env.connection().is_some() {
        listen::refuse_connection(&file.consul, sink);
    }
    let listen = listen::resolve(&file.listen, listeners, &defaults, files, sink);
    no_effect::report_removed_sources(&file.auth, &auth, &listen, sink);
    https::report_unasked(&auth, &listen, sink);
    Settings {
        workers: file.workers.unwrap_or(defaults.workers),
        listen,
        consul: needs_consul.then(|| listen::resolve_consul(&file.consul, &defaults, files, env, sink)),
        auth,
        routes,
        services,
        unrouted: file.defaults.clone(),
        access_log: resolve_access_log(&file.access_log, &defaults, files),
        drain: DrainSettings {
            notice: file.drain.notice.unwrap_or(defaults.drain.notice),
            timeout: file.drain.timeout.unwrap_or(defaults.drain.timeout),
        },
        rate_keys_max: file.limits.rate_keys_max.unwrap_or(defaults.rate_keys_max),
        files_max: file.limits.files,
        auto_routes,
    }
}

/// The shares of each service's slots: of one connection, of one client, and of uploads.
fn shares(raw: &Limits, defaults: ShareSettings) -> ShareSettings {
    let share = |raw: Option<Share>, default| match raw {
        None => default,
        Some(Share::Off) => None,
        Some(Share::PerMille(share)) => Some(share),
    };
    ShareSettings {
        per_connection: share(raw.per_connection, defaults.per_connection),
        per_client: share(raw.per_client, defaults.per_client),
        uploads: share(raw.uploads, defaults.uploads),
    }
}

fn resolve_access_log(raw: &AccessLog, defaults: &Defaults, files: &Files) -> AccessLogSettings {
    AccessLogSettings {
        format: raw.format.unwrap_or(defaults.access_log.format),
        file: raw.file.as_ref().map(|file| files.path(&file.value)),
        file_span: raw.file.as_ref().map(|file| file.span).unwrap_or_default(),
        sample_per_mille: raw.sample_per_mille.map_or(defaults.access_log.sample_per_mille, u32::from),
        refusals_per_second: raw.refusals_per_second.unwrap_or(defaults.access_log.refusals_per_second),
    }
}

fn warn_all_unused(file: &File, routes: &Routes<'_>, services: &Services<'_>, sink: &mut Diagnostics) {
    warn_unused(&file.policies, &routes.used_policies, code::UNUSED_POLICY, "policy", sink);
    let mut used = services.used_names();
    if file.consul.auto_routes.is_some() {
        // A service in the registry may declare routes itself, so it is not unused.
        let in_registry = file.services.iter().filter(|entry| entry.value.hosts.is_none());
        used.extend(in_registry.map(|entry| entry.name.value.clone()));
    }
    warn_unused(&file.services, &used, code::UNUSED_SERVICE, "service", sink);
    warn_unused(&file.auth, &routes.used_auth, code::UNUSED_AUTH, "auth provider", sink);
}

fn warn_unused<T>(
    entries: &[Named<T>],
    used: &HashSet<String>,
    code: &'static str,
    what: &str,
    sink: &mut Diagnostics,
) {
    for entry in entries.iter().filter(|entry| !used.contains(&entry.name.value)) {
        let message = format!("no route uses the {what} `{}`", entry.name.value);
        sink.push(Diagnostic::warning(code, entry.name.span, message).label("remove it, or use it"));
    }
}
