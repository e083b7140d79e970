//! `redirect`: a route that sends the client to another URL.
//!
//! A target is a URL or a path, and may contain `{path}`, `{host}` and `{port}`: the path as the service would get it (after
//! `rewrite`), the request's host, and its port, which is written even if it is the scheme's default. With `{path}` the request's
//! query is kept, unless the target has its own. The parts that a client sent cannot name another host: paths have no empty segments
//! ([`admission`](crate::admission)), [`Redirect::new`] checks the text around a path, and a host has the form of a host.

use std::fmt;

use http::{HeaderValue, StatusCode, Uri, uri::PathAndQuery};

use super::of_route::{BadOption, Compile, RoutePolicy, View, replace};
use crate::syntax::{
    diagnostics::{Diagnostic, Diagnostics, code},
    fields::{Fields, Known, value},
    foreign_variables,
    tree::{Entry, Value},
    units::Invalid,
};

impl RoutePolicy for Redirect {
    type Written = Option<Redirect>;
    /// It is boxed since few routes have one.
    type Compiled = Option<Box<Redirect>>;
    const KEYS: &'static [&'static str] = &["redirect"];
    const MAPS: &'static [&'static Known] = &[&REDIRECT];
    const IS_OF_ONE_ROUTE: bool = true;
    /// Otherwise a service could send the clients of a host that it shares with other services to any site.
    const NEEDS_TRUST: bool = true;

    /// Reads a target, or a map with a target and a status.
    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Self::Written {
        let Entry { key, value: node } = fields.entry("redirect")?;
        for other in ["service", "subset", "split"].iter().filter_map(|name| fields.entry(name)) {
            sink.push(
                Diagnostic::error(code::CONFLICT, key.span, "a route that redirects asks no service")
                    .label("remove one of the two")
                    .related(other.key.span, "the other one"),
            );
        }
        if !matches!(node.value, Value::Map(_)) {
            let parse = |text: &str| parse_target(StatusCode::PERMANENT_REDIRECT, text);
            return value(node, "redirect", sink, parse).map(|at| at.value);
        }
        let map = Fields::of(node, &REDIRECT, sink)?;
        let status = map.value("status", sink, parse_status);
        if map.entry("status").is_some() && status.is_none() {
            return None;
        }
        let status = status.map_or(StatusCode::PERMANENT_REDIRECT, |at| at.value);
        let target = map.need("to", "to: \"https://shop.example{path}\"", sink)?;
        value(target, "redirect.to", sink, |text| parse_target(status, text)).map(|at| at.value)
    }

    fn overlay(under: &mut Self::Written, top: &Self::Written) {
        replace(under, top.as_ref());
    }

    /// Reads `301,https://shop.example{path}`.
    fn read_option(written: &mut Self::Written, option: &str, value: &str) -> Option<Result<(), BadOption>> {
        if option != "redirect" {
            return None;
        }
        let Some((status, target)) = value.split_once(',') else {
            let expected = "a status and a target, such as `301,/new`";
            let why = Invalid::new(code::BAD_VALUE, expected, format!("`{value}`"));
            return Some(Err(BadOption::of(option, why)));
        };
        let bad =
            |part: &'static str| move |why| BadOption { what: format!("the {part} of `redirect`"), why };
        let status = parse_status(status).map_err(bad("status"));
        let read = status.and_then(|status| parse_target(status, target).map_err(bad("target")));
        Some(read.map(|redirect| *written = Some(redirect)))
    }

    fn write_options(written: &Self::Written, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match written {
            Some(redirect) => write!(to, " redirect={},{}", redirect.status.as_u16(), redirect.target_text()),
            None => Ok(()),
        }
    }

    fn compile(written: &Self::Written, _with: &mut Compile<'_, '_>) -> Self::Compiled {
        written.clone().map(Box::new)
    }

    fn show(compiled: &Self::Compiled, view: &mut View<'_>) {
        if let Some(redirect) = compiled {
            view.text("redirect", &redirect.to_string());
        }
    }
}

