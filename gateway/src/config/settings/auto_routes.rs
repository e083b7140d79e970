//! `discovery.consul.auto_routes` once defaults and policies are merged.

use std::sync::Arc;

use super::{EndpointSource, RouteSettings, ServiceSettings};
use crate::declaration::{Declaration, allow::AllowRule, tags::TagForms};

/// The routes that services may declare, and the policies of every declared route beside those of its tag.
#[derive(Debug, Clone)]
pub struct AutoRoutesSettings {
    pub forms: TagForms,
    /// At least one of these rules must permit a route.
    pub allow: Vec<AllowRule>,
    /// Tags may also exempt an instance from proving its name, and redirect clients.
    pub trusts_fully: bool,
    /// A route with the file's defaults: authentication, limits, timeouts. A tag cannot change the first two.
    pub template: RouteSettings,
    /// The entries of `services`, for services that declare routes and that no route of the file names.
    pub services: Vec<ServiceSettings>,
    /// The settings of a service of the registry without an entry.
    pub service: ServiceSettings,
}

impl AutoRoutesSettings {
    /// The settings of a service of the registry: its entry, or the defaults under its name. If an entry of that
    /// name is for another service, the service of the registry is called `consul:NAME`.
    pub fn service_of(&self, service: &str) -> ServiceSettings {
        let of_name = self.services.iter().find(|entry| entry.name == service);
        if let Some(entry) = of_name.filter(|entry| is_named(&entry.source, service)) {
            return entry.clone();
        }
        let mut settings = self.service.clone();
        settings.name = if of_name.is_some() { format!("consul:{service}") } else { service.to_owned() };
        rename(&mut settings.source, service);
        settings
    }

    /// The template with the fields of a tag, except for its name and its service.
    pub fn route_of(&self, declaration: &Declaration) -> RouteSettings {
        let mut route = RouteSettings {
            methods: declaration.methods.clone(),
            host: declaration.host.clone(),
            path: declaration.path.clone(),
            ..self.template.clone()
        };
        Arc::make_mut(&mut route.policies).declare(&declaration.policies);
        route
    }
}

/// Whether the source is this service of the registry.
fn is_named(source: &EndpointSource, service: &str) -> bool {
    source.targets().first().is_some_and(|target| target.service == service)
}

fn rename(source: &mut EndpointSource, service: &str) {
    if let EndpointSource::Consul(source) = source {
        source.targets.iter_mut().for_each(|target| service.clone_into(&mut target.service));
    }
}
