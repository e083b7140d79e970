//! Paths in the forms of other products, and the same paths in the form of this gateway: regular expressions, `:id`, rules
//! of Traefik, hosts before the path.
//!
//! A cure is offered only if the readers of `path` and `host` accept it, so that it does not lead to the next error.

use percent_encoding::percent_decode_str;

use super::{
    pattern::{PathPattern, host_pattern, is_plain_segment, path_pattern, path_prefix},
    reading::compared,
};
use crate::syntax::units::{Invalid, in_yaml};

/// Reads `GET|HEAD /products/**`, `/users/{id}` and the like. The refusal of a pattern in the form of another product
/// contains its form here.
pub(crate) fn path_or_cure(text: &str) -> Result<PathPattern, Invalid> {
    path_pattern(text).map_err(|invalid| match cure(text) {
        Some(cure) => Invalid {
            label: cure.label.map_or(invalid.label, str::to_owned),
            help: Some(cure.help),
            ..invalid
        },
        None => invalid,
    })
}

/// As [`path_prefix`]. Where the text begins with a valid prefix, the refusal contains that.
pub(crate) fn prefix_or_cure(text: &str) -> Result<String, Invalid> {
    path_prefix(text).map_err(|refusal| {
        match prefix(text).filter(|cure| cure != text && path_prefix(cure).is_ok()) {
            Some(cure) => refusal.help(format!("write `{cure}`")),
            None => refusal,
        }
    })
}

/// The text to write instead, and what is wrong with the form that was used.
#[derive(Debug, PartialEq, Eq)]
struct Cure {
    label: Option<&'static str>,
    help: String,
}

/// The cure for a text that is not a path pattern. `None`: its meaning is not certain.
fn cure(text: &str) -> Option<Cure> {
    rule_of_traefik(text)
        .or_else(|| extension(text))
        .or_else(|| written_otherwise(text))
        .or_else(|| without_slash(text))
}

/// `*.php`, `/*.php`: patterns for files in any folder.
fn extension(text: &str) -> Option<Cure> {
    let ending = text.strip_prefix('/').unwrap_or(text).strip_prefix("*.")?;
    let is_ending = !ending.is_empty() && ending.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_ending.then(|| Cure {
        label: Some("`*` is a whole segment, and stands for no part of one"),
        help: "write `/**`: there are no patterns for the end of a path, so name the paths or what they begin with".to_owned(),
    })
}

/// `users/`
fn without_slash(text: &str) -> Option<Cure> {
    if text.is_empty() || text.starts_with('/') || text.contains([' ', '`', '$']) || is_regex(text) {
        return None;
    }
    written_otherwise(&format!("/{text}"))
}

/// ``Host(`shop.example`) && PathPrefix(`/users`)``
fn rule_of_traefik(text: &str) -> Option<Cure> {
    const LABEL: Option<&str> = Some("a rule of Traefik");
    let argument = |matcher: &str| {
        let after = text.split_once(&format!("{matcher}("))?.1;
        let quote = after.chars().next().filter(|c| matches!(c, '`' | '"' | '\''))?;
        after[1..].split(quote).next()
    };
    let host = argument("Host");
    let path = match (argument("PathPrefix"), argument("Path")) {
        (Some(prefix), _) => below(prefix),
        (None, Some(path)) => segments(path)?,
        (None, None) => host.map(|_| "/**".to_owned())?,
    };
    let path = match argument("Method") {
        Some(method) => format!("{method} {path}"),
        None => path,
    };
    let help = written(&path, host)?;
    let help = if text.contains("||") { format!("{help}; and one route more for each `||`") } else { help };
    Some(Cure { label: LABEL, help })
}

fn written_otherwise(text: &str) -> Option<Cure> {
    let (methods, rest, glued) = methods_in_front(text);
    let (rest, sign) = without_sign(rest);
    let (host, path) = host_in_front(rest)?;
    let is_regex = sign == Sign::Regex || is_regex(path);
    let anchored = path.trim_start_matches('^');
    let ends = anchored.trim_end_matches('$');
    let is_open = sign == Sign::Prefix || (is_regex && path.starts_with('^') && ends.len() == anchored.len());
    let plain = segments(ends)?;
    let plain = if is_open { below(&plain) } else { plain };
    let label = match (host, is_regex) {
        _ if glued => Some("a space is missing behind the method"),
        (Some(_), _) => Some("a host stands in front of the path"),
        (None, true) => Some("there are no regular expressions in paths"),
        (None, false) if sign != Sign::None || text.starts_with('=') => {
            Some("a sign stands in front of the path")
        }
        (None, false) => None,
    };
    let mut help = written(&format!("{methods}{plain}"), host)?;
    if is_regex {
        help.push_str("; `*` and `{name}` are one segment, `**` is the rest");
    } else if let Some(above) = plain.strip_suffix("/**").filter(|above| host.is_none() && !above.is_empty())
    {
        help.extend([": it takes `", above, "` and everything below"]);
    }
    if path.to_ascii_uppercase().contains("%2F") {
        help.push_str("; requests with `%2F` are let in by `allow_in_path: encoded_slash`");
    }
    Some(Cure { label, help })
}

