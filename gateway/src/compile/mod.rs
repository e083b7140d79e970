//! Makes the snapshot from settings and the world. Nothing else makes snapshots. This room is pure, except for the files of
//! certificates that [`tls`] reads.

mod clusters;
mod files;
mod names;

use std::{collections::BTreeMap, sync::Arc};

pub use self::files::file_budget;
use crate::{
    auth::{
        provider::{HeldKeys, Provider},
        settings::ProviderSettings,
    },
    certificate::issued::AcmeState,
    config::settings::{RouteSettings, Settings},
    message::GuardedNames,
    policy::{
        self,
        of_route::{Compile, Shared, Shown},
        rate_limit::{KeyBudget, Limits},
    },
    router::{ConflictKind, HostPattern, RouteConflict, Router},
    snapshot::{Route, RouteTable, RouteView, Snapshot, SplitView},
    syntax::diagnostics::{Diagnostic, code},
    tls::{
        error::UnusableTls,
        server::{ServerTls, server_tls},
    },
    upstream::split::Split,
    world::World,
};

/// Compiles routes and policies. Limits that did not change keep their counts from `previous`.
///
/// # Errors
/// One finding for each route that is a duplicate, ambiguous or dead, and for each limit or provider that cannot be compiled.
pub fn table(
    settings: &Settings,
    previous: Option<&RouteTable>,
    budget: &Arc<KeyBudget>,
) -> Result<RouteTable, Vec<Diagnostic>> {
    let mut problems = Vec::new();
    let router = Router::compile(&RouteSettings::matches(&settings.routes))
        .map_err(|conflicts| problems.extend(conflicts.iter().map(|c| conflict(settings, c))));
    let mut auth = Vec::with_capacity(settings.auth.len());
    for provider in &settings.auth {
        match Provider::compile(provider, settings.claims_asked_for().into_iter().collect()) {
            Ok(compiled) => auth.push(Arc::new(compiled)),
            Err(error) => problems.push(Diagnostic::error(code::PROVIDER, provider.span, error)),
        }
    }
    let previous = previous.iter().flat_map(|table| &table.routes);
    let previous = previous.map(|route| (&*route.name, &*route.service, &*route.policies.rate_limit));
    let mut limits = Limits::new(previous, budget);
    let mut shared = Shared::default();
    let providers: Vec<&str> = settings.auth.iter().map(|provider| provider.name.as_str()).collect();
    let mut compiled = Vec::with_capacity(settings.routes.len());
    for raw in &settings.routes {
        compiled.push(Arc::new(route(settings, raw, &providers, &mut limits, &mut shared, &mut problems)));
    }
    let unrouted = settings.unrouted.compile_for_no_route(&mut Compile {
        route: "",
        service: "",
        written: &policy::Written::default(),
        providers: &providers,
        limits: &mut limits,
        shared: &mut shared,
        problems: &mut problems,
    });
    let listen = &settings.listen;
    let names = Arc::new(GuardedNames::compile(names::configured(settings)));
    match router {
        Ok(router) if problems.is_empty() => Ok(RouteTable {
            router,
            routes: compiled,
            auth,
            admission: names::admission_limits(settings, Arc::clone(&names)),
            names,
            unrouted,
            listen: listen.clone(),
            access_log: settings.access_log.clone(),
        }),
        _ => Err(problems),
    }
}

fn conflict(settings: &Settings, conflict: &RouteConflict) -> Diagnostic {
    let span = |index: usize| settings.routes.get(index).map(|route| route.span).unwrap_or_default();
    let (word, message) = match conflict.kind {
        ConflictKind::Duplicate => (code::DUPLICATE_ROUTE, "two routes match the same requests"),
        ConflictKind::Ambiguous => {
            (code::AMBIGUOUS_ROUTE, "two routes match some requests, and neither is more specific")
        }
        ConflictKind::Dead => (code::DEAD_ROUTE, "this route can never match"),
    };
    let help = match conflict.kind {
        ConflictKind::Duplicate => "remove one of them",
        ConflictKind::Ambiguous => "give one of them a higher `priority`",
        ConflictKind::Dead => "remove it, or lower the `priority` of the other one",
    };
    let mut diagnostic = Diagnostic::error(word, span(conflict.route), message).label(&conflict.message);
    diagnostic.help = Some(help.to_owned());
    diagnostic.related.push((span(conflict.other), "the other route".to_owned()));
    diagnostic
}

fn route(
    settings: &Settings,
    route: &RouteSettings,
    providers: &[&str],
    limits: &mut Limits<'_>,
    shared: &mut Shared,
    problems: &mut Vec<Diagnostic>,
) -> Route {
    let service = route.service.and_then(|at| settings.services.get(at));
    let service = service.map_or("", |service| service.name.as_str());
    let policies = route.policies.compile(&mut Compile {
        route: &route.name,
        service,
        written: &route.policies,
        providers,
        limits,
        shared,
        problems,
    });
    let view = Box::new(view(settings, route, policies.show(&route.policies, providers), service));
    Route {
        policies,
        name: Arc::from(route.name.as_str()),
        service: Arc::from(service),
        cluster: route.service,
        split: Split::compile(&route.split),
        view,
    }
}

