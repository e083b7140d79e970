//! Routes: they are merged, named, and checked against the providers, policies and services that they name.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use http::Method;

use super::{listeners::Listeners, service::Services};
use crate::{
    config::{
        raw::{File, Named, route::Route},
        settings::RouteSettings,
    },
    policy::{self, auth, of_route::Check},
    router::{HeaderCondition, HostPattern, pattern::PathPattern},
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, Span, code},
        fields::unknown_name,
        tree::At,
    },
};

pub(super) struct Routes<'a> {
    file: &'a File,
    listeners: &'a Listeners,
    names: HashMap<String, Span>,
    /// Indexes of routes without a name in the file, by the name that is made for them.
    unnamed: BTreeMap<String, Vec<usize>>,
    /// The inherited layers of routes, merged, by the names of the policies that they use.
    inherited: HashMap<Vec<&'a str>, Arc<policy::Written>>,
    pub(super) used_policies: HashSet<String>,
    pub(super) used_auth: HashSet<String>,
    pub(super) settings: Vec<RouteSettings>,
}

impl<'a> Routes<'a> {
    pub(super) fn new(file: &'a File, listeners: &'a Listeners) -> Self {
        Self {
            file,
            listeners,
            names: HashMap::new(),
            unnamed: BTreeMap::new(),
            inherited: HashMap::new(),
            used_policies: HashSet::new(),
            used_auth: HashSet::new(),
            settings: Vec::new(),
        }
    }

    /// Checks one route, and adds its settings if nothing essential is missing.
    pub(super) fn add(&mut self, route: &Route, services: &mut Services<'_>, sink: &mut Diagnostics) {
        let place = route.path.as_ref().map_or(route.span, |path| path.span);
        let settings = self.without_place(route, "this route does not say who may use it", place, sink);
        let destination = destination(route, services, sink);
        let Some(At { value: pattern, span }) = &route.path else { return };
        let methods = methods_of(route, pattern, *span, sink);
        let name = self.name_of(route, sink);
        let made = name.is_none().then(|| made_name(route, &methods, &pattern.path));
        let Some((service, split)) = destination else { return };
        let path = pattern.path.clone();
        if let Some(made) = made {
            self.unnamed.entry(made).or_default().push(self.settings.len());
        }
        let name = name.unwrap_or_default();
        self.settings.push(RouteSettings { name, methods, path, service, split, ..settings });
    }

    /// Names the routes that have no name in the file. Routes that differ only in the values of their conditions get numbers in
    /// the order of these values, so that the names do not depend on the order of the file.
    pub(super) fn name_the_rest(&mut self) {
        for (made, mut routes) in std::mem::take(&mut self.unnamed) {
            let conditions = |at: &usize| {
                let of_route = self.settings.get(*at).map(|route| &*route.headers).unwrap_or_default();
                let one = |c: &HeaderCondition| {
                    (c.name.to_string(), c.value.as_ref().map(|v| v.as_bytes().to_vec()))
                };
                of_route.iter().map(one).collect::<Vec<_>>()
            };
            routes.sort_by_cached_key(conditions);
            for at in routes {
                let Some(route) = self.settings.get_mut(at) else { continue };
                let mut name = made.clone();
                let mut number = 2;
                while self.names.contains_key(&name) {
                    name = format!("{made} #{number}");
                    number += 1;
                }
                self.names.insert(name.clone(), route.span);
                route.name = name;
            }
        }
    }

    /// The settings of a route except its name, methods, path and service. `silent` is the error message for a route that
    /// neither names a provider nor is declared open.
    pub(super) fn without_place(
        &mut self,
        route: &Route,
        silent: &'static str,
        place: Span,
        sink: &mut Diagnostics,
    ) -> RouteSettings {
        let policies = self.merged(route, sink);
        let providers: Vec<&str> =
            self.file.auth.iter().map(|provider| provider.name.value.as_str()).collect();
        self.used_auth.extend(auth::names(policies.auth.as_ref()).map(ToOwned::to_owned));
        let listeners = self.listeners.named(route.listeners.as_deref(), sink);
        policies.check(&mut Check { route: &policies, place, providers: &providers, silent, sink });
        RouteSettings {
            name: String::new(),
            methods: Vec::new(),
            host: route.host.clone(),
            path: String::new(),
            headers: route.headers.clone(),
            listeners,
            priority: route.priority.unwrap_or(0),
            service: None,
            split: Vec::new(),
            policies,
            origin: None,
            hidden: route.hidden.clone(),
            span: place,
        }
    }

