//! The syntax of path patterns, host patterns and methods, and the texts of errors in them.
//!
//! `/a/b` is exact, `/a/*` matches any one segment, `/a/{id}` the same with a name, `/a/**` everything below and `/a`
//! itself. A pattern has only characters that stand for themselves in a request's path (RFC 3986 §3.3), and letters beyond
//! ASCII, which requests contain as percent-encoded UTF-8 (RFC 3987 §3.1): `/café` is kept as `/caf%C3%A9`.

use http::Method;
use percent_encoding::{AsciiSet, utf8_percent_encode};

use super::HostPattern;
use crate::{
    admission::{METHOD_BYTES_MAX, REGISTERED_METHODS},
    printable::is_hidden,
    syntax::{
        diagnostics::{code, did_you_mean},
        fields::quoted_list,
        units::{Invalid, in_yaml},
    },
};

/// `path:` of a route: a pattern, and the methods before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathPattern {
    pub(crate) methods: Vec<Method>,
    pub(crate) path: String,
}

impl PathPattern {
    /// The same methods before another path, as it is written in the configuration.
    pub(crate) fn with_path(&self, path: &str) -> String {
        let methods: Vec<&str> = self.methods.iter().map(Method::as_str).collect();
        if methods.is_empty() { path.to_owned() } else { format!("{} {path}", methods.join("|")) }
    }
}

/// Reads `path:` of a route, such as `GET|HEAD /products/**` or `/users/{id}`.
pub(crate) fn path_pattern(text: &str) -> Result<PathPattern, Invalid> {
    let text = text.trim();
    let Some((words, path)) = text.split_once(char::is_whitespace).filter(|_| !text.starts_with('/')) else {
        check_path(text)?;
        return Ok(PathPattern { methods: Vec::new(), path: encoded(text) });
    };
    let mut methods = Vec::new();
    for word in words.split('|') {
        let method = method(word).map_err(|invalid| Invalid { expected: PATH_FORM.to_owned(), ..invalid })?;
        if methods.contains(&method) {
            return Err(Invalid::new(code::BAD_PATH, PATH_FORM, format!("`{method}` stands here twice")));
        }
        methods.push(method);
    }
    let path = path.trim_start();
    check_path(path)?;
    Ok(PathPattern { methods, path: encoded(path) })
}

/// Reads a method such as `GET`, which is in capitals as in a request. It is a registered method, or another one that
/// services use.
pub(crate) fn method(text: &str) -> Result<Method, Invalid> {
    let expected = format!("one of {}, or another method in capitals", quoted_list(&METHODS));
    let refuse = |label: String| Invalid::new(code::BAD_VALUE, expected.clone(), label);
    let parsed = || text.parse().map_err(|_| refuse("not a method".to_owned()));
    if METHODS.contains(&text) || REGISTERED_METHODS.contains(&text) {
        return parsed();
    }
    if text.contains([',', ' ']) {
        let words: Vec<&str> = text.split([',', ' ']).filter(|word| !word.is_empty()).collect();
        let refusal = refuse("methods are separated by `|`".to_owned());
        let is_cure = !words.is_empty() && words.iter().all(|word| method(word).is_ok());
        return Err(if is_cure { refusal.help(format!("write `{}`", words.join("|"))) } else { refusal });
    }
    if matches!(text, "CONNECT" | "TRACE" | "PRI") {
        return Err(refuse(format!("`{text}` never passes the gateway")).help("remove it"));
    }
    let known = || METHODS.into_iter().chain(REGISTERED_METHODS);
    // Method names are case-sensitive, and all that are in use are in capitals.
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    let is_method = !text.is_empty() && text.len() <= METHOD_BYTES_MAX && text.chars().all(is_name);
    // A word that is a known method with a letter added (`BDELETE`) is more likely a method of its own than a typing error.
    let is_slip = |method: &&str| text.len() <= method.len() && strsim::osa_distance(text, method) == 1;
    match METHODS.into_iter().find(is_slip).or_else(|| did_you_mean(text, known()).filter(|_| !is_method)) {
        Some(method) => Err(refuse(format!("did you mean `{method}`?"))),
        None if is_method => parsed(),
        None => Err(refuse(format!("`{text}` is not a method that can be named here"))
            .help("a route without methods takes every method that the gateway lets through")),
    }
}

