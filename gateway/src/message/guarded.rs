//! Names of request fields that their sender may not decide, in addition to those of [`Kind`]. They are compiled from the
//! configuration.
//!
//! - Identity: fields in which a provider forwards claims. They are removed from every request, on open routes too, and before
//!   the route is chosen, so that conditions and limits never trust them.
//! - Look-alikes: CGI, and WSGI, PHP and Rack after it, make a variable of a name by folding every byte other than letters and
//!   digits, so `X-User-Id`, `X_User.Id` and `X!User~Id` are one variable. A name is removed from every request if it folds to,
//!   but is not, one that the gateway or a rule sets or removes, that carries a token, by which a route is chosen or a limit
//!   counts, or that [`Kind`] contains.
//! - Untrusted: fields that proxies write and services trust (`listen.headers.untrusted`). They are removed, with look-alikes,
//!   unless the peer is one of `listen.trusted_proxies`.
//!
//! For most other names, a look at the first and the third letter is enough ([`Prefilter`]).

use http::HeaderName;

use super::{names::Kind, prefilter::Prefilter};

/// Names to which a configuration gives a meaning. Their order does not matter.
#[derive(Debug, Clone, Default)]
pub struct ConfiguredNames {
    /// Fields in which a provider forwards claims.
    pub identity: Vec<HeaderName>,
    /// Fields that carry a token.
    pub tokens: Vec<HeaderName>,
    /// Fields by which a route is chosen or a limit counts, or which a rule sets or removes.
    pub decides: Vec<HeaderName>,
    /// Fields that only a trusted peer may send: names, or beginnings of names with `*` after them.
    pub untrusted: Vec<String>,
}

/// The compiled names of fields that the sender of a request may not decide.
#[derive(Debug, Clone)]
pub struct GuardedNames {
    identity: Box<[HeaderName]>,
    tokens: Box<[HeaderName]>,
    /// Fields that the gateway or a rule sets, removes or decides by, and fields that carry a token.
    answered: Box<[HeaderName]>,
    /// The names of `answered`, folded.
    folded: Box<[Box<str>]>,
    /// The folded names of `answered` that are not plain, so that a plain name may look like them. Usually empty.
    folded_unusual: Box<[Box<str>]>,
    untrusted: NameSet,
    /// Matches all names that may be one of these, or look like one, or belong to a [`Kind`] other than end-to-end.
    prefilter: Prefilter,
}

impl Default for GuardedNames {
    fn default() -> Self {
        Self::compile(ConfiguredNames::default())
    }
}

/// The decision on a field of [`Kind::EndToEnd`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The field passes.
    Passes,
    /// The field passes only from trusted peers.
    Untrusted,
    /// The field looks like a guarded one, and is removed.
    LooksLikeAnother,
}

impl GuardedNames {
    /// Compiles the names of a configuration.
    pub fn compile(names: ConfiguredNames) -> Self {
        let ConfiguredNames { identity, tokens, decides, untrusted } = names;
        let (identity, tokens) = (sorted(identity), sorted(tokens));
        let answered = sorted(identity.iter().chain(&tokens).cloned().chain(decides).collect());
        let unusual = answered.iter().filter(|name| !is_plain(name.as_str()));
        let folded: Box<[Box<str>]> = answered.iter().map(|name| fold(name.as_str())).collect();
        let untrusted = NameSet::of(&untrusted);
        let prefilter = folded.iter().fold(Kind::PREFILTER, |filter, name| filter.with_name(name));
        Self {
            prefilter: untrusted.known_to(prefilter),
            folded_unusual: unusual.map(|name| fold(name.as_str())).collect(),
            folded,
            untrusted,
            identity,
            tokens,
            answered,
        }
    }

    /// Whether the name may be a guarded one or belong to a [`Kind`] other than end-to-end; `false` is certain.
    pub(crate) fn may_know(&self, name: &str) -> bool {
        self.prefilter.may_match(name)
    }

    /// Whether a provider forwards claims in the field.
    pub(crate) fn is_identity(&self, name: &str) -> bool {
        self.identity.iter().any(|identity| identity.as_str() == name)
    }