/// Reads a target such as `https://shop.example{path}`.
pub(crate) fn parse_target(status: StatusCode, target: &str) -> Result<Redirect, Invalid> {
    let expected = "a URL or a path such as `https://shop.example{path}`";
    if let Some(found) = foreign_variables::in_redirect(target) {
        let label = format!("`{}` is no variable here", found.text);
        let cure = foreign_variables::redirect_cure(target, |target| {
            Redirect::new(StatusCode::PERMANENT_REDIRECT, target).is_ok()
        });
        return Err(Invalid::new(code::BAD_VALUE, expected, label).help(cure));
    }
    Redirect::new(status, target).map_err(|why| Invalid::new(code::BAD_VALUE, expected, why))
}

/// Reads a status such as `308`.
pub(crate) fn parse_status(text: &str) -> Result<StatusCode, Invalid> {
    let found = STATUSES.into_iter().find(|status| status.as_str() == text);
    found.ok_or_else(|| {
        Invalid::new(code::BAD_VALUE, "`301`, `302`, `303`, `307` or `308`", "no status of a redirect")
    })
}

/// A 3xx reply with a `Location` (RFC 9110 §15.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    pub status: StatusCode,
    target: Vec<Part>,
    keeps_query: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Path,
    Host,
    Port,
}

impl Redirect {
    /// A redirect with this status to this target.
    ///
    /// # Errors
    /// The status is not one of a redirect, or the target is not valid; the text says why.
    pub fn new(status: StatusCode, target: &str) -> Result<Self, &'static str> {
        if !STATUSES.contains(&status) {
            return Err("no status of a redirect");
        }
        let is_url = target.starts_with("https://") || target.starts_with("http://");
        let is_path = target.starts_with('/') && !target.starts_with("//");
        if !is_url && !is_path && !target.starts_with(PATH) {
            return Err("neither a URL nor a path");
        }
        // A path begins with a slash of its own.
        let target = target.replace("/{path}", PATH);
        if target.replace(PATH, "/").starts_with("//") {
            return Err("for the path `/` it would name another host");
        }
        let example = target.replace(PATH, "/a").replace(HOST, "a.example").replace(PORT, "8443");
        if example.contains(['{', '}']) {
            return Err("only `{path}`, `{host}` and `{port}` are replaced");
        }
        if example.parse::<Uri>().is_err() || HeaderValue::from_str(&example).is_err() {
            return Err("not a URL");
        }
        let mut parts = Vec::new();
        let mut rest = &*target;
        while let Some(at) = rest.find('{') {
            let (text, after) = rest.split_at(at);
            parts.push(Part::Text(text.to_owned()));
            let known = [(Part::Path, PATH), (Part::Host, HOST), (Part::Port, PORT)];
            // It is one of them: any other brace was refused above.
            let Some((part, name)) = known.into_iter().find(|(_, name)| after.starts_with(name)) else {
                break;
            };
            parts.push(part);
            rest = after.strip_prefix(name).unwrap_or_default();
        }
        parts.push(Part::Text(rest.to_owned()));
        parts.retain(|part| *part != Part::Text(String::new()));
        let keeps_query = parts.contains(&Part::Path) && !target.contains('?');
        Ok(Self { status, target: parts, keeps_query })
    }

    /// `Location` for a request with this host and port, and this path and query. `None`: the result is not a valid header value,
    /// which does not happen to a request that passed admission.
    pub fn location(
        &self,
        (host, port): (&str, &str),
        path: &str,
        query: Option<&str>,
    ) -> Option<HeaderValue> {
        let mut text = String::new();
        for part in &self.target {
            text.push_str(match part {
                Part::Text(text) => text,
                Part::Path => path,
                Part::Host => host,
                Part::Port => port,
            });
        }
        if let Some(query) = query.filter(|_| self.keeps_query) {
            text.push('?');
            text.push_str(query);
        }
        HeaderValue::from_str(&text).ok()
    }
}

/// Status of [`to_https`], with which the client repeats the method and the body.
pub const TO_HTTPS: StatusCode = StatusCode::PERMANENT_REDIRECT;

/// `Location` that sends a client to the same target over TLS, at this port of the same host.
pub fn to_https(host: &str, port: u16, target: &PathAndQuery) -> Option<HeaderValue> {
    let text = match port {
        HTTPS_PORT => format!("https://{host}{target}"),
        _ => format!("https://{host}:{port}{target}"),
    };
    HeaderValue::try_from(text).ok()
}

