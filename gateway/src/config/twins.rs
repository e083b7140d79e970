//! Weak twins of closed routes: requests that the service may treat as those of a closed route, and that match a weaker route
//! of the same service: one with another provider, without a role, or for other addresses. Limits are not compared: many routes
//! have their own.
//!
//! Each closed route is tested with samples of its own requests in which one thing is different (spelling, method, host,
//! headers, the path after `rewrite`), and the router finds the routes that they match. A closed route that accepts any case, or
//! a slash at the end, has no twins of that spelling. A spelling is not tested if the file says that the service distinguishes
//! it.
//!
//! Differences that the file states side by side are intended, and are not reported: an open route that names the method that
//! the closed one leaves out, two exact hosts with the same path, another provider for one method or header of the same path.

mod destination;
mod gate;
mod rewritten;
mod said;
mod sample;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    rc::Rc,
    sync::Arc,
};

use http::{HeaderMap, Method};

use self::{
    destination::places_of,
    gate::GateParts,
    sample::{Respelling, Sample, host_fits, path_fits},
};
use super::settings::{RouteSettings, Settings};
use crate::{
    message::{ConfiguredNames, GuardedNames, fold},
    router::{HeaderCondition, HostPattern, Match, Router},
    syntax::diagnostics::Diagnostic,
};

/// Warnings about the weak twins in a configuration. There are none if routes conflict, which is an error of its own.
pub(super) fn warnings(settings: &Settings) -> Vec<Diagnostic> {
    let Ok(router) = Router::compile(&RouteSettings::matches(&settings.routes)) else { return Vec::new() };
    let search = Search::new(settings, router);
    let mut neighbours = HashMap::new();
    let closed = (0..settings.routes.len()).filter(|at| !GateParts::of(&settings.routes[*at]).is_open());
    let found = closed.filter_map(|at| search.twins_of(at, &mut neighbours));
    said::warnings(settings, &found.collect::<Vec<_>>())
}

/// How a request differs from those of the closed route, or why one of its own requests matches another route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    Respelling(Respelling),
    /// The closed route leaves the method out.
    Method,
    /// The other route names the method.
    NamedMethod,
    Priority,
    /// The closed route is for other hosts.
    Host,
    /// The other route is for fewer hosts.
    NarrowHost,
    /// The request lacks a header that the closed route needs.
    NoHeader,
    /// The request has the headers that the other route needs.
    Header,
    /// After `rewrite`, the service gets the same path.
    Rewrite,
    /// It is for another host, of which the service gets the same name.
    RewrittenHost,
    /// A difference without a cure of its own.
    Other,
}

/// A request that a service may treat as one of a closed route, although it matches a weaker one.
#[derive(Debug)]
struct Twin {
    difference: Difference,
    /// The request as it is shown, without values of variables.
    example: String,
    /// The route that the request matches.
    taker: usize,
}

/// The twins of a closed route, one of each kind.
#[derive(Debug)]
struct Twins {
    closed: usize,
    found: Vec<Twin>,
}

impl Twins {
    fn has(&self, difference: Difference) -> bool {
        self.found.iter().any(|twin| twin.difference == difference)
    }

    fn add(&mut self, difference: Difference, example: impl Into<String>, taker: usize) {
        // One example of each kind is enough.
        if !self.has(difference) {
            self.found.push(Twin { difference, example: example.into(), taker });
        }
    }
}

/// A request that may have a twin.
#[derive(Debug, Clone)]
struct Request {
    listener: Arc<str>,
    host: String,
    path: String,
    headers: HeaderMap,
}

/// Routes of the same service that are weaker than one gate.
#[derive(Debug, Default)]
struct Neighbours {
    hosts: Vec<HostPattern>,
    /// Routes with header conditions that a client can meet.
    with_headers: Vec<usize>,
    /// One route for each way of rewriting a path.
    rewriting: Vec<usize>,
    /// Routes that add or strip a prefix.
    with_rewrite: Vec<usize>,
    open: Vec<usize>,
}

struct Search<'a> {
    settings: &'a Settings,
    router: Router,
    untrusted: GuardedNames,
    /// The methods that most routes name, and some rare ones.
    methods: Vec<Method>,
    /// The destination of each route, as an index into `destinations`.
    destination: Vec<usize>,
    destinations: Vec<BTreeSet<String>>,
}

