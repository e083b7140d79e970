//! Names that services cannot distinguish from those that the gateway answers for, and names that only a proxy may use.
//!
//! Before: lighttpd's CGI saw `HTTP_X_USER_ID=root` of `X!User!Id: root` in front of the verified one (1.4.69 does so for each of the
//! 14 bytes that a name may have beside letters, digits and `-`), and `X-Original-URL`,
//! `Client-Cert` and `True-Client-IP` passed from anybody.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::support::{
    backend::Backend,
    client::{get, send},
    gateway::TestGateway,
    tokens::{self, GOOD, bearing, token},
};

/// RFC 9110 §5.6.2: what a name may hold beside letters, digits and `-`.
const FOLDED: &str = "!#$%&'*+.^_`|~";

async fn gateway(backend: &Backend, listen: &str) -> TestGateway {
    let config = format!(
        "listen: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\"{listen}}}\n\
         auth:\n  main: {{hs256_secret_file: secret.key, audience: api, from: [bearer, \"header:X-Token\"], \
         forward: {{sub: X-User-Id, scope: Under_Scored}}}}\n\
         routes:\n  - {{path: /open, service: one, auth: none, headers: {{request: {{set: {{X-Shop-Id: main}}, \
         add: {{X-Tag: b}}, remove: [X-Debug-Level]}}}}}}\n  - {{path: /closed, service: one, auth: main}}\n\
         services: {{one: {{hosts: [\"{}\"]}}}}\n",
        backend.addr
    );
    TestGateway::start_in(tokens::folder(), &config).await
}

/// What the service gets of a request with this field.
async fn seen(
    gateway: &TestGateway,
    backend: &Backend,
    path: &str,
    name: &str,
    token: Option<&str>,
) -> HeaderMap {
    let mut request = get(path);
    let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
    request.headers_mut().append(name, HeaderValue::from_static("root"));
    if let Some(token) = token {
        request = bearing(request, token);
    }
    assert_eq!(send(gateway.http, request).await.status(), 200);
    backend.only_seen().headers().clone()
}

#[tokio::test]
async fn a_name_that_folds_like_one_that_the_gateway_answers_for_does_not_pass() {
    let backend = Backend::named("one").await;
    let gateway = gateway(&backend, "").await;
    let token = token(gateway.dir.path(), GOOD, "ann");
    let fold = |text: String| text.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    for known in
        ["x-user-id", "x-shop-id", "x-tag", "x-debug-level", "x-token", "x-request-id", "x-forwarded-for"]
    {
        for byte in FOLDED.chars() {
            let alias = known.replace('-', &byte.to_string());
            for (path, token) in [("/open", None), ("/closed", Some(&*token))] {
                let headers = seen(&gateway, &backend, path, &alias, token).await;
                let of_name = headers.iter().filter(|(name, _)| fold(name.to_string()) == known);
                let values: Vec<&HeaderValue> = of_name.map(|(_, value)| value).collect();
                assert!(values.iter().all(|value| *value != "root"), "{alias}: {values:?}");
                if known == "x-user-id" && token.is_some() {
                    assert_eq!(values, ["ann"], "{alias}");
                }
            }
        }
    }
    // A plain name may look like a header that the operator named with `_`.
    assert!(!seen(&gateway, &backend, "/open", "Under-Scored", None).await.contains_key("under-scored"));
    for (name, kept) in [("x_other", 1), ("x.y~z", 1), ("x-shop-id2", 1)] {
        let headers = seen(&gateway, &backend, "/open", name, None).await;
        assert_eq!(headers.get_all(name).iter().count(), kept, "{name}");
    }
}

/// A service that folds names would see what neither the router nor the limit has seen.
#[tokio::test]
async fn a_name_by_which_a_route_is_chosen_or_a_limit_counts_has_no_look_alike() {
    let backend = Backend::named("one").await;
    let config = format!(
        "routes:\n  - {{path: /open, service: one, match_headers: {{X-Beta: 1}}, name: beta}}\n  \
         - {{path: /open, service: one, rate_limit: \"100/m per header:X-Tenant\"}}\n\
         services: {{one: {{hosts: [\"{}\"]}}}}\n",
        backend.addr
    );
    let gateway = TestGateway::start(&config).await;
    for known in ["x-beta", "x-tenant"] {
        for byte in FOLDED.chars() {
            let alias = known.replace('-', &byte.to_string());
            assert!(!seen(&gateway, &backend, "/open", &alias, None).await.contains_key(&alias), "{alias}");
        }
        assert_eq!(seen(&gateway, &backend, "/open", known, None).await[known], "root");
    }
}

