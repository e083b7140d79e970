//! The warnings about twins: one for all closed routes with the same twins, with an example and a cure of each kind.

use http::Method;

use super::{
    Difference, Twin, Twins,
    gate::GateParts,
    sample::{self, Respelling},
};
use crate::{
    config::settings::{RouteSettings, Settings},
    router::HostPattern,
    syntax::{
        diagnostics::{Diagnostic, code},
        units::in_yaml,
    },
};

/// The kinds of one closed route's twins, with the routes that they match.
type Kinds = Vec<(Difference, usize)>;

/// The warnings: one for all closed routes that have the same kinds of twins at the same routes.
pub(super) fn warnings(settings: &Settings, found: &[Twins]) -> Vec<Diagnostic> {
    let mut groups: Vec<(Kinds, Vec<&Twins>)> = Vec::new();
    for twins in found {
        let mut kinds: Kinds = twins.found.iter().map(|twin| (kind(twin.difference), twin.taker)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        match groups.iter_mut().find(|(known, _)| *known == kinds) {
            Some((_, all)) => all.push(twins),
            None => groups.push((kinds, vec![twins])),
        }
    }
    groups.iter().filter_map(|(_, all)| warning(settings, all)).collect()
}

/// The kind of a difference. All spellings are one kind, since they have one cure.
fn kind(difference: Difference) -> Difference {
    match difference {
        Difference::Respelling(_) => Difference::Respelling(Respelling::Case),
        other => other,
    }
}

fn warning(settings: &Settings, all: &[&Twins]) -> Option<Diagnostic> {
    let first = all.first()?;
    let route = |at: usize| settings.routes.get(at);
    let closed = route(first.closed)?;
    let twins = examples_of(all);
    let is_open =
        twins.iter().filter_map(|twin| route(twin.taker)).all(|other| GateParts::of(other).is_open());
    let whose = match all.len() {
        1 if is_open => "this closed one".to_owned(),
        1 => "this one".to_owned(),
        several if is_open => format!("{several} closed ones"),
        several => format!("{several} others"),
    };
    let (message, related) = if is_open {
        (format!("an open route takes what a service may take for {whose}"), "the open route")
    } else {
        (
            format!("a route that asks for less takes what a service may take for {whose}"),
            "the route that asks for less",
        )
    };
    let examples: Vec<String> = twins.iter().map(|twin| format!("`{}`", twin.example)).collect();
    let label = format!("{} would pass it{}", examples.join(", "), if is_open { " unchecked" } else { "" });
    let mut cures: Vec<String> = Vec::new();
    if let Some(names) = names(settings, all) {
        cures.push(names);
    }
    cures.extend(spelling_cure(&twins));
    let others = twins.iter().filter(|twin| !matches!(twin.difference, Difference::Respelling(_)));
    cures.extend(others.filter_map(|twin| Some(cure(twin, closed, route(twin.taker)?))));
    let warning = Diagnostic::warning(code::OPEN_TWIN, closed.span, message).label(label);
    let mut takers: Vec<usize> = twins.iter().map(|twin| twin.taker).collect();
    takers.sort_unstable();
    takers.dedup();
    let places = takers.into_iter().filter_map(route).map(|other| (other.span, related.to_owned()));
    let mut warning = warning.help(cures.join("; "));
    warning.related.extend(places);
    Some(warning)
}

/// The first twin of each kind.
fn examples_of<'a>(all: &[&'a Twins]) -> Vec<&'a Twin> {
    let mut examples: Vec<&Twin> = Vec::new();
    for twin in all.iter().flat_map(|twins| &twins.found) {
        if !examples.iter().any(|known| known.difference == twin.difference) {
            examples.push(twin);
        }
    }
    examples.sort_by_key(|twin| twin.difference);
    examples
}

/// The names of the closed routes. `None`: there is only one.
fn names(settings: &Settings, all: &[&Twins]) -> Option<String> {
    let names = all.iter().filter_map(|twins| settings.routes.get(twins.closed));
    let shown: Vec<String> = names.take(NAMES_MAX).map(|route| format!("`{}`", route.name)).collect();
    let rest = match all.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (all.len() > 1).then(|| format!("the closed routes are {}{rest}", shown.join(", ")))
}

fn spelling_cure(twins: &[&Twin]) -> Option<String> {
    let of = |wanted: Respelling| twins.iter().find(|twin| twin.difference == Difference::Respelling(wanted));
    let (case, slash, extension) = (of(Respelling::Case), of(Respelling::Slash), of(Respelling::Extension));
    let mut cures: Vec<String> = Vec::new();
    let fields = |of_case: &str, of_slash: &str, says_slash: bool| {
        let of_case = case.map(|_| format!("`case_insensitive: {of_case}`"));
        let of_slash = Some(format!("`trailing_slash: {of_slash}`")).filter(|_| says_slash);
        of_case.into_iter().chain(of_slash).collect::<Vec<_>>().join(" and ")
    };
    if case.is_some() || slash.is_some() {
        let says_slash = slash.is_some();
        cures.push(format!(
            "spelling: add {} to the closed route or to `defaults`, as Express and ASP.NET have it by default, or {} if the service tells them apart",
            fields("true", "same", says_slash),
            fields("false", "exact", says_slash || extension.is_some())
        ));
    }
    if let Some(example) = extension {
        let route = format!("a closed route for `{}`", example.example);
        cures.push(match case {
            Some(_) => format!("a service that takes extensions, as Rails does, needs {route} as well"),
            None => format!(
                "extensions: add {route}, as Rails has it, or `trailing_slash: exact` if the service takes none"
            ),
        });
    }
    (!cures.is_empty()).then(|| cures.join("; "))
}

