//! Trailer sections: which of their fields go on, in both directions.
//!
//! A trailer arrives when all decisions have been made, and some programs merge trailers into the header section. So no field passes
//! here that a message may not decide behind its content (RFC 9110 §6.5.1: framing, routing, modifiers of a request, authentication,
//! control of a response, format of content), none that ends at this hop, and none that the gateway or a route writes, removes or decides
//! by. From a client, that holds for look-alikes of such names and for untrusted fields too, whoever the peer is. A section is bounded as
//! a header section is.
//!
//! A client gets trailers if it can take them: over HTTP/2 always, over HTTP/1.1 after `TE: trailers`.

use http::{HeaderMap, HeaderName, header};

use super::{HeaderRules, list_members, naming_options, remove_fields};
use crate::message::{GuardedNames, names::Kind};

/// What decides about the trailers of requests.
#[derive(Debug, Clone)]
pub struct RequestTrailers {
    names: GuardedNames,
    fields_max: usize,
    bytes_max: usize,
}

/// A trailer section has more fields or bytes than a header section may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrailersTooLarge;

impl RequestTrailers {
    pub fn new(names: GuardedNames, fields_max: usize, bytes_max: usize) -> Self {
        Self { names, fields_max, bytes_max }
    }

    /// Removes from a client's trailers what may not pass.
    ///
    /// # Errors
    /// There are too many, also with those that would not pass.
    pub fn apply(&self, trailers: &mut HeaderMap) -> Result<(), TrailersTooLarge> {
        let bytes: usize = trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if trailers.len() > self.fields_max || bytes > self.bytes_max {
            return Err(TrailersTooLarge);
        }
        remove_fields(trailers, |name| is_unfit_for_request(name, &self.names));
        Ok(())
    }
}

/// Turns the trailers of a service into those of the client.
pub fn apply_trailers(trailers: &mut HeaderMap, rules: &HeaderRules) {
    remove_fields(trailers, |name| is_unfit_for_response(name, rules));
}

/// Whether the sender of a request takes trailers (RFC 9110 §10.1.4).
pub fn takes_trailers(headers: &HeaderMap) -> bool {
    list_members(headers, &header::TE).any(|member| member.eq_ignore_ascii_case(b"trailers"))
}

/// Whether `Connection` names a field, besides `TE`, which it has to name. Such a field ends at this hop, in a trailer section too.
pub fn confines_fields(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::CONNECTION).into_iter();
    lines.flat_map(|line| naming_options(line.as_bytes())).any(|name| !name.eq_ignore_ascii_case(b"te"))
}

/// The fields that the sender of a request announces, as far as they may pass. `None`: there is no such field.
pub(super) fn announced_by_client(headers: &HeaderMap, names: &GuardedNames) -> Option<Vec<u8>> {
    announced(headers, |name| is_unfit_for_request(name, names))
}

/// Announces to the client what the service has announced, as far as it may pass. `takes`: the client gets trailers.
pub(super) fn announce(headers: &mut HeaderMap, takes: bool, rules: &HeaderRules) {
    let names = announced(headers, |name| is_unfit_for_response(name, rules)).filter(|_| takes);
    match names.and_then(|names| http::HeaderValue::from_bytes(&names).ok()) {
        Some(names) => _ = headers.insert(header::TRAILER, names),
        None => _ = headers.remove(header::TRAILER),
    }
}

fn announced(headers: &HeaderMap, is_unfit: impl Fn(&HeaderName) -> bool) -> Option<Vec<u8>> {
    let names = list_members(headers, &header::TRAILER).filter_map(|name| HeaderName::from_bytes(name).ok());
    let fit: Vec<HeaderName> = names.filter(|name| !is_unfit(name)).collect();
    let fit: Vec<&[u8]> = fit.iter().map(|name| name.as_str().as_bytes()).collect();
    (!fit.is_empty()).then(|| fit.join(&b", "[..]))
}

fn is_unfit_for_request(name: &HeaderName, names: &GuardedNames) -> bool {
    is_unfit(name) || !names.is_free(name.as_str())
}

fn is_unfit_for_response(name: &HeaderName, rules: &HeaderRules) -> bool {
    is_unfit(name)
        || rules.remove.contains(name)
        || rules.set.iter().any(|(set, _)| set == name)
        || rules.made.iter().any(|made| made.name == *name)
}

fn is_unfit(name: &HeaderName) -> bool {
    let name = name.as_str();
    Kind::of(name) != Kind::EndToEnd || UNFIT.contains(&name) || name.starts_with("access-control-")
}