/// "write `…`", if the readers accept it.
fn written(path: &str, host: Option<&str>) -> Option<String> {
    path_pattern(path).ok()?;
    let Some(host) = host else { return Some(format!("write `{path}`")) };
    host_pattern(host).ok()?;
    Some(format!("write `path: {path}` and `host: {}`", in_yaml(host)))
}

/// The methods in the form of this gateway, with a space after them; the rest of the text; and whether the space between the
/// two is missing.
fn methods_in_front(text: &str) -> (String, &str, bool) {
    let is_of_methods = |c: char| c.is_ascii_alphabetic() || matches!(c, ',' | '|' | ' ');
    let end = text.find(|c: char| !is_of_methods(c)).unwrap_or(0);
    let (front, rest) = text.split_at(end);
    let words: Vec<String> =
        front.split([',', '|', ' ']).filter(|word| !word.is_empty()).map(str::to_ascii_uppercase).collect();
    // A host, as in `api.example.com/users`, begins with letters, too.
    if words.is_empty()
        || !rest.starts_with('/')
        || words.iter().any(|word| !METHODS.contains(&word.as_str()))
    {
        return (String::new(), text, false);
    }
    (format!("{} ", words.join("|")), rest, !front.ends_with(' '))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    None,
    Regex,
    Prefix,
}

/// Splits off the sign before the path in the forms of nginx and Kong: `~* ^/users`, `^~ /users/`, `= /users`, `~/users`.
fn without_sign(text: &str) -> (&str, Sign) {
    for (sign, meaning) in [("~*", Sign::Regex), ("^~", Sign::Prefix), ("~", Sign::Regex), ("=", Sign::None)]
    {
        if let Some(rest) = text.strip_prefix(sign) {
            return (rest.trim_start(), meaning);
        }
    }
    (text, Sign::None)
}

/// The host and the path of `api.example.com/users`, `https://shop.example:8443/users` or `/users`. `None`: the text has
/// another form.
fn host_in_front(text: &str) -> Option<(Option<&str>, &str)> {
    let without_scheme = text.split_once("://").map_or(text, |(_, rest)| rest);
    if without_scheme.trim_start_matches('^').starts_with('/') {
        return Some((None, without_scheme));
    }
    let (host, _) = without_scheme.split_once('/').unwrap_or((without_scheme, ""));
    let path = without_scheme.get(host.len()..).filter(|path| !path.is_empty()).unwrap_or("/**");
    let name = host.split(':').next().unwrap_or(host);
    let is_host = name.contains('.') || name == "localhost" || text.contains("://");
    if is_host && !name.is_empty() && !host.contains('@') {
        return Some((Some(name), path));
    }
    None
}

fn is_regex(path: &str) -> bool {
    path.starts_with('^') || path.ends_with('$') || path.contains(['\\', '[', '(']) || path.contains(".*")
}

/// `/users` and everything below.
fn below(path: &str) -> String {
    match path.trim_end_matches('/') {
        open if open.ends_with("**") => open.to_owned(),
        closed => format!("{closed}/**"),
    }
}

/// The path with each segment in the form of this gateway. `None`: it does not begin with a slash, or has a dot segment.
fn segments(path: &str) -> Option<String> {
    let path =
        path.split(['?', '#']).next().filter(|_| !path.contains('(') && !path.contains('{')).unwrap_or(path);
    let inner = path.strip_prefix('/')?;
    let parts = split(inner);
    let last = parts.len() - 1;
    let mut all: Vec<String> = Vec::new();
    for (index, part) in parts.into_iter().enumerate() {
        match part {
            "" if index == last && !all.is_empty() => all.push("**".to_owned()),
            // `/` alone, and slashes in a row.
            "" => {}
            // Other products resolve these before routing; what the pattern means is not certain.
            "." | ".." => return None,
            _ => all.extend(segment(part, index == last)),
        }
    }
    Some(format!("/{}", all.join("/")))
}