fn view(settings: &Settings, route: &RouteSettings, policies: Shown, service: &str) -> RouteView {
    let hidden = &route.hidden;
    let subset = |at: usize| settings.services.get(at)?.subset.as_ref().map(|subset| subset.name.clone());
    let parts = route.split.iter();
    let split = parts.filter_map(|(at, share)| Some(SplitView { subset: subset(*at)?, share: *share }));
    RouteView {
        name: Arc::from(route.name.as_str()),
        methods: route.methods.iter().map(ToString::to_string).collect(),
        host: hidden.host.shown(&match &route.host {
            HostPattern::Any => "*".to_owned(),
            HostPattern::Exact(host) => host.clone(),
            HostPattern::Suffix(suffix) => format!("*{suffix}"),
        }),
        listeners: route.listeners.clone(),
        path: hidden.path.shown(&route.path),
        service: Arc::from(service),
        subset: route.service.filter(|_| route.split.is_empty()).and_then(subset),
        split: split.collect(),
        policies,
        priority: route.priority,
        origin: route.origin.clone().unwrap_or_else(|| "file".to_owned()),
        line: if route.origin.is_none() { route.span.line } else { 0 },
    }
}

/// The TLS listeners by name, and what was read of their files.
pub type TlsListeners = BTreeMap<Arc<str>, ServerTls>;

/// Reads the files of the TLS listeners, which also get what ACME has brought. Those whose content is that of `before` are not parsed again.
///
/// # Errors
/// A file is missing or is not PEM, or a key does not fit its certificate: one finding for each.
pub fn tls(
    settings: &Settings,
    before: &TlsListeners,
    acme: &AcmeState,
) -> Result<TlsListeners, Vec<Diagnostic>> {
    let mut all = TlsListeners::new();
    let mut findings = Vec::new();
    for https in &settings.listen.https {
        let (made, unusable) = server_tls(&https.tls, before.get(&https.name), acme);
        findings.extend(unusable.iter().map(unusable_file));
        all.extend(made.map(|made| (Arc::clone(&https.name), made)));
    }
    if findings.is_empty() { Ok(all) } else { Err(findings) }
}

/// The finding about a file of TLS that cannot be used.
pub fn unusable_file(unusable: &UnusableTls) -> Diagnostic {
    Diagnostic::error(code::CERTIFICATE, unusable.span, unusable.error.to_string())
}

fn held_keys(auth: &ProviderSettings, world: &World) -> HeldKeys {
    HeldKeys { set: world.keys_of(auth).map(Arc::clone), desk: world.desk_of(auth).map(Arc::clone) }
}