/// The change of the file that removes the twin.
fn cure(twin: &Twin, closed: &RouteSettings, other: &RouteSettings) -> String {
    let open = if GateParts::of(other).is_open() { "the open route" } else { "the route that asks for less" };
    let is_beside = closed.path == other.path;
    let at_host = || match host(other) {
        Some(host) => format!("hosts: close this path with `host: {host}` as well"),
        None => "hosts: a client may name any; close this path without `host` as well".to_owned(),
    };
    match twin.difference {
        Difference::Method => {
            "methods: name no methods in the closed route, so that it takes all that no other route names"
                .to_owned()
        }
        Difference::NamedMethod => {
            let rest = super::METHODS.iter().filter(|method| !other.methods.contains(method));
            let rest: Vec<&str> = rest.map(Method::as_str).collect();
            format!(
                "methods: if {open} is meant, name those of the closed one, such as `methods: {}`; otherwise close it as well",
                rest.join("|")
            )
        }
        Difference::Priority if other.priority < PRIORITY_MAX => {
            format!("priority: add `priority: {}` to the closed route", other.priority + 1)
        }
        Difference::Host if is_beside => format!("hosts: a client may name any; name the `host` of {open}"),
        Difference::NarrowHost if is_beside => format!("hosts: close {open} as well"),
        Difference::Host | Difference::NarrowHost => at_host(),
        Difference::NoHeader | Difference::Header => {
            let is_own = twin.difference == Difference::NoHeader;
            let (conditions, verb) =
                if is_own { (&closed.headers, "leave it out") } else { (&other.headers, "send it") };
            let names: Vec<&str> = conditions.iter().map(|condition| condition.name.as_str()).collect();
            format!(
                "headers: a client may {verb}; close {open} as well, or add `listen: {{headers: {{untrusted: [default, {}]}}}}`, so \
                 that only `listen.trusted_proxies` may send it",
                names.join(", ")
            )
        }
        // An own closed route helps only if its pattern is more specific than that of the taker.
        Difference::Rewrite
            if !twin.example.ends_with(REWRITTEN)
                && twin.example != other.hidden.path.shown(&other.path)
                && is_narrower(&twin.example, &other.path) =>
        {
            format!("rewriting: close `{}` as well", twin.example)
        }
        Difference::Rewrite => format!("rewriting: close {open} `{}` as well", other.name),
        Difference::RewrittenHost => {
            format!("hosts: the service gets one `Host` of both, by `rewrite.host`; close {open} as well")
        }
        Difference::Priority | Difference::Other | Difference::Respelling(_) => {
            format!("close {open} as well")
        }
    }
}

/// Whether a route for the example would win over the pattern: it has a literal segment where the pattern has none.
fn is_narrower(example: &str, pattern: &str) -> bool {
    let is_literal = |text: &str| !text.starts_with(['*', '{']);
    let mut wanted = pattern.split('/');
    let found = example.split('/').map(|text| (text, wanted.next().unwrap_or("**")));
    let mut different = found.filter(|(text, wanted)| is_literal(text) != is_literal(wanted));
    different.next().is_some_and(|(text, _)| is_literal(text))
}

/// The host of a route as it is written in the file. `None`: the route matches any host.
pub(super) fn host(route: &RouteSettings) -> Option<String> {
    let host = match &route.host {
        HostPattern::Any => return None,
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Suffix(suffix) => format!("*{suffix}"),
    };
    Some(route.hidden.host.shown(&in_yaml(&host)))
}

/// A path for which the service gets the same path as for a closed route. A prefix that only `rewrite` contains may come from a
/// variable, so it is not shown.
pub(super) fn rewritten(closed: &RouteSettings, other: &RouteSettings, path: &str) -> String {
    let added = closed.policies.rewrite.added();
    let stripped = other.policies.rewrite.stripped();
    let is_shown = |text: &str| {
        let text = format!("/{}/", text.trim_matches('/'));
        text == "//" || [closed, other].iter().any(|route| format!("{}/", route.path).contains(&text))
    };
    if !added.into_iter().chain(stripped).all(is_shown) {
        return format!("{}{REWRITTEN}", closed.hidden.path.shown(&closed.path));
    }
    closed.hidden.path.shown(&other.hidden.path.shown(&sample::shown(path)))
}

/// Follows a path whose rewritten form is not shown.
const REWRITTEN: &str = " after rewriting";
/// Most names in one warning.
const NAMES_MAX: usize = 50;
/// The highest priority that a route can have.
const PRIORITY_MAX: i32 = 1000;