/// Fields that must be known before the content, besides those that have another [`Kind`].
const UNFIT: [&str; 26] = [
    "age",
    "cache-control",
    "content-encoding",
    "content-location",
    "content-range",
    "content-type",
    "date",
    "expires",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "location",
    "max-forwards",
    "origin",
    "pragma",
    "range",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "set-cookie",
    "strict-transport-security",
    "vary",
    "warning",
    "www-authenticate",
];

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::message::ConfiguredNames;

    fn rules(fields_max: usize, bytes_max: usize) -> RequestTrailers {
        let names = |names: &[&'static str]| names.iter().map(|name| HeaderName::from_static(name)).collect();
        let names = GuardedNames::compile(ConfiguredNames {
            identity: names(&["x-user-id"]),
            tokens: names(&["x-token"]),
            decides: names(&["x-tenant"]),
            untrusted: vec!["client-cert".to_owned(), "cf-*".to_owned()],
        });
        RequestTrailers::new(names, fields_max, bytes_max)
    }

    fn map(names: &[&str]) -> HeaderMap {
        let field =
            |name: &&str| (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("v"));
        names.iter().map(field).collect()
    }

    fn left(mut trailers: HeaderMap) -> Vec<String> {
        rules(100, 1000).apply(&mut trailers).unwrap();
        trailers.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn a_request_keeps_only_trailers_that_decide_nothing() {
        let passing = ["x-sum", "etag", "digest", "grpc-status", "x-user"];
        assert_eq!(left(map(&passing)), passing);
        for unfit in [
            "content-length",
            "transfer-encoding",
            "host",
            "trailer",
            "te",
            "connection",
            "upgrade",
            "proxy-authorization",
            "authorization",
            "cookie",
            "expect",
            "via",
            "x-request-id",
            "x-forwarded-for",
            "forwarded",
            "content-type",
            "if-match",
            "range",
            "x-user-id",
            "x_user_id",
            "x-token",
            "x-tenant",
            "x!tenant",
            "content_length",
            "client-cert",
            "cf-connecting-ip",
        ] {
            assert_eq!(left(map(&[unfit, "x-sum"])), ["x-sum"], "{unfit}");
        }
        let mut confined = map(&["x-hop", "x-sum"]);
        confined.insert("connection", HeaderValue::from_static("x-hop"));
        assert_eq!(left(confined), ["x-sum"]);
    }

    #[test]
    fn a_section_has_as_many_fields_and_bytes_as_a_header_section() {
        for (names, fits) in [(&["a", "b"][..], true), (&["a", "b", "c"], false), (&["abcdef"], false)] {
            assert_eq!(rules(2, 6).apply(&mut map(names)).is_ok(), fits, "{names:?}");
        }
        // A field that would not pass counts, too.
        assert_eq!(rules(1, 100).apply(&mut map(&["host", "x-sum"])), Err(TrailersTooLarge));
    }

    #[test]
    fn what_a_service_announces_is_announced_without_what_does_not_pass() {
        let announced = |value: &'static str, takes| {
            let mut headers = map(&["x-other"]);
            headers.insert(header::TRAILER, HeaderValue::from_static(value));
            let rules =
                HeaderRules { remove: vec![HeaderName::from_static("x-internal")], ..HeaderRules::default() };
            announce(&mut headers, takes, &rules);
            headers.get(header::TRAILER).map(|value| value.to_str().unwrap().to_owned())
        };
        let all = "X-Sum, Content-Length , x-internal,, bad name, etag";
        assert_eq!(announced(all, true).as_deref(), Some("x-sum, etag"));
        assert_eq!((announced(all, false), announced("host", true)), (None, None));
    }

    #[test]
    fn a_client_takes_trailers_if_any_line_says_so() {
        for (lines, takes) in [
            (&["trailers"][..], true),
            (&["gzip;q=0.5, Trailers"], true),
            (&["gzip", "trailers"], true),
            (&["gzip"], false),
            (&["trailersx"], false),
            (&[], false),
        ] {
            let te = lines.iter().map(|line| (header::TE, HeaderValue::from_static(line)));
            assert_eq!(takes_trailers(&te.collect()), takes, "{lines:?}");
        }
        for (line, confines) in
            [("te, close", false), ("TE", false), ("te, x-a", true), ("keep-alive", false)]
        {
            let headers = HeaderMap::from_iter([(header::CONNECTION, HeaderValue::from_static(line))]);
            assert_eq!(confines_fields(&headers), confines, "{line}");
        }
    }
}