/// Neighbours by destination and gate.
type Known<'a> = HashMap<usize, Vec<(GateParts<'a>, Rc<Neighbours>)>>;

impl<'a> Search<'a> {
    fn new(settings: &'a Settings, router: Router) -> Self {
        let mut destinations: Vec<BTreeSet<String>> = Vec::new();
        let mut indexes = HashMap::new();
        let destination = settings.routes.iter().map(|route| {
            let places = places_of(settings, route);
            *indexes.entry(places.clone()).or_insert_with(|| {
                destinations.push(places);
                destinations.len() - 1
            })
        });
        let destination = destination.collect();
        let untrusted = GuardedNames::compile(ConfiguredNames {
            untrusted: settings.listen.untrusted_headers.clone(),
            ..ConfiguredNames::default()
        });
        let rare = ["PROPFIND", "LOCK", "QUERY"].iter().filter_map(|name| name.parse().ok());
        let methods = METHODS.into_iter().chain(rare).collect();
        Self { settings, router, untrusted, methods, destination, destinations }
    }

    fn route(&self, at: usize) -> &'a RouteSettings {
        &self.settings.routes[at]
    }

    fn twins_of(&self, closed: usize, known: &mut Known<'a>) -> Option<Twins> {
        let neighbours = self.neighbours(closed, known);
        if neighbours.hosts.is_empty() {
            return None;
        }
        let route = self.route(closed);
        let mut twins = Twins { closed, found: Vec::new() };
        // A route for a listener is meant for its clients only, so it is no twin of a route for any listener: for that one, the
        // request comes through a listener that no route names.
        let unnamed = [Arc::from("")];
        let listeners = if route.listeners.is_empty() { &unnamed[..] } else { &route.listeners[..] };
        for listener in listeners {
            let own = Request {
                listener: Arc::clone(listener),
                host: sample::host(&route.host),
                path: Sample::deep(&route.path).path(),
                headers: with_conditions(HeaderMap::new(), &route.headers),
            };
            self.other_spellings(&own, &mut twins);
            self.other_methods(&own, &neighbours, &mut twins);
            self.other_hosts(&own, &neighbours, &mut twins);
            self.other_headers(&own, &neighbours, &mut twins);
            self.rewritten(&own, &neighbours, &mut twins);
            self.rewritten_into(&own, &neighbours, &mut twins);
            self.other_hosts_of_one_name(&own, &neighbours, &mut twins);
        }
        (!twins.found.is_empty()).then_some(twins)
    }

    /// The neighbours of a closed route. They are found once for each destination and gate, which most routes of a file share.
    fn neighbours(&self, closed: usize, known: &mut Known<'a>) -> Rc<Neighbours> {
        let (gate, destination) = (GateParts::of(self.route(closed)), self.destination[closed]);
        let of_destination = known.entry(destination).or_default();
        if let Some((_, found)) = of_destination.iter().find(|(other, _)| *other == gate) {
            return Rc::clone(found);
        }
        let mut found = Neighbours::default();
        let mut rewrites = Vec::new();
        for (at, other) in
            self.settings.routes.iter().enumerate().filter(|(at, _)| self.is_weaker(*at, closed))
        {
            if found.hosts.len() < TRIED_MAX && !found.hosts.contains(&other.host) {
                found.hosts.push(other.host.clone());
            }
            let is_sendable = || other.headers.iter().all(|condition| self.is_clients(condition));
            if found.with_headers.len() < TRIED_MAX && !other.headers.is_empty() && is_sendable() {
                found.with_headers.push(at);
            }
            let key = (&other.policies.rewrite, &other.host);
            if rewrites.len() < TRIED_MAX && !rewrites.contains(&key) {
                rewrites.push(key);
                found.rewriting.push(at);
            }
            let rewrite = &other.policies.rewrite;
            let is_rewriting = rewrite.stripped().is_some() || rewrite.added().is_some();
            if found.with_rewrite.len() < TRIED_MAX && is_rewriting {
                found.with_rewrite.push(at);
            }
            if found.open.len() < TRIED_MAX && GateParts::of(other).is_open() && other.methods.is_empty() {
                found.open.push(at);
            }
        }
        let found = Rc::new(found);
        of_destination.push((gate, Rc::clone(&found)));
        found
    }

    /// Whether the other route lets requests pass that the closed one would refuse, to the same destination.
    fn is_weaker(&self, other: usize, closed: usize) -> bool {
        let [one, two] = [other, closed].map(|at| self.destination[at]);
        let is_same = one == two && !self.destinations[one].is_empty()
            || !self.destinations[one].is_disjoint(&self.destinations[two]);
        is_same && !GateParts::of(self.route(other)).is_as_strict_as(&GateParts::of(self.route(closed)))
    }

    /// Whether the other route makes a twin. Another provider for the same path is intended, so there only a weaker gate counts.
    fn is_twin(&self, other: usize, closed: usize) -> bool {
        let is_beside = self.route(other).path == self.route(closed).path;
        self.is_weaker(other, closed) && (!is_beside || self.asks_for_less(other, closed))
    }

    fn asks_for_less(&self, other: usize, closed: usize) -> bool {
        GateParts::of(self.route(closed)).is_stricter_than(&GateParts::of(self.route(other)))
    }

    fn is_clients(&self, condition: &HeaderCondition) -> bool {
        !self.untrusted.is_untrusted(&fold(condition.name.as_str()))
    }

    fn taker(&self, request: &Request, method: &Method) -> Option<usize> {
        match self.router.lookup(&request.listener, &request.host, &request.path, method, &request.headers) {
            Match::Route(route) => Some(route),
            Match::MethodNotAllowed(_) | Match::NotFound => None,
        }
    }

    /// The first twin among the routes that the request matches with the methods of the closed route.
    fn twin(&self, request: &Request, closed: usize, is_twin: impl Fn(usize) -> bool) -> Option<usize> {
        let methods = &*self.route(closed).methods;
        let methods = if methods.is_empty() { &METHODS[..] } else { methods };
        let takers = methods.iter().filter_map(|method| self.taker(request, method));
        takers.filter(|taker| *taker != closed).find(|taker| is_twin(*taker))
    }

    /// Whether the closed route takes the request with one of its methods.
    fn is_taken_by(&self, request: &Request, closed: usize) -> bool {
        let methods = &*self.route(closed).methods;
        let methods = if methods.is_empty() { &METHODS[..] } else { methods };
        methods.iter().any(|method| self.taker(request, method) == Some(closed))
    }

    fn other_spellings(&self, own: &Request, twins: &mut Twins) {
        let (closed, route) = (twins.closed, self.route(twins.closed));
        let methods = if route.methods.is_empty() { &METHODS[..] } else { &route.methods[..] };
        let request = |path: String| Request { path, ..own.clone() };
        let own_methods = |sample: &Sample| {
            let request = request(sample.path());
            let is_own = |method: &&Method| self.taker(&request, method) == Some(closed);
            methods.iter().filter(is_own).collect::<Vec<_>>()
        };
        // Another route may match the beginning of a subtree.
        let samples = [Sample::of(&route.path), Sample::deep(&route.path)];
        let samples = samples.into_iter().map(|sample| (own_methods(&sample), sample));
        let Some((methods, sample)) = samples.into_iter().find(|(methods, _)| !methods.is_empty()) else {
            return;
        };
        for (spelling, path) in sample.others(route) {
            let request = request(path.clone());
            let mut found = methods.iter().filter_map(|method| self.taker(&request, method));
            let Some(taker) = found.find(|taker| self.is_weaker(*taker, closed)) else { continue };
            let shown = match spelling {
                Respelling::Slash => format!("{}/", route.path),
                _ => sample::shown(&path),
            };
            twins.add(Difference::Respelling(spelling), route.hidden.path.shown(&shown), taker);
        }
    }

    fn other_methods(&self, own: &Request, neighbours: &Neighbours, twins: &mut Twins) {
        let (closed, route) = (twins.closed, self.route(twins.closed));
        let is_open = |at: usize| GateParts::of(self.route(at)).is_open() && self.is_weaker(at, closed);
        let path = route.hidden.path.shown(&route.path);
        for method in &self.methods {
            let Some(taker) = self.taker(own, method).filter(|taker| *taker != closed) else { continue };
            let (other, shown) = (self.route(taker), format!("{method} {path}"));
            if !route.methods.is_empty() && !route.methods.contains(method) {
                // A route that names the method is intended, and so is one with another provider.
                if is_open(taker) && other.methods.is_empty() {
                    twins.add(Difference::Method, shown, taker);
                }
            } else if other.priority > route.priority && other.path != route.path {
                if self.is_weaker(taker, closed) {
                    twins.add(Difference::Priority, shown, taker);
                }
            } else if !other.methods.is_empty() {
                // If an open route takes the other methods, the closed route cannot name its own.
                let takes_the_rest = |at: &usize| {
                    path_fits(&self.route(*at).path, &own.path) && host_fits(&self.route(*at).host, &own.host)
                };
                let is_needed = neighbours.open.iter().any(takes_the_rest);
                if is_open(taker) && !is_needed {
                    twins.add(Difference::NamedMethod, shown, taker);
                }
            } else if self.asks_for_less(taker, closed) && self.is_weaker(taker, closed) {
                twins.add(Difference::Other, shown, taker);
            }
        }
    }

    fn other_hosts(&self, own: &Request, neighbours: &Neighbours, twins: &mut Twins) {
        let (closed, route) = (twins.closed, self.route(twins.closed));
        let path = route.hidden.path.shown(&route.path);
        for pattern in &neighbours.hosts {
            let host = sample::host(pattern);
            if *pattern == route.host || host == own.host {
                continue;
            }
            let is_inside = host_fits(&route.host, &host);
            let difference = if is_inside { Difference::NarrowHost } else { Difference::Host };
            if twins.has(difference) {
                continue;
            }
            let request = Request { host, ..own.clone() };
            let is_twin = |taker: usize| {
                let other = self.route(taker);
                // Two exact hosts with the same path are intended.
                let is_named = matches!(other.host, HostPattern::Exact(_));
                let is_meant = !is_inside && is_named && other.path == route.path;
                other.host != route.host && !is_meant && self.is_twin(taker, closed)
            };
            let Some(taker) = self.twin(&request, closed, is_twin) else { continue };
            let other = self.route(taker);
            let shown = match said::host(other) {
                Some(host) => format!("{path} of {host}"),
                None => format!("{path} of another host"),
            };
            twins.add(difference, shown, taker);
        }
    }

    fn other_headers(&self, own: &Request, neighbours: &Neighbours, twins: &mut Twins) {
        let (closed, route) = (twins.closed, self.route(twins.closed));
        let path = route.hidden.path.shown(&route.path);
        if let Some(condition) = route.headers.iter().find(|condition| self.is_clients(condition)) {
            let mut without = own.clone();
            without.headers.remove(&condition.name);
            if let Some(taker) = self.twin(&without, closed, |taker| self.is_twin(taker, closed)) {
                twins.add(Difference::NoHeader, format!("{path} without {}", condition.name), taker);
            }
        }
        for at in &neighbours.with_headers {
            if twins.has(Difference::Header) {
                break;
            }
            let other = self.route(*at);
            let host = match &other.host {
                HostPattern::Any => own.host.clone(),
                pattern => sample::host(pattern),
            };
            let is_twin = |taker: usize| taker == *at && self.is_twin(taker, closed);
            let alone = with_conditions(HeaderMap::new(), &other.headers);
            // Trusted headers come from a proxy, so they stay in the request.
            let trusted = route.headers.iter().filter(|condition| !self.is_clients(condition));
            let alone = with_conditions(alone, &trusted.cloned().collect::<Vec<_>>());
            let added = with_conditions(own.headers.clone(), &other.headers);
            let requests =
                [added, alone].map(|headers| Request { host: host.clone(), headers, ..own.clone() });
            if requests.iter().any(|request| self.twin(request, closed, is_twin).is_some())
                && let Some(condition) = other.headers.first()
            {
                twins.add(Difference::Header, format!("{path} with {}", condition.name), *at);
            }
        }
    }
}

/// Adds values that meet the conditions to the headers.
fn with_conditions(mut headers: HeaderMap, conditions: &[HeaderCondition]) -> HeaderMap {
    for condition in conditions {
        headers.append(condition.name.clone(), condition.value.clone().unwrap_or(sample::VALUE));
    }
    headers
}

/// Hosts, headers and rewrites of neighbours that are tried for one closed route.
const TRIED_MAX: usize = 64;
/// The usual methods. HEAD goes with GET, and browsers send OPTIONS without credentials. `Search::methods` adds PROPFIND, LOCK
/// and QUERY, for which frameworks may run the handler of a path as well.
const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
