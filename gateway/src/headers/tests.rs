//! Header editing, rule by rule.

mod reference;
mod responses;
mod written;

use std::net::IpAddr;

use http::Method;
use ipnet::IpNet;

use self::responses::response;
use super::*;
use crate::message::{Authority, ConfiguredNames, Found, Framing, GuardedNames, Scheme, Survey};

fn fields(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).expect("a name"),
            HeaderValue::from_bytes(value.as_bytes()).expect("a value"),
        );
    }
    headers
}

/// A request as the gateway sees it. The defaults are those of a plain GET from an untrusted peer.
#[derive(Debug)]
struct Case {
    peer_is_trusted: bool,
    scheme: Scheme,
    port: Option<u16>,
    method: Method,
    version: Version,
    framing: Framing,
    host: Option<HeaderValue>,
    prefix: Option<String>,
    forward: Vec<(HeaderName, HeaderValue)>,
    rules: HeaderRules,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            peer_is_trusted: false,
            scheme: Scheme::Http,
            port: None,
            method: Method::GET,
            version: Version::HTTP_11,
            framing: Framing::None,
            host: None,
            prefix: None,
            forward: vec![],
            rules: HeaderRules::default(),
        }
    }
}

impl Case {
    fn apply(&self, lines: &[(&str, &str)]) -> HeaderMap {
        let headers = fields(lines);
        self.with_context(&headers, |context| written::fields_of(&write_request(&headers, "/", context)))
    }

    fn with_context<T>(&self, headers: &HeaderMap, with: impl FnOnce(&ForwardContext<'_>) -> T) -> T {
        let host_line = headers.get(header::HOST).map(|line| line.to_str().expect("ASCII").to_owned());
        let own = || self.port.map_or("gw".to_owned(), |port| format!("gw:{port}"));
        let authority = host_line.unwrap_or_else(own);
        let HeaderRules { set, add, remove, made } = &self.rules;
        let written = set.iter().chain(add).map(|(name, _)| name);
        let forwarded = self.forward.iter().map(|(name, _)| name.clone());
        let names = GuardedNames::compile(ConfiguredNames {
            identity: forwarded.chain([HeaderName::from_static("x-user-id")]).collect(),
            decides: written.chain(remove).chain(made.iter().map(|made| &made.name)).cloned().collect(),
            ..ConfiguredNames::default()
        });
        let request_id = HeaderValue::from_static("id-1");
        with(&ForwardContext {
            survey: Survey::of(headers, &names),
            peer: &HeaderValue::from_static("192.0.2.7"),
            peer_is_trusted: self.peer_is_trusted,
            scheme: self.scheme,
            authority: &Authority::parse(authority.as_bytes(), self.scheme).expect("an authority"),
            method: &self.method,
            version: self.version,
            framing: self.framing,
            has_content: self.framing != Framing::None,
            host: self.host.as_ref(),
            request_id: &request_id,
            prefix: self.prefix.as_deref(),
            names: &names,
            forward: &self.forward,
            rules: &self.rules,
            certificate: None,
            handshake: None,
            asks: Asks::default(),
            facts: Facts { client: [192, 0, 2, 7].into(), request_id: &request_id, claims: None },
        })
    }
}

fn untrusted(lines: &[(&str, &str)]) -> HeaderMap {
    Case::default().apply(lines)
}

/// All lines of a field.
fn lines<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers.get_all(name).iter().map(|value| value.to_str().expect("ASCII")).collect()
}

#[test]
fn a_plain_request_gets_exactly_the_gateways_own_fields() {
    let headers = untrusted(&[("host", "gw"), ("accept", "*/*")]);
    let mut seen: Vec<String> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("ASCII"))).collect();
    seen.sort();
    assert_eq!(
        seen,
        [
            "accept: */*",
            "host: gw",
            "via: 1.1 millgate",
            "x-forwarded-for: 192.0.2.7",
            "x-forwarded-host: gw",
            "x-forwarded-port: 80",
            "x-forwarded-proto: http",
            "x-request-id: id-1",
        ]
    );
}