/// Makes the snapshot from the table, the endpoints and the keys. Clusters that did not change are the same `Arc` as before.
pub fn snapshot(
    settings: &Settings,
    table: Arc<RouteTable>,
    world: &World,
    previous: Option<&Snapshot>,
) -> Snapshot {
    Snapshot {
        clusters: clusters::compile(settings, world, previous.map_or(&[][..], |old| &old.clusters)),
        keys: settings.auth.iter().map(|auth| held_keys(auth, world)).collect(),
        auth_generation: world.keys_generation(),
        states_clients: settings.services.iter().any(|service| service.proxy_protocol.is_some()),
        tls: world.tls.iter().map(|(name, tls)| (Arc::clone(name), Arc::clone(&tls.listener))).collect(),
        answers: world.acme.state().answers.clone(),
        table,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{clock, config::load, upstream::cluster::Cluster};

    fn settings(text: &str) -> Settings {
        let text = format!("version: 1\n{text}");
        load::parse("routes.yaml", &text, Path::new(""), &|_| None).unwrap().settings
    }

    /// A snapshot of `text`, made after `previous`.
    fn after(previous: Option<&Snapshot>, text: &str) -> Snapshot {
        let settings = settings(text);
        let budget = Arc::new(KeyBudget::new(settings.rate_keys_max, clock::now()));
        let table = table(&settings, previous.map(|old| &*old.table), &budget).unwrap();
        snapshot(&settings, Arc::new(table), &World::default(), previous)
    }

    fn cluster_of<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Arc<Cluster> {
        snapshot.clusters.iter().find(|cluster| *cluster.name == *name).unwrap()
    }

    const SERVICES: &str = "services: {a: {hosts: [\"127.0.0.1:1\"]}, b: {hosts: [\"127.0.0.1:2\"]}}\n";

    #[test]
    fn a_service_that_only_moved_in_the_file_is_the_same_cluster() {
        let routes = "routes:\n  - {path: /a, service: a}\n  - {path: /b, service: b}\n";
        let first = after(None, &format!("{routes}{SERVICES}"));
        let moved = after(Some(&first), &format!("# One line more.\n{routes}{SERVICES}"));
        let swapped = "services: {b: {hosts: [\"127.0.0.1:2\"]}, a: {hosts: [\"127.0.0.1:1\"]}}\n";
        let swapped = after(Some(&moved), &format!("{routes}{swapped}"));
        for name in ["a", "b"] {
            assert!(Arc::ptr_eq(cluster_of(&first, name), cluster_of(&moved, name)), "{name}");
            assert!(Arc::ptr_eq(cluster_of(&first, name), cluster_of(&swapped, name)), "{name}, swapped");
        }
    }

    #[test]
    fn a_changed_retry_budget_takes_effect_and_an_unchanged_one_is_kept() {
        let text = |share: &str, limit: u32| {
            format!(
                "routes:\n  - {{path: /a, service: a, retry: {{budget: {share}}}}}\n\
                 services: {{a: {{hosts: [\"127.0.0.1:1\"], max_inflight: {limit}}}}}\n"
            )
        };
        let first = after(None, &text("20%", 10));
        let other = after(Some(&first), &text("20%", 11));
        let changed = after(Some(&other), &text("5%", 11));
        let budget = |snapshot| Arc::clone(&cluster_of(snapshot, "a").retry_budget);
        assert!(Arc::ptr_eq(&budget(&first), &budget(&other)), "another setting of the service changed");
        assert!(budget(&first).matches(0.2) && budget(&changed).matches(0.05));
    }

    #[test]
    fn a_limit_per_service_stays_with_its_service() {
        let text = |route: &str, service: &str| {
            format!(
                "routes:\n  - {{name: {route}, path: /x, service: {service}, rate_limit: 5/s per service}}\n\
                 {SERVICES}"
            )
        };
        let limit = |snapshot: &Snapshot| Arc::clone(&snapshot.table.routes[0].policies.rate_limit[0]);
        let first = after(None, &text("one", "a"));
        let moved = after(Some(&first), &text("one", "b"));
        let renamed = after(Some(&first), &text("two", "a"));
        assert!(!Arc::ptr_eq(&limit(&first), &limit(&moved)), "another service has another bucket");
        assert!(Arc::ptr_eq(&limit(&first), &limit(&renamed)), "the bucket is the service's");
    }

    #[test]
    fn a_limit_is_known_by_its_name_and_settings_wherever_it_stands() {
        const ONE: &str = "{name: one, path: /x, service: a, rate_limit: 5/s per service}";
        const TWO: &str =
            "{name: two, path: /y, service: a, rate_limit: [5/s per service, 9/m per ip, 3/s per ip]}";
        const MOVED: &str =
            "{name: two, path: /y, service: a, rate_limit: [3/s per ip, 9/m per ip, 5/s per service]}";
        let text = |routes: [&str; 2]| format!("routes: [{}, {}]\n{SERVICES}", routes[0], routes[1]);
        let named = |snapshot: &Snapshot, route: &str| {
            let route = snapshot.table.routes.iter().find(|known| *known.name == *route).unwrap();
            let mut limits: Vec<_> = route.policies.rate_limit.iter().map(Arc::clone).collect();
            limits.sort_by(|a, b| a.name().cmp(b.name()));
            limits
        };
        let first = after(None, &text([ONE, TWO]));
        let (one, two) = (named(&first, "one"), named(&first, "two"));
        assert_eq!(two.iter().map(|limit| limit.name()).collect::<Vec<_>>(), ["ip", "ip-2", "service"]);
        assert!(!Arc::ptr_eq(&one[0], &two[2]), "unlike names are unlike limits");
        for routes in [[TWO, ONE], [ONE, MOVED], [MOVED, ONE]] {
            let next = after(Some(&first), &text(routes));
            for (before, after) in
                one.iter().chain(&two).zip(named(&next, "one").iter().chain(&named(&next, "two")))
            {
                assert!(Arc::ptr_eq(before, after), "{}: {routes:?}", before.name());
            }
        }
    }

    #[test]
    fn a_limit_per_service_is_one_for_all_its_subsets() {
        let snapshot = after(
            None,
            "routes:\n  - {path: /x, service: a, subset: v1, rate_limit: 5/s per service}\n\
             \x20 - {path: /y, service: a, subset: v2, rate_limit: 5/s per service}\n\
             services: {a: {subsets: {v1: {tag: v1}, v2: {tag: v2}}}}\n",
        );
        let limit = |route: usize| Arc::clone(&snapshot.table.routes[route].policies.rate_limit[0]);
        assert!(Arc::ptr_eq(&limit(0), &limit(1)));
        assert_eq!(*snapshot.table.routes[0].service, *"a");
        assert_eq!(snapshot.table.routes[1].view.subset.as_deref(), Some("v2"));
    }
}