fn check_path(path: &str) -> Result<(), Invalid> {
    let refuse = |label: &str| Invalid::new(code::BAD_PATH, PATH_FORM, label);
    if !path.starts_with('/') {
        return Err(match path {
            "" => refuse("the path is missing"),
            _ if path.contains("://") => refuse("a URL, not a path").help("the host goes into `host:`"),
            _ => refuse("a path begins with `/`"),
        });
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(refuse("longer than 1024 bytes"));
    }
    if path == "/" {
        return Ok(());
    }
    let segments: Vec<&str> = path[1..].split('/').collect();
    let last = segments.len() - 1;
    let mut names: Vec<&str> = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        if segment.is_empty() && index == last {
            return Err(refuse("a pattern does not end with `/`"));
        }
        if *segment == "**" && index != last {
            return Err(
                refuse("`**` can only stand at the end").help("one segment in the middle is `*` or `{name}`")
            );
        }
        check_segment(segment, &mut names)?;
    }
    Ok(())
}

fn check_segment<'a>(segment: &'a str, names: &mut Vec<&'a str>) -> Result<(), Invalid> {
    let refuse = |label: &str| Invalid::new(code::BAD_PATH, PATH_FORM, label);
    if let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && name.bytes().next().is_some_and(|b| !b.is_ascii_digit());
        if !is_name {
            return Err(refuse("a name in braces has letters, digits and `_`, such as `{user_id}`"));
        }
        if names.contains(&name) {
            return Err(
                refuse("two segments have the same name").help(format!("rename one of the `{{{name}}}`"))
            );
        }
        names.push(name);
        return Ok(());
    }
    match segment {
        "*" | "**" => return Ok(()),
        "" => return Err(refuse("two slashes in a row: requests with them never match")),
        "." | ".." => return Err(refuse("requests with `.` or `..` are refused and never match")),
        _ => {}
    }
    match segment.chars().find(|c| !stands_for_itself(*c)) {
        None => Ok(()),
        Some('{' | '}' | '*') => Err(refuse("`*`, `**` and `{name}` must be a whole segment")
            .help("`/files/{name}` takes `/files/a.txt`, too: the service looks at the rest of the segment")),
        Some('%') => {
            Err(refuse("a pattern has no percent-encoding: a text matches however a request encodes it"))
        }
        Some('?') => Err(refuse("a pattern has no query").help("remove everything from `?` on")),
        Some('#') => Err(refuse("a pattern has no fragment").help("remove everything from `#` on")),
        Some(c) if c.is_whitespace() => Err(refuse("a space is not allowed here")
            .help("methods stand in front of the path, separated by `|`: `GET|HEAD /users`")),
        Some(c) => {
            Err(refuse(&format!("`{}` does not occur in a request's path as it is", c.escape_default()))
                .help("use `*` or `{name}` for this segment"))
        }
    }
}

/// Whether a segment of a pattern is plain text.
pub(super) fn is_plain_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..") && segment.chars().all(stands_for_itself)
}

/// Whether a character of a pattern stands for itself: `pchar` (RFC 3986 §3.3) without percent-encoding and without `*`,
/// which is a sign of patterns; and visible characters beyond ASCII.
fn stands_for_itself(c: char) -> bool {
    let is_beyond = !c.is_ascii() && c != char::REPLACEMENT_CHARACTER && !c.is_whitespace() && !is_hidden(c);
    c.is_ascii_alphanumeric() || "-._~!$&'()+,;=:@".contains(c) || is_beyond
}

/// The path as requests contain it: everything beyond ASCII in UTF-8 and percent-encoded.
fn encoded(path: &str) -> String {
    utf8_percent_encode(path, &AsciiSet::EMPTY).to_string()
}

/// Reads a host pattern: `shop.example`, `*.shop.example` or `*`.
pub(crate) fn host_pattern(text: &str) -> Result<HostPattern, Invalid> {
    let expected = "a host name such as `shop.example` or `*.shop.example`";
    let refuse = |label: &str| Invalid::new(code::BAD_VALUE, expected, label);
    if text == "*" {
        return Ok(HostPattern::Any);
    }
    let bare = text.split_once("://").map_or(text, |(_, rest)| rest);
    if let Some((host, _)) = bare.split_once('/')
        && host_pattern(host).is_ok()
    {
        return Err(
            refuse("a host has neither a scheme nor a path").help(format!("write `{}`", in_yaml(host)))
        );
    }
    if bare != text && host_pattern(bare).is_ok() {
        return Err(refuse("a host has no scheme").help(format!("write `{}`", in_yaml(bare))));
    }
    if text.starts_with(['~', '^']) || text.ends_with('$') {
        return Err(refuse("there are no regular expressions in hosts").help(
            "write `\"*.shop.example\"` for all names below `shop.example`, and one route for each other name",
        ));
    }
    let (host, is_suffix) = match text.strip_prefix("*.") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    if let Some((name, port)) = host.rsplit_once(':')
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        let without = if is_suffix { format!("*.{name}") } else { name.to_owned() };
        let refusal = refuse("a host is matched without its port");
        return Err(match host_pattern(&without) {
            Ok(_) => refusal.help(format!("write `{}`", in_yaml(&without))),
            Err(_) => refusal,
        });
    }
    if host.contains('*') {
        return Err(refuse("`*.` can only stand at the beginning"));
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.len() > 253 || !host.split('.').all(is_label) {
        return Err(refuse("not a host name"));
    }
    let host = host.to_ascii_lowercase();
    Ok(if is_suffix { HostPattern::Suffix(format!(".{host}")) } else { HostPattern::Exact(host) })
}