#[test]
fn hop_by_hop_fields_and_all_that_any_connection_line_names_are_removed() {
    let headers = untrusted(&[
        ("connection", "close, X-One"),
        ("connection", "x-two"),
        ("connection", "Upgrade, HTTP2-Settings"),
        ("x-one", "1"),
        ("x-two", "2"),
        ("x-three", "3"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMA"),
        ("proxy-authorization", "Basic eA=="),
        ("proxy-connection", "keep-alive"),
        ("proxy", "http://evil"),
        ("expect", "100-continue"),
    ]);
    for name in [
        "connection",
        "x-one",
        "x-two",
        "keep-alive",
        "te",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
        "proxy-authorization",
        "proxy-connection",
        "proxy",
        "expect",
    ] {
        assert!(!headers.contains_key(name), "{name}");
    }
    assert_eq!(lines(&headers, "x-three"), ["3"]);
}

#[test]
fn what_the_gateway_adds_cannot_be_nominated_away() {
    let headers =
        untrusted(&[("connection", "via, x-request-id, x-forwarded-for, x-forwarded-proto, x-hop")]);
    assert_eq!(lines(&headers, "via"), ["1.1 millgate"]);
    assert_eq!(lines(&headers, "x-request-id"), ["id-1"]);
    assert_eq!(lines(&headers, "x-forwarded-for"), ["192.0.2.7"]);
    assert_eq!(lines(&headers, "x-forwarded-proto"), ["http"]);
}

#[test]
fn an_untrusted_peers_word_about_earlier_hops_is_dropped() {
    let headers = untrusted(&[
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-for", "10.0.0.2"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil"),
        ("x-forwarded-port", "1"),
        ("x-forwarded-user", "root"),
        ("forwarded", "for=10.0.0.1"),
        ("x-real-ip", "10.0.0.1"),
        ("x-request-id", "theirs"),
    ]);
    assert_eq!(lines(&headers, "x-forwarded-for"), ["192.0.2.7"]);
    assert_eq!(lines(&headers, "x-forwarded-proto"), ["http"]);
    assert_eq!(lines(&headers, "x-forwarded-host"), ["gw"]);
    assert_eq!(lines(&headers, "x-forwarded-port"), ["80"]);
    assert_eq!(lines(&headers, "x-request-id"), ["id-1"]);
    for name in ["forwarded", "x-real-ip", "x-forwarded-user"] {
        assert!(!headers.contains_key(name), "{name}");
    }
}

#[test]
fn a_trusted_peers_word_is_kept_and_its_address_appended() {
    let headers = Case { peer_is_trusted: true, scheme: Scheme::Https, ..Case::default() }.apply(&[
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("forwarded", "for=203.0.113.9"),
        ("x-request-id", "theirs"),
    ]);
    assert_eq!(lines(&headers, "x-forwarded-for"), ["203.0.113.9, 10.0.0.1, 192.0.2.7"]);
    assert_eq!(lines(&headers, "x-forwarded-proto"), ["http"]);
    assert_eq!(lines(&headers, "forwarded"), ["for=203.0.113.9"]);
    // The caller decides by `trusted_request_id` which id the request has.
    assert_eq!(lines(&headers, "x-request-id"), ["id-1"]);
}

/// A proxy that ends TLS in front of the gateway often sends the scheme without the port.
#[test]
fn the_port_is_that_of_the_scheme_which_a_trusted_peer_names() {
    for (ours, said, port) in [
        (Scheme::Http, "https", "443"),
        (Scheme::Https, "http", "80"),
        (Scheme::Http, "http", "80"),
        (Scheme::Https, "https", "443"),
        (Scheme::Http, "https, http", "80"),
    ] {
        let headers = Case { peer_is_trusted: true, scheme: ours, ..Case::default() }
            .apply(&[("x-forwarded-proto", said)]);
        assert_eq!(lines(&headers, "x-forwarded-port"), [port], "{said}");
    }
    let named = |case: Case| case.apply(&[("x-forwarded-proto", "https"), ("x-forwarded-port", "8443")]);
    let headers = named(Case { peer_is_trusted: true, ..Case::default() });
    assert_eq!(lines(&headers, "x-forwarded-port"), ["8443"]);
    // The client named a port.
    let headers = Case { peer_is_trusted: true, port: Some(8080), ..Case::default() }
        .apply(&[("x-forwarded-proto", "https")]);
    assert_eq!(lines(&headers, "x-forwarded-port"), ["8080"]);
}

