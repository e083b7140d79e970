//! Sample requests of a route, and the same in other spellings.

use http::HeaderValue;

use crate::{
    config::settings::RouteSettings,
    policy::rewrite::{rewritten, without_added},
    router::HostPattern,
};

/// The kind of another spelling of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Respelling {
    Case,
    Slash,
    Extension,
}

/// A path that a pattern matches, segment by segment.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// The text of each segment, and whether the pattern contains it literally.
    segments: Vec<(String, bool)>,
    is_subtree: bool,
}

impl Sample {
    /// A sample of a pattern; of a pattern with `/**`, it is the path of its beginning.
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

    /// A sample below the beginning of a pattern with `/**`, so deep that other patterns are unlikely to name
    /// such a path.
    pub(super) fn deep(pattern: &str) -> Self {
        Self::of(pattern).deepened()
    }

    fn deepened(mut self) -> Self {
        if self.is_subtree {
            self.segments.extend(std::iter::repeat_n((SEGMENT.to_owned(), false), DEPTH));
        }
        self
    }

    /// What both match, in the spelling of `self`.
    fn meet(&self, other: &Self) -> Option<Self> {
        let at = |at: usize| match (self.segments.get(at), other.segments.get(at)) {
            (Some((one, true)), Some((two, true))) if !one.eq_ignore_ascii_case(two) => None,
            (Some(own), Some((_, false))) | (Some(own @ (_, true)), Some(_)) => Some(own.clone()),
            (Some(_), Some(theirs)) => Some(theirs.clone()),
            (Some(own), None) => other.is_subtree.then(|| own.clone()),
            (None, theirs) => theirs.filter(|_| self.is_subtree).cloned(),
        };
        let segments = (0..self.segments.len().max(other.segments.len())).map(at).collect::<Option<_>>()?;
        Some(Self { segments, is_subtree: self.is_subtree && other.is_subtree })
    }

    pub(super) fn path(&self) -> String {
        joined(self.segments.iter().map(|(text, _)| text.as_str()))
    }

    /// The path in other spellings, of those kinds that the route's fields do not decide.
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
            // A path without letters has no other case.
            others.retain(|(_, path)| *path != self.path());
            others.dedup();
        }
        let last = self.segments.last();
        let ends_in_slash = self.is_subtree || last.is_none_or(|(text, _)| text.is_empty());
        if spelling.trailing_slash_same.is_none() && !ends_in_slash {
            others.push((Respelling::Slash, format!("{}/", self.path())));
        }
        // Express and ASP.NET, which accept any case, do not handle extensions. A segment with an extension
        // does not get a second one.
        let ends_in_word =
            last.is_some_and(|(text, literal)| *literal && !text.is_empty() && !text.contains('.'));
        let may_take_one = spelling.trailing_slash_same != Some(false) && !spelling.any_case();
        if ends_in_word && may_take_one {
            others.push((Respelling::Extension, format!("{}.json", self.path())));
        }
        others
    }
}

/// The path that the service gets for a request with `path`.
pub(super) fn upstream_path(route: &RouteSettings, path: &str) -> String {
    let rewrite = &route.policies.rewrite;
    rewritten(rewrite.stripped(), rewrite.added(), path, route.policies.spelling.any_case()).to_string()
}

/// Paths that the service may get through both routes, by what `rewrite` makes of their patterns.
pub(super) fn shared_upstreams(one: &RouteSettings, other: &RouteSettings) -> Vec<String> {
    let (ones, others) = (upstream_patterns(one), upstream_patterns(other));
    let pairs = ones.iter().flat_map(|one| others.iter().map(move |other| (one, other)));
    // What a catch-all sends has no prefix that another route could add.
    let pairs = pairs.filter(|(one, _)| one.segments.iter().any(|(_, is_literal)| *is_literal));
    // Each spelling of a segment is tried, since one of the routes may accept any case.
    let shared = pairs.flat_map(|(one, other)| [one.meet(other), other.meet(one)]).flatten();
    let mut paths: Vec<String> =
        shared.flat_map(|sample| [sample.path(), sample.deepened().path()]).collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

/// The patterns of the paths that a service gets: with and without the prefix of `strip`, as far as the pattern allows both.
fn upstream_patterns(route: &RouteSettings) -> Vec<Sample> {
    let (rewrite, own) = (&route.policies.rewrite, Sample::of(&route.path));
    let stripped = rewrite.stripped().and_then(|prefix| {
        let prefix = Sample::of(&format!("/{}/**", prefix.trim_matches('/')));
        let mut met = own.meet(&prefix)?;
        met.segments.drain(..prefix.segments.len());
        Some(met)
    });
    let added = rewrite.added().map(|prefix| prefix.trim_matches('/')).filter(|prefix| !prefix.is_empty());
    let patterns = stripped.into_iter().chain(Some(own));
    patterns
        .map(|mut pattern| {
            let added = added.into_iter().flat_map(|prefix| prefix.split('/'));
            pattern.segments.splice(0..0, added.map(|text| (text.to_owned(), true)));
            pattern
        })
        .collect()
}

/// Paths for which the service would get `upstream` through the route, if they match it.
pub(super) fn client_paths(route: &RouteSettings, upstream: &str) -> Vec<String> {
    let rewrite = &route.policies.rewrite;
    let Some(rest) = without_added(rewrite.added(), upstream) else { return Vec::new() };
    let prefix = rewrite.stripped().map(|prefix| prefix.trim_matches('/'));
    let with_prefix = prefix.filter(|prefix| !prefix.is_empty()).map(|prefix| format!("/{prefix}{rest}"));
    with_prefix.into_iter().chain(Some(rest.to_owned()).filter(|rest| !rest.is_empty())).collect()
}

/// The path of a sample, shown as a pattern.
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

/// Whether the pattern matches the path, apart from more specific patterns.
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

/// The value for a condition that accepts any value.
pub(super) const VALUE: HeaderValue = HeaderValue::from_static("sample");
/// A host that routes do not name.
pub(super) const ANY_HOST: &str = "sample.invalid";
/// A text for any segment, which configurations do not contain.
const SEGMENT: &str = "sample-segment";
const DEPTH: usize = 3;