/// Writes `308 https://shop.example{path}`.
impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status.as_u16(), self.target_text())
    }
}

impl Redirect {
    /// The target as it is written in the file.
    pub fn target_text(&self) -> String {
        let texts = self.target.iter().map(|part| match part {
            Part::Text(text) => text.as_str(),
            Part::Path => PATH,
            Part::Host => HOST,
            Part::Port => PORT,
        });
        texts.collect()
    }
}

static REDIRECT: Known =
    Known { what: "`redirect`", prefix: "redirect.", fields: &["to", "status"], later: &[] };
const HTTPS_PORT: u16 = 443;
const PATH: &str = "{path}";
const HOST: &str = "{host}";
const PORT: &str = "{port}";
/// The statuses whose `Location` a client follows without its user.
const STATUSES: [StatusCode; 5] = [
    StatusCode::MOVED_PERMANENTLY,
    StatusCode::FOUND,
    StatusCode::SEE_OTHER,
    StatusCode::TEMPORARY_REDIRECT,
    StatusCode::PERMANENT_REDIRECT,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn location(target: &str) -> String {
        let redirect = Redirect::new(StatusCode::FOUND, target).unwrap();
        redirect.location(("shop.test", "8080"), "/a/b", Some("q=1")).unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn path_host_and_query_go_where_the_target_says() {
        for (target, expected) in [
            ("https://new.test", "https://new.test"),
            ("https://new.test/x", "https://new.test/x"),
            ("https://new.test{path}", "https://new.test/a/b?q=1"),
            ("https://new.test/{path}", "https://new.test/a/b?q=1"),
            ("https://new.test/x{path}?y=2", "https://new.test/x/a/b?y=2"),
            ("https://{host}{path}", "https://shop.test/a/b?q=1"),
            ("http://{host}:{port}{path}", "http://shop.test:8080/a/b?q=1"),
            ("/v2{path}", "/v2/a/b?q=1"),
            ("/{path}", "/a/b?q=1"),
            ("{path}", "/a/b?q=1"),
        ] {
            assert_eq!(location(target), expected, "{target}");
        }
    }

    #[test]
    fn what_is_no_redirect_is_refused() {
        for target in [
            "",
            "new.test",
            "//new.test",
            "{path}/x",
            "{path}{path}",
            "ftp://new.test",
            "https://",
            "https://new.test/{id}",
            "/a b",
            "/a\n",
        ] {
            assert!(Redirect::new(StatusCode::FOUND, target).is_err(), "{target:?}");
        }
        for status in [200, 300, 304, 404] {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(Redirect::new(status, "/a").is_err(), "{status}");
        }
    }

    #[test]
    fn its_text_means_the_same() {
        for target in
            ["https://new.test{path}", "https://{host}/x", "http://{host}:{port}/", "/v2{path}", "{path}"]
        {
            let redirect = Redirect::new(StatusCode::FOUND, target).unwrap();
            assert_eq!(Redirect::new(StatusCode::FOUND, &redirect.target_text()), Ok(redirect));
        }
    }

    #[test]
    fn a_redirect_in_the_words_of_others_is_written_in_ours() {
        let cure = |theirs: &str| parse_target(StatusCode::FOUND, theirs).unwrap_err().help.unwrap();
        for (theirs, ours) in [
            ("https://$host$request_uri", "https://{host}{path}"),
            ("$scheme://$host:8443$uri", "https://{host}:8443{path}"),
            ("https://shop.example$uri$is_args$args", "https://shop.example{path}"),
            ("https://shop.example$uri?$query_string", "https://shop.example{path}"),
            ("/new/$1", "/new/{path}"),
            ("https://{host}{uri}", "https://{host}{path}"),
            ("https://{http.request.host}{http.request.uri}", "https://{host}{path}"),
            ("https://%REQ(:authority)%/new", "https://{host}/new"),
        ] {
            let cure = cure(theirs);
            assert!(cure.starts_with(&format!("write `\"{ours}\"`")), "{theirs}: {cure}");
        }
        for theirs in ["/$1/$2", "https://$http_x/", "https://$cookie_a{path}"] {
            assert!(cure(theirs).starts_with("only `{path}`"), "{theirs}");
        }
    }
}
