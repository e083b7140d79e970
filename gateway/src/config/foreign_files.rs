//! Whole files of other products, recognised by some keys or lines: one finding instead of one for each word.

use crate::syntax::{
    diagnostics::{Diagnostic, Span, code},
    tree::{Entry, Node, Value},
};

/// The finding for a file of another product. `root` is the text as YAML, if it is YAML. `None`: the file is ours, or
/// unknown.
pub(crate) fn recognised(text: &str, root: Option<&Node>) -> Option<Diagnostic> {
    let entries: &[Entry] = match root.map(|node| &node.value) {
        Some(Value::Map(entries)) => entries,
        _ => &[],
    };
    let (product, span) = by_keys(entries).or_else(|| by_lines(text).filter(|_| entries.len() < 2))?;
    let (_, name, words) = PRODUCTS.iter().find(|(known, ..)| *known == product)?;
    Some(
        Diagnostic::error(
            code::OTHER_PRODUCT,
            span,
            format!("this looks like {name}, not like a file of Millgate"),
        )
        .label("known by this")
        .help(format!(
            "{words}. The smallest file is `version: 1` and `routes: [{{path: /users/**, service: users}}]`; \
                 docs/FROM-OTHER-GATEWAYS.md has the words one by one"
        )),
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Product {
    Traefik,
    Kong,
    Envoy,
    KrakenD,
    Caddy,
    Nginx,
    HaProxy,
    Apache,
    Kubernetes,
    Compose,
    Spring,
    OpenApi,
}

fn by_keys(entries: &[Entry]) -> Option<(Product, Span)> {
    let key = |name: &str| entries.iter().find(|entry| entry.key.value == name);
    if key("routes").is_some() && key("version").is_some() {
        return None;
    }
    let first = |names: &[&str]| names.iter().find_map(|name| key(name)).map(|entry| entry.key.span);
    let inside = |name: &str, inner: &[&str]| {
        let Value::Map(entries) = &key(name)?.value.value else { return None };
        let found = entries.iter().find(|entry| inner.contains(&entry.key.value.as_str()))?;
        Some(found.key.span)
    };
    // A field of each service.
    let of_each = |name: &str, inner: &[&str]| {
        let Value::Map(entries) = &key(name)?.value.value else { return None };
        entries.iter().find_map(|entry| match &entry.value.value {
            Value::Map(fields) => fields.iter().find(|field| inner.contains(&field.key.value.as_str())),
            _ => None,
        })
    };
    let list = |name: &str| key(name).filter(|entry| matches!(entry.value.value, Value::List(_)));
    None.or_else(|| {
        first(&["apiVersion"]).filter(|_| key("kind").is_some()).map(|span| (Product::Kubernetes, span))
    })
    .or_else(|| first(&["_format_version", "_transform"]).map(|span| (Product::Kong, span)))
    .or_else(|| {
        first(&["static_resources", "dynamic_resources", "layered_runtime"])
            .map(|span| (Product::Envoy, span))
    })
    .or_else(|| first(&["entryPoints", "certificatesResolvers"]).map(|span| (Product::Traefik, span)))
    .or_else(|| inside("http", &["routers", "middlewares"]).map(|span| (Product::Traefik, span)))
    .or_else(|| first(&["spring"]).map(|span| (Product::Spring, span)))
    .or_else(|| first(&["openapi", "swagger"]).map(|span| (Product::OpenApi, span)))
    .or_else(|| inside("apps", &["http", "tls"]).map(|span| (Product::Caddy, span)))
    .or_else(|| list("endpoints").map(|entry| (Product::KrakenD, entry.key.span)))
    .or_else(|| of_each("services", &["image", "build"]).map(|entry| (Product::Compose, entry.key.span)))
    .or_else(|| {
        list("services")
            .filter(|_| first(&["plugins", "upstreams", "consumers"]).is_some())
            .map(|entry| (Product::Kong, entry.key.span))
    })
}

/// Recognises texts that are not YAML, or are YAML by accident.
fn by_lines(text: &str) -> Option<(Product, Span)> {
    let lines = || text.lines().enumerate().map(|(at, line)| (at, line, line.trim()));
    let at = |(index, line, trimmed): (usize, &str, &str)| {
        let indent = line.len() - line.trim_start().len();
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Span { line: number(index + 1), column: number(indent + 1), length: number(trimmed.chars().count()) }
    };
    let first = |is_it: &dyn Fn(&str) -> bool| lines().find(|(.., trimmed)| is_it(trimmed)).map(at);
    let has = |is_it: &dyn Fn(&str) -> bool| lines().any(|(.., trimmed)| is_it(trimmed));
    let word = |line: &str| line.split([' ', '\t']).next().unwrap_or_default().to_owned();
    let opens = |line: &str, words: &[&str]| line.ends_with('{') && words.contains(&word(line).as_str());
    let nginx = |line: &str| opens(line, &["http", "events", "server", "upstream", "location", "stream"]);
    if let Some(span) = first(&nginx).filter(|_| has(&|line| line.ends_with(';'))) {
        return Some((Product::Nginx, span));
    }
    let haproxy = |line: &str| {
        !line.contains(':')
            && ["global", "defaults", "frontend", "backend", "listen"].contains(&word(line).as_str())
    };
    if let Some(span) = first(&haproxy).filter(|_| {
        has(&|line| ["bind", "server", "mode", "default_backend", "balance"].contains(&word(line).as_str()))
    }) {
        return Some((Product::HaProxy, span));
    }
    if let Some(span) = first(&|line| line.starts_with("[http.") || line.starts_with("[entryPoints")) {
        return Some((Product::Traefik, span));
    }
    if let Some(span) = first(&|line| line.starts_with("<VirtualHost") || line.starts_with("ProxyPass ")) {
        return Some((Product::Apache, span));
    }
    let caddy = |line: &str| ["reverse_proxy", "php_fastcgi", "file_server"].contains(&word(line).as_str());
    first(&caddy).filter(|_| !has(&|line| line.ends_with(';'))).map(|span| (Product::Caddy, span))
}

const PRODUCTS: [(Product, &str, &str); 12] = [
    (
        Product::Traefik,
        "a configuration of Traefik",
        "Traefik's routers are `routes` here, its services are `services` with `hosts`, its middlewares are fields of a route or `policies`, its entry points are `listen`",
    ),
    (
        Product::Kong,
        "a configuration of Kong",
        "Kong's services with their routes are `routes` and `services` here, its upstreams and targets are `hosts` of a service, its plugins are fields of a route or `policies`",
    ),
    (
        Product::Envoy,
        "a configuration of Envoy",
        "Envoy's virtual hosts and routes are `routes` here, its clusters are `services`, its listeners are `listen`, its filters are fields of a route",
    ),
    (
        Product::KrakenD,
        "a configuration of KrakenD",
        "KrakenD's endpoints are `routes` here, its backends are `services`, its extra_config are fields of a route; answers are not put together",
    ),
    (
        Product::Caddy,
        "a configuration of Caddy",
        "Caddy's sites are `host` of `routes` here, `reverse_proxy` is `service`, and its addresses are `hosts` of `services`",
    ),
    (
        Product::Nginx,
        "a configuration of nginx",
        "nginx's locations are `routes` here, `server_name` is `host`, `upstream` is an entry of `services`, `proxy_pass` is `service`, `listen` is `listen`",
    ),
    (
        Product::HaProxy,
        "a configuration of HAProxy",
        "HAProxy's frontends are `listen` and `routes` here, its backends are `services` with `hosts`, its `defaults` are `defaults`",
    ),
    (
        Product::Apache,
        "a configuration of Apache httpd",
        "virtual hosts are `host` of `routes` here, `ProxyPass` is `path` and `service` of a route",
    ),
    (
        Product::Kubernetes,
        "an object of Kubernetes",
        "Millgate reads a file of its own, and finds instances in Consul; the rules of an Ingress or an HTTPRoute are `routes` here",
    ),
    (
        Product::Compose,
        "a file of Docker Compose",
        "Compose starts programs, and Millgate's `services` only say where they are: `services: {users: {hosts: [\"users:8080\"]}}`",
    ),
    (
        Product::Spring,
        "a configuration of Spring Cloud Gateway",
        "its predicates are `path`, `host`, `methods` and `match_headers` of `routes` here, its `uri` is `service`, its filters are fields of a route",
    ),
    (
        Product::OpenApi,
        "an OpenAPI document",
        "Millgate makes no routes of it: each of its paths, or `/**` below them, is a route with a service",
    ),
];