    fn merged(&mut self, route: &Route, sink: &mut Diagnostics) -> Arc<policy::Written> {
        let mut used: Vec<&'a Named<policy::Written>> = Vec::new();
        for name in &route.uses {
            let known = self.file.policies.iter();
            if let Some(policy) = known.clone().find(|policy| policy.name.value == name.value) {
                self.used_policies.insert(name.value.clone());
                used.push(policy);
            } else {
                sink.push(unknown_name("policy", name, known.map(|policy| policy.name.value.as_str())));
            }
        }
        let names = used.iter().map(|policy| policy.name.value.as_str()).collect();
        let inherited = self.inherited.entry(names).or_insert_with(|| {
            let mut inherited = self.file.defaults.clone();
            for policy in &used {
                inherited.overlay(&policy.value);
            }
            Arc::new(inherited)
        });
        let mut merged = Arc::clone(inherited);
        if route.own != policy::Written::default() {
            Arc::make_mut(&mut merged).overlay(&route.own);
        }
        merged
    }

    fn name_of(&mut self, route: &Route, sink: &mut Diagnostics) -> Option<String> {
        let At { value, span } = route.name.as_ref()?;
        if let Some(first) = self.names.insert(value.clone(), *span) {
            sink.push(
                Diagnostic::error(code::DUPLICATE_NAME, *span, "two routes have the same name")
                    .label("metrics and logs could not tell them apart")
                    .related(first, "the other route"),
            );
        }
        Some(value.clone())
    }
}

/// [`RouteSettings::service`] and [`RouteSettings::split`].
type Destination = (Option<usize>, Vec<(usize, u32)>);

/// The service, or the parts of it that share the requests; a route with a redirect has none. `None`: an error was reported.
fn destination(route: &Route, services: &mut Services<'_>, sink: &mut Diagnostics) -> Option<Destination> {
    if route.own.redirect.is_some() {
        return Some((None, Vec::new()));
    }
    let name = route.service.as_ref()?;
    let Some(split) = &route.split else {
        return Some((Some(services.index(name, route.subset.as_ref(), sink)?), Vec::new()));
    };
    let parts = split.iter();
    // All parts are looked up, so that all errors are found.
    let parts: Vec<Option<(usize, u32)>> =
        parts.map(|(subset, weight)| Some((services.index(name, Some(subset), sink)?, *weight))).collect();
    let parts: Vec<(usize, u32)> = parts.into_iter().collect::<Option<_>>()?;
    // The part whose state is reported when no part has an endpoint. A part without a share must not be it.
    let first = parts.iter().find(|(_, share)| *share > 0).or(parts.first())?.0;
    Some((Some(first), parts))
}

/// The name of a route by its match, such as `GET|HEAD shop.example/products/** [x-beta] on internal`. It contains no values of conditions,
/// which may be secrets, since names go into logs, metrics and error documents; `[x-beta=*]` stands for any value.
fn made_name(route: &Route, methods: &[Method], path: &str) -> String {
    let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
    let host = match &route.host {
        HostPattern::Any => String::new(),
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Suffix(suffix) => format!("*{suffix}"),
    };
    let mut name = methods.join("|");
    if !name.is_empty() {
        name.push(' ');
    }
    let hidden = &route.hidden;
    name.extend([hidden.host.shown(&host), hidden.path.shown(path)]);
    for condition in &route.headers {
        let value = if condition.value.is_none() { "=*" } else { "" };
        name.extend([" [", condition.name.as_str(), value, "]"]);
    }
    let listeners: BTreeSet<&str> =
        route.listeners.iter().flatten().map(|name| name.value.as_str()).collect();
    for (at, listener) in listeners.into_iter().enumerate() {
        name.extend([if at == 0 { " on " } else { "," }, listener]);
    }
    name
}

fn methods_of(route: &Route, pattern: &PathPattern, place: Span, sink: &mut Diagnostics) -> Vec<Method> {
    match &route.methods {
        Some(_) if !pattern.methods.is_empty() => {
            sink.push(
                Diagnostic::error(code::CONFLICT, place, "methods stand in `path` and in `methods`")
                    .label("keep one of the two"),
            );
            pattern.methods.clone()
        }
        Some(methods) => methods.clone(),
        None => pattern.methods.clone(),
    }
}