#[test]
fn a_request_id_is_believed_from_a_trusted_peer_if_it_is_fit_for_a_log() {
    let id =
        |value: &str, trusted| trusted_request_id(&fields(&[("x-request-id", value)]), trusted).is_some();
    assert!(id("0193-abc", true));
    assert!(!id("0193-abc", false));
    assert!(id(&"a".repeat(128), true));
    assert!(!id(&"a".repeat(129), true));
    for unfit in ["", "a b", "a\tb", "\u{e9}"] {
        assert!(!id(unfit, true), "{unfit:?}");
    }
}

#[test]
fn names_that_fold_to_a_managed_framing_or_identity_name_are_dropped() {
    let aliases = [
        "x_forwarded_for",
        "x-forwarded_for",
        "X.Real.IP",
        "transfer_encoding",
        "Transfer.Encoding",
        "content_length",
        "x_user_id",
        "X.User-Id",
        "x_request_id",
        "proxy_authorization",
        "keep_alive",
        "x_forwarded_anything",
    ];
    for alias in aliases {
        let headers = untrusted(&[(alias, "evil"), ("my_field", "kept"), ("my.field", "kept")]);
        assert!(!headers.contains_key(alias), "{alias}");
        assert_eq!(lines(&headers, "my_field"), ["kept"]);
        assert_eq!(lines(&headers, "my.field"), ["kept"]);
    }
}

#[test]
fn identity_headers_come_from_the_token_alone() {
    assert!(!untrusted(&[("x-user-id", "admin")]).contains_key("x-user-id"));
    let forward = vec![(HeaderName::from_static("x-user-id"), HeaderValue::from_static("u1"))];
    let headers = Case { peer_is_trusted: true, forward, ..Case::default() }
        .apply(&[("x-user-id", "admin"), ("x-user-id", "root")]);
    assert_eq!(lines(&headers, "x-user-id"), ["u1"]);
}

#[test]
fn what_only_proxies_can_know_is_found_and_removed() {
    for name in ["x-original-url", "x-ssl-client-verify", "x_original_url", "x!ssl~client!s-dn"] {
        let names = GuardedNames::compile(ConfiguredNames {
            untrusted: vec!["X-Original-URL".into(), "X-SSL-Client-*".into()],
            ..ConfiguredNames::default()
        });
        let mut headers = fields(&[(name, "claimed"), ("x-original", "kept")]);
        assert!(Survey::of(&headers, &names).has(Found::Untrusted), "{name}");
        remove_claimed(&mut headers, &names, true);
        assert!(headers.contains_key(name), "a trusted peer says it");
        remove_claimed(&mut headers, &names, false);
        assert!(!headers.contains_key(name), "{name}");
        assert_eq!(lines(&headers, "x-original"), ["kept"]);
    }
}

#[test]
fn the_content_is_framed_anew() {
    let framed = |method: Method, framing: Framing, length: &str| {
        let headers = Case { method, framing, ..Case::default() }.apply(&[("content-length", length)]);
        (lines(&headers, "content-length").join("|"), lines(&headers, "transfer-encoding").join("|"))
    };
    let both = |length: &str, coding: &str| (length.to_owned(), coding.to_owned());
    assert_eq!(framed(Method::POST, Framing::Length(5), "5"), both("5", ""));
    assert_eq!(framed(Method::POST, Framing::Length(5), "00005"), both("5", ""));
    assert_eq!(framed(Method::POST, Framing::Length(0), "0"), both("0", ""));
    assert_eq!(framed(Method::GET, Framing::Chunked, "5"), both("", "chunked"));
    // For a method that anticipates content, a length of 0 is written if there is none.
    for (method, length) in [(Method::POST, "0"), (Method::PUT, "0"), (Method::PATCH, "0"), (Method::GET, "")]
    {
        let headers = Case { method, ..Case::default() }.apply(&[]);
        assert_eq!(lines(&headers, "content-length").join("|"), length);
    }
}

#[test]
fn the_service_gets_one_host_in_canonical_form() {
    assert_eq!(lines(&untrusted(&[("host", "GW.:80")]), "host"), ["gw"]);
    // HTTP/2 has `:authority` instead of a line.
    let headers = Case { version: Version::HTTP_2, port: Some(8080), ..Case::default() }.apply(&[]);
    assert_eq!(lines(&headers, "host"), ["gw:8080"]);
    assert_eq!(lines(&headers, "x-forwarded-port"), ["8080"]);
}

