//! The number of open files that a configuration needs.

use std::net::SocketAddr;

use crate::{
    config::settings::{EndpointSource, Settings},
    file_account::{Budget, Needs},
};

/// The account of files for a configuration. `limit` is the number of files that the process may have open.
pub fn file_budget(limit: usize, settings: &Settings) -> Budget {
    let watches = settings.consul.as_ref().map_or(0, |consul| match settings.auto_routes {
        // Any number of services may declare routes.
        Some(_) => consul.max_watches,
        None => consul.max_watches.min(settings.services.len() + 1),
    });
    let needs = Needs {
        files_max: settings.files_max,
        workers: settings.workers,
        listeners: settings.listen.http.len() + settings.listen.https.len(),
        watches,
        providers: settings.auth.len(),
        names: names(settings),
        clients_max: settings.listen.max_connections,
    };
    Budget::new(limit, &needs)
}

/// Number of host names that are looked up for services with `hosts`.
fn names(settings: &Settings) -> usize {
    let hosts = settings.services.iter().filter_map(|service| match &service.source {
        EndpointSource::Hosts(hosts) => Some(hosts),
        EndpointSource::Consul(_) => None,
    });
    hosts.flatten().filter(|host| host.parse::<SocketAddr>().is_err()).count()
}
