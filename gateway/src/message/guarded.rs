//! Names of request fields that their sender may not decide, beyond what [`Kind`] knows: compiled from the configuration.
//!
//! - Identity: what a provider forwards claims in. Removed from every request, on open routes too, and before the route is
//!   chosen, so that no condition and no limit believes it.
//! - Look-alikes: CGI, and WSGI, PHP and Rack after it, make a variable of a name by folding every byte that is no letter or
//!   digit, so `X-User-Id`, `X_User.Id` and `X!User~Id` are one variable. A name that folds like one which the gateway or a
//!   rule sets or removes, which holds a token, by which a route is chosen or a limit counts, or which [`Kind`] knows, and
//!   is not that name, is removed from every request.
//! - Untrusted: what proxies report and services believe (`listen.headers.untrusted`). Removed, with look-alikes, unless the peer
//!   is one of `listen.trusted_proxies`.
//!
//! A name whose first and third letter none of these has costs no more than that look.

use http::HeaderName;

use super::{names::Kind, prefilter::Prefilter};

/// Names to which a configuration gives a meaning. Their order does not count.
#[derive(Debug, Clone, Default)]
pub struct ConfiguredNames {
    /// A provider forwards claims in them.
    pub identity: Vec<HeaderName>,
    /// They hold a token.
    pub tokens: Vec<HeaderName>,
    /// A route is chosen by them, a limit counts by them, or a rule sets or removes them.
    pub decides: Vec<HeaderName>,
    /// Names, or beginnings of names with `*` after them: what only a trusted peer may say.
    pub untrusted: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct GuardedNames {
    identity: Box<[HeaderName]>,
    tokens: Box<[HeaderName]>,
    /// What the gateway or a rule sets, removes or decides by, and what holds a token.
    answered: Box<[HeaderName]>,
    /// The same, folded.
    folded: Box<[Box<str>]>,
    /// Of these the ones that are not plain themselves: a plain name may look like them. Empty as a rule.
    folded_unusual: Box<[Box<str>]>,
    untrusted: NameSet,
    /// What may be one of all these, or look like one, or be a name that [`Kind`] knows.
    prefilter: Prefilter,
}

impl Default for GuardedNames {
    fn default() -> Self {
        Self::compile(ConfiguredNames::default())
    }
}

/// What becomes of a field that is otherwise end-to-end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passes,
    /// Only from trusted peers.
    Untrusted,
    LooksLikeAnother,
}

impl GuardedNames {
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

    /// Whether it may be a name that anything is known of; `false` is certain.
    pub(crate) fn may_know(&self, name: &str) -> bool {
        self.prefilter.may_match(name)
    }

    pub(crate) fn is_identity(&self, name: &str) -> bool {
        self.identity.iter().any(|identity| identity.as_str() == name)
    }

    /// A field that carries the client's identity, must come from a verified token, and does not hold that token itself.
    pub(crate) fn is_claimed_identity(&self, name: &str) -> bool {
        let holds_a_token = || self.tokens.iter().any(|token| token.as_str() == name);
        self.is_identity(name) && Kind::of(name) == Kind::EndToEnd && !holds_a_token()
    }

    /// Whether naming the field in Connection would take away what a trusted peer says.
    pub(crate) fn is_untrusted(&self, name: &str) -> bool {
        self.untrusted.contains(name)
    }

    /// On a name of [`Kind::EndToEnd`].
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

/// Folding leaves it as it is.
fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The one name that all look-alikes have: in lower case, with `-` for every byte that is no letter or digit.
pub fn fold(name: &str) -> Box<str> {
    let fold = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    name.chars().map(fold).collect::<String>().into()
}

/// Folded names, and beginnings of names.
#[derive(Debug, Clone)]
struct NameSet {
    /// Sorted, and none of them is contained in another: only the last one that is not after a name can contain it.
    patterns: Box<[Pattern]>,
}

/// Ordered by its text: a beginning stands before all that begin so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Pattern {
    text: Box<str>,
    is_whole: bool,
}

impl Pattern {
    /// `x-a`, or `x-b-*` for all names that begin so.
    fn of(text: &str) -> Self {
        let beginning = text.strip_suffix('*');
        Self { text: fold(beginning.unwrap_or(text)), is_whole: beginning.is_none() }
    }

    fn contains(&self, name: &str) -> bool {
        if self.is_whole { *self.text == *name } else { name.starts_with(&*self.text) }
    }

    /// The filter that also knows this one.
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
        // RFC 9110 §5.6.2: what a name may hold beside letters and digits.
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