#[test]
fn via_names_the_protocol() {
    let headers = Case { version: Version::HTTP_2, ..Case::default() }.apply(&[]);
    assert_eq!(lines(&headers, "via"), ["2 millgate"]);
    let headers = Case { version: Version::HTTP_10, ..Case::default() }.apply(&[("via", "1.1 edge")]);
    assert_eq!(lines(&headers, "via"), ["1.1 edge", "1.0 millgate"]);
}

#[test]
fn route_rules_remove_then_set_then_add() {
    let name = HeaderName::from_static;
    let value = HeaderValue::from_static;
    let rules = HeaderRules {
        remove: vec![name("x-a"), name("via")],
        set: vec![(name("x-b"), value("set"))],
        add: vec![(name("x-a"), value("added")), (name("x-b"), value("added"))],
        made: Vec::new(),
    };
    let headers =
        Case { rules: rules.clone(), ..Case::default() }.apply(&[("x-a", "1"), ("x-b", "2"), ("x-b", "3")]);
    assert_eq!(lines(&headers, "x-a"), ["added"]);
    assert_eq!(lines(&headers, "x-b"), ["set", "added"]);
    assert!(!headers.contains_key("via"));
    let headers = response(&rules, &[("x-a", "1"), ("x-b", "2")]);
    assert_eq!(lines(&headers, "x-a"), ["added"]);
    assert_eq!(lines(&headers, "x-b"), ["set", "added"]);
}

#[test]
fn a_request_that_keeps_coming_back_is_a_loop() {
    let via = |lines: &[&str]| is_loop(&fields(&lines.iter().map(|line| ("via", *line)).collect::<Vec<_>>()));
    assert!(!via(&[]));
    assert!(!via(&["1.1 millgate"; VIA_HOPS_MAX]));
    assert!(via(&["1.1 millgate"; VIA_HOPS_MAX + 1]));
    assert!(via(&[
        "1.1 millgate, 2 MILLGATE (x), 1.1  millgate",
        "1.0 edge, 1.1 millgate",
        "HTTP/1.1 millgate"
    ]));
    assert!(!via(&["1.1 edge, 1.1 not-millgate"; 10]));
    assert!(!via(&["millgate, millgate, , millgate"; 10]));
}

#[test]
fn the_client_is_the_nearest_address_that_no_trusted_proxy_has() {
    let nets: Vec<IpNet> =
        ["10.0.0.0/8", "fd00::/8"].iter().map(|net| net.parse().expect("a network")).collect();
    let client = |peer: &str, lines: &[&str]| {
        let headers = fields(&lines.iter().map(|line| ("x-forwarded-for", *line)).collect::<Vec<_>>());
        client_ip(peer.parse::<IpAddr>().expect("an address"), &headers, &nets).to_string()
    };
    // The client is the peer itself if that is not trusted: its header is only a claim.
    assert_eq!(client("192.0.2.7", &["203.0.113.9"]), "192.0.2.7");
    assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
    assert_eq!(client("10.0.0.1", &["203.0.113.9"]), "203.0.113.9");
    assert_eq!(client("10.0.0.1", &["1.1.1.1, 203.0.113.9, 10.9.9.9"]), "203.0.113.9");
    assert_eq!(client("10.0.0.1", &["1.1.1.1", "203.0.113.9 ,10.9.9.9"]), "203.0.113.9");
    // If all addresses are trusted, the leftmost one is the client.
    assert_eq!(client("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
    // A value that is not an address ends the walk at the proxy that wrote it.
    assert_eq!(client("10.0.0.1", &["203.0.113.9, unknown, 10.0.0.2"]), "10.0.0.2");
    assert_eq!(client("10.0.0.1", &["203.0.113.9,"]), "10.0.0.1");
    // Other spellings.
    assert_eq!(client("::ffff:10.0.0.1", &["[2001:db8::1]:4711"]), "2001:db8::1");
    assert_eq!(client("fd00::1", &["[2001:db8::1]"]), "2001:db8::1");
    assert_eq!(client("10.0.0.1", &["203.0.113.9:80"]), "203.0.113.9");
    assert_eq!(client("10.0.0.1", &["::ffff:203.0.113.9"]), "203.0.113.9");
}