/// Reads `strip` or `add` of `rewrite`: a literal prefix.
pub(crate) fn path_prefix(text: &str) -> Result<String, Invalid> {
    let label = if !text.starts_with('/') {
        "a prefix begins with `/`"
    } else if text.len() > 1 && text.ends_with('/') {
        "a prefix does not end with `/`"
    } else if text == "/" || text[1..].split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        "a segment is empty, `.` or `..`"
    } else if !text[1..].split('/').all(is_plain_segment) {
        "patterns and percent-encoding are not allowed here"
    } else {
        return Ok(encoded(text));
    };
    Err(Invalid::new(code::BAD_PATH, "a path prefix such as `/api`", label))
}

const PATH_FORM: &str = "a path such as `/users/**`, `/users/{id}` or `GET /products`";
const PATH_BYTES_MAX: usize = 1024;
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_every_form_are_accepted() {
        for text in [
            "/",
            "/**",
            "/users",
            "/users/*",
            "/users/{id}/orders",
            "/a.b-c_d~e/**",
            "/shop.v1.Catalog/**",
            "/@me",
        ] {
            assert_eq!(path_pattern(text).map(|p| p.path), Ok(text.to_owned()), "{text}");
        }
        assert_eq!(path_pattern("GET /café/ü/**").map(|p| p.path), Ok("/caf%C3%A9/%C3%BC/**".to_owned()));
        let pattern = path_pattern("POST|PUT  /users/**").unwrap();
        assert_eq!((pattern.methods, pattern.path.as_str()), (vec![Method::POST, Method::PUT], "/users/**"));
        for method in ["PROPFIND", "PURGE", "M-SEARCH", "BDELETE", "RPC_IN_DATA"] {
            assert_eq!(
                path_pattern(&format!("{method} /a")).map(|p| p.methods[0].to_string()),
                Ok(method.to_owned())
            );
        }
    }

    #[test]
    fn patterns_that_could_never_match_are_refused() {
        for text in [
            "",
            "users",
            "GET",
            "GET users",
            "/users/",
            "//",
            "/a//b",
            "/a/**/b",
            "/a/../b",
            "/a/.",
            "/a*",
            "/{}",
            "/{1}",
            "/{id}/{id}",
            "/x{id}",
            "/{id}.txt",
            "/a%20b",
            "/a?b=c",
            "/a#b",
            "/a b",
            "/\u{202e}x",
            "/a\u{2028}b",
            "/a\u{a0}b",
            "/\u{fffd}",
            "http://x/a",
            "GET,POST /a",
            "get /a",
            "GET|GET /a",
            "fetch /a",
            "GTE /a",
            "OPTION /a",
            "CONNECT /a",
            "TRACE|GET /a",
        ] {
            assert!(path_pattern(text).is_err(), "{text:?}");
        }
        assert!(path_pattern(&format!("/{}", "a".repeat(PATH_BYTES_MAX))).is_err());
    }

    #[test]
    fn hosts_are_lower_case_and_have_no_port() {
        assert_eq!(host_pattern("Shop.Example"), Ok(HostPattern::Exact("shop.example".to_owned())));
        assert_eq!(host_pattern("*.shop.example"), Ok(HostPattern::Suffix(".shop.example".to_owned())));
        assert_eq!(host_pattern("*"), Ok(HostPattern::Any));
        for text in ["", "*.", "a..b", "shop.example:80", "a*.b", "*.*.b", "-a.b", "a b", "http://a"] {
            assert!(host_pattern(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_rewrite_prefix_is_literal() {
        assert_eq!(path_prefix("/api/v1"), Ok("/api/v1".to_owned()));
        assert_eq!(path_prefix("/größe"), Ok("/gr%C3%B6%C3%9Fe".to_owned()));
        for text in ["", "api", "/", "/api/", "/a//b", "/a/../b", "/*", "/a%20"] {
            assert!(path_prefix(text).is_err(), "{text:?}");
        }
    }
}
