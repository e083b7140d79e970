//! Open routes beside closed ones: what differs from a closed path only in a way in which services often see no difference,
//! and goes to a route of the same service that is open, or asks for less: another provider, no role, other addresses.
//! Limits are not looked at: many routes have their own.
//!
//! Each closed route is tried with its own path in other spellings, and the router says what takes them. So a route that
//! takes any case, or a slash at the end, has nothing to report; neither has one that says that its service does not.

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{
    diagnostics::{Diagnostic, code},
    settings::{HostPattern, RouteSettings, Settings},
};
use crate::{
    headers::{GuardedNames, fold},
    policy::{auth, require::Requirement},
    router::{Match, Router},
};

/// One warning for each closed route that has such a twin. None where routes conflict: that is an error of its own.
pub(super) fn warnings(settings: &Settings) -> Vec<Diagnostic> {
    let Ok(router) = &Router::compile(&settings.routes) else { return Vec::new() };
    let closed = (0..settings.routes.len()).filter(|at| is_closed(&settings.routes[*at]));
    closed.filter_map(|at| Twins::of(settings, router, at)?.warning(settings)).collect()
}

fn is_closed(route: &RouteSettings) -> bool {
    auth::names(route.policies.auth.as_ref()).next().is_some() || !route.policies.clients.rules().is_empty()
}

/// In what a request differs from those of the closed route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Difference {
    Case,
    Slash,
    Extension,
    Method,
    Header,
}

/// What of a closed route's neighbourhood is open.
struct Twins {
    closed: usize,
    /// The difference, an example, and the route that takes it.
    open: Vec<(Difference, String, usize)>,
}

impl Twins {
    /// `None`: other routes take the path itself, so there is no saying what would be a twin.
    fn of(settings: &Settings, router: &Router, closed: usize) -> Option<Self> {
        let route = &settings.routes[closed];
        let host = match &route.host {
            HostPattern::Any => "sample.invalid".to_owned(),
            HostPattern::Exact(host) => host.clone(),
            HostPattern::Suffix(suffix) => format!("sample{suffix}"),
        };
        let conditions = route.headers.iter().map(|condition| {
            let value = condition.value.clone().unwrap_or(HeaderValue::from_static("sample"));
            (condition.name.clone(), value)
        });
        let headers: HeaderMap = conditions.collect();
        let taker = |method: &Method, path: &str| match router.lookup(&host, path, method, &headers) {
            Match::Route(route) => Some(route),
            Match::MethodNotAllowed(_) | Match::NotFound => None,
        };
        let sample = Sample::of(&route.path);
        let methods = if route.methods.is_empty() { &METHODS[..] } else { &route.methods[..] };
        let own: Vec<&Method> =
            methods.iter().filter(|method| taker(method, &sample.path()) == Some(closed)).collect();
        let first = own.first()?;
        let is_twin = |open: &usize| is_weaker(settings, route, &settings.routes[*open]);
        let mut twins = Self { closed, open: Vec::new() };
        for (difference, path) in sample.others(route) {
            let open = own.iter().find_map(|method| taker(method, &path).filter(is_twin));
            let shown = if difference == Difference::Slash { format!("{}/", route.path) } else { path };
            twins.open.extend(open.map(|open| (difference, shown, open)));
        }
        let others =
            METHODS.iter().filter(|method| !route.methods.is_empty() && !route.methods.contains(method));
        // A route that names a method means it, and so does one that asks for something else.
        let names_none = |open: &usize| {
            let other = &settings.routes[*open];
            is_twin(open) && !is_closed(other) && other.methods.is_empty()
        };
        for method in others.filter(|method| *method != *first) {
            let open = taker(method, &sample.path()).filter(names_none);
            twins
                .open
                .extend(open.map(|open| (Difference::Method, format!("{method} {}", route.path), open)));
        }
        if let Some(name) = clients_condition(settings, route) {
            let mut without = headers.clone();
            without.remove(name);
            let found = |method: &&Method| router.lookup(&host, &sample.path(), method, &without);
            let open = own.iter().find_map(|method| match found(method) {
                Match::Route(open) => Some(open).filter(is_twin),
                Match::MethodNotAllowed(_) | Match::NotFound => None,
            });
            let shown = format!("{} without {name}", route.path);
            twins.open.extend(open.map(|open| (Difference::Header, shown, open)));
        }
        Some(twins)
    }

