//! Requests that a route takes, and the same in other spellings.

use http::HeaderValue;

use crate::{
    config::settings::RouteSettings,
    policy::rewrite::{rewritten, without_added},
    router::HostPattern,
};

/// In which spelling a path differs from that of a closed route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Respelling {
    Case,
    Slash,
    Extension,
}

/// A path that a pattern matches, segment by segment.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// Text, and whether it is the pattern's own.
    segments: Vec<(String, bool)>,
    is_subtree: bool,
}

impl Sample {
    /// Of a pattern with `/**` its beginning.
    pub(super) fn of(pattern: &str) -> Self {
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

    /// Below the pattern's beginning, so far that no other pattern is likely to name a path of it.
    pub(super) fn deep(pattern: &str) -> Self {
        let mut sample = Self::of(pattern);
        if sample.is_subtree {
            sample.segments.extend(std::iter::repeat_n((SEGMENT.to_owned(), false), DEPTH));
        }
        sample
    }

    pub(super) fn path(&self) -> String {
        joined(self.segments.iter().map(|(text, _)| text.as_str()))
    }

    /// The path in other spellings that the route does not decide about.
    pub(super) fn others(&self, route: &RouteSettings) -> Vec<(Respelling, String)> {
        let spelling = route.policies.spelling;
        let mut others = Vec::new();
        if spelling.case_insensitive.is_none() {
            let all = self.segments.iter().map(|(text, literal)| in_other_case(text, *literal));
            let all: Vec<String> = all.collect();
            others.push((Respelling::Case, joined(all.iter().map(String::as_str))));
            for (at, turned) in all.iter().enumerate() {
                let mut one: Vec<&str> = self.segments.iter().map(|(text, _)| text.as_str()).collect();
                one[at] = turned;
                others.push((Respelling::Case, joined(one)));
            }
            // What has no letters has no other case.
            others.retain(|(_, path)| *path != self.path());
            others.dedup();
        }
        let last = self.segments.last();
        let ends_in_slash = self.is_subtree || last.is_none_or(|(text, _)| text.is_empty());
        if spelling.trailing_slash_same.is_none() && !ends_in_slash {
            others.push((Respelling::Slash, format!("{}/", self.path())));
        }
        // Express and ASP.NET, which take any case, know no extensions; and what has one has no second.
        let ends_in_word =
            last.is_some_and(|(text, literal)| *literal && !text.is_empty() && !text.contains('.'));
        let may_take_one = spelling.trailing_slash_same != Some(false) && !spelling.any_case();
        if ends_in_word && may_take_one {
            others.push((Respelling::Extension, format!("{}.json", self.path())));
        }
        others
    }
}

/// The path that the service gets of a request for `path`.
pub(super) fn upstream_path(route: &RouteSettings, path: &str) -> String {
    let rewrite = &route.policies.rewrite;
    rewritten(rewrite.stripped(), rewrite.added(), path, route.policies.spelling.any_case()).to_string()
}

/// Paths of which the service would get `upstream` by the route, if it takes them.
pub(super) fn client_paths(route: &RouteSettings, upstream: &str) -> Vec<String> {
    let rewrite = &route.policies.rewrite;
    let Some(rest) = without_added(rewrite.added(), upstream) else { return Vec::new() };
    let prefix = rewrite.stripped().map(|prefix| prefix.trim_matches('/'));
    let with_prefix = prefix.filter(|prefix| !prefix.is_empty()).map(|prefix| format!("/{prefix}{rest}"));
    with_prefix.into_iter().chain(Some(rest.to_owned()).filter(|rest| !rest.is_empty())).collect()
}

/// A path of samples as a pattern.
pub(super) fn shown(path: &str) -> String {
    let one = format!("/{SEGMENT}");
    path.replacen(&one.repeat(DEPTH), "/**", 1).replace(&one, "/*")
}

/// A host that fits the pattern.
pub(super) fn host(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Any => ANY_HOST.to_owned(),
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Suffix(suffix) => format!("sample{suffix}"),
    }
}

pub(super) fn host_fits(pattern: &HostPattern, host: &str) -> bool {
    match pattern {
        HostPattern::Any => true,
        HostPattern::Exact(exact) => exact == host,
        HostPattern::Suffix(suffix) => host.ends_with(suffix),
    }
}

/// The pattern takes such a path, if no other one does.
pub(super) fn path_fits(pattern: &str, path: &str) -> bool {
    let mut texts = path.trim_start_matches('/').split('/');
    for wanted in pattern.trim_start_matches('/').split('/') {
        match (wanted, texts.next()) {
            ("**", _) => return true,
            ("*", Some(_)) => {}
            (named, Some(_)) if named.starts_with('{') => {}
            (literal, Some(text)) if literal.eq_ignore_ascii_case(text) => {}
            _ => return false,
        }
    }
    texts.next().is_none()
}

fn joined<'a>(segments: impl IntoIterator<Item = &'a str>) -> String {
    let texts: Vec<&str> = segments.into_iter().collect();
    format!("/{}", texts.join("/"))
}

fn in_other_case(text: &str, is_literal: bool) -> String {
    let upper = text.to_ascii_uppercase();
    match is_literal {
        true if upper == text => text.to_ascii_lowercase(),
        true => upper,
        false => text.to_owned(),
    }
}

/// Of a condition that asks only that the header is there.
pub(super) const VALUE: HeaderValue = HeaderValue::from_static("sample");
/// No route names it.
pub(super) const ANY_HOST: &str = "sample.invalid";
/// Stands for any segment. No configuration has it as a literal.
const SEGMENT: &str = "sample-segment";
const DEPTH: usize = 3;