/// Splits a path at the slashes that are not inside brackets.
fn split(path: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let at_top = |c: char| {
        match c {
            '(' | '[' | '{' | '<' => depth += 1,
            ')' | ']' | '}' | '>' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == '/' && depth == 0
    };
    path.split(at_top).collect()
}

/// One segment in the form of this gateway. A last segment that is a text with `*` after it becomes two.
fn segment(text: &str, is_last: bool) -> Vec<String> {
    let one = |text: &str| vec![text.to_owned()];
    let unescaped = text.replace('\\', "");
    let is_escaped_only =
        is_plain_segment(&unescaped) && !unescaped.starts_with(':') && !unescaped.contains(['(', '+', '$']);
    if is_escaped_only && !text.contains("\\d") && !text.contains("\\w") {
        return one(&unescaped);
    }
    let rest = || one(if is_last { "**" } else { "*" });
    if matches!(text, "*" | "**" | ".*" | "(.*)" | ".+" | "(.+)" | "(.*)?" | "...") {
        return if text == "*" { one("*") } else { rest() };
    }
    if let Some(name) = name_of_parameter(text) {
        let is_rest = [":path}", "...}", "{*", "*}", "<path:"].iter().any(|sign| text.contains(sign))
            || text.starts_with('*')
            || (text.starts_with(':') && text.ends_with('*'));
        return if is_rest { rest() } else { one(&format!("{{{}}}", name.replace('-', "_"))) };
    }
    let decoded = percent_decode_str(&compared(text)).decode_utf8_lossy().into_owned();
    if is_plain_segment(&decoded) && text.contains('%') {
        return one(&decoded);
    }
    let literal = text.trim_end_matches(['*', '.', '(', ')']);
    if is_last && text.len() > literal.len() && is_plain_segment(literal) && text.contains('*') {
        return vec![literal.to_owned(), "**".to_owned()];
    }
    one("*")
}

/// The name of a parameter in the forms `:id`, `<int:id>`, `{id:[0-9]+}`, `(?P<id>…)`, `{id}.txt` and `*rest`.
fn name_of_parameter(text: &str) -> Option<&str> {
    let inside = if let Some(after) = text.strip_prefix([':', '*']) {
        after
    } else if let Some(after) = text.strip_prefix("(?P<").or_else(|| text.strip_prefix("(?<")) {
        after
    } else if let Some(after) = text.strip_prefix('<') {
        after.split_once(':').map_or(after, |(_, name)| name)
    } else if let (Some(from), true) = (text.find('{'), text.contains('}')) {
        text[from + 1..].trim_start_matches('*')
    } else {
        return None;
    };
    // If a segment has two names, neither is the name of the whole.
    if text.matches('{').count() > 1 && !text.contains(':') {
        return None;
    }
    let end =
        inside.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))).unwrap_or(inside.len());
    let name = &inside[..end];
    // `{3}` in a regular expression is a number.
    name.bytes().next().is_some_and(|first| !first.is_ascii_digit()).then_some(name)
}

/// The plain segments at the beginning of the text.
fn prefix(text: &str) -> Option<String> {
    let plain = text.trim_start_matches(['~', '^', '=', ' ']);
    let plain =
        plain.split_once("://").map_or(plain, |(_, rest)| rest.split_once('/').map_or("", |(_, path)| path));
    let segments = plain.split('/').filter(|segment| !segment.is_empty());
    let texts: Vec<String> = segments
        .map_while(|segment| {
            let decoded = percent_decode_str(segment).decode_utf8_lossy().into_owned();
            (is_plain_segment(&decoded) && !decoded.contains(['(', '$'])).then_some(decoded)
        })
        .collect();
    (!texts.is_empty()).then(|| format!("/{}", texts.join("/")))
}