    fn warning(&self, settings: &Settings) -> Option<Diagnostic> {
        let (_, _, open) = self.open.first()?;
        let mut examples: Vec<String> = Vec::new();
        let mut cures: Vec<&str> = Vec::new();
        for (difference, example, _) in &self.open {
            let cure = difference.cure();
            if !cures.contains(&cure) {
                cures.push(cure);
            }
            // Of each kind one example is enough.
            let is_first = self.open.iter().find(|(other, ..)| other == difference).map(|(_, text, _)| text);
            if is_first == Some(example) {
                examples.push(format!("`{example}`"));
            }
        }
        let is_open = !is_closed(&settings.routes[*open]);
        let (message, related) = if is_open {
            ("an open route takes what a service may take for this closed one", "the open route")
        } else {
            (
                "a route that asks for less takes what a service may take for this one",
                "the route that asks for less",
            )
        };
        let examples = settings.routes[self.closed].hidden.path.shown(&examples.join(", "));
        let label = format!("{examples} would pass it{}", if is_open { " unchecked" } else { "" });
        let warning = Diagnostic::warning(code::OPEN_TWIN, settings.routes[self.closed].span, message);
        let warning = warning.label(label).help(cures.join("; "));
        Some(warning.related(settings.routes[*open].span, related))
    }
}

impl Difference {
    fn cure(self) -> &'static str {
        match self {
            Self::Case => {
                "letter case: add `case_insensitive: true` to the closed route, as Express and ASP.NET have it by default, or \
                 `case_insensitive: false` if the service tells them apart"
            }
            Self::Slash => {
                "the slash: add `trailing_slash: same` to the closed route, as Express and ASP.NET have it by default, or \
                 `trailing_slash: exact` if the service tells them apart"
            }
            Self::Extension => {
                "the extension: add closed routes for those that the service knows (Rails takes `.json` and others), or close \
                 the open route"
            }
            Self::Header => {
                "the header: a client may leave it out, so close the open route as well, or let only `listen.trusted_proxies` \
                 send it: add it to `listen.headers.untrusted`"
            }
            Self::Method => {
                "methods: name no methods in the closed route, so that it takes all of them, or name those of the open route"
            }
        }
    }
}

/// A header that the closed route asks for, and that every client may leave out: no proxy has the say about it.
fn clients_condition<'a>(settings: &Settings, closed: &'a RouteSettings) -> Option<&'a HeaderName> {
    let names = GuardedNames::compile(&[], &[], &settings.listen.untrusted_headers);
    let is_clients = |name: &&HeaderName| !names.is_untrusted(&fold(name.as_str()));
    closed.headers.iter().map(|condition| &condition.name).find(is_clients)
}

/// It lets requests pass that the closed route would refuse, to the same service.
fn is_weaker(settings: &Settings, closed: &RouteSettings, other: &RouteSettings) -> bool {
    let service = |route: &RouteSettings| route.service.and_then(|at| settings.services.get(at));
    let is_same = match (service(closed), service(other)) {
        (Some(one), Some(two)) => one.name == two.name || one.source == two.source,
        _ => false,
    };
    let [providers, other_providers] =
        [closed, other].map(|route| auth::names(route.policies.auth.as_ref()).collect::<Vec<_>>());
    let is_known =
        || !other_providers.is_empty() && other_providers.iter().all(|provider| providers.contains(provider));
    let [required, other_required] =
        [closed, other].map(|route| Requirement::of(route.policies.require.as_ref()));
    let [clients, other_clients] = [closed, other].map(|route| route.policies.clients.rules());
    let is_as_strict = (clients.is_empty() || other_clients == clients)
        && (providers.is_empty() || is_known())
        && (required.is_empty() || other_required == required);
    is_same && !is_as_strict
}

