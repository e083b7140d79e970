//! The bucket of a rate limit in which a request counts.
//!
//! A request without the claim or the header of its limit counts by its address: a client must not get out of a limit by
//! leaving something out. The same holds for a header with several different lines: the service may read any of them, and
//! the client could count in the bucket of another. A subject or a claim belongs to its provider: if two providers have a
//! subject `ann`, each of the two has its own bucket.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::rate_limit::{LimitKey, RateLimit, RateLimitKey};
use crate::auth::Identity;

/// The key of one request for `limit`.
pub fn of(limit: &RateLimit, client: IpAddr, identity: Option<&Identity>, headers: &HeaderMap) -> LimitKey {
    let within = |identity: &Identity, text: &[u8]| limit.key_within(&identity.provider, text);
    let by_text = match limit.key_source() {
        RateLimitKey::Route | RateLimitKey::Service => return LimitKey::SHARED,
        RateLimitKey::Ip => None,
        RateLimitKey::User => {
            identity.and_then(|identity| Some(within(identity, identity.subject.as_deref()?.as_bytes())))
        }
        RateLimitKey::Claim(name) => identity.and_then(|identity| {
            let claim = identity.claims.get(name.as_str())?;
            Some(match claim.as_str() {
                Some(text) => within(identity, text.as_bytes()),
                None => within(identity, claim.to_string().as_bytes()),
            })
        }),
        RateLimitKey::Header(name) => only_value(headers, name).map(|value| limit.key_of(value.as_bytes())),
    };
    by_text.unwrap_or_else(|| LimitKey::of_ip(client))
}

/// The value of all lines of a header. `None`: the header is missing, or its lines differ.
fn only_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::{
        policy::rate_limit::{KeyBudget, RateLimitSpec},
        syntax::diagnostics::Span,
    };

    fn limit(key: RateLimitKey) -> RateLimit {
        let settings = RateLimitSpec {
            name: "test".into(),
            requests: 1,
            period: Duration::from_secs(1),
            burst: 1,
            key,
            span: Span::default(),
        };
        RateLimit::compile(&settings, &Arc::new(KeyBudget::new(10, Instant::now()))).unwrap()
    }

    #[test]
    fn leaving_the_header_out_falls_back_to_the_address() {
        let limit = limit(RateLimitKey::Header(HeaderName::from_static("x-tenant")));
        let client: IpAddr = "192.0.2.7".parse().unwrap();
        let mut headers = HeaderMap::new();
        assert_eq!(of(&limit, client, None, &headers), LimitKey::of_ip(client));
        headers.insert("x-tenant", HeaderValue::from_static("a"));
        let a = of(&limit, client, None, &headers);
        headers.insert("x-tenant", HeaderValue::from_static("b"));
        assert_ne!(a, of(&limit, client, None, &headers));
        assert_ne!(a, LimitKey::of_ip(client));
    }

    #[test]
    fn two_lines_that_differ_are_nobodys_key() {
        let limit = limit(RateLimitKey::Header(HeaderName::from_static("x-tenant")));
        let client: IpAddr = "192.0.2.7".parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("x-tenant", HeaderValue::from_static("a"));
        let one = of(&limit, client, None, &headers);
        headers.append("x-tenant", HeaderValue::from_static("a"));
        assert_eq!(of(&limit, client, None, &headers), one);
        headers.append("x-tenant", HeaderValue::from_static("b"));
        assert_eq!(of(&limit, client, None, &headers), LimitKey::of_ip(client));
    }

    #[test]
    fn a_user_is_one_of_its_provider() {
        let client: IpAddr = "192.0.2.7".parse().unwrap();
        let verified = |provider: &str, subject: &str| Identity {
            claims: [("tenant".into(), subject.into())].into(),
            ..Identity::of(provider, Some(subject))
        };
        for key in [RateLimitKey::User, RateLimitKey::Claim("tenant".into())] {
            let limit = limit(key);
            let of =
                |provider, subject| of(&limit, client, Some(&verified(provider, subject)), &HeaderMap::new());
            assert_eq!(of("a", "ann"), of("a", "ann"));
            for other in [("b", "ann"), ("a", "bob"), ("aa", "nn"), ("", "aann")] {
                assert_ne!(of("a", "ann"), of(other.0, other.1), "{other:?}");
            }
        }
    }

    #[test]
    fn everybody_shares_the_bucket_of_a_route() {
        let limit = limit(RateLimitKey::Route);
        let of = |ip: &str| of(&limit, ip.parse().unwrap(), None, &HeaderMap::new());
        assert_eq!(of("192.0.2.1"), of("2001:db8::1"));
    }
}