    /// Whether the field carries the client's identity, must come from a verified token, and is not the token itself.
    pub(crate) fn is_claimed_identity(&self, name: &str) -> bool {
        let holds_a_token = || self.tokens.iter().any(|token| token.as_str() == name);
        self.is_identity(name) && Kind::of(name) == Kind::EndToEnd && !holds_a_token()
    }

    /// Whether only trusted peers may send the field, so that a client must not remove it by naming it in Connection.
    pub(crate) fn is_untrusted(&self, name: &str) -> bool {
        self.untrusted.contains(name)
    }

    /// Whether a field of [`Kind::EndToEnd`] means nothing to the gateway, and looks like none that does.
    pub(crate) fn is_free(&self, name: &str) -> bool {
        !self.answers(name) && self.verdict(name) == Verdict::Passes
    }

    /// Decides on a field of [`Kind::EndToEnd`].
    pub(crate) fn verdict(&self, name: &str) -> Verdict {
        if !is_plain(name) {
            return self.verdict_on_unusual(name);
        }
        if self.folded_unusual.iter().any(|folded| **folded == *name) && !self.answers(name) {
            Verdict::LooksLikeAnother
        } else if self.untrusted.contains(name) {
            Verdict::Untrusted
        } else {
            Verdict::Passes
        }
    }

    fn verdict_on_unusual(&self, name: &str) -> Verdict {
        let folded = fold(name);
        let is_another = self.folded.contains(&folded) || Kind::of(&folded) != Kind::EndToEnd;
        if is_another && !self.answers(name) {
            Verdict::LooksLikeAnother
        } else if self.untrusted.contains(&folded) {
            Verdict::Untrusted
        } else {
            Verdict::Passes
        }
    }

    fn answers(&self, name: &str) -> bool {
        self.answered.iter().any(|answered| answered.as_str() == name)
    }
}

fn sorted(mut names: Vec<HeaderName>) -> Box<[HeaderName]> {
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    names.into()
}

/// Whether folding leaves the name as it is.
fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Folds a name to the form that all look-alikes share: lower case, with `-` for every byte other than letters and digits.
pub fn fold(name: &str) -> Box<str> {
    let fold = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    name.chars().map(fold).collect::<String>().into()
}

/// A set of folded names and beginnings of names.
#[derive(Debug, Clone)]
struct NameSet {
    /// Sorted, and no pattern contains another: only the last pattern that is not after a name can contain it.
    patterns: Box<[Pattern]>,
}

/// Ordered by its text, so a beginning comes before all names that begin with it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Pattern {
    text: Box<str>,
    is_whole: bool,
}

impl Pattern {
    /// Reads `x-a`, or `x-b-*` for all names with that beginning.
    fn of(text: &str) -> Self {
        let beginning = text.strip_suffix('*');
        Self { text: fold(beginning.unwrap_or(text)), is_whole: beginning.is_none() }
    }

    fn contains(&self, name: &str) -> bool {
        if self.is_whole { *self.text == *name } else { name.starts_with(&*self.text) }
    }

    /// The filter with this pattern added.
    fn known_to(&self, prefilter: Prefilter) -> Prefilter {
        if self.is_whole { prefilter.with_name(&self.text) } else { prefilter.with_beginning(&self.text) }
    }
}

impl NameSet {
    fn of(texts: &[String]) -> Self {
        let mut patterns: Vec<Pattern> = texts.iter().map(|text| Pattern::of(text)).collect();
        patterns.sort();
        patterns.dedup_by(|later, kept| kept.contains(&later.text));
        Self { patterns: patterns.into() }
    }

    fn known_to(&self, prefilter: Prefilter) -> Prefilter {
        self.patterns.iter().fold(prefilter, |filter, pattern| pattern.known_to(filter))
    }