/// A path that a pattern matches, segment by segment.
struct Sample {
    /// Text, and whether it is the pattern's own.
    segments: Vec<(String, bool)>,
    is_subtree: bool,
}

impl Sample {
    fn of(pattern: &str) -> Self {
        let mut segments: Vec<&str> = pattern.trim_start_matches('/').split('/').collect();
        let is_subtree = segments.last() == Some(&"**");
        if is_subtree {
            segments.pop();
        }
        let is_literal = |text: &str| text != "*" && !text.starts_with('{');
        let texts = segments.into_iter().map(|text| {
            let literal = is_literal(text);
            (if literal { text } else { SEGMENT }.to_owned(), literal)
        });
        Self { segments: texts.collect(), is_subtree }
    }

    fn path(&self) -> String {
        let texts: Vec<&str> = self.segments.iter().map(|(text, _)| text.as_str()).collect();
        format!("/{}", texts.join("/"))
    }

    /// The path in other spellings.
    fn others(&self, route: &RouteSettings) -> Vec<(Difference, String)> {
        let spelling = route.policies.spelling;
        let mut others = Vec::new();
        if spelling.case_insensitive.is_none() {
            let all = self.segments.iter().map(|(text, literal)| in_other_case(text, *literal));
            let all: Vec<String> = all.collect();
            others.push((Difference::Case, format!("/{}", all.join("/"))));
            for (at, turned) in all.iter().enumerate() {
                let mut one: Vec<&str> = self.segments.iter().map(|(text, _)| text.as_str()).collect();
                one[at] = turned;
                others.push((Difference::Case, format!("/{}", one.join("/"))));
            }
            // What has no letters has no other case.
            others.retain(|(_, path)| *path != self.path());
            others.dedup();
        }
        let ends_in_text = self.segments.last().is_some_and(|(text, literal)| *literal && !text.is_empty());
        let ends_in_slash = self.is_subtree || self.segments.last().is_none_or(|(text, _)| text.is_empty());
        if spelling.trailing_slash_same.is_none() && !ends_in_slash {
            others.push((Difference::Slash, format!("{}/", self.path())));
        }
        if spelling.trailing_slash_same != Some(false) && ends_in_text {
            others.push((Difference::Extension, format!("{}.json", self.path())));
        }
        others
    }
}

fn in_other_case(text: &str, is_literal: bool) -> String {
    let upper = text.to_ascii_uppercase();
    match is_literal {
        true if upper == text => text.to_ascii_lowercase(),
        true => upper,
        false => text.to_owned(),
    }
}