/// Finds a segment that is text to this gateway and something else to other products. Returns the segment, and the path that
/// was probably meant.
pub(crate) fn taken_as_text(path: &str) -> Option<(&str, String)> {
    let is_foreign = |segment: &&str| {
        let is_parameter = segment.len() > 1 && segment.starts_with(':');
        is_parameter || segment.ends_with('$') || (segment.starts_with('(') && segment.ends_with(')'))
    };
    let found = path.split('/').find(is_foreign)?;
    let meant = segments(path.trim_end_matches('$'))?;
    (meant != path && path_pattern(&meant).is_ok()).then_some((found, meant))
}

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_has_its_cure() {
        for (text, expected) in [
            ("^/users/[0-9]+$", "write `/users/*`"),
            ("^/users", "write `/users/**`"),
            ("~ ^/api/v1/.*$", "write `/api/v1/**`"),
            ("~* ^/img/.+\\.(png|jpg)$", "write `/img/*`"),
            ("^~ /static/", "write `/static/**`"),
            ("= /exact", "write `/exact`"),
            ("~/users/(?<id>\\d+)$", "write `/users/{id}`"),
            ("~/orders/[^/]+/items", "write `/orders/*/items`"),
            ("/users/{id:[0-9]{3}}", "write `/users/{id}`"),
            ("/files/{path:path}", "write `/files/**`"),
            ("/files/{name}.txt", "write `/files/{name}`"),
            ("/files/{*rest}", "write `/files/**`"),
            ("/files/{rest...}", "write `/files/**`"),
            ("/users/<int:id>", "write `/users/{id}`"),
            ("/users*", "write `/users/**`"),
            ("/users/", "write `/users/**`"),
            ("/users//list", "write `/users/list`"),
            ("/a/**/b", "write `/a/*/b`"),
            ("users", "write `/users`"),
            (
                "*.php",
                "write `/**`: there are no patterns for the end of a path, so name the paths or what they begin with",
            ),
            ("*.shop.example", "write `path: /**` and `host: \"*.shop.example\"`"),
            ("users/", "write `/users/**`"),
            ("users/list", "write `/users/list`"),
            ("users/:id/", "write `/users/{id}/**`"),
            ("/{user-id}", "write `/{user_id}`"),
            ("/repos/{name}%2F{tag}", "write `/repos/*`"),
            ("/v1\\.0/users", "write `/v1.0/users`"),
            ("/caf%C3%A9/%40me", "write `/café/@me`"),
            ("/search?q=1", "write `/search`"),
            ("GET/d", "write `GET /d`"),
            ("get /users", "write `GET /users`"),
            ("GET,POST /users", "write `GET|POST /users`"),
            ("GET, POST /users", "write `GET|POST /users`"),
            ("api.example.com/users", "write `path: /users` and `host: api.example.com`"),
            ("localhost:8080/users/", "write `path: /users/**` and `host: localhost`"),
            ("https://shop.example/users", "write `path: /users` and `host: shop.example`"),
            ("shop.example", "write `path: /**` and `host: shop.example`"),
            ("PathPrefix(`/users`)", "write `/users/**`"),
            ("Path(`/users/{id}`)", "write `/users/{id}`"),
            ("Host(`shop.example`) && PathPrefix(`/`)", "write `path: /**` and `host: shop.example`"),
            (
                "Host(`a.example`) || Host(`b.example`)",
                "write `path: /**` and `host: a.example`; and one route more for each `||`",
            ),
            ("Method(`POST`) && Path(`/users`)", "write `POST /users`"),
        ] {
            let found = cure(text).map(|cure| cure.help).unwrap_or_default();
            // The reason begins with the first of these.
            let end =
                ["; `*` and", ": it takes", "; requests"].iter().filter_map(|why| found.find(why)).min();
            assert_eq!(&found[..end.unwrap_or(found.len())], expected, "{text}");
        }
        for text in ["", "/a/../b", "fetch /a", "\\.php$", "${", "HostRegexp(`.+`)"] {
            assert_eq!(cure(text), None, "{text}");
        }
    }

    #[test]
    fn a_prefix_is_what_stands_in_front_of_patterns() {
        let found = |text| prefix(text);
        for (text, expected) in [
            ("api", "/api"),
            ("api/", "/api"),
            ("/api/", "/api"),
            ("/api/**", "/api"),
            ("^/api/(.*)$", "/api"),
            ("/a//b", "/a/b"),
            ("/a%20", ""),
            ("/*", ""),
            ("/", ""),
            ("http://users:80/v2", "/v2"),
        ] {
            assert_eq!(found(text).unwrap_or_default(), expected, "{text}");
        }
    }

    #[test]
    fn what_we_take_as_text_and_others_do_not_is_found() {
        let meant = |path| taken_as_text(path).map(|(_, meant)| meant);
        assert_eq!(meant("/users/:id").as_deref(), Some("/users/{id}"));
        assert_eq!(meant("/users/:id/orders/:order").as_deref(), Some("/users/{id}/orders/{order}"));
        assert_eq!(meant("/users$").as_deref(), Some("/users"));
        for path in ["/users/{id}", "/v1/things:purge", "/", "/**", "/a/:", "/$metadata/x"] {
            assert_eq!(meant(path), None, "{path}");
        }
    }
}