    fn contains(&self, name: &str) -> bool {
        let not_after = self.patterns.partition_point(|pattern| *pattern.text <= *name);
        not_after.checked_sub(1).and_then(|at| self.patterns.get(at)).is_some_and(|last| last.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guarded(names: &[&'static str], untrusted: &[&str]) -> GuardedNames {
        GuardedNames::compile(ConfiguredNames {
            decides: names.iter().map(|name| HeaderName::from_static(name)).collect(),
            untrusted: untrusted.iter().map(|text| (*text).to_owned()).collect(),
            ..ConfiguredNames::default()
        })
    }

    #[test]
    fn every_byte_that_is_no_letter_or_digit_folds() {
        let names = guarded(&["x-user-id"], &["x-original-url", "X-SSL-*"]);
        // RFC 9110 §5.6.2: the bytes that a name may contain beside letters and digits.
        for byte in "!#$%&'*+.^_`|~".chars() {
            let text = format!("x{byte}user{byte}id");
            assert_eq!(names.verdict(&text), Verdict::LooksLikeAnother, "{text}");
            for known in ["x-forwarded-for", "x-request-id", "content-length", "transfer-encoding", "proxy-a"]
            {
                let text = known.replace('-', &byte.to_string());
                assert_eq!(names.verdict(&text), Verdict::LooksLikeAnother, "{text}");
            }
            let text = format!("x{byte}original-url");
            assert_eq!(names.verdict(&text), Verdict::Untrusted, "{text}");
            let text = format!("x-ssl{byte}anything");
            assert_eq!(names.verdict(&text), Verdict::Untrusted, "{text}");
            let text = format!("x{byte}other");
            assert_eq!(names.verdict(&text), Verdict::Passes, "{text}");
        }
        assert_eq!(names.verdict("x-user-id"), Verdict::Passes, "the rule itself decides about it");
        assert_eq!(names.verdict("x-user-id2"), Verdict::Passes);
    }

    #[test]
    fn a_plain_name_may_look_like_one_that_is_not() {
        let names = guarded(&["x_user_id", "x.tag", "x-tag"], &[]);
        assert_eq!(names.verdict("x-user-id"), Verdict::LooksLikeAnother);
        assert_eq!(names.verdict("x_user_id"), Verdict::Passes);
        assert_eq!(names.verdict("x-tag"), Verdict::Passes, "a rule sets that one, too");
        assert_eq!(names.verdict("x_tag"), Verdict::LooksLikeAnother);
    }

    #[test]
    fn a_list_holds_names_and_beginnings_of_any_length() {
        let long = "x-".to_owned() + &"a".repeat(60);
        let names = guarded(&[], &["Client-Cert", "cf-*", &long, &format!("{long}b-*")]);
        for (name, verdict) in [
            ("client-cert", Verdict::Untrusted),
            ("client-cert-chain", Verdict::Passes),
            ("cf-", Verdict::Untrusted),
            ("cf-connecting-ip", Verdict::Untrusted),
            ("cfx", Verdict::Passes),
            (&*long, Verdict::Untrusted),
            (&*format!("{long}b-c"), Verdict::Untrusted),
            (&*format!("{long}c"), Verdict::Passes),
            ("accept", Verdict::Passes),
        ] {
            assert_eq!(names.verdict(name), verdict, "{name}");
        }
    }

    #[test]
    fn short_beginnings_and_ones_within_others_are_found() {
        for (untrusted, found, passes) in [
            (&["*"][..], &["a", "ab", "accept"][..], &[][..]),
            (&["ab*", "abc-*", "abc-d"], &["ab", "abc", "abc-d", "abzz"], &["a", "b", "acb"]),
            (&["a*", "b"], &["a", "ab", "abc"], &["b-", "ba"]),
            (
                &["x-a*", "x-a-b", "x-b", "x-b-c*"],
                &["x-a-a", "x-az", "x-b", "x-b-cd"],
                &["x-b-", "x-b-b", "x-c"],
            ),
            (&["$ws*"], &["-wsru", "$wsru", "~wscc"], &["-w", "wsru"]),
        ] {
            let names = guarded(&[], untrusted);
            for name in found {
                assert_eq!(names.verdict(name), Verdict::Untrusted, "{name} of {untrusted:?}");
            }
            for name in passes {
                assert_eq!(names.verdict(name), Verdict::Passes, "{name} of {untrusted:?}");
            }
        }
    }
}