/// Stands for any segment. No configuration has it as a literal.
const SEGMENT: &str = "sample-segment";
/// HEAD goes with GET, and OPTIONS is what browsers ask without a token.
const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{diagnostics::code, load};

    /// Label and help of each warning.
    fn found(routes: &str) -> Vec<(String, String)> {
        let text = format!(
            "version: 1\nauth: {{main: {{jwks: \"http://127.0.0.1:1/jwks\", audience: api}}}}\nroutes:\n{routes}\
             services: {{s: {{hosts: [\"127.0.0.1:1\"]}}, other: {{hosts: [\"127.0.0.1:2\"]}}}}\n"
        );
        let all = load::parse("routes.yaml", &text, Path::new(""), &|_| None).unwrap().warnings;
        let all = all.into_iter().filter(|warning| warning.code == code::OPEN_TWIN);
        all.map(|warning| (warning.label, warning.help.unwrap_or_default())).collect()
    }

    fn beside(open: &str, closed: &str) -> Vec<(String, String)> {
        found(&format!("  - {{{open}, auth: none}}\n  - {{{closed}, auth: main}}\n"))
    }

    #[test]
    fn an_open_route_that_takes_another_spelling_of_a_closed_path_is_found_with_its_cure() {
        let catch_all = "path: /**, service: s";
        for (closed, examples, cures) in [
            (
                "path: /exact, service: s",
                &["`/EXACT`", "`/exact/`", "`/exact.json`"][..],
                &["case_insensitive: true", "trailing_slash: same"][..],
            ),
            ("path: /admin/**, service: s", &["`/ADMIN`", "`/admin.json`"], &["case_insensitive: true"]),
            (
                "path: \"GET|POST /1/{id}\", service: s",
                &["`/1/{id}/`", "`PUT /1/{id}`"],
                &["trailing_slash: same", "name no methods"],
            ),
            (
                "path: /exact, service: s, case_insensitive: true",
                &["`/exact/`", "`/exact.json`"],
                &["trailing_slash: same"],
            ),
        ] {
            let [(label, help)] = &beside(catch_all, closed)[..] else { panic!("one warning for {closed}") };
            assert!(label.starts_with(&examples.join(", ")), "{closed}: {label}");
            assert!(cures.iter().all(|cure| help.contains(cure)), "{closed}: {help}");
        }
        // Only one of the two segments in another case reaches the open route.
        let [(label, _)] = &beside("path: /api/**, service: s", "path: /api/admin/**, service: s")[..] else {
            panic!("one warning")
        };
        assert!(label.contains("`/api/ADMIN`"), "{label}");
    }

    #[test]
    fn a_neighbour_that_asks_for_less_is_one_too() {
        let text = |neighbour: &str, closed: &str| {
            found(&format!(
                "  - {{path: /**, service: s, {neighbour}}}\n  - {{path: /admin, service: s, trailing_slash: exact, {closed}}}\n"
            ))
        };
        let staff = "auth: main, require: {role: staff}";
        let inside = "auth: none, clients: {allow: 10.0.0.0/8}";
        for (neighbour, closed) in
            [("auth: main", staff), ("auth: none, clients: {deny: 10.0.0.0/8}", inside)]
        {
            let [(label, _)] = &text(neighbour, closed)[..] else { panic!("{neighbour} beside {closed}") };
            assert_eq!(label, "`/ADMIN` would pass it");
        }
        for (neighbour, closed) in [(staff, "auth: main"), (staff, staff), (inside, inside)] {
            assert_eq!(text(neighbour, closed), [], "{neighbour} beside {closed}");
        }
    }

    #[test]
    fn nothing_is_said_where_the_closed_route_takes_them_or_the_service_tells_them_apart() {
        let catch_all = "path: /**, service: s";
        for (open, closed) in [
            (catch_all, "path: /admin/**, service: s, case_insensitive: false, trailing_slash: exact"),
            ("path: /**, service: other", "path: /exact, service: s"),
            ("path: GET /orders, service: s", "path: POST /orders, service: s, trailing_slash: same"),
            ("path: /public/**, service: s", "path: /exact, service: s"),
            (
                "path: /api/**, service: s",
                "path: /api/admin/**, service: s, case_insensitive: true, trailing_slash: exact",
            ),
            (
                "path: /exact, service: s",
                "path: /exact, service: s, match_headers: {Client-Cert: \"*\"}, case_insensitive: false, trailing_slash: exact",
            ),
            ("path: /**, redirect: \"https://a.example{path}\"", "path: /exact, service: s"),
        ] {
            assert_eq!(beside(open, closed), [], "{closed} beside {open}");
        }
        let beta = "path: /exact, service: s, match_headers: {X-Beta: 1}, case_insensitive: false, trailing_slash: exact";
        let [(label, help)] = &beside("path: /exact, service: s", beta)[..] else {
            panic!("the header is left")
        };
        assert!(
            label.starts_with("`/exact without x-beta` would") && help.contains("leave it out"),
            "{label}: {help}"
        );
        let lenient = "path: /exact, service: s, case_insensitive: true, trailing_slash: same";
        let [(label, _)] = &beside(catch_all, lenient)[..] else { panic!("the extension is left") };
        assert!(label.starts_with("`/exact.json` would"), "{label}");
    }
}