#[tokio::test]
async fn what_only_a_proxy_can_know_does_not_pass_from_others() {
    let backend = Backend::named("one").await;
    let names = [
        "X-Original-URL",
        "X-Rewrite-URL",
        "Client-Cert",
        "Client-Cert-Chain",
        "X-SSL-Client-S-DN",
        "X-Client-Cert",
        "X-Forwarded-Client-Cert",
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "True-Client-IP",
        "CF-Connecting-IP",
        "X-Client-IP",
        "X-Cluster-Client-IP",
        "Fastly-Client-IP",
        "X-Envoy-External-Address",
        "Client_Cert",
        "X!Original!URL",
        "Remote-User",
        "Remote-Groups",
        "X-Accel-Mapping",
        "Cf-Access-Authenticated-User-Email",
        "Cf-Access-Jwt-Assertion",
        "Tailscale-User-Login",
        "X-Goog-IAP-JWT-Assertion",
        "X-Goog-Authenticated-User-Email",
        "X-Pomerium-Claim-Email",
        "X-Vouch-User",
        "X-Middleware-Subrequest",
        "X-Client-Verify",
        "X-Client-DN",
        "X-Amzn-Oidc-Identity",
        "X-Auth-Request-Email",
        "X-Forwarded-Preferred-Username",
        "X-Remote-Uid",
        "X-Authenticated-Userid",
        "X-MS-CLIENT-PRINCIPAL-NAME",
        "X-MS-TOKEN-AAD-ID-TOKEN",
        "X-Webauth-Role",
        "X-Authentik-Username",
        "X-Consumer-Username",
        "X-Azure-ClientIP",
        "Impersonate-User",
        "OIDC_CLAIM_sub",
        "Shib-Session-ID",
        "iv-user",
        "SM_USER",
        "$WSRU",
        "X-ProxiedEntitiesChain",
        "SCRIPT_NAME",
        "Path-Info",
    ];
    let standard = gateway(&backend, "").await;
    let trusting = gateway(&backend, ", trusted_proxies: [127.0.0.1]").await;
    let own = gateway(&backend, ", headers: {untrusted: [X-Mine, \"X-Ours-*\"]}").await;
    let none = gateway(&backend, ", headers: {untrusted: []}").await;
    for name in names {
        let of_a_kind = name.starts_with("X-Forwarded");
        for (gateway, passes) in
            [(&standard, false), (&trusting, true), (&own, !of_a_kind), (&none, !of_a_kind)]
        {
            let headers = seen(gateway, &backend, "/open", name, None).await;
            assert_eq!(headers.contains_key(name), passes, "{name}");
        }
    }
    let more = gateway(&backend, ", headers: {untrusted: [X-Mine, default]}").await;
    for name in ["x-mine", "Remote-User", "x_mine"] {
        assert!(!seen(&more, &backend, "/open", name, None).await.contains_key(name), "{name}");
    }
    // What honest clients send.
    for name in
        ["X-Requested-With", "X-Auth-Token", "X-Access-Token", "X-Client-Version", "CF-Ray", "Sec-Fetch-Mode"]
    {
        assert!(seen(&standard, &backend, "/open", name, None).await.contains_key(name), "{name}");
    }
    for (name, passes) in [("x-mine", false), ("x_mine", false), ("x-ours-1", false), ("x-mine2", true)] {
        let headers = seen(&own, &backend, "/open", name, None).await;
        assert_eq!(headers.contains_key(name), passes, "{name}");
    }
}

/// What is removed for the service is believed by no condition and no limit either.
#[tokio::test]
async fn the_gateway_itself_does_not_believe_what_it_does_not_pass_on() {
    let backend = Backend::named("one").await;
    for (listen, [inner, limited]) in [("", [404, 429]), (", trusted_proxies: [127.0.0.1]", [200, 200])] {
        let config = format!(
            "listen: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\"{listen}}}\n\
             auth: {{main: {{hs256_secret_file: secret.key, audience: api, forward: {{sub: X-User-Id}}}}}}\n\
             defaults: {{auth: none}}\nroutes:\n  \
             - {{path: /closed, service: one, auth: main}}\n  \
             - {{path: /inner, service: one, match_headers: {{X-SSL-Client-Verify: SUCCESS}}}}\n  \
             - {{path: /limited, service: one, rate_limit: \"1/h per header:X-Client-IP\"}}\n  \
             - {{path: /role, service: one, match_headers: {{X-User-Id: root}}}}\n  \
             - {{path: /user, service: one, rate_limit: \"1/h per header:X-User-Id\"}}\n\
             services: {{one: {{hosts: [\"{}\"]}}}}\n",
            backend.addr
        );
        let gateway = TestGateway::start_in(tokens::folder(), &config).await;
        for (path, name, value, status) in [
            ("/inner", "x-ssl-client-verify", "SUCCESS", inner),
            ("/limited", "x-client-ip", "192.0.2.1", 200),
            ("/limited", "x-client-ip", "192.0.2.2", limited),
            // Only a token proves a name.
            ("/role", "x-user-id", "root", 404),
            ("/user", "x-user-id", "a", 200),
            ("/user", "x-user-id", "b", 429),
        ] {
            let mut request = get(path);
            request.headers_mut().insert(name, HeaderValue::from_static(value));
            assert_eq!(send(gateway.http, request).await.status(), status, "{listen} {path} {value}");
        }
    }
}
